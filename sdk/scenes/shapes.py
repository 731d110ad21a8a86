"""The objects (tools, fasteners, debris): their polygons, and how they are drawn at a place, size and angle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.types import Box, Pixels

__all__ = ["SCENE_LABELS", "SHAPES", "Colour", "Pen", "Point", "Pose", "Sprite", "ellipse"]

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


Rng = np.random.Generator

_STEELS: tuple[Colour, ...] = ((172, 170, 166), (138, 138, 136), (200, 200, 198), (96, 98, 102), (84, 130, 158))
_BRASSES: tuple[Colour, ...] = ((70, 140, 176), (110, 170, 200))
_GRIPS: tuple[Colour, ...] = ((36, 36, 200), (190, 80, 30), (40, 160, 220), (44, 44, 46), (60, 140, 40), (30, 110, 230))
_DARKS: tuple[Colour, ...] = ((38, 36, 36), (52, 50, 50), (70, 64, 60), (30, 40, 56))
_PLASTICS: tuple[Colour, ...] = ((200, 160, 120), (150, 110, 80), (190, 190, 190), (60, 60, 64), (90, 60, 180))


def _bolt(pen: Pen, rng: Rng) -> None:
    steel = _choose(rng, _STEELS + _BRASSES)
    thick, head = rng.uniform(0.055, 0.12), rng.uniform(0.12, 0.24)
    pen.polygon(_bar(-0.5 + head, 0.5, thick), steel, 130)
    for x in np.arange(-0.5 + head + rng.uniform(0.05, 0.35), 0.48, max(0.03, thick * 0.45)):
        pen.stroke([(x, -thick), (x + 0.012, thick)], 0.012, _shade(steel, 0.62), 110)
    pen.stroke([(-0.5 + head, -thick * 0.35), (0.48, -thick * 0.35)], thick * 0.3, _shade(steel, 1.25), 150)
    wide = thick * rng.uniform(1.7, 2.3)
    pen.polygon(_bar(-0.5, -0.5 + head, wide), _shade(steel, 0.95), 190)
    pen.polygon(_bar(-0.49, -0.51 + head, wide * 0.4), _shade(steel, 1.2), 210)


def _nut(pen: Pen, rng: Rng) -> None:
    steel = _choose(rng, _STEELS + _BRASSES)
    pen.polygon(_regular(6, 0.5), _shade(steel, 0.85), 170)
    pen.disc((0, 0), 0.4, _shade(steel, 1.15), 200)
    bore = rng.uniform(0.2, 0.28)
    pen.disc((0, 0), bore + 0.04, _shade(steel, 0.45), 110)
    pen.hole(ellipse((0.012, 0.012), bore))


def _washer(pen: Pen, rng: Rng) -> None:
    metal = _choose(rng, _STEELS + _BRASSES)
    bore = rng.uniform(0.16, 0.32)
    pen.disc((0, 0), 0.5, _shade(metal, 0.9), 120)
    pen.disc((0, 0), 0.46, metal, 140)
    pen.disc((0, 0), bore + 0.025, _shade(metal, 0.6), 120)
    pen.hole(ellipse((0, 0), bore))


def _wrench(pen: Pen, rng: Rng) -> None:
    steel = _choose(rng, _STEELS)
    half = rng.uniform(0.03, 0.045)
    pen.polygon([(-0.36, -half), (0.36, -half * 0.85), (0.36, half * 0.85), (-0.36, half)], steel, 130)
    pen.polygon(_bar(-0.24, 0.24, half * 0.45), _shade(steel, 0.8), 110)
    jaw = rng.uniform(0.1, 0.13)
    pen.disc((-0.39, 0), jaw, _shade(steel, 1.08), 160)
    pen.hole([(-0.6, -0.075), (-0.4, -0.052), (-0.36, 0.0), (-0.4, 0.052), (-0.6, 0.03)])
    if rng.random() < 0.5:
        pen.disc((0.4, 0), 0.09, _shade(steel, 1.08), 160)
        pen.hole(_regular(6, 0.05) + np.array([0.4, 0.0]))
    else:
        pen.disc((0.4, 0), jaw * 0.9, _shade(steel, 1.08), 160)
        pen.hole([(0.6, -0.03), (0.42, -0.045), (0.385, 0), (0.42, 0.045), (0.6, 0.065)])


def _hammer(pen: Pen, rng: Rng) -> None:
    steel, grip = _choose(rng, _STEELS), _choose(rng, _GRIPS)
    shaft = _choose(rng, (grip, steel, (90, 150, 190)))
    pen.polygon([(-0.36, -0.028), (0.1, -0.03), (0.1, 0.03), (-0.36, 0.028)], shaft, 130)
    sleeve = [(0.02, -0.036), (0.48, -0.044), (0.5, -0.02), (0.5, 0.02), (0.48, 0.044), (0.02, 0.036)]
    pen.polygon(sleeve, _shade(grip, 0.7), 150)
    pen.stroke([(0.05, -0.012), (0.46, -0.015)], 0.012, _shade(grip, 1.2), 170)
    pen.polygon([(-0.44, -0.05), (-0.34, -0.05), (-0.335, 0.07), (-0.445, 0.07)], steel, 180)
    pen.polygon([(-0.46, 0.06), (-0.32, 0.06), (-0.32, 0.15), (-0.46, 0.15)], _shade(steel, 1.1), 200)
    claw = [(-0.44, -0.04), (-0.34, -0.04), (-0.33, -0.12), (-0.27, -0.2), (-0.35, -0.17), (-0.42, -0.1)]
    pen.polygon(claw, _shade(steel, 0.9), 170)


def _pliers(pen: Pen, rng: Rng) -> None:
    steel, grip = _choose(rng, _STEELS), _choose(rng, _GRIPS)
    spread, nose = rng.uniform(0.08, 0.2), rng.uniform(0.0, 0.04)
    for side in (-1.0, 1.0):
        wide = spread * side
        handle = [(-0.14, -0.02 * side), (0.05, 0.75 * wide), (0.28, wide), (0.47, 0.85 * wide)]
        pen.stroke(handle, 0.06, _shade(grip, 0.75), 140)
        pen.stroke(handle[1:], 0.035, grip, 170)
        jaw = np.array([(-0.12, 0.06), (-0.2, 0.075), (-0.5, nose + 0.02), (-0.5, nose), (-0.2, 0.004)])
        pen.polygon(jaw * (1.0, side), _shade(steel, 1.0 if side < 0 else 0.85), 150)
    pen.disc((-0.15, 0), 0.075, _shade(steel, 0.9), 170)
    pen.disc((-0.15, 0), 0.03, _shade(steel, 1.2), 200)


def _cutter(pen: Pen, rng: Rng) -> None:
    grip, dark = _choose(rng, ((40, 190, 235), (30, 110, 230), (36, 36, 200))), _choose(rng, _DARKS)
    half = rng.uniform(0.07, 0.1)
    blade = np.array([(-0.5, 0.1), (-0.36, -0.5), (-0.25, -0.5), (-0.25, 0.6), (-0.42, 0.6)])
    pen.polygon(blade * (1.0, half), (190, 190, 190), 90)
    case = np.array([(-0.32, -0.8), (0.42, -1.0), (0.5, -0.4), (0.5, 0.7), (0.4, 1.0), (-0.32, 0.8)])
    pen.polygon(case * (1.0, half), grip, 150)
    pen.polygon([(-0.05, half * 0.2), (0.45, half * 0.05), (0.46, half * 0.8), (0.0, half * 0.9)], dark, 170)
    pen.stroke([(-0.28, -half * 0.3), (0.3, -half * 0.35)], half * 0.4, _shade(dark, 0.8), 120)
    pen.stroke([(-0.1, -half * 0.3), (0.0, -half * 0.3)], half * 0.6, dark, 200)


def _wire(pen: Pen, rng: Rng) -> None:
    colour, width = _choose(rng, _DARKS + _GRIPS), rng.uniform(0.012, 0.035)
    along = np.linspace(-0.48, 0.48, 40)
    bends = rng.uniform(-0.16, 0.16, 3)
    across = sum(bend * np.sin((k + 1) * np.pi * (along + 0.48)) for k, bend in enumerate(bends))
    path = np.stack([along, across], axis=1)
    pen.stroke(path, width, _shade(colour, 0.8), 120)
    pen.stroke(path, width * 0.4, _shade(colour, 1.3), 150)
    for end in (path[:3], path[-3:]):
        if rng.random() < 0.6:
            pen.stroke(end, width * rng.uniform(0.6, 2.2), _choose(rng, _BRASSES + _DARKS), 140)


def _metal_part(pen: Pen, rng: Rng) -> None:
    steel = _choose(rng, _STEELS + _BRASSES)
    half, bend = rng.uniform(0.12, 0.24), rng.uniform(-0.15, 0.25)
    pen.polygon([(-0.5, -half), (bend, -half), (bend, half), (-0.5, half * 0.9)], steel, 120)
    pen.polygon([(bend, -half), (0.5, -half * 0.8), (0.48, half * 0.85), (bend, half)], _shade(steel, 0.68), 190)
    pen.stroke([(bend, -half), (bend, half)], 0.02, _shade(steel, 1.3), 200)
    for x in (-0.33, -0.1)[: int(rng.integers(1, 3))]:
        pen.hole(ellipse((x, 0), half * rng.uniform(0.25, 0.4)))


def _clamp_part(pen: Pen, rng: Rng) -> None:
    steel = _choose(rng, _STEELS)
    half, waist = rng.uniform(0.24, 0.34), rng.uniform(0.7, 0.9)
    outline = [(-0.5, -half), (0, -half * waist), (0.5, -half), (0.46, half), (0, half * waist), (-0.46, half)]
    pen.polygon(outline, _shade(steel, 1.05), 160)
    trough = [(-0.44, -half * 0.4), (0.44, -half * 0.4), (0.42, half * 0.5), (-0.42, half * 0.5)]
    pen.polygon(trough, _shade(steel, 0.7), 110)
    pen.stroke([(-0.46, -half * 0.45), (0.46, -half * 0.45)], 0.03, _shade(steel, 1.3), 200)
    slot = np.array([0.12, 0.06]) * rng.uniform(0.8, 1.3)
    pen.disc((0, 0.02), slot[0] + 0.03, _shade(steel, 0.5), 100, flat=0.55)
    pen.hole(ellipse((0, 0.02), slot[0], flat=float(slot[1] / slot[0])))


def _plastic_part(pen: Pen, rng: Rng) -> None:
    colour, half = _choose(rng, _PLASTICS), rng.uniform(0.16, 0.36)
    cut = rng.uniform(0.0, 0.08)
    pen.polygon([(-0.5, -half + cut), (-0.5 + cut, -half), (0.5, -half), (0.5, half), (-0.5, half)], colour, 150)
    edge = rng.uniform(0.05, 0.12)
    pen.polygon([(-0.5, half - edge), (0.5, half - edge), (0.5, half), (-0.5, half)], _shade(colour, 0.62), 110)
    pen.polygon([(0.5 - edge, -half), (0.5, -half), (0.5, half), (0.5 - edge, half - edge)], _shade(colour, 0.8), 120)
    for x in np.arange(-0.42, 0.4, rng.uniform(0.08, 0.3)):
        pen.stroke([(x, -half * 0.75), (x, half * 0.3)], 0.012, _shade(colour, 0.82), 130)


def _luggage_part(pen: Pen, rng: Rng) -> None:
    dark, half = _choose(rng, _DARKS), rng.uniform(0.05, 0.32)
    corner = min(0.08, half * 0.6)
    outline = _rounded(0.5, half, corner)
    pen.polygon(outline, _shade(dark, 0.75), 150)
    pen.polygon(outline * 0.86, dark, 190)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.3, 0.2), rng.uniform(-0.5, 0.5) * half
        pen.stroke([(x, y), (x + rng.uniform(0.08, 0.2), y)], half * 0.12, _shade(dark, 3.2), 200)


def _luggage_tag(pen: Pen, rng: Rng) -> None:
    strap, paper = _choose(rng, _DARKS), _choose(rng, ((236, 236, 232), (226, 214, 200), (190, 225, 240)))
    half = rng.uniform(0.12, 0.17)
    turn = np.linspace(0.15, 2 * np.pi - 0.15, 24) + np.pi
    loop = np.stack([-0.33 + 0.15 * np.cos(turn), rng.uniform(0.06, 0.11) * np.sin(turn)], axis=1)
    pen.stroke(loop, 0.035, strap, 120)
    pen.polygon(_rounded(0.35, half, 0.04) + np.array([0.15, 0]), _shade(paper, 0.9), 140)
    pen.polygon(_rounded(0.31, half * 0.8, 0.03) + np.array([0.16, 0]), paper, 120)
    for y in np.linspace(-half * 0.55, half * 0.55, 4):
        pen.stroke([(-0.08, y), (rng.uniform(0.15, 0.4), y)], 0.01, (120, 116, 110), 120)
    pen.stroke([(-0.2, 0), (-0.14, 0)], 0.05, strap, 160)


def _label(pen: Pen, rng: Rng) -> None:
    ribbon = _choose(rng, ((40, 30, 190), (60, 40, 215), (30, 24, 160), (30, 120, 235)))
    half, bow = rng.uniform(0.07, 0.12), rng.uniform(-0.12, 0.12)
    along = np.linspace(-0.4, 0.5, 14)
    middle = bow * np.cos(np.pi * (along + 0.4) * 1.1)
    upper, lower = np.stack([along, middle - half], axis=1), np.stack([along, middle + half], axis=1)
    pen.polygon(np.concatenate([upper, lower[::-1]]), ribbon, 120)
    for k in range(1, len(along) - 1):
        if rng.random() < 0.75:
            top, bottom = middle[k] - half * 0.55, middle[k] + half * 0.55
            pen.stroke([(along[k], top), (along[k] + rng.uniform(-0.02, 0.03), bottom)], 0.022, (236, 236, 238), 125)
    clasp = np.array([(-0.5, -0.03), (-0.4, -0.02), (-0.4, 0.02), (-0.5, 0.03)]) + np.array([0.0, middle[0]])
    pen.stroke(clasp, 0.02, (150, 150, 152), 170)


def _paint_chip(pen: Pen, rng: Rng) -> None:
    colour = _choose(rng, (*_DARKS, (200, 204, 206), (60, 140, 200)))
    corners = np.array([(-0.38, -0.36), (0.36, -0.4), (0.42, 0.36), (-0.34, 0.4)]) + rng.uniform(-0.1, 0.1, (4, 2))
    outline = np.concatenate([np.linspace(corners[k], corners[(k + 1) % 4], 7)[:-1] for k in range(4)])
    outline += rng.uniform(-0.016, 0.016, outline.shape)
    pen.polygon(outline, _shade(colour, 1.5), 90)
    pen.polygon(outline * 0.975 + 0.006, colour, 100)


def _rock(pen: Pen, rng: Rng) -> None:
    stone = _choose(rng, ((110, 128, 140), (90, 100, 106), (140, 150, 156), (70, 96, 118)))
    turn = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    radius = 0.42 + rng.uniform(-0.08, 0.08, 18)
    outline = np.stack([radius * np.cos(turn), radius * rng.uniform(0.6, 0.95) * np.sin(turn)], axis=1)
    pen.polygon(outline, _shade(stone, 0.7), 110)
    for size in (0.8, 0.55, 0.3):
        facet = outline * size + rng.uniform(-0.07, 0.07, 2)
        pen.polygon(facet[:: int(rng.integers(1, 4))], _shade(stone, rng.uniform(0.75, 1.25)), int(250 - 150 * size))


SHAPES: dict[str, Callable[[Pen, Rng], None]] = {
    "Bolt": _bolt,
    "ClampPart": _clamp_part,
    "Cutter": _cutter,
    "Hammer": _hammer,
    "Label": _label,
    "LuggagePart": _luggage_part,
    "LuggageTag": _luggage_tag,
    "MetalPart": _metal_part,
    "Nut": _nut,
    "PaintChip": _paint_chip,
    "PlasticPart": _plastic_part,
    "Pliers": _pliers,
    "Rock": _rock,
    "Washer": _washer,
    "Wire": _wire,
    "Wrench": _wrench,
}

SCENE_LABELS: tuple[str, ...] = tuple(SHAPES)


def _choose(rng: Rng, options: tuple[Colour, ...]) -> Colour:
    return options[int(rng.integers(len(options)))]


def _shade(colour: Colour, factor: float) -> Colour:
    blue, green, red = (min(255.0, level * factor) for level in colour)
    return blue, green, red


def _bar(left: float, right: float, half: float) -> list[Point]:
    return [(left, -half), (right, -half), (right, half), (left, half)]


def _regular(corners: int, radius: float) -> NDArray[np.float64]:
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _rounded(half_width: float, half_height: float, radius: float) -> NDArray[np.float64]:
    """A rectangle with round corners."""
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False) + np.pi / 32
    corner = np.sign(np.stack([np.cos(turn), np.sin(turn)], axis=1)) * (half_width - radius, half_height - radius)
    return np.asarray(corner + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1), np.float64)
