"""Random crops, flips, quarter turns and colours that make a training input of one labelled image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.data.sample import background_crop
from edgeloc.types import Box, LabelledBox, Pixels

__all__ = ["CLOSING", "Augmentation", "Augmented", "augment", "paste"]

# An object of which less is left in a crop is no longer one to find.
_LEAST_VISIBLE = 0.35
# How much larger or smaller an object may be on another background, and over which share of its box's sides what
# surrounds it fades out.
_PASTED_LOG_SCALE, _FADE = (-0.5, 0.5), 0.25


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far an image may be changed.

    `crop` is the range of the crop's side over the image's, `aspect` the largest change of its
    log aspect ratio, `letterbox` the share of crops padded instead of stretched, `background` the
    share of images turned into a negative by a crop beside the objects, `color` the strength of
    brightness, contrast and tint, 0 to 1, `turns` whether flips and quarter turns are drawn,
    `together` whether all objects stay whole and not one of them, `pasted` the share of images whose
    only object is laid onto another background first.
    """

    crop: tuple[float, float] = (0.45, 1.15)
    aspect: float = 0.25
    letterbox: float = 0.5
    background: float = 0.2
    color: float = 0.28
    turns: bool = True
    together: bool = False
    pasted: float = 0.0


# For the end of a training: objects about as large as they are in the images, colours nearly so.
CLOSING = Augmentation(crop=(0.8, 1.1), aspect=0.1, color=0.14)


@dataclass(frozen=True, slots=True)
class Augmented:
    """A training input: uint8 BGR (height, width, 3), and the objects in its pixels; none in a negative."""

    pixels: Pixels
    objects: tuple[LabelledBox, ...]


def augment(
    pixels: Pixels,
    objects: Sequence[LabelledBox],
    size: tuple[int, int],
    how: Augmentation,
    rng: np.random.Generator,
    pad_value: int = 114,
) -> Augmented:
    """Draw one random view of an image that keeps the whole of one of its objects, or leaves out all of them.

    Parameters:
        pixels: BGR uint8.
        objects: what it shows, in its pixels. Others than the one that is kept may be cut off: of those, boxes are of
            what is left to be seen, and an object of which less than a third is left is none.
        size: the view's width and height in pixels.
        how: how far the image may be changed.
        rng: the same state gives the same view.
        pad_value: what the view shows beside the image, as in the runtime.
    """
    height, width = pixels.shape[:2]
    crop = None
    if objects and rng.random() < how.background:
        crop = background_crop(objects, width, height, rng)
    if crop is not None:
        x, y, side, _ = crop
        objects, view_of = (), Box(x, y, x + side, y + side)
    else:
        kept = objects if how.together else _one_of(objects, rng)
        view_of = _object_crop(_hull(kept) if kept else None, width, height, how, rng)
    matrix = _view_matrix(view_of, size, how, rng)
    view = cv2.warpAffine(
        pixels, _to_pixel_centres(matrix)[:2], size, flags=cv2.INTER_LINEAR, borderValue=(pad_value,) * 3
    )
    view = _recolor(view.astype(np.uint8, copy=False), how.color, rng)
    _cover_outside(view, view_of, matrix, pad_value)
    seen = ((_visible(box, view_of), label) for box, label in objects)
    return Augmented(view, tuple(LabelledBox(_transform(box, matrix), label) for box, label in seen if box is not None))


def paste(pixels: Pixels, found: LabelledBox, background: Pixels, rng: np.random.Generator) -> Augmented:
    """Lay an image's only object onto a background, somewhat larger or smaller and anywhere; a picture of its size.

    What surrounds the object comes along and fades out over a quarter of the box's sides: no edge gives it away.

    Parameters:
        pixels: BGR uint8, which shows the object.
        found: the object, in its pixels.
        background: BGR uint8, without an object.
        rng: the same state gives the same picture.
    """
    height, width = pixels.shape[:2]
    box, label = found
    scale = min(width / box.width, height / box.height, float(np.exp(rng.uniform(*_PASTED_LOG_SCALE))))
    # Of an object as large as the picture, rounding may leave less than no room.
    left = rng.uniform(0, max(0.0, width - box.width * scale))
    top = rng.uniform(0, max(0.0, height - box.height * scale))
    matrix = np.array([[scale, 0, left - box.x1 * scale], [0, scale, top - box.y1 * scale], [0, 0, 1.0]])
    place = _transform(box, matrix)
    to_place = _to_pixel_centres(matrix)[:2]
    moved = cv2.warpAffine(pixels, to_place, (width, height), flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.full((height, width), 1, np.float32), to_place, (width, height))
    y, x = np.mgrid[:height, :width] + 0.5
    beyond_x = np.maximum(np.maximum(place.x1 - x, x - place.x2), 0) / (_FADE * place.width)
    beyond_y = np.maximum(np.maximum(place.y1 - y, y - place.y2), 0) / (_FADE * place.height)
    share = (np.clip(1 - np.maximum(beyond_x, beyond_y), 0, 1) * inside)[..., np.newaxis].astype(np.float32)
    below = cv2.resize(background, (width, height), interpolation=cv2.INTER_LINEAR)
    return Augmented((share * moved + (1 - share) * below).astype(np.uint8), (LabelledBox(place, label),))


def _one_of(objects: Sequence[LabelledBox], rng: np.random.Generator) -> Sequence[LabelledBox]:
    start = int(rng.integers(max(1, len(objects))))
    return objects[start : start + 1]


def _hull(objects: Sequence[LabelledBox]) -> Box:
    """The box around all objects; there must be one."""
    corners = np.array([found.box for found in objects], np.float64)
    return Box(*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist())


def _visible(box: Box, crop: Box) -> Box | None:
    """The part of a box inside a crop; None where it is too little."""
    inside = Box(max(box.x1, crop.x1), max(box.y1, crop.y1), min(box.x2, crop.x2), min(box.y2, crop.y2))
    return inside if inside.area > 0 and inside.area >= _LEAST_VISIBLE * box.area else None


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


def _view_matrix(crop: Box, size: tuple[int, int], how: Augmentation, rng: np.random.Generator) -> NDArray[np.float64]:
    """The affine map (3, 3) from image coordinates to the view's, edges at whole numbers."""
    width, height = size
    letterbox = rng.random() < how.letterbox
    turn, quarter = np.eye(3), False
    if how.turns:
        turn[:2, :2] = np.diag(rng.choice((-1.0, 1.0), 2))
        quarter = bool(rng.random() < 0.5)
        turn[:2, :2] = turn[:2, :2][::-1] if quarter else turn[:2, :2]
    across, down = (height, width) if quarter else (width, height)
    scale_x, scale_y = across / crop.width, down / crop.height
    # A picture stretched to a lying input would be stretched twice when it is turned.
    if letterbox or (quarter and width != height):
        scale_x = scale_y = min(scale_x, scale_y)
    centre_x, centre_y = (crop.x1 + crop.x2) / 2, (crop.y1 + crop.y2) / 2
    to_centre = np.array([[scale_x, 0, -centre_x * scale_x], [0, scale_y, -centre_y * scale_y], [0, 0, 1]])
    to_view = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1.0]])
    result: NDArray[np.float64] = to_view @ turn @ to_centre
    return result


def _to_pixel_centres(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same map for OpenCV, whose whole numbers are the centres of pixels."""
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    back = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
    result: NDArray[np.float64] = back @ matrix @ shift
    return result


def _cover_outside(view: Pixels, crop: Box, matrix: NDArray[np.float64], pad_value: int) -> None:
    """Paint the padding of a letterboxed view, as the runtime does: what lies outside the crop is not seen."""
    height, width = view.shape[:2]
    inside = _transform(crop, matrix)
    x1, x2 = (int(np.clip(round(edge), 0, width)) for edge in (inside.x1, inside.x2))
    y1, y2 = (int(np.clip(round(edge), 0, height)) for edge in (inside.y1, inside.y2))
    view[:y1] = view[y2:] = pad_value
    view[:, :x1] = view[:, x2:] = pad_value


def _transform(box: Box, matrix: NDArray[np.float64]) -> Box:
    corners = matrix[:2, :2] @ np.array([[box.x1, box.x2], [box.y1, box.y2]]) + matrix[:2, 2:]
    return Box(*corners.min(axis=1).tolist(), *corners.max(axis=1).tolist())


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
