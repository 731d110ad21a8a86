"""Draws boxes and a status line on a copy of a frame."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import cv2
import numpy as np

from edgeloc.observation import Track
from edgeloc.types import Box, Detection, Pixels, Result

__all__ = [
    "FLOAT_COLOR",
    "QUANTIZED_COLOR",
    "TRUTH_COLOR",
    "BlurWhere",
    "Color",
    "as_jpeg",
    "blur",
    "boxes_of",
    "draw",
    "draw_boxes",
]

Color = tuple[int, int, int]
BlurWhere = Literal["inside", "outside"]

# BGR; safe for colour-blind viewers too (Okabe and Ito's orange, sky blue, bluish green and reddish purple).
QUANTIZED_COLOR: Color = (0, 159, 230)
FLOAT_COLOR: Color = (233, 180, 86)
TRUTH_COLOR: Color = (115, 158, 0)
TRACK_COLOR: Color = (167, 121, 204)
STALE_COLOR: Color = (60, 60, 220)
_DARK: Color = (24, 24, 24)
_WHITE: Color = (255, 255, 255)
_LONGEST_TITLE = 100
# Blocks along the longer side of what is blurred: a face of 6 is nobody's.
_BLOCKS_INSIDE, _BLOCKS_OUTSIDE = 6, 24
_BLUR_MARGIN = 0.1
# So many pixels along a block are enough for its colour.
_SAMPLES = 8
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# cv2.rectangle takes fixed-point corners: this many bits are the fraction of a pixel.
_SHIFT = 3


def draw(
    pixels: Pixels,
    result: Result,
    *,
    age_ms: float | None = None,
    stale: bool = False,
    fps: float | None = None,
    track: Track | None = None,
) -> Pixels:
    """A copy of a BGR frame (height, width, 3) with the result's boxes, the boxes of the tracks and a status line.

    `age_ms` (the frame's age), `fps` (results a second), "no object" and "track lost" stand in the line where they
    apply. `stale` draws in the colour of a result over the age budget, and writes "STALE".
    """
    image = draw_boxes(pixels, boxes_of(result, track, STALE_COLOR if stale else QUANTIZED_COLOR))
    words = [f"{fps:.1f} fps"] if fps else []
    if age_ms is not None:
        words.append(f"{age_ms:.0f} ms")
    if not result.present:
        words.append(f"no object ({result.presence:.2f})")
    elif result.box is None:
        words.append(_title(result.objects[0]))
    if track is not None and track.state == "lost":
        words.append("track lost")
    if stale:
        words.append("STALE")
    if words:
        plate = _Plate(image, "   ".join(words))
        plate.put(image, (0, image.shape[0] - plate.height), STALE_COLOR if stale else _DARK)
    return image


def boxes_of(result: Result, track: Track | None, color: Color) -> list[tuple[Box, str, Color]]:
    """What there is to draw of an answer, each as (box, title, BGR colour): the objects, and the tracks beside them."""
    boxes = [(one.box, _title(one), color) for one in result.objects if one.box is not None]
    if track is not None and track.box is not None:
        boxes.append((track.box, _track_title(track), TRACK_COLOR))
        boxes += [(one.box, str(one.id), TRACK_COLOR) for one in track.others if one.box is not None]
    return boxes


def draw_boxes(pixels: Pixels, boxes: Iterable[tuple[Box, str, Color]]) -> Pixels:
    """A copy of a BGR frame with each `(box in pixels, title, BGR colour)` drawn; an empty title draws none.

    Titles are kept inside the image and, where there is room, off each other.
    """
    image: Pixels = np.array(pixels, np.uint8, order="C")
    height, width = image.shape[:2]
    line = max(2, round(min(width, height) / 240))
    drawn = list(boxes)
    for box, _, color in drawn:
        limits = (width - 1, height - 1) * 2
        corners = [round(_clip(value, 0, limit) * 2**_SHIFT) for value, limit in zip(box, limits, strict=True)]
        for thickness, ink in ((line + 2, _DARK), (line, color)):
            cv2.rectangle(image, corners[:2], corners[2:], ink, thickness, cv2.LINE_AA, _SHIFT)
    taken: list[Box] = []
    for box, title, color in drawn:
        if title:
            plate = _Plate(image, title)
            place = plate.place(box, taken)
            taken.append(place)
            plate.put(image, (int(place.x1), int(place.y1)), color)
    return image


def _title(found: Detection) -> str:
    score = found.score if found.label_score is None else found.label_score
    return f"{found.label or 'object'} {score:.2f}"


def _track_title(track: Track) -> str:
    predicted = f", predicted for {track.unseen_s:.1f} s" if track.state == "predicted" else ""
    return f"track {track.id}{predicted}"


def blur(pixels: Pixels, boxes: Iterable[Box], where: BlurWhere) -> Pixels:
    """A copy of a BGR frame in which nothing can be made out inside, or outside, of boxes in pixels.

    What is blurred is reduced to a few blocks and enlarged again: it is gone, and no filter brings it back. Boxes that
    are blurred inside are taken a tenth larger on each side.
    """
    image: Pixels = np.array(pixels, np.uint8, order="C")
    height, width = image.shape[:2]
    margin = _BLUR_MARGIN if where == "inside" else 0.0
    corners = [
        (
            max(0, math.floor(box.x1 - margin * box.width)),
            max(0, math.floor(box.y1 - margin * box.height)),
            min(width, math.ceil(box.x2 + margin * box.width)),
            min(height, math.ceil(box.y2 + margin * box.height)),
        )
        for box in boxes
    ]
    within = [(left, top, right, bottom) for left, top, right, bottom in corners if left < right and top < bottom]
    if where == "outside":
        image = _blocks(image, _BLOCKS_OUTSIDE)
        for left, top, right, bottom in within:
            image[top:bottom, left:right] = pixels[top:bottom, left:right]
    else:
        for left, top, right, bottom in within:
            image[top:bottom, left:right] = _blocks(image[top:bottom, left:right], _BLOCKS_INSIDE)
    return image


def _blocks(image: Pixels, most: int) -> Pixels:
    """The image reduced to at most so many blocks along its longer side, and enlarged again."""
    height, width = image.shape[:2]
    scale = min(1.0, most / max(height, width))
    few = max(1, round(width * scale)), max(1, round(height * scale))
    step = max(1, max(height, width) // (most * _SAMPLES))
    small = cv2.resize(image[::step, ::step], few, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def as_jpeg(pixels: Pixels, quality: int) -> bytes:
    """A BGR picture as JPEG; `quality` is OpenCV's, 0 to 100."""
    return bytes(cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality))[1])


class _Plate:
    """Text on a filled ground, in a size that fits the image."""

    def __init__(self, image: Pixels, text: str) -> None:
        # Half of a surrogate pair, which JSON can hold, ends the process within OpenCV.
        self.text = text[:_LONGEST_TITLE].encode(errors="replace").decode()
        self._limits = image.shape[1], image.shape[0]
        self._scale = max(0.4, min(self._limits) / 800)
        self._thickness = max(1, round(self._scale * 1.4))
        room = self._limits[0] - 8
        text_width = self._measure()
        if text_width > room:
            self._scale *= max(0.25, room / text_width)
            text_width = self._measure()
        self.width, self.height = text_width + 2 * self._margin, self._ascent + self._descent + 2 * self._margin

    def _measure(self) -> int:
        (width, self._ascent), self._descent = cv2.getTextSize(self.text, _FONT, self._scale, self._thickness)
        self._margin = max(2, self._ascent // 3)
        return width

    def place(self, box: Box, taken: list[Box]) -> Box:
        """Where the plate goes: above the box, else below, inside its top or bottom; the first that is free."""
        places = [self._at(box.x1, y) for y in (box.y1 - self.height, box.y2, box.y1, box.y2 - self.height)]
        # A place that had to be pushed into the image covers what it should stand beside.
        within = [place for place, pushed in places if not pushed]
        free = [place for place in within if not any(place.iou(other) for other in taken)]
        return (free or within or [places[0][0]])[0]

    def _at(self, x: float, y: float) -> tuple[Box, bool]:
        left = float(int(_clip(x, 0, max(0, self._limits[0] - self.width))))
        top = float(int(_clip(y, 0, max(0, self._limits[1] - self.height))))
        return Box(left, top, left + self.width, top + self.height), abs(top - y) >= 1

    def put(self, image: Pixels, corner: tuple[int, int], color: Color) -> None:
        """Draw the plate with its top-left corner there."""
        left, top = corner
        cv2.rectangle(image, corner, (left + self.width, top + self.height), color, cv2.FILLED)
        ink = _DARK if _luminance(color) > 110 else _WHITE
        origin = (left + self._margin, top + self._margin + self._ascent)
        cv2.putText(image, self.text, origin, _FONT, self._scale, ink, self._thickness, cv2.LINE_AA)


def _luminance(color: Color) -> float:
    """Perceived brightness of a BGR colour, 0 to 255 (the weights of ITU-R BT.601)."""
    return 0.114 * color[0] + 0.587 * color[1] + 0.299 * color[2]


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
