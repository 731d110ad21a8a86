"""A made video: objects that pass, one after the other, over a ground that pans; single images are generator.py's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import cv2
import numpy as np

from edgeloc.scenes.compose import Scene, draw_object, put
from edgeloc.scenes.grounds import make_ground
from edgeloc.scenes.light import Light
from edgeloc.scenes.pen import Pose
from edgeloc.scenes.shapes import SCENE_LABELS
from edgeloc.types import Pixels

__all__ = ["Clip"]

_VISIT = 150  # frames from one object's arrival to the next one's
_PASSING = 130  # of these the object may be seen in; then the ground is empty
_SEEN = 0.15  # a smaller share of an object, at the frame's edge, is not shown at all


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
    """Frames with exact truth, any of them at any time: `frame(n)`; endless where `frames` is None.

    The same seed, index and size give the same frames, whatever was asked for before. Iterating
    starts at frame 0. At 30 frames a second an object takes 4 s to pass, then the ground is empty
    for one. An object of which less than 15 % is inside the frame is left out of the picture.
    """

    def __init__(self, seed: int, index: int, size: tuple[int, int], frames: int | None = None) -> None:
        self._key = (seed, 1, index)
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
        visit_number, since = divmod(number, _VISIT)
        if since >= _PASSING:
            return Scene(self._light.finish(pixels, rng), None, None)
        visit = self._visit(visit_number)
        pose = visit.pose(since / _PASSING, self.size)
        individual = np.random.default_rng((*self._key, 2, visit_number))
        sprite = draw_object(individual, visit.label, pose)
        box, share = sprite.visible(self.size)
        if box is None or share < _SEEN:
            return Scene(self._light.finish(pixels, rng), None, None)
        put(pixels, sprite, self._light, individual, pose.length)
        return Scene(self._light.finish(pixels, rng), box, visit.label)

    def _panned(self, number: int) -> Pixels:
        """The ground under a camera that sways slowly."""
        time = number / 90
        phases = self._phases
        x = self._margin * (0.7 * np.sin(time + phases[0]) + 0.25 * np.sin(2.3 * time + phases[1]))
        y = self._margin * (0.7 * np.sin(0.8 * time + phases[2]) + 0.25 * np.sin(1.9 * time + phases[3]))
        shift = np.array([[1, 0, -x - self._margin], [0, 1, -y - self._margin]], np.float64)
        panned = cv2.warpAffine(self._ground, shift, self.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(panned, np.uint8)

    def _visit(self, number: int) -> _Visit:
        rng = np.random.default_rng((*self._key, 1, number))
        turn = rng.uniform(0, 2 * np.pi)
        # Out on about the other side, through a point near the middle.
        turns = np.array([turn, turn + np.pi + rng.uniform(-0.9, 0.9)])
        lengths = rng.uniform(0.2, 0.6, 2)
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
