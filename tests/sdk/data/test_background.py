"""Background crops: beside the box, within the image, of the promised size, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloc.data.sample import background_crop, cut_background
from edgeloc.types import Box, LabelledBox


def test_crops_lie_in_the_image_and_never_on_the_box() -> None:
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(2000):
        width, height = (int(side) for side in rng.integers(40, 700, 2))
        x1, x2 = sorted(rng.uniform(-10, width + 10, 2))
        y1, y2 = sorted(rng.uniform(-10, height + 10, 2))
        box = Box(float(x1), float(y1), float(x2), float(y2))
        crop = background_crop([LabelledBox(box)], width, height, rng)
        if crop is None:
            continue
        taken += 1
        x, y, w, h = crop
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert w == h
        assert 0.3 * min(width, height) <= w <= min(width, height)
        assert box.iou(Box(x, y, x + w, y + h)) == 0
    assert taken > 500


def test_crops_avoid_every_object_and_find_the_room_between_them() -> None:
    rng = np.random.default_rng(1)
    taken = 0
    for _ in range(500):
        corners, sides = rng.uniform(0, 250, (6, 2)), rng.uniform(5, 60, (6, 2))
        boxes = [Box(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners.tolist(), sides.tolist(), strict=True)]
        crop = background_crop([LabelledBox(box) for box in boxes], 300, 280, rng)
        if crop is not None:
            taken += 1
            x, y, w, h = crop
            assert all(box.iou(Box(x, y, x + w, y + h)) == 0 for box in boxes)
    assert taken > 400
    corners = [LabelledBox(Box(x, y, x + 20, y + 20)) for x in (0, 180) for y in (0, 80)]
    assert background_crop(corners, 200, 100, np.random.default_rng(0)) is not None


def test_a_small_box_leaves_room_for_every_size() -> None:
    sides = [
        crop[2]
        for seed in range(300)
        if (crop := background_crop([LabelledBox(Box(0, 0, 8, 8))], 400, 100, np.random.default_rng(seed)))
    ]
    assert min(sides) == pytest.approx(40, abs=2)
    assert max(sides) == pytest.approx(100, abs=2)


def test_no_crop_where_the_box_leaves_too_little() -> None:
    assert background_crop([LabelledBox(Box(20, 20, 90, 90))], 100, 100, np.random.default_rng(0)) is None


def test_the_largest_that_fits_where_the_wanted_side_does_not() -> None:
    crop = background_crop([LabelledBox(Box(36, 0, 100, 100))], 100, 100, np.random.default_rng(0))
    assert crop is not None
    assert crop[0] == 0 and crop[2] == 36


def test_deterministic() -> None:
    crops = {background_crop([LabelledBox(Box(5, 5, 20, 20))], 300, 200, np.random.default_rng(9)) for _ in range(5)}
    assert len(crops) == 1


def test_what_is_cut_is_what_lies_there() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3)).astype(np.uint8)
    box = Box(60, 30, 90, 60)
    background = cut_background(pixels, [LabelledBox(box)], np.random.default_rng(4))
    assert background is not None
    assert background.place == background_crop([LabelledBox(box)], 120, 80, np.random.default_rng(4))
    x, y, w, h = background.place
    assert np.array_equal(background.pixels, pixels[y : y + h, x : x + w])
    assert background.pixels.flags.c_contiguous
    assert cut_background(pixels, [LabelledBox(Box(0, 0, 120, 80))], np.random.default_rng(4)) is None
