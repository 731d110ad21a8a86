"""What lies under the object: asphalt, concrete, grass, wood, plain floors, painted lines, and their noise textures."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.types import Pixels

__all__ = ["GROUNDS", "cloud_patch", "colour_ramp", "grain_patch", "make_ground"]

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


Size = tuple[int, int]
Rng = np.random.Generator

_ASPHALTS = (((28, 28, 30), (190, 188, 186)), ((50, 54, 58), (205, 205, 205)), ((20, 22, 26), (150, 154, 160)))
_CONCRETES = (
    ((92, 98, 100), (205, 208, 210)),
    ((120, 140, 150), (205, 225, 236)),
    ((84, 112, 138), (160, 196, 226)),
    ((150, 168, 176), (222, 238, 246)),
)
_GRASSES = (((8, 34, 16), (70, 170, 120)), ((14, 40, 30), (90, 160, 150)))
_WOODS = (((24, 48, 84), (120, 170, 215)), ((14, 26, 48), (70, 112, 160)), ((70, 96, 120), (176, 200, 218)))
_PLAINS = (((118, 116, 112), (190, 188, 184)), ((70, 92, 62), (120, 140, 104)), ((60, 60, 66), (110, 110, 116)))
_PAINTS = ((222, 228, 230), (60, 190, 235), (215, 218, 216))


def make_ground(rng: Rng, size: Size) -> Pixels:
    """A ground of one kind at random, BGR uint8 (height, width, 3), for a `size` of (width, height)."""
    kinds = tuple(GROUNDS.values())
    ground = kinds[int(rng.integers(len(kinds)))](rng, size)
    return np.ascontiguousarray(ground[::-1] if rng.random() < 0.5 else ground)


def _asphalt(rng: Rng, size: Size) -> Pixels:
    zoom = rng.uniform(1.0, 2.2)
    values = _mix(grain_patch(rng, size, (zoom, zoom)), 0.75, cloud_patch(rng, size, (2, 2)), 0.45)
    return _cracked(rng, _stained(rng, colour_ramp(values, *_choose(rng, _ASPHALTS)), 0.35), 0.35)


def _concrete(rng: Rng, size: Size) -> Pixels:
    strength = rng.uniform(0.15, 0.5)
    values = _mix(grain_patch(rng, size), strength, cloud_patch(rng, size, (1.5, 1.5)), rng.uniform(0.3, 0.7))
    ground = _stained(rng, colour_ramp(values, *_choose(rng, _CONCRETES)), 0.5)
    if rng.random() < 0.25:
        ground = _jointed(rng, ground)
    return _cracked(rng, ground, 0.4)


def _grass(rng: Rng, size: Size) -> Pixels:
    upright = grain_patch(rng, size, (1.3, rng.uniform(4, 7)))
    lying = grain_patch(rng, size, (rng.uniform(3, 5), 1.5))
    values = _mix(_mix(upright, 0.8, lying, 0.5), 0.95, cloud_patch(rng, size, (2, 2)), 0.5)
    return colour_ramp(values, *_choose(rng, _GRASSES))


def _wood(rng: Rng, size: Size) -> Pixels:
    fibres = grain_patch(rng, size, (rng.uniform(25, 60), 1.6))
    waves = cloud_patch(rng, size, (5, 0.7))
    ground = colour_ramp(_mix(fibres, 0.45, waves, 0.6), *_choose(rng, _WOODS))
    plank = int(min(size) * rng.uniform(0.2, 0.45))
    for top in range(int(rng.integers(plank)), size[1], plank):
        cv2.line(ground, (0, top), (size[0], top), (24, 30, 38), max(1, min(size) // 150))
        band = ground[top + 1 : top + plank]
        gain = rng.uniform(0.82, 1.12)
        if band.size:  # a gap on the last row has no plank below it
            np.copyto(band, cv2.convertScaleAbs(band, alpha=gain))
    return ground


def _plain(rng: Rng, size: Size) -> Pixels:
    values = _mix(grain_patch(rng, size), rng.uniform(0.1, 0.2), cloud_patch(rng, size, (3, 3)), rng.uniform(0.1, 0.4))
    return _stained(rng, colour_ramp(values, *_choose(rng, _PLAINS)), 0.2)


def _painted(rng: Rng, size: Size) -> Pixels:
    ground = _asphalt(rng, size) if rng.random() < 0.6 else _concrete(rng, size)
    mask: Pixels = np.zeros((size[1], size[0]), np.uint8)
    width = int(min(size) * rng.uniform(0.06, 0.25))
    start, end = _across(rng, size)
    cv2.line(mask, start, end, 230, width, cv2.LINE_AA)
    wear = cv2.threshold(cloud_patch(rng, size, (0.8, 0.8)), int(rng.uniform(150, 230)), 255, cv2.THRESH_BINARY_INV)[1]
    mask = np.asarray(cv2.GaussianBlur(cv2.bitwise_and(mask, wear), (0, 0), 0.7), np.uint8)
    paint = np.empty_like(ground)
    paint[:] = _choose(rng, _PAINTS)
    return _blend(ground, _textured(rng, paint, 0.12), mask)


GROUNDS: dict[str, Callable[[Rng, Size], Pixels]] = {
    "asphalt": _asphalt,
    "concrete": _concrete,
    "grass": _grass,
    "wood": _wood,
    "plain": _plain,
    "painted": _painted,
}


def _mix(first: Pixels, a: float, second: Pixels, b: float) -> Pixels:
    """Add two kinds of noise about their common middle, 128."""
    return np.asarray(cv2.addWeighted(first, a, second, b, 128 * (1 - a - b)), np.uint8)


def _textured(rng: Rng, pixels: Pixels, strength: float) -> Pixels:
    grain = grain_patch(rng, (pixels.shape[1], pixels.shape[0]))
    return np.asarray(cv2.addWeighted(pixels, 1, cv2.merge([grain] * 3), strength, -128 * strength), np.uint8)


def _stained(rng: Rng, ground: Pixels, chance: float) -> Pixels:
    if rng.random() >= chance:
        return ground
    size = (ground.shape[1], ground.shape[0])
    edge = int(rng.uniform(160, 200))
    mask = cv2.threshold(cloud_patch(rng, size, (3, 3)), edge, 255, cv2.THRESH_BINARY)[1]
    darker = np.asarray(cv2.convertScaleAbs(ground, alpha=rng.uniform(0.55, 0.85)), np.uint8)
    return _blend(ground, darker, np.asarray(cv2.blur(mask, (5, 5)), np.uint8))


def _cracked(rng: Rng, ground: Pixels, chance: float) -> Pixels:
    if rng.random() >= chance:
        return ground
    height, width = ground.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        steps = rng.normal(0, 0.035, (24, 2)) + rng.normal(0, 0.03, 2)
        path = (rng.uniform(0, 1, 2) + np.cumsum(steps, axis=0)) * (width, height)
        shade = tuple(float(level) * 0.55 for level in ground[0, 0])
        points = [np.rint(path * 8).astype(np.int32)]
        cv2.polylines(ground, points, False, shade, 1, cv2.LINE_AA, shift=3)
    return ground


def _jointed(rng: Rng, ground: Pixels) -> Pixels:
    start, end = _across(rng, (ground.shape[1], ground.shape[0]))
    width = max(2, ground.shape[0] // 90)
    cv2.line(ground, start, end, (70, 76, 80), width, cv2.LINE_AA)
    cv2.line(ground, (start[0] + width, start[1]), (end[0] + width, end[1]), (190, 196, 198), 1, cv2.LINE_AA)
    return ground


def _across(rng: Rng, size: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    """A line through the frame, leaving it at both ends."""
    middle = rng.uniform(0.1, 0.9, 2) * size
    angle = rng.uniform(0, np.pi)
    reach = np.array([np.cos(angle), np.sin(angle)]) * sum(size)
    first, second = middle - reach, middle + reach
    return (int(first[0]), int(first[1])), (int(second[0]), int(second[1]))


def _blend(below: Pixels, above: Pixels, mask: Pixels) -> Pixels:
    """`above` where the mask is 255, `below` where it is 0."""
    weights = cv2.merge([mask] * 3)
    shown = cv2.multiply(above, weights, scale=1 / 255)
    rest = cv2.multiply(below, cv2.bitwise_not(weights), scale=1 / 255)
    return np.asarray(cv2.add(shown, rest), np.uint8)


def _choose(rng: Rng, options: tuple) -> tuple:  # type: ignore[type-arg]
    return options[int(rng.integers(len(options)))]  # type: ignore[no-any-return]
