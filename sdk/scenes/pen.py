"""Draws an object's parts at its place, size and angle; which parts an object has, shapes.py says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.types import Box, Pixels

__all__ = ["Colour", "Pen", "Point", "Pose", "Sprite", "ellipse"]

Point = tuple[float, float]
Colour = tuple[float, float, float]
Outline = Sequence[Point] | NDArray[np.float64]
_BITS = 4  # OpenCV's fixed point: points are given in sixteenths of a pixel


@dataclass(frozen=True)
class Pose:
    """Where an object is: its centre and length in pixels of the frame, and its angle in radians.

    `squash` below 1 makes it narrower, as seen at a slant; `mirrored` turns it over.
    """

    x: float
    y: float
    length: float
    angle: float
    squash: float = 1.0
    mirrored: bool = False


@dataclass(frozen=True)
class Sprite:
    """A drawn object, cut out of the frame at whole pixels: `left`, `top`.

    `colour` is weighted by `alpha` already; `relief` is how high each point stands. `mask` is what
    is opaque, `fine` times finer than the frame: the truth is taken from it.
    """

    colour: Pixels
    alpha: Pixels
    relief: Pixels
    mask: Pixels
    fine: int
    left: int
    top: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the frame."""
        return self.alpha.shape[1], self.alpha.shape[0]

    def visible(self, size: tuple[int, int]) -> tuple[Box | None, float]:
        """The tight box of what lies inside a frame of `size`, and which share of the object that is."""
        fine = self.fine
        x, y = max(0, -self.left) * fine, max(0, -self.top) * fine
        inside = self.mask[y : max(0, size[1] - self.top) * fine, x : max(0, size[0] - self.left) * fine]
        opaque = cv2.countNonZero(inside) if inside.size else 0
        if not opaque:
            return None, 0.0
        left, top, width, height = cv2.boundingRect(inside)
        x1, y1 = self.left + (x + left) / fine, self.top + (y + top) / fine
        return Box(x1, y1, x1 + width / fine, y1 + height / fine), opaque / cv2.countNonZero(self.mask)


class Pen:
    """Shapes are drawn in units of the object's length about its centre: x along it, -0.5 to 0.5."""

    def __init__(self, pose: Pose) -> None:
        self._fine = 2 if pose.length > 120 else 3 if pose.length > 50 else 4
        reach = int(np.ceil(0.75 * pose.length)) + 4
        self._left, self._top = int(np.floor(pose.x)) - reach, int(np.floor(pose.y)) - reach
        side = (2 * reach + 1) * self._fine
        self._picture: Pixels = np.zeros((side, side, 4), np.uint8)
        self._relief: Pixels = np.zeros((side, side), np.uint8)
        self._scale = pose.length * self._fine
        cosine, sine = np.cos(pose.angle), np.sin(pose.angle)
        across = pose.squash * (-1 if pose.mirrored else 1)
        self._matrix = self._scale * np.array([[cosine, -sine * across], [sine, cosine * across]])
        self._offset = np.array([pose.x - self._left, pose.y - self._top]) * self._fine - 0.5

    def polygon(self, points: Outline, colour: Colour, height: int = 150) -> None:
        """Fill a polygon; `height`, 1 to 255, is how high it stands over the ground."""
        fixed = [self._fixed(points)]
        cv2.fillPoly(self._picture, fixed, (*colour, 255), cv2.LINE_8, _BITS)
        cv2.fillPoly(self._relief, fixed, height, cv2.LINE_8, _BITS)

    def stroke(self, points: Outline, width: float, colour: Colour, height: int = 150) -> None:
        """A line with round ends through the points, `width` in object lengths."""
        fixed = [self._fixed(points)]
        thickness = max(1, round(width * self._scale))
        cv2.polylines(self._picture, fixed, False, (*colour, 255), thickness, cv2.LINE_8, _BITS)
        cv2.polylines(self._relief, fixed, False, height, thickness, cv2.LINE_8, _BITS)

    def disc(self, centre: Point, radius: float, colour: Colour, height: int = 150, flat: float = 1.0) -> None:
        """Fill a circle, or an ellipse `flat` times as high as wide."""
        self.polygon(ellipse(centre, radius, flat), colour, height)

    def hole(self, points: Outline) -> None:
        """Cut a polygon out: the ground shows through."""
        fixed = [self._fixed(points)]
        cv2.fillPoly(self._picture, fixed, (0, 0, 0, 0), cv2.LINE_8, _BITS)
        cv2.fillPoly(self._relief, fixed, 0, cv2.LINE_8, _BITS)

    def sprite(self) -> Sprite:
        """What was drawn, at the frame's resolution."""
        fine = self._fine
        x, y, width, height = cv2.boundingRect(self._relief)
        # Whole pixels of the frame, and one more on each side for the light at the rim.
        left, top = max(0, x // fine - 1), max(0, y // fine - 1)
        right, bottom = (x + width) // fine + 2, (y + height) // fine + 2
        cut = (slice(top * fine, bottom * fine), slice(left * fine, right * fine))
        size = (right - left, bottom - top)
        picture = cv2.resize(self._picture[cut], size, interpolation=cv2.INTER_AREA)
        relief = np.asarray(cv2.resize(self._relief[cut], size, interpolation=cv2.INTER_AREA), np.uint8)
        colour = np.ascontiguousarray(picture[..., :3], np.uint8)
        alpha = np.ascontiguousarray(picture[..., 3], np.uint8)
        return Sprite(colour, alpha, relief, self._relief[cut], fine, self._left + left, self._top + top)

    def _fixed(self, points: Outline) -> NDArray[np.int32]:
        placed = np.asarray(points, np.float64) @ self._matrix.T + self._offset
        return np.asarray(np.rint(placed * (1 << _BITS)), np.int32)


def ellipse(centre: Point, radius: float, flat: float = 1.0) -> NDArray[np.float64]:
    """The outline of an ellipse as 40 points."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(turn), centre[1] + radius * flat * np.sin(turn)], axis=1)
