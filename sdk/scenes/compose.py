"""One object set down on a ground under a light: the step that scenes and clips share; neither is planned here."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgeloc.scenes.light import Light, overlap
from edgeloc.scenes.pen import Pen, Pose, Sprite
from edgeloc.scenes.shapes import SHAPES
from edgeloc.scenes.textures import cloud_patch, grain_patch
from edgeloc.types import Box, Pixels

__all__ = ["Scene", "draw_object", "put"]

_PATCH = (192, 192)


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
    y, x = rows.start - sprite.top, columns.start - sprite.left
    cut = (slice(y, y + rows.stop - rows.start), slice(x, x + columns.stop - columns.start))
    lit = _worn(light.shade(sprite, length), sprite.alpha, rng)[cut]
    below = cv2.bitwise_not(cv2.merge([sprite.alpha[cut]] * 3))
    part = ground[rows, columns]
    np.copyto(part, cv2.add(cv2.multiply(part, below, scale=1 / 255), lit))


def _worn(colour: Pixels, alpha: Pixels, rng: np.random.Generator) -> Pixels:
    """A surface that is not quite even; nothing is added where the object is not."""
    # Always the same patch for the same object, so that it does not flicker when it grows in a clip.
    gloss, grain = cloud_patch(rng, _PATCH, (2.0, 2.0)), grain_patch(rng, _PATCH, (3.0, 1.5))
    roughness = rng.uniform(0.02, 0.16)
    factors = cv2.addWeighted(gloss, 0.4, grain, roughness, 128 - 0.4 * float(np.mean(gloss)) - 128 * roughness)
    factors = cv2.resize(factors, (alpha.shape[1], alpha.shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.multiply(colour, cv2.merge([factors] * 3), scale=1 / 128), np.uint8)
