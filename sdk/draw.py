"""Draws boxes and a status line on a copy of a frame; nothing is shown or written here."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from edgeloc.types import Box, Pixels, Result

__all__ = ["FLOAT_COLOR", "QUANTIZED_COLOR", "TRUTH_COLOR", "Color", "draw", "draw_boxes"]

Color = tuple[int, int, int]

# BGR. Told apart by the colour-blind too (Okabe and Ito's orange, sky blue and bluish green).
QUANTIZED_COLOR: Color = (0, 159, 230)
FLOAT_COLOR: Color = (233, 180, 86)
TRUTH_COLOR: Color = (115, 158, 0)
STALE_COLOR: Color = (60, 60, 220)
_PLATE: Color = (24, 24, 24)
_WHITE: Color = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# cv2.rectangle takes fixed-point corners: this many bits are the fraction of a pixel.
_SHIFT = 3


def draw(pixels: Pixels, result: Result, *, fps: float | None = None) -> Pixels:
    """A copy of a BGR frame (height, width, 3) with the result's boxes and a line that tells the state.

    The line holds `fps` (results a second) when given, the frame's age in ms, "no object" where
    nothing is present, "STALE" where the age is over the budget. `pixels` stay as they are.
    """
    found = [one for one in (result, *result.others) if one.box is not None]
    color = STALE_COLOR if result.stale else QUANTIZED_COLOR
    image = draw_boxes(pixels, [(one.box, _title(one), color) for one in found if one.box is not None])
    words = [f"{fps:.1f} fps"] if fps else []
    words.append(f"{result.age_ms:.0f} ms")
    if not found:
        words.append(f"no object ({result.presence:.2f})")
    if result.stale:
        words.append("STALE")
    _plate(image, "   ".join(words), 0.0, 0.0, STALE_COLOR if result.stale else _PLATE)
    return image


def draw_boxes(pixels: Pixels, boxes: Iterable[tuple[Box, str, Color]]) -> Pixels:
    """A copy of a BGR frame with each `(box in pixels, title, BGR colour)` drawn; an empty title draws none."""
    image: Pixels = np.array(pixels, np.uint8, order="C")
    height, width = image.shape[:2]
    line = max(1, round(min(width, height) / 240))
    for box, title, color in boxes:
        limits = (width - 1, height - 1) * 2
        corners = [round(_clip(value, 0, limit) * 2**_SHIFT) for value, limit in zip(box, limits, strict=True)]
        for thickness, ink in ((line + 2, _PLATE), (line, color)):
            cv2.rectangle(image, corners[:2], corners[2:], ink, thickness, cv2.LINE_AA, _SHIFT)
        if title:
            _plate(image, title, _clip(box.x1, 0, width - 1), box.y1, color, above=True)
    return image


def _title(result: Result) -> str:
    score = float(result.class_scores.max()) if result.label and result.class_scores.size else result.presence
    return f"{result.label or 'object'} {score:.2f}"


def _plate(image: Pixels, text: str, x: float, y: float, color: Color, *, above: bool = False) -> None:
    """Text on a filled plate whose corner is at (x, y): below y, or above it where there is room; kept in the image."""
    height, width = image.shape[:2]
    scale = max(0.4, min(width, height) / 800)
    thickness = max(1, round(scale * 1.4))
    (text_width, text_height), base = cv2.getTextSize(text, _FONT, scale, thickness)
    if text_width > width - 8:
        scale *= max(0.25, (width - 8) / text_width)
        (text_width, text_height), base = cv2.getTextSize(text, _FONT, scale, thickness)
    margin = max(2, text_height // 3)
    plate_width, plate_height = text_width + 2 * margin, text_height + base + 2 * margin
    left = int(_clip(x, 0, max(0, width - plate_width)))
    top = int(y) - plate_height if above and y >= plate_height else int(y)
    top = int(_clip(top, 0, max(0, height - plate_height)))
    cv2.rectangle(image, (left, top), (left + plate_width, top + plate_height), color, cv2.FILLED)
    ink = _PLATE if _luminance(color) > 110 else _WHITE
    origin = (left + margin, top + margin + text_height)
    cv2.putText(image, text, origin, _FONT, scale, ink, thickness, cv2.LINE_AA)


def _luminance(color: Color) -> float:
    """Perceived brightness of a BGR colour, 0 to 255 (the weights of ITU-R BT.601)."""
    return 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2]


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
