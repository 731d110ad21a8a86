"""Scenes by number, and clips: draws objects, their places and sizes, the ground and the light."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

import cv2
import numpy as np

from edgeloc.errors import UsageError
from edgeloc.scenes.grounds import cloud_patch, grain_patch, make_ground
from edgeloc.scenes.shapes import SCENE_LABELS, SHAPES, Pen, Pose, Sprite
from edgeloc.types import Box, LabelledBox, Pixels, largest

__all__ = ["Clip", "Light", "Scene", "SceneGenerator", "draw_object", "overlap", "put"]


@dataclass(frozen=True)
class Light:
    """Where the light comes from, and what the camera's optics and sensor do.

    Parameters:
        angle: the direction in which shadows fall, radians in the image.
        shadow: strength of the cast shadow, 0 to 1.
        shading: strength of lit edges, 0 to 1.
        gain: the brightness, 1 for unchanged.
        tint: the gains of blue, green and red.
        slope: how much the brightness changes across the frame.
        slope_angle: in which direction, radians.
        vignette: the brightness lost at the corners, 0 to 1.
        blur: sigma of the blur in pixels.
        noise: standard deviation of the noise in grey levels.
    """

    angle: float
    shadow: float
    shading: float
    gain: float
    tint: tuple[float, float, float]
    slope: float
    slope_angle: float
    vignette: float
    blur: float
    noise: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Light:
        """A light as found outdoors, indoors or under a lamp."""
        warmth = rng.uniform(-0.1, 0.1)
        return cls(
            angle=rng.uniform(0, 2 * np.pi),
            shadow=rng.uniform(0.1, 0.65),
            shading=rng.uniform(0.3, 1.0),
            gain=float(np.exp(rng.uniform(-0.4, 0.2))),
            tint=(1 - warmth, 1 + rng.uniform(-0.03, 0.03), 1 + warmth),
            slope=rng.uniform(0, 0.4),
            slope_angle=rng.uniform(0, 2 * np.pi),
            vignette=rng.uniform(0.2, 0.6) if rng.random() < 0.35 else 0.0,
            blur=rng.uniform(0.35, 1.3) if rng.random() < 0.6 else 0.0,
            noise=rng.uniform(0.5, 6.0),
        )

    def shade(self, sprite: Sprite, length: float) -> Pixels:
        """The sprite's colours with its edges and bumps lit."""
        relief = cv2.GaussianBlur(sprite.relief, (0, 0), min(3.0, max(0.7, 0.012 * length)))
        steep = 0.006 * self.shading
        # The slope towards the light in one pass: a kernel of central differences.
        x, y = np.cos(self.angle) * steep, np.sin(self.angle) * steep
        kernel = np.array([[0, y, 0], [x, 0, -x], [0, -y, 0]], np.float32) * -1
        lit = cv2.filter2D(relief, cv2.CV_32F, kernel, delta=1.0)
        factors = np.clip(lit, 0.35, 1.9)
        return np.asarray(cv2.multiply(sprite.colour, cv2.merge([factors] * 3), dtype=cv2.CV_8U), np.uint8)

    def cast_shadow(self, ground: Pixels, sprite: Sprite, length: float) -> None:
        """Darken the ground in place where the object keeps the light from it."""
        reach = min(14.0, max(1.0, 0.03 * length))
        border = int(3 * reach)
        shadow = cv2.copyMakeBorder(sprite.alpha, border, border, border, border, cv2.BORDER_CONSTANT, value=0)
        left = sprite.left - border + round(reach * np.cos(self.angle))
        top = sprite.top - border + round(reach * np.sin(self.angle))
        shadow = cv2.blur(cv2.blur(shadow, (int(reach) | 1,) * 2), (int(reach * 0.6) | 1,) * 2)
        spot = overlap(ground, left, top, shadow.shape[1], shadow.shape[0])
        if spot is None:
            return
        rows, columns = spot
        part = ground[rows, columns]
        shade = shadow[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        kept = cv2.convertScaleAbs(shade, alpha=-self.shadow, beta=255)
        np.copyto(part, cv2.multiply(part, cv2.merge([kept] * 3), scale=1 / 255))

    def finish(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """The picture as the camera sees it: with fall-off, tint, blur and noise."""
        height, width = pixels.shape[:2]
        lit = cv2.multiply(pixels, self._fall_off(width, height), scale=1 / 128)
        if self.blur:
            lit = cv2.GaussianBlur(lit, (0, 0), self.blur)
        grain = cv2.merge([grain_patch(rng, (width, height)) for _ in range(3)])
        strength = self.noise / 42
        return np.asarray(cv2.addWeighted(lit, 1, grain, strength, -128 * strength), np.uint8)

    def _fall_off(self, width: int, height: int) -> Pixels:
        """The gain of each pixel; 128 is a gain of 1."""
        x, y = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 24))
        slope = self.slope * (x * np.cos(self.slope_angle) + y * np.sin(self.slope_angle))
        gains = self.gain * (1 + slope) * (1 - self.vignette * (x * x + y * y) / 2)
        coloured = np.clip(128 * gains[..., None] * np.array(self.tint), 0, 255).astype(np.uint8)
        return np.asarray(cv2.resize(coloured, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def overlap(frame: Pixels, left: int, top: int, width: int, height: int) -> tuple[slice, slice] | None:
    """The rows and columns of the frame that a rectangle covers, None where it lies outside."""
    rows = slice(max(0, top), min(frame.shape[0], top + height))
    columns = slice(max(0, left), min(frame.shape[1], left + width))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


_PATCH = (192, 192)


@dataclass(frozen=True)
class Scene:
    """A generated image and its truth.

    Parameters:
        pixels: BGR uint8 (height, width, 3).
        objects: tight boxes around what lies inside the frame, in pixels, taken before blur and noise, and labels of
            SCENE_LABELS; where one object covers another, the box behind is whole. None in an empty scene.
    """

    pixels: Pixels
    objects: tuple[LabelledBox, ...]

    @property
    def box(self) -> Box | None:
        """The largest object's box; None where the scene is empty."""
        found = largest(self.objects)
        return None if found is None else found.box

    @property
    def label(self) -> str | None:
        """The largest object's label; None where the scene is empty."""
        found = largest(self.objects)
        return None if found is None else found.label


def draw_object(rng: np.random.Generator, label: str, pose: Pose) -> Sprite:
    """An object of a kind in a pose; the same state of `rng` gives the same individual."""
    pen = Pen(pose)
    SHAPES[label](pen, rng)
    return pen.sprite()


def put(ground: Pixels, sprite: Sprite, light: Light, rng: np.random.Generator, length: float) -> None:
    """Set the object down in place, with its shadow."""
    light.cast_shadow(ground, sprite, length)
    spot = overlap(ground, sprite.left, sprite.top, *sprite.size)
    if spot is None:
        return
    rows, columns = spot
    y, x = rows.start - sprite.top, columns.start - sprite.left
    cut = (slice(y, y + rows.stop - rows.start), slice(x, x + columns.stop - columns.start))
    lit = _worn(light.shade(sprite, length), sprite.alpha, rng)[cut]
    below = cv2.bitwise_not(cv2.merge([sprite.alpha[cut]] * 3))
    part = ground[rows, columns]
    np.copyto(part, cv2.add(cv2.multiply(part, below, scale=1 / 255), lit))


def _worn(colour: Pixels, alpha: Pixels, rng: np.random.Generator) -> Pixels:
    """The surface made slightly uneven, within the object."""
    # Always the same patch for the same object, so that it does not flicker when it grows in a clip.
    gloss, grain = cloud_patch(rng, _PATCH, (2.0, 2.0)), grain_patch(rng, _PATCH, (3.0, 1.5))
    roughness = rng.uniform(0.02, 0.16)
    factors = cv2.addWeighted(gloss, 0.4, grain, roughness, 128 - 0.4 * float(np.mean(gloss)) - 128 * roughness)
    factors = cv2.resize(factors, (alpha.shape[1], alpha.shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.multiply(colour, cv2.merge([factors] * 3), scale=1 / 128), np.uint8)


class _Object(NamedTuple):
    """One that is drawn: its truth, its drawing in its place, its length in pixels, and what draws its surface."""

    truth: LabelledBox
    sprite: Sprite
    length: float
    rng: np.random.Generator


def _more(which: int) -> tuple[int, ...]:
    """What the random key of the first, second ... object ends with: the first's is that of a scene of one object."""
    return (which,) if which else ()


def _shares(sprites: Sequence[Sprite], size: tuple[int, int]) -> list[float]:
    """Which share of each object, of what lies inside the frame, those put down after it leave to be seen."""
    if len(sprites) == 1:
        return [1.0]
    covered: Pixels = np.zeros(size[::-1], np.uint8)
    shares = []
    for sprite in reversed(sprites):
        spot = overlap(covered, sprite.left, sprite.top, *sprite.size)
        assert spot is not None
        rows, columns = spot
        own = sprite.alpha[
            rows.start - sprite.top : rows.stop - sprite.top, columns.start - sprite.left : columns.stop - sprite.left
        ]
        free = cv2.subtract(own, covered[rows, columns])
        shares.append(float(np.sum(free)) / max(1.0, float(np.sum(own))))
        np.copyto(covered[rows, columns], cv2.max(own, covered[rows, columns]))
    return shares[::-1]


_VISIT = 150  # frames from one object's arrival to the next one's
_PASSING = 130  # of these the object may be seen in; then the ground is empty
_SHOWN = 0.15  # a smaller share of an object, at the frame's edge, is not shown at all
_APART = 8  # frames from one object's arrival to the next one's, of those that cross
_CLIP_LENGTHS = (0.2, 0.6)  # of the frame's shorter side; the second over the root of the number of objects


@dataclass(frozen=True)
class _Visit:
    """One object's way through the frame: a curve from edge to edge, in fractions of the frame."""

    label: str
    way: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    angle: float
    spin: float
    lengths: tuple[float, float]
    squash: float
    mirrored: bool

    def pose(self, time: float, size: tuple[int, int]) -> Pose:
        """The pose at a time between 0 and 1."""
        weights = ((1 - time) ** 2, 2 * time * (1 - time), time**2)
        x, y = (sum(weight * point[axis] for weight, point in zip(weights, self.way, strict=True)) for axis in (0, 1))
        length = min(size) * (self.lengths[0] * (1 - time) + self.lengths[1] * time)
        return Pose(x * size[0], y * size[1], length, self.angle + self.spin * time, self.squash, self.mirrored)


class Clip:
    """A video with exact truth: iterate over it from frame 0, or ask for any `frame(n)`.

    The same seed, index and size give the same frames, in any order. At 30 frames a second an object takes 4 s to
    pass, then the ground is empty for 1 s; of several objects each comes 0.3 s after the one before, on a way of its
    own that crosses the others', the later ones in front. An object of which less than 15 % is inside the frame is not
    drawn, and one of which others leave less than 15 % to be seen is not in the truth.

    Parameters:
        seed: a whole number of 0 or more.
        index: the clip's number, from 0.
        size: (width, height) in pixels.
        frames: the number of frames; None for an endless clip.
        objects: how many pass at a time.
    """

    def __init__(
        self, seed: int, index: int, size: tuple[int, int], frames: int | None = None, objects: int = 1
    ) -> None:
        self._key = (seed, 1, index)
        self._objects = objects
        self.size = size
        self.frames = frames
        rng = np.random.default_rng(self._key)
        self._margin = max(8, min(size) // 6)
        self._ground = make_ground(rng, (size[0] + 2 * self._margin, size[1] + 2 * self._margin))
        self._light = Light.random(rng)
        self._phases = rng.uniform(0, 2 * np.pi, 4)

    def __iter__(self) -> Iterator[Scene]:
        numbers = count() if self.frames is None else range(self.frames)
        return (self.frame(number) for number in numbers)

    def frame(self, number: int) -> Scene:
        """Frame `number`, from 0; IndexError past the end."""
        if number < 0 or (self.frames is not None and number >= self.frames):
            raise IndexError(f"the clip has no frame {number}")
        rng = np.random.default_rng((*self._key, 0, number))
        pixels = self._panned(number)
        passing = [found for which in range(self._objects) if (found := self._object(which, number)) is not None]
        seen = _shares([found.sprite for found in passing], self.size)
        for found in passing:
            put(pixels, found.sprite, self._light, found.rng, found.length)
        objects = tuple(found.truth for found, share in zip(passing, seen, strict=True) if share >= _SHOWN)
        return Scene(self._light.finish(pixels, rng), objects)

    def _object(self, which: int, number: int) -> _Object | None:
        """The object that passes as the first, second ... in a frame; None between two of them."""
        visit_number, since = divmod(number - which * _APART, _VISIT)
        if visit_number < 0 or since >= _PASSING:
            return None
        key = (visit_number, *_more(which))
        visit = self._visit(key)
        pose = visit.pose(since / _PASSING, self.size)
        individual = np.random.default_rng((*self._key, 2, *key))
        sprite = draw_object(individual, visit.label, pose)
        box, share = sprite.visible(self.size)
        if box is None or share < _SHOWN:
            return None
        return _Object(LabelledBox(box, visit.label), sprite, pose.length, individual)

    def _panned(self, number: int) -> Pixels:
        """The ground under a camera that sways slowly."""
        time = number / 90
        phases = self._phases
        x = self._margin * (0.7 * np.sin(time + phases[0]) + 0.25 * np.sin(2.3 * time + phases[1]))
        y = self._margin * (0.7 * np.sin(0.8 * time + phases[2]) + 0.25 * np.sin(1.9 * time + phases[3]))
        shift = np.array([[1, 0, -x - self._margin], [0, 1, -y - self._margin]], np.float64)
        panned = cv2.warpAffine(self._ground, shift, self.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(panned, np.uint8)

    def _visit(self, key: tuple[int, ...]) -> _Visit:
        rng = np.random.default_rng((*self._key, 1, *key))
        turn = rng.uniform(0, 2 * np.pi)
        # It leaves on about the opposite side, through a point near the middle.
        turns = np.array([turn, turn + np.pi + rng.uniform(-0.9, 0.9)])
        low, high = _CLIP_LENGTHS
        lengths = rng.uniform(low, max(low, high / self._objects**0.5), 2)
        outside = 0.55 + lengths / 2
        start, end = 0.5 + outside[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        bend = 2 * rng.uniform(0.35, 0.65, 2) - (start + end) / 2
        first, via, last = ((float(x), float(y)) for x, y in (start, bend, end))
        return _Visit(
            label=SCENE_LABELS[int(rng.integers(len(SCENE_LABELS)))],
            way=(first, via, last),
            angle=rng.uniform(0, 2 * np.pi),
            spin=rng.uniform(-1.5, 1.5),
            lengths=(float(lengths[0]), float(lengths[1])),
            squash=rng.uniform(0.8, 1.0),
            mirrored=bool(rng.random() < 0.5),
        )


_EMPTY = 0.12  # of all scenes
_LENGTHS = (0.1, 0.85)  # of the frame's shorter side, each doubling as frequent as the next
_CUT_OFF = 0.15  # of all objects reach over the frame's edge
_SEEN = 0.55  # of such an object's width and height, at least, stays inside
_SMALLEST = 32  # pixels a frame's side must have
_MOST_OBJECTS = 16
_TRIES = 20  # places drawn for one of several objects
_OVER = 0.1  # the most IoU of two


class SceneGenerator:
    """Endless scenes with exact truth: the same seed, size and index give the same scene, in any order.

    About 12 % of the scenes are empty; the others hold one object, or any number up to `objects`, the smaller in front.

    Parameters:
        seed: a whole number of 0 or more.
        size: (width, height) in pixels, at least 32 each.
        objects: how many objects a scene holds at most, and how many pass at a time in a clip, 1 to 16.

    Raises UsageError for another seed, size or number of objects.
    """

    def __init__(self, seed: int = 0, size: tuple[int, int] = (300, 300), objects: int = 1) -> None:
        if seed < 0:
            raise UsageError(field="seed", value=seed, allowed="a whole number of 0 or more")
        if min(size) < _SMALLEST:
            raise UsageError(field="size", value=size, allowed=f"at least {_SMALLEST} pixels a side")
        if not 1 <= objects <= _MOST_OBJECTS:
            raise UsageError(field="objects", value=objects, allowed=f"1 to {_MOST_OBJECTS}")
        self.seed = seed
        self.size = size
        self.objects = objects

    def scene(self, index: int) -> Scene:
        """Scene number `index`, from 0."""
        rng = np.random.default_rng((self.seed, 2, index))
        light = Light.random(rng)
        pixels = make_ground(rng, self.size)
        found = self._found(index)
        for one in found:
            put(pixels, one.sprite, light, rng, one.length)
        return Scene(light.finish(pixels, rng), tuple(one.truth for one in found))

    def truth(self, index: int) -> tuple[LabelledBox, ...]:
        """The objects of scene number `index`, for a fraction of what drawing it costs."""
        return tuple(one.truth for one in self._found(index))

    def clip(self, index: int = 0, frames: int | None = None) -> Clip:
        """Video number `index` of objects that pass over a panning ground, of so many `frames`; None for endless."""
        return Clip(self.seed, index, self.size, frames, self.objects)

    def _found(self, index: int) -> list[_Object]:
        """The objects of a scene in their places, the largest first; none of them hides another."""
        rng = np.random.default_rng((self.seed, 0, index))
        if rng.random() < _EMPTY:
            return []
        found = [self._object(rng)]
        if self.objects > 1:
            for _ in range(int(rng.integers(self.objects))):
                more = self._object(rng)
                for _ in range(_TRIES):
                    if all(more.truth.box.iou(other.truth.box) <= _OVER for other in found):
                        found.append(more)
                        break
                    more = self._placed(more, rng)
        return sorted(found, key=lambda one: one.truth.box.area, reverse=True)

    def _object(self, rng: np.random.Generator) -> _Object:
        """An object of any kind and size, in any place."""
        label = SCENE_LABELS[int(rng.integers(len(SCENE_LABELS)))]
        low, high = np.log((_LENGTHS[0], _LENGTHS[1] / self.objects**0.5))
        length = float(np.exp(rng.uniform(low, high))) * min(self.size)
        # Where exactly within a pixel; which pixel is chosen once the drawing's size is known.
        x, y = rng.uniform(0, 1, 2)
        pose = Pose(
            x,
            y,
            length,
            angle=rng.uniform(0, 2 * np.pi),
            squash=rng.uniform(0.75, 1.0),
            mirrored=bool(rng.random() < 0.5),
        )
        sprite = draw_object(rng, label, pose)
        return self._placed(_Object(LabelledBox(Box(0, 0, 0, 0), label), sprite, length, rng), rng)

    def _placed(self, one: _Object, rng: np.random.Generator) -> _Object:
        """The same object in another place, which may reach over the frame's edge."""
        over = (_SEEN - 1) if rng.random() < _CUT_OFF else 0.0
        left, top = (
            int(rng.integers(*_range(side, frame, over)))
            for side, frame in zip(one.sprite.size, self.size, strict=True)
        )
        sprite = replace(one.sprite, left=left, top=top)
        box, _ = sprite.visible(self.size)
        assert box is not None  # at least half of its width and height stays inside
        return one._replace(truth=one.truth._replace(box=box), sprite=sprite)


def _range(side: int, frame: int, over: float) -> tuple[int, int]:
    """Where an object's first pixel may lie along one side of the frame."""
    first = int(side * over)
    return first, max(first, frame - side - first) + 1
