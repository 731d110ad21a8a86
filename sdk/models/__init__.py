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
        "42fb560589a27064eddfed8d9105986e41442dfd840b673c94c75d72f6a0c9d2",
        "f14ee9b3c8317ef0baa2691a0a5d95ef8fa8743326e2e51f334e6b7b6358d6bc",
    }
)
