"""The localizer that ships with the package, as paths; MODEL_CARD.md beside this file says what it can do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SHIPPED_INT8", "SHIPPED_KERAS"]

SHIPPED_KERAS = Path(__file__).with_name("localizer.keras")
SHIPPED_INT8 = Path(__file__).with_name("localizer-int8.tflite")
