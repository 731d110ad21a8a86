"""The localizer that ships with the package, as paths; MODEL_CARD.md beside this file says what it can do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SHIPPED_DIGESTS", "SHIPPED_INT8", "SHIPPED_KERAS"]

SHIPPED_KERAS = Path(__file__).with_name("localizer.keras")
SHIPPED_INT8 = Path(__file__).with_name("localizer-int8.tflite")
# The SHA-256 of the network in SHIPPED_INT8, which is loaded without a trial.
SHIPPED_DIGESTS = frozenset({"cd5a86f778db2a6d662440f94cd5ec1a91cbaf256390944e9a419c3784bcb8f8"})
