"""Scenes by number: which object, where, how large, on what; drawing them is compose.py's and what that calls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeloc.errors import UsageError
from edgeloc.scenes.clip import Clip
from edgeloc.scenes.compose import Scene, draw_object, put
from edgeloc.scenes.grounds import make_ground
from edgeloc.scenes.light import Light
from edgeloc.scenes.pen import Pose, Sprite
from edgeloc.scenes.shapes import SCENE_LABELS
from edgeloc.types import Box

__all__ = ["SceneGenerator"]

_EMPTY = 0.12  # of all scenes
_LENGTHS = (0.1, 0.85)  # of the frame's shorter side, each doubling as frequent as the next
_CUT_OFF = 0.15  # of all objects reach over the frame's edge
_SEEN = 0.55  # of such an object's width and height, at least, stays inside
_SMALLEST = 32  # pixels a frame's side must have


class SceneGenerator:
    """Endless scenes with exact truth: the same seed, size and index give the same scene, in any order.

    `seed` is a whole number of 0 or more, `size` the (width, height) in pixels, 32 at least; else
    UsageError. About 12 % of the scenes are empty.
    """

    def __init__(self, seed: int = 0, size: tuple[int, int] = (300, 300)) -> None:
        if seed < 0:
            raise UsageError(f"the scenes' seed is {seed}: give a whole number of 0 or more")
        if min(size) < _SMALLEST:
            raise UsageError(f"the scenes' size is {size[0]}x{size[1]}: give at least {_SMALLEST} pixels a side")
        self.seed = seed
        self.size = size

    def scene(self, index: int) -> Scene:
        """Scene number `index`, from 0."""
        rng = np.random.default_rng((self.seed, 2, index))
        light = Light.random(rng)
        pixels = make_ground(rng, self.size)
        found = self._object(index)
        if found is None:
            return Scene(light.finish(pixels, rng), None, None)
        label, sprite, length = found
        put(pixels, sprite, light, rng, length)
        return Scene(light.finish(pixels, rng), sprite.visible(self.size)[0], label)

    def truth(self, index: int) -> tuple[Box | None, str | None]:
        """The box and label of scene number `index`, for a fraction of what drawing it costs."""
        found = self._object(index)
        return (found[1].visible(self.size)[0], found[0]) if found else (None, None)

    def clip(self, index: int = 0, frames: int | None = None) -> Clip:
        """A video of objects that pass over a panning ground; endless where `frames` is None."""
        return Clip(self.seed, index, self.size, frames)

    def _object(self, index: int) -> tuple[str, Sprite, float] | None:
        """The object's label, its drawing in its place, and its length; None for an empty scene."""
        rng = np.random.default_rng((self.seed, 0, index))
        if rng.random() < _EMPTY:
            return None
        label = SCENE_LABELS[int(rng.integers(len(SCENE_LABELS)))]
        low, high = np.log(_LENGTHS)
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
        over = (_SEEN - 1) if rng.random() < _CUT_OFF else 0.0
        left, top = (
            int(rng.integers(*_range(side, frame, over))) for side, frame in zip(sprite.size, self.size, strict=True)
        )
        return label, replace(sprite, left=left, top=top), length


def _range(side: int, frame: int, over: float) -> tuple[int, int]:
    """Where an object's first pixel may lie along one side of the frame."""
    first = int(side * over)
    return first, max(first, frame - side - first) + 1
