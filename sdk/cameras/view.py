"""Which part of a live camera's picture is taken, and how it is turned: options of every live camera's URI."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from edgeloc._support.numbers import whole
from edgeloc.cameras.base import flag
from edgeloc.errors import CameraError
from edgeloc.types import Box, Frame, LabelledBox, Pixels

__all__ = ["VIEW_OPTIONS", "View"]

Region = tuple[int, int, int, int]
# By whether left and right, and top and bottom, change places; by degrees clockwise.
_FLIPS = {(True, False): 1, (False, True): 0, (True, True): -1}
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class View:
    """A region of the frame, mirrored, then rotated; in this order.

    Parameters:
        region: x, y, width and height in pixels of the camera's frame; None for all of it.
        hflip: whether left and right change places.
        vflip: whether top and bottom do.
        rotate: clockwise, in degrees: 0, 90, 180 or 270.
    """

    region: Region | None = None
    hflip: bool = False
    vflip: bool = False
    rotate: int = 0

    @property
    def plain(self) -> bool:
        """Whether frames stay as they are."""
        return self == View()

    def size(self, camera: tuple[int, int], name: str) -> tuple[int, int]:
        """The (width, height) of what is taken from a camera of this size; CameraError where the region is beyond it.

        `name` is the camera's, for the error.
        """
        width, height = camera
        if self.region is not None:
            x, y, wide, high = self.region
            if x + wide > width or y + high > height:
                raise CameraError(
                    f"camera {name} gives {width}x{height}: the region {x},{y},{wide},{high} is not within that",
                    hint="give region=X,Y,WIDTH,HEIGHT in pixels of its frame",
                )
            width, height = wide, high
        return (height, width) if self.rotate % 180 else (width, height)

    def wanted(self, model: tuple[int, int] | None) -> tuple[int, int] | None:
        """What to ask the camera for where the model takes this; nothing with a region, which is in its own pixels."""
        if model is None or self.region is not None:
            return None
        return (model[1], model[0]) if self.rotate % 180 else model

    def __call__(self, frame: Frame, name: str) -> Frame:
        """The frame seen so, in memory of its own; CameraError where the region is not within it."""
        pixels, objects = frame.pixels, frame.truth or ()
        self.size((pixels.shape[1], pixels.shape[0]), name)
        if self.region is not None:
            x, y, width, height = self.region
            pixels = pixels[y : y + height, x : x + width]
            objects = tuple(part for found in objects for part in _within(found, x, y, width, height))
        height, width = pixels.shape[:2]
        truth = tuple(LabelledBox(self._turned(box, width, height), label) for box, label in objects)
        return dataclasses.replace(frame, pixels=self._picture(pixels), truth=None if frame.truth is None else truth)

    def _picture(self, pixels: Pixels) -> Pixels:
        """Flipped and rotated; OpenCV is ten times as fast as a copy of NumPy's view."""
        flip, turn = _FLIPS.get((self.hflip, self.vflip)), _TURNS.get(self.rotate)
        if flip is None and turn is None:
            return np.array(pixels)
        if flip is not None:
            pixels = np.asarray(cv2.flip(pixels, flip), np.uint8)
        return pixels if turn is None else np.asarray(cv2.rotate(pixels, turn), np.uint8)

    def _turned(self, box: Box, width: int, height: int) -> Box:
        x1, y1, x2, y2 = box
        if self.hflip:
            x1, x2 = width - x2, width - x1
        if self.vflip:
            y1, y2 = height - y2, height - y1
        for _ in range(self.rotate // 90):
            x1, y1, x2, y2, width, height = height - y2, x1, height - y1, x2, height, width
        return Box(x1, y1, x2, y2)


def _within(found: LabelledBox, x: int, y: int, width: int, height: int) -> Iterator[LabelledBox]:
    """The part of an object that a region shows; nothing where it shows none of it."""
    box = found.box
    x1, x2 = (min(max(edge - x, 0), width) for edge in (box.x1, box.x2))
    y1, y2 = (min(max(edge - y, 0), height) for edge in (box.y1, box.y2))
    if x1 < x2 and y1 < y2:
        yield LabelledBox(Box(x1, y1, x2, y2), found.label)


def _region(text: str) -> Region:
    try:
        x, y, width, height = (whole(0)(part) for part in text.split(","))
    except ValueError:
        width = height = 0
    if not (width and height):
        raise ValueError("X,Y,WIDTH,HEIGHT in pixels such as 320,0,640,480")
    return x, y, width, height


def _rotation(text: str) -> int:
    if text not in ("0", "90", "180", "270"):
        raise ValueError("0, 90, 180 or 270")
    return int(text)


VIEW_OPTIONS = {"region": _region, "hflip": flag, "vflip": flag, "rotate": _rotation}
