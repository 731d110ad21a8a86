"""Noise to draw with: two pictures of it, made once, of which scenes take random patches; no scene is known here."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.types import Pixels

__all__ = ["cloud_patch", "colour_ramp", "grain_patch"]

_SIDE = 768
_SEED = 20240501  # the pictures are the same for all scenes: a scene's seed chooses patches of them

Colour = tuple[float, float, float]


def grain_patch(rng: np.random.Generator, size: tuple[int, int], zoom: tuple[float, float] = (1, 1)) -> Pixels:
    """Fine noise, uint8 (height, width) about 128; `zoom` stretches it in x and y."""
    return _patch(_grain(), rng, size, zoom)


def cloud_patch(rng: np.random.Generator, size: tuple[int, int], zoom: tuple[float, float] = (1, 1)) -> Pixels:
    """Noise of all scales, the coarse strongest, uint8 (height, width) about 128."""
    return _patch(_clouds(), rng, size, zoom)


def colour_ramp(values: Pixels, dark: Colour, light: Colour) -> Pixels:
    """Colour a grey picture: 0 becomes `dark`, 255 `light` (BGR)."""
    return np.asarray(cv2.LUT(cv2.merge([values] * 3), _ramp(dark, light)), np.uint8)


@lru_cache(maxsize=64)
def _ramp(dark: Colour, light: Colour) -> Pixels:
    steps = np.linspace(0, 1, 256)[:, None]
    ramp = np.asarray(dark) * (1 - steps) + np.asarray(light) * steps
    return np.clip(np.rint(ramp), 0, 255).astype(np.uint8).reshape(1, 256, 3)


def _patch(picture: Pixels, rng: np.random.Generator, size: tuple[int, int], zoom: tuple[float, float]) -> Pixels:
    width, height = (max(2, int(np.ceil(side / factor))) for side, factor in zip(size, zoom, strict=True))
    x, y = (int(rng.integers(0, max(1, _SIDE - side))) for side in (width, height))
    patch = picture[y : y + height, x : x + width]
    while patch.shape[0] < height or patch.shape[1] < width:
        # A frame larger than the picture sees its mirror image, as often as it takes.
        down, right = (min(want - have, have) for want, have in zip((height, width), patch.shape, strict=True))
        patch = cv2.copyMakeBorder(patch, 0, down, 0, right, cv2.BORDER_REFLECT)  # type: ignore[assignment]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    if (width, height) != size:
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return np.ascontiguousarray(patch, np.uint8)


@lru_cache(maxsize=1)
def _grain() -> Pixels:
    rng = np.random.default_rng([_SEED, 0])
    noise = rng.normal(0, 1, (_SIDE, _SIDE)).astype(np.float32)
    return _levels(noise + 1.5 * cv2.GaussianBlur(noise, (0, 0), 0.8))


@lru_cache(maxsize=1)
def _clouds() -> Pixels:
    rng = np.random.default_rng([_SEED, 1])
    total = np.zeros((_SIDE, _SIDE), np.float32)
    for cells in (4, 8, 16, 32, 64, 128, 256):
        noise = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        total += cv2.resize(noise, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC) * (8 / cells) ** 0.6
    return _levels(total)


def _levels(noise: NDArray[np.float32]) -> Pixels:
    scaled = 128 + 42 * (noise - noise.mean()) / noise.std()
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)
