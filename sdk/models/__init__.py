"""The localizer and the detector that ship with the package, as paths; their cards are beside this file."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SHIPPED_DETECTOR_INT8", "SHIPPED_DETECTOR_KERAS", "SHIPPED_DIGESTS", "SHIPPED_INT8", "SHIPPED_KERAS"]

SHIPPED_KERAS = Path(__file__).with_name("localizer.keras")
SHIPPED_INT8 = Path(__file__).with_name("localizer-int8.tflite")
SHIPPED_DETECTOR_KERAS = Path(__file__).with_name("detector.keras")
SHIPPED_DETECTOR_INT8 = Path(__file__).with_name("detector-int8.tflite")
# The SHA-256 of the networks in the int8 files, which are loaded without a trial.
SHIPPED_DIGESTS = frozenset(
    {
        "cd5a86f778db2a6d662440f94cd5ec1a91cbaf256390944e9a419c3784bcb8f8",
        "c2af02258c3ba521921c1106db80aa27d05592155149ea4f4f3d85f9f4d4c7b8",
    }
)
