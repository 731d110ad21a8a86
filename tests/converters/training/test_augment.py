"""Augmentation moves the box with the object; an image called empty shows none of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from edgeloc.converters.training.augment import CLOSING, Augmentation, augment
from edgeloc.types import Box

PLAIN = Augmentation(background=0.0, color=0.0)
SIZE = 128
BRIGHT = 150


def ground(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 40, np.uint8)


def bright_box(pixels: np.ndarray) -> tuple[int, int, int, int] | None:
    """The edges of what is bright, found without any knowledge of the crop."""
    rows, columns = np.nonzero(pixels.min(axis=2) > BRIGHT)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None


@pytest.mark.parametrize("how", [PLAIN, dataclasses.replace(CLOSING, background=0.0, color=0.0)])
@pytest.mark.parametrize("seed", range(40))
def test_the_box_stays_around_the_object(seed: int, how: Augmentation) -> None:
    rng = np.random.default_rng(seed)
    width, height = (240, 160) if seed % 2 else (150, 210)
    pixels, box = ground(width, height), Box(20, 30, 95, 75)
    cv2.rectangle(pixels, (20, 30), (94, 74), (255, 255, 255), -1)
    view = augment(pixels, box, SIZE, how, rng)
    assert view.pixels.shape == (SIZE, SIZE, 3)
    assert view.pixels.dtype == np.uint8
    assert view.box is not None
    found = bright_box(view.pixels)
    assert found is not None
    assert np.array(view.box) * SIZE == pytest.approx(np.array(found, float), abs=1.5)


def test_an_object_at_the_image_s_corner_stays_whole() -> None:
    pixels, box = ground(100, 100), Box(0, 0, 30, 20)
    pixels[:20, :30] = 255
    for seed in range(40):
        view = augment(pixels, box, SIZE, PLAIN, np.random.default_rng(seed))
        assert view.box is not None
        assert min(view.box) >= -0.01
        assert max(view.box) <= 1.01
        assert np.array(view.box) * SIZE == pytest.approx(np.array(bright_box(view.pixels), float), abs=1.5)


def test_an_object_as_large_as_the_image_is_shown_whole() -> None:
    pixels = np.full((80, 120, 3), 255, np.uint8)
    for seed in range(20):
        view = augment(pixels, Box(0, 0, 120, 80), SIZE, PLAIN, np.random.default_rng(seed))
        assert view.box is not None
        assert view.box.area <= 1.02
        assert view.box.area > 0.1


def test_a_negative_shows_nothing_of_the_object() -> None:
    pixels, box = ground(200, 160), Box(60, 50, 110, 90)
    pixels[50:90, 60:110] = 255
    how = Augmentation(background=1.0, color=0.0)
    negatives = 0
    for seed in range(60):
        view = augment(pixels, box, SIZE, how, np.random.default_rng(seed))
        if view.box is None:
            negatives += 1
            assert bright_box(view.pixels) is None
    assert negatives == 60


def test_where_no_ground_is_left_the_object_stays() -> None:
    pixels = ground(100, 100)
    pixels[10:90, 10:90] = 255
    view = augment(pixels, Box(10, 10, 90, 90), SIZE, Augmentation(background=1.0), np.random.default_rng(0))
    assert view.box is not None


def test_an_image_without_an_object_stays_one() -> None:
    view = augment(ground(90, 120), None, SIZE, Augmentation(), np.random.default_rng(3))
    assert view.box is None
    assert view.pixels.shape == (SIZE, SIZE, 3)


def test_the_same_dice_give_the_same_view(make_drawn: Callable[..., tuple[np.ndarray, Box]]) -> None:
    pixels, box = make_drawn(4)
    first, second, other = (augment(pixels, box, 64, Augmentation(), np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first.pixels, second.pixels)
    assert first.box == second.box
    assert not np.array_equal(first.pixels, other.pixels)


def test_the_image_itself_is_left_alone(make_drawn: Callable[..., tuple[np.ndarray, Box]]) -> None:
    pixels, box = make_drawn(4)
    before = pixels.copy()
    for seed in range(10):
        augment(pixels, box, 64, Augmentation(), np.random.default_rng(seed))
    assert np.array_equal(pixels, before)


def test_colours_change_only_where_asked() -> None:
    pixels = ground(64, 64)
    plain = augment(pixels, None, 64, PLAIN, np.random.default_rng(1))
    colored = augment(pixels, None, 64, Augmentation(background=0.0, color=0.8), np.random.default_rng(1))
    assert set(np.unique(plain.pixels)) <= {40, 114} | set(range(40, 115))
    assert not np.array_equal(plain.pixels, colored.pixels)
