"""Augmentation moves the box with the object; an image called empty shows none of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from edgeloc.converters.training.augment import CLOSING, Augmentation, Augmented, augment, paste
from edgeloc.types import Box, LabelledBox

PLAIN = Augmentation(background=0.0, color=0.0)
SIZE = 128
SQUARE = (SIZE, SIZE)
BRIGHT = 150


def one(box: Box) -> list[LabelledBox]:
    return [LabelledBox(box, "bolt")]


def only(view: Augmented) -> Box:
    """The box of the one object in a view."""
    assert [label for _, label in view.objects] == ["bolt"]
    return view.objects[0].box


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
    view = augment(pixels, one(box), SQUARE, how, rng)
    assert view.pixels.shape == (SIZE, SIZE, 3)
    assert view.pixels.dtype == np.uint8
    found = bright_box(view.pixels)
    assert found is not None
    assert np.array(only(view)) == pytest.approx(np.array(found, float), abs=1.5)


def test_an_object_at_the_image_s_corner_stays_whole() -> None:
    pixels, box = ground(100, 100), Box(0, 0, 30, 20)
    pixels[:20, :30] = 255
    for seed in range(40):
        view = augment(pixels, one(box), SQUARE, PLAIN, np.random.default_rng(seed))
        assert min(only(view)) >= -0.01 * SIZE
        assert max(only(view)) <= 1.01 * SIZE
        assert np.array(only(view)) == pytest.approx(np.array(bright_box(view.pixels), float), abs=1.5)


def test_an_object_as_large_as_the_image_is_shown_whole() -> None:
    pixels = np.full((80, 120, 3), 255, np.uint8)
    for seed in range(20):
        view = augment(pixels, one(Box(0, 0, 120, 80)), SQUARE, PLAIN, np.random.default_rng(seed))
        assert 0.1 < only(view).area / SIZE**2 <= 1.02


def test_a_negative_shows_nothing_of_the_object() -> None:
    pixels, box = ground(200, 160), Box(60, 50, 110, 90)
    pixels[50:90, 60:110] = 255
    how = Augmentation(background=1.0, color=0.0)
    negatives = 0
    for seed in range(60):
        view = augment(pixels, one(box), SQUARE, how, np.random.default_rng(seed))
        if not view.objects:
            negatives += 1
            assert bright_box(view.pixels) is None
    assert negatives == 60


def test_where_no_ground_is_left_the_object_stays() -> None:
    pixels = ground(100, 100)
    pixels[10:90, 10:90] = 255
    view = augment(pixels, one(Box(10, 10, 90, 90)), SQUARE, Augmentation(background=1.0), np.random.default_rng(0))
    assert view.objects


def test_an_image_without_an_object_stays_one() -> None:
    view = augment(ground(90, 120), (), SQUARE, Augmentation(), np.random.default_rng(3))
    assert view.objects == ()
    assert view.pixels.shape == (SIZE, SIZE, 3)


def test_the_same_dice_give_the_same_view(make_drawn: Callable[..., tuple[np.ndarray, Box]]) -> None:
    pixels, box = make_drawn(4)
    how, size = Augmentation(), (64, 64)
    first, second, other = (augment(pixels, one(box), size, how, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first.pixels, second.pixels)
    assert first.objects == second.objects
    assert not np.array_equal(first.pixels, other.pixels)


def test_the_image_itself_is_left_alone(make_drawn: Callable[..., tuple[np.ndarray, Box]]) -> None:
    pixels, box = make_drawn(4)
    before = pixels.copy()
    for seed in range(10):
        augment(pixels, one(box), (64, 64), Augmentation(), np.random.default_rng(seed))
    assert np.array_equal(pixels, before)


def test_colours_change_only_where_asked() -> None:
    pixels = ground(64, 64)
    plain = augment(pixels, (), (64, 64), PLAIN, np.random.default_rng(1))
    colored = augment(pixels, (), (64, 64), Augmentation(background=0.0, color=0.8), np.random.default_rng(1))
    assert set(np.unique(plain.pixels)) <= {40, 114} | set(range(40, 115))
    assert not np.array_equal(plain.pixels, colored.pixels)


def pair(width: int, height: int) -> tuple[np.ndarray, list[LabelledBox]]:
    """An image with a blue object and a red one, apart from each other."""
    pixels = ground(width, height)
    pixels[20:50, 30:80, 0] = pixels[70:110, 100:130, 2] = 255
    return pixels, [LabelledBox(Box(30, 20, 80, 50), "blue"), LabelledBox(Box(100, 70, 130, 110), "red")]


@pytest.mark.parametrize("size", [(128, 128), (160, 96), (96, 160)])
def test_several_objects_keep_their_boxes_and_labels(size: tuple[int, int]) -> None:
    pixels, objects = pair(180, 140)
    counts = []
    for seed in range(60):
        view = augment(pixels, objects, size, PLAIN, np.random.default_rng(seed))
        assert view.pixels.shape == (size[1], size[0], 3)
        counts.append(len(view.objects))
        for box, label in view.objects:
            rows, columns = np.nonzero(view.pixels[..., 0 if label == "blue" else 2] > BRIGHT)
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert np.array(box) == pytest.approx(np.array(found, float), abs=2.0)
    assert set(counts) == {1, 2}  # one is always whole; the other may be cut off


def test_of_an_object_cut_off_the_box_is_what_is_left() -> None:
    pixels = ground(100, 100)
    pixels[40:60, 0:100] = 255
    objects = [LabelledBox(Box(0, 40, 100, 60), "bar"), LabelledBox(Box(45, 45, 55, 55), "middle")]
    half = Augmentation(crop=(0.5, 0.5), aspect=0, letterbox=0, background=0, color=0, turns=False)
    seen = set()
    for seed in range(40):
        view = augment(pixels, objects, SQUARE, half, np.random.default_rng(seed))
        seen.add(tuple(label for _, label in view.objects))
        for box, label in view.objects:
            if label == "bar":
                assert np.array(box) == pytest.approx(np.array(bright_box(view.pixels), float), abs=1.5)
    assert ("bar", "middle") in seen


def test_an_object_of_which_too_little_is_left_is_none() -> None:
    objects = [LabelledBox(Box(0, 0, 10, 10), "kept"), LabelledBox(Box(40, 0, 100, 10), "cut")]
    how = Augmentation(crop=(0.5, 0.5), aspect=0, letterbox=0, background=0, color=0, turns=False)
    for seed in range(40):
        view = augment(ground(100, 100), objects, SQUARE, how, np.random.default_rng(seed))
        if "kept" in {label for _, label in view.objects}:
            assert len(view.objects) == 1
            return
    raise AssertionError


def test_upright_views_are_neither_flipped_nor_turned() -> None:
    pixels = ground(120, 120)
    pixels[:60] = 200  # bright above, dark below
    still = Augmentation(crop=(1.0, 1.0), aspect=0, background=0, color=0, turns=False)
    for seed in range(20):
        view = augment(pixels, (), SQUARE, still, np.random.default_rng(seed)).pixels
        assert view[5].mean() > 150 > view[-5].mean()


def test_a_turned_view_of_a_lying_input_is_not_stretched() -> None:
    pixels = ground(200, 150)
    pixels[60:90, 80:110] = 255  # a square
    how = Augmentation(crop=(1.0, 1.0), aspect=0, background=0, color=0)
    for seed in range(30):
        view = augment(pixels, one(Box(80, 60, 110, 90)), (160, 120), how, np.random.default_rng(seed))
        assert only(view).width == pytest.approx(only(view).height, rel=0.01)


def test_a_negative_shows_none_of_several_objects() -> None:
    pixels, objects = pair(300, 240)
    pixels[pixels.max(axis=2) == 255] = 255
    for seed in range(20):
        view = augment(pixels, objects, SQUARE, Augmentation(background=1.0, color=0), np.random.default_rng(seed))
        assert view.objects == ()
        assert bright_box(view.pixels) is None


@pytest.mark.parametrize("seed", range(20))
def test_an_object_is_laid_onto_another_background_with_its_box(seed: int) -> None:
    pixels = ground(150, 210)
    cv2.rectangle(pixels, (20, 30), (94, 74), (255, 255, 255), -1)
    other = np.full((60, 80, 3), (90, 60, 30), np.uint8)
    pasted = paste(pixels, one(Box(20, 30, 95, 75))[0], other, np.random.default_rng(seed))
    assert pasted.pixels.shape == pixels.shape
    found, box = bright_box(pasted.pixels), only(pasted)
    assert found is not None
    assert np.array(box) == pytest.approx(np.array(found, float), abs=1.5)
    y, x = np.mgrid[:210, :150]
    far = (x < box.x1 - 30) | (x > box.x2 + 30) | (y < box.y1 - 30) | (y > box.y2 + 30)
    assert far.any() and np.all(pasted.pixels[far] == (90, 60, 30))


def test_an_object_as_wide_as_the_picture_is_pasted() -> None:
    """562 of 640 pixels is one of the widths whose scale to the whole width rounds up."""
    pixels, rng = np.full((480, 640, 3), 200, np.uint8), np.random.default_rng(0)
    for _ in range(20):
        pasted = paste(pixels, one(Box(40, 100, 602, 300))[0], ground(640, 480), rng)
        assert only(pasted).x1 >= -1e-6 and only(pasted).x2 <= 640 + 1e-6
