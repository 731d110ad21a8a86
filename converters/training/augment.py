"""Random crops, flips, quarter turns and colours that make a training input of one labelled image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.data.sample import background_crop
from edgeloc.types import Box, Pixels

__all__ = ["CLOSING", "Augmentation", "Augmented", "augment"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far an image may be changed.

    `crop` is the range of the crop's side over the image's, `aspect` the largest change of its
    log aspect ratio, `letterbox` the share of crops padded instead of stretched, `background` the
    share of images turned into a negative by a crop beside the object, `color` the strength of
    brightness, contrast and tint, 0 to 1. Flips and quarter turns are always drawn.
    """

    crop: tuple[float, float] = (0.45, 1.15)
    aspect: float = 0.25
    letterbox: float = 0.5
    background: float = 0.12
    color: float = 0.28


# For the end of a training: objects about as large as they are in the images, colours nearly so.
CLOSING = Augmentation(crop=(0.8, 1.1), aspect=0.1, color=0.14)


@dataclass(frozen=True, slots=True)
class Augmented:
    """A training input: uint8 BGR (size, size, 3) and its box in fractions of it, None for a negative."""

    pixels: Pixels
    box: Box | None


def augment(
    pixels: Pixels, box: Box | None, size: int, how: Augmentation, rng: np.random.Generator, pad_value: int = 114
) -> Augmented:
    """Draw one random view of `pixels` (BGR uint8) that keeps the whole of `box` (pixels), or leaves it out.

    The view is `size` pixels wide and high; what it shows beside the image is `pad_value`, as in the runtime.
    """
    height, width = pixels.shape[:2]
    crop = None
    if box is not None and rng.random() < how.background:
        crop = background_crop(box, width, height, rng)
    if crop is not None:
        x, y, side, _ = crop
        box, view_of = None, Box(x, y, x + side, y + side)
    else:
        view_of = _object_crop(box, width, height, how, rng)
    matrix = _view_matrix(view_of, size, how.letterbox, rng)
    view = cv2.warpAffine(
        pixels, _to_pixel_centres(matrix)[:2], (size, size), flags=cv2.INTER_LINEAR, borderValue=(pad_value,) * 3
    )
    view = _recolor(view.astype(np.uint8, copy=False), how.color, rng)
    _cover_outside(view, view_of, matrix, pad_value)
    return Augmented(view, None if box is None else _transform(box, matrix, size))


def _object_crop(box: Box | None, width: int, height: int, how: Augmentation, rng: np.random.Generator) -> Box:
    stretch = np.exp(rng.uniform(-how.aspect, how.aspect) / 2)
    side = rng.uniform(*how.crop)
    crop_width, crop_height = side * width * stretch, side * height / stretch
    if box is None:
        box = Box(width / 2, height / 2, width / 2, height / 2)
    x1, x2 = _place_span(box.x1, box.x2, crop_width, width, rng)
    y1, y2 = _place_span(box.y1, box.y2, crop_height, height, rng)
    return Box(x1, y1, x2, y2)


def _place_span(low: float, high: float, length: float, side: int, rng: np.random.Generator) -> tuple[float, float]:
    """Both ends of a span of `length`, placed so that it holds [low, high], inside [0, side] as far as it fits."""
    length = max(length, (high - low) * 1.02)
    first, last = high - length, low
    inside_first, inside_last = max(first, min(0.0, side - length)), min(last, max(0.0, side - length))
    if inside_first <= inside_last:
        first, last = inside_first, inside_last
    start = rng.uniform(first, last)
    return start, start + length


def _view_matrix(crop: Box, size: int, letterbox: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The affine map (3, 3) from image coordinates to the input's, edges at whole numbers."""
    scale_x, scale_y = 1 / crop.width, 1 / crop.height
    if rng.random() < letterbox:
        scale_x = scale_y = 1 / max(crop.width, crop.height)
    centre_x, centre_y = (crop.x1 + crop.x2) / 2, (crop.y1 + crop.y2) / 2
    to_unit = np.array([[scale_x, 0, -centre_x * scale_x], [0, scale_y, -centre_y * scale_y], [0, 0, 1]])
    turn = np.eye(3)
    turn[:2, :2] = np.diag(rng.choice((-1.0, 1.0), 2))
    if rng.random() < 0.5:
        turn[:2, :2] = turn[:2, :2][::-1]
    to_input = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]])
    result: NDArray[np.float64] = to_input @ turn @ to_unit
    return result


def _to_pixel_centres(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map for OpenCV, whose whole numbers are the centres of pixels."""
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    back = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
    result: NDArray[np.float64] = back @ matrix @ shift
    return result


def _cover_outside(view: Pixels, crop: Box, matrix: NDArray[np.float64], pad_value: int) -> None:
    """Paint the padding of a letterboxed view, as the runtime does: what lies outside the crop is not seen."""
    size = view.shape[0]
    inside = _transform(crop, matrix, size)
    x1, y1, x2, y2 = (int(np.clip(round(edge * size), 0, size)) for edge in inside)
    view[:y1] = view[y2:] = pad_value
    view[:, :x1] = view[:, x2:] = pad_value


def _transform(box: Box, matrix: NDArray[np.float64], size: int) -> Box:
    corners = matrix[:2, :2] @ np.array([[box.x1, box.x2], [box.y1, box.y2]]) + matrix[:2, 2:]
    low, high = corners.min(axis=1) / size, corners.max(axis=1) / size
    return Box(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def _recolor(view: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast, gamma, tint and saturation; now and then blur or add noise."""
    if strength <= 0:
        return view
    if rng.random() < 0.3:
        grey = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        share = rng.uniform(0, 1)
        view = cv2.addWeighted(view, 1 - share, grey, share, 0).astype(np.uint8, copy=False)
    ramp = np.arange(256) / 255
    gain = rng.uniform(1 - strength, 1 + strength) * rng.uniform(1 - strength / 3, 1 + strength / 3, (3, 1))
    curve = (ramp ** np.exp(rng.uniform(-strength, strength)) - 0.5) * rng.uniform(1 - strength, 1 + strength) + 0.5
    table = np.clip(curve * gain * 255, 0, 255).astype(np.uint8)
    view = cv2.LUT(view, np.ascontiguousarray(table.T).reshape(1, 256, 3)).astype(np.uint8, copy=False)
    if rng.random() < 0.15:
        view = cv2.GaussianBlur(view, (0, 0), rng.uniform(0.4, 1.5)).astype(np.uint8, copy=False)
    if rng.random() < 0.15:
        noise = rng.normal(0, rng.uniform(2, 10), view.shape).astype(np.float32)
        view = np.clip(view + noise, 0, 255).astype(np.uint8)
    return view
