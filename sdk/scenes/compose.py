"""One object set down on a ground under a light: the step that scenes and clips share; neither is planned here."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgeloc.scenes.light import Light, overlap
from edgeloc.scenes.pen import Pen, Pose, Sprite
from edgeloc.scenes.shapes import SHAPES
from edgeloc.scenes.textures import grain_patch
from edgeloc.types import Box, Pixels

__all__ = ["Scene", "draw_object", "put"]


@dataclass(frozen=True)
class Scene:
    """A made image and its truth.

    `pixels` is BGR uint8 (height, width, 3); `box` the tight box around what can be seen of the
    object, in pixels, taken before blur and noise; `label` one of SCENE_LABELS. Both are None
    where the scene is empty.
    """

    pixels: Pixels
    box: Box | None
    label: str | None


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
    cut = (slice(rows.start - sprite.top, rows.stop - sprite.top), slice(columns.start - sprite.left, columns.stop - sprite.left))
    lit = _worn(light.shade(sprite, length), sprite.alpha, rng)[cut]
    below = cv2.bitwise_not(cv2.merge([sprite.alpha[cut]] * 3))
    part = ground[rows, columns]
    np.copyto(part, cv2.add(cv2.multiply(part, below, scale=1 / 255), lit))


def _worn(colour: Pixels, alpha: Pixels, rng: np.random.Generator) -> Pixels:
    """A surface that is not quite even; nothing is added where the object is not."""
    size = (alpha.shape[1], alpha.shape[0])
    grain = grain_patch(rng, size, (3.0, 1.5))
    factors = cv2.convertScaleAbs(grain, alpha=0.22, beta=128 - 0.22 * 128)
    return np.asarray(cv2.multiply(colour, cv2.merge([factors] * 3), scale=1 / 128), np.uint8)
