"""Background crops: beside the box, within the image, of the promised size, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloc.data.sample import background_crop, cut_background
from edgeloc.types import Box


def test_crops_lie_in_the_image_and_never_on_the_box() -> None:
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(2000):
        width, height = (int(side) for side in rng.integers(40, 700, 2))
        x1, x2 = sorted(rng.uniform(-10, width + 10, 2))
        y1, y2 = sorted(rng.uniform(-10, height + 10, 2))
        box = Box(float(x1), float(y1), float(x2), float(y2))
        crop = background_crop(box, width, height, rng)
        if crop is None:
            continue
        taken += 1
        x, y, w, h = crop
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert w == h
        assert 0.3 * min(width, height) <= w <= min(width, height)
        assert box.iou(Box(x, y, x + w, y + h)) == 0
    assert taken > 500


def test_a_small_box_leaves_room_for_every_size() -> None:
    sides = [
        crop[2]
        for seed in range(300)
        if (crop := background_crop(Box(0, 0, 8, 8), 400, 100, np.random.default_rng(seed)))
    ]
    assert min(sides) == pytest.approx(40, abs=2)
    assert max(sides) == pytest.approx(100, abs=2)


def test_no_crop_where_the_box_leaves_too_little() -> None:
    assert background_crop(Box(20, 20, 90, 90), 100, 100, np.random.default_rng(0)) is None


def test_the_largest_that_fits_where_the_wanted_side_does_not() -> None:
    crop = background_crop(Box(36, 0, 100, 100), 100, 100, np.random.default_rng(0))
    assert crop is not None
    assert crop[0] == 0 and crop[2] == 36


def test_deterministic() -> None:
    crops = {background_crop(Box(5, 5, 20, 20), 300, 200, np.random.default_rng(9)) for _ in range(5)}
    assert len(crops) == 1


def test_what_is_cut_is_what_lies_there() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3)).astype(np.uint8)
    box = Box(60, 30, 90, 60)
    background = cut_background(pixels, box, np.random.default_rng(4))
    assert background is not None
    assert background.place == background_crop(box, 120, 80, np.random.default_rng(4))
    x, y, w, h = background.place
    assert np.array_equal(background.pixels, pixels[y : y + h, x : x + w])
    assert background.pixels.flags.c_contiguous
    assert cut_background(pixels, Box(0, 0, 120, 80), np.random.default_rng(4)) is None
