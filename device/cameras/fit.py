"""The size that a camera's own scaler is asked for; nothing is scaled here."""

from __future__ import annotations

import math

__all__ = ["cover"]


def cover(wanted: tuple[int, int], sensor: tuple[int, int]) -> tuple[int, int]:
    """The smallest even (width, height) in the sensor's shape that covers `wanted`, at most the sensor's own; pixels.

    In the sensor's shape, so that the whole view is kept: the contract's own resize (letterbox,
    stretch or crop) then works on what the sensor saw.
    """
    scale = min(1.0, max(wanted[0] / sensor[0], wanted[1] / sensor[1]))
    width, height = (2 * math.ceil(side * scale / 2 - 1e-9) for side in sensor)
    return width, height
