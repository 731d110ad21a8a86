"""How a scene is lit and seen: shading, cast shadow, fall-off, colour, blur and noise; what is lit, others draw."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgeloc.scenes.pen import Sprite
from edgeloc.scenes.textures import grain_patch
from edgeloc.types import Pixels

__all__ = ["Light", "overlap"]


@dataclass(frozen=True)
class Light:
    """Where the light comes from and what the camera makes of it.

    `angle` (radians, in the image) is where shadows fall; `shadow` and `shading` are strengths, 0 to
    1; `gain` is the brightness, `tint` the gains of blue, green and red; `slope` the brightness's
    change across the frame along `slope_angle`, `vignette` its loss at the corners; `blur` is a
    sigma in pixels, `noise` a standard deviation in grey levels.
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
        """The picture as the camera sees it: fall-off, colour, blur, noise."""
        height, width = pixels.shape[:2]
        lit = cv2.multiply(pixels, self._fall_off(width, height), scale=1 / 128)
        if self.blur:
            lit = cv2.GaussianBlur(lit, (0, 0), self.blur)
        grain = cv2.merge([grain_patch(rng, (width, height)) for _ in range(3)])
        strength = self.noise / 42
        return np.asarray(cv2.addWeighted(lit, 1, grain, strength, -128 * strength), np.uint8)

    def _fall_off(self, width: int, height: int) -> Pixels:
        """Gains, 128 for one, of a frame's pixels."""
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
