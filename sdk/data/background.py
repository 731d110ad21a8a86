"""Background crops: images without an object, for data sets that have none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgeloc.types import Box, Pixels

__all__ = ["LARGEST_SIDE", "SMALLEST_SIDE", "SMALLEST_TAKEN", "Background", "background_crop", "cut_background"]

SMALLEST_SIDE = 0.4  # of the image's shorter side, as is LARGEST_SIDE: the range that is drawn from
LARGEST_SIDE = 1.0
SMALLEST_TAKEN = 0.3  # where nothing larger fits beside the box


class Background(NamedTuple):
    """A piece of an image that shows none of its object.

    `pixels` is BGR uint8 (side, side, 3), contiguous; `place` is (x, y, w, h) in pixels of the image.
    """

    pixels: Pixels
    place: tuple[int, int, int, int]


def cut_background(pixels: Pixels, box: Box, rng: np.random.Generator) -> Background | None:
    """Cut a square beside `box` out of an image; None where there is no room.

    `pixels`: BGR uint8 (height, width, 3). `box`: the object, in pixels. `rng`: draws the place, see
    `background_crop`.
    """
    place = background_crop(box, pixels.shape[1], pixels.shape[0], rng)
    if place is None:
        return None
    x, y, width, height = place
    return Background(np.ascontiguousarray(pixels[y : y + height, x : x + width]), place)


def background_crop(box: Box, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """A square of background as (x, y, w, h) in pixels of the image, or None where there is no room.

    The crop never overlaps the object. Its side is drawn from 0.4 to 1.0 of the image's shorter side, or is as large
    as fits beside the box, and at least 0.3. One of the four bands (left, above, right, below of the box) is drawn
    among those wide enough.

    `box`: the object, in pixels.
    `width`, `height`: the image's size in pixels.
    `rng`: the same state gives the same crop.
    """
    shorter = min(width, height)
    wanted = round(float(rng.uniform(SMALLEST_SIDE, LARGEST_SIDE)) * shorter)
    bands = [band for band in _bands(box, width, height) if min(band[2:]) >= max(1, SMALLEST_TAKEN * shorter)]
    if not bands:
        return None
    roomy = [band for band in bands if min(band[2:]) >= wanted] or [max(bands, key=lambda band: min(band[2:]))]
    x, y, band_width, band_height = roomy[int(rng.integers(len(roomy)))]
    side = min(wanted, band_width, band_height)
    left = x + int(rng.integers(band_width - side + 1))
    top = y + int(rng.integers(band_height - side + 1))
    return left, top, side, side


def _bands(box: Box, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """The largest rectangles of whole pixels left of, above, right of and below the box, as (x, y, w, h)."""
    left = min(width, max(0, int(np.floor(box.x1))))
    top = min(height, max(0, int(np.floor(box.y1))))
    right = min(width, max(0, int(np.ceil(box.x2))))
    bottom = min(height, max(0, int(np.ceil(box.y2))))
    return [
        (0, 0, left, height),
        (0, 0, width, top),
        (right, 0, width - right, height),
        (0, bottom, width, height - bottom),
    ]
