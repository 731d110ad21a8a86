"""The values that flow through the package: a box, a frame, a result; no behaviour beyond their own arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Frame", "Pixels", "Result"]

Pixels = NDArray[np.uint8]


class Box(NamedTuple):
    """An axis-aligned box by its corners, in pixels of the image it belongs to.

    The origin is the image's top-left corner, x grows to the right, y downwards; edges are real
    numbers, so a box that covers the whole of a 640x480 frame is (0, 0, 640, 480).
    """

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """Width in pixels; 0 where the corners are inverted."""
        return max(0.0, self.x2 - self.x1)

    @property
    def height(self) -> float:
        """Height in pixels; 0 where the corners are inverted."""
        return max(0.0, self.y2 - self.y1)

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height

    def iou(self, other: Box) -> float:
        """Intersection over union with another box of the same image, 0 to 1 (0 if both are empty)."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        if width <= 0 or height <= 0:
            return 0.0
        overlap = width * height
        return overlap / (self.area + other.area - overlap)


@dataclass(frozen=True, slots=True)
class Frame:
    """One image from a camera, and when its exposure began.

    `pixels` is uint8 (height, width, 3) in BGR; `captured_at` is seconds of `time.monotonic()`;
    `sequence` counts the camera's frames from 0, dropped ones included. `truth` and `truth_label`
    are known only for frames that were generated; `has_truth` tells "no object" from "not known".
    """

    pixels: Pixels
    captured_at: float
    sequence: int
    has_truth: bool = False
    truth: Box | None = None
    truth_label: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What the localizer says about one frame.

    `presence` is the probability, 0 to 1, that the frame holds an object, and `present` whether it
    reaches the contract's threshold. `box` is in pixels of the full frame, clipped to it, and None
    when nothing is present. `label` is the most probable class, None when nothing is present, the
    model has no classes, or the class score is under its threshold; `class_scores` are
    probabilities in the order of the contract's labels. `others` are further objects, best first,
    of a model made for more than one. The next five fields are the loop's: which frame, when it
    was captured (seconds of `time.monotonic()`), its age in ms when the result was ready, whether
    that is over the age budget, and how many frames were dropped since the result before.
    `engine` is the name of the one that answered, "" where nobody told. `gap_s` is how long the
    camera was away before this frame (seconds from the last frame before), 0 when it was not.
    """

    presence: float
    present: bool
    box: Box | None
    label: str | None
    class_scores: NDArray[np.float32]
    others: tuple[Result, ...] = ()
    sequence: int = 0
    captured_at: float = 0.0
    age_ms: float = 0.0
    stale: bool = False
    dropped: int = 0
    engine: str = ""
    gap_s: float = 0.0
