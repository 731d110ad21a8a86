"""Made scenes: the truth is exact, and the same numbers give the same pictures."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import cv2
import numpy as np
import pytest

from edgeloc.errors import UsageError
from edgeloc.scenes import SCENE_LABELS, SceneGenerator
from edgeloc.scenes.generator import Light, _shares, draw_object, put
from edgeloc.scenes.grounds import GROUNDS
from edgeloc.scenes.shapes import Pen, Pose

SIZE = (160, 120)


def test_the_same_numbers_give_the_same_scene_in_any_order() -> None:
    first, second = SceneGenerator(3, SIZE), SceneGenerator(3, SIZE)
    forwards = [first.scene(index) for index in range(6)]
    backwards = [second.scene(index) for index in reversed(range(6))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.objects == other.objects
    assert not np.array_equal(forwards[0].pixels, forwards[1].pixels)
    assert not np.array_equal(forwards[0].pixels, SceneGenerator(4, SIZE).scene(0).pixels)


def test_scenes_are_frames_with_a_box_inside() -> None:
    for size in ((32, 32), SIZE, (33, 200)):
        for index in range(60):
            scene = SceneGenerator(1, size).scene(index)
            assert scene.pixels.shape == (size[1], size[0], 3)
            assert scene.pixels.dtype == np.uint8
            assert len(scene.objects) <= 1
            assert (scene.box is None) == (scene.label is None) == (not scene.objects)
            if scene.box is not None:
                assert 0 <= scene.box.x1 < scene.box.x2 <= size[0]
                assert 0 <= scene.box.y1 < scene.box.y2 <= size[1]


def test_the_truth_alone_is_the_scenes() -> None:
    for objects in (1, 4):
        scenes = SceneGenerator(8, SIZE, objects)
        for index in range(25):
            assert scenes.truth(index) == scenes.scene(index).objects


def test_about_one_scene_in_eight_is_empty_and_every_label_comes() -> None:
    scenes = SceneGenerator(2, SIZE)
    labels = [next((found.label for found in scenes.truth(index)), None) for index in range(1000)]
    assert 0.09 < labels.count(None) / 1000 < 0.15
    assert set(labels) == {None, *SCENE_LABELS}


def test_a_scene_holds_any_number_of_objects_of_which_none_hides_another() -> None:
    scenes = SceneGenerator(4, (320, 240), 3)
    truths = [scenes.truth(index) for index in range(200)]
    counts = [sum(len(truth) == count for truth in truths) for count in range(4)]
    assert all(count > 10 for count in counts) and sum(counts) == 200
    for truth in truths:
        for one, other in combinations(truth, 2):
            assert one.box.iou(other.box) <= 0.1 and one.box.area >= other.box.area
        for box, label in truth:
            assert 0 <= box.x1 < box.x2 <= 320 and 0 <= box.y1 < box.y2 <= 240 and label in SCENE_LABELS
    assert SceneGenerator(4, SIZE).truth(0) == SceneGenerator(4, SIZE, 1).truth(0)


@pytest.mark.parametrize("label", SCENE_LABELS)
@pytest.mark.parametrize("shift", [0, -55])
def test_the_box_is_what_the_object_changed(label: str, shift: int) -> None:
    """Without shadow, blur and noise the changed pixels are the object's."""
    rng = np.random.default_rng(5)
    light = replace(Light.random(rng), shadow=0.0, shading=0.0)
    sprite = draw_object(rng, label, Pose(60.3 + shift, 62.8, 70.0, 0.7))
    ground = np.full((120, 160, 3), (255, 0, 255), np.uint8)
    before = ground.copy()
    put(ground, sprite, light, rng, 70.0)
    box, share = sprite.visible(SIZE)
    assert box is not None
    assert (share == 1) == (shift == 0)
    x, y, width, height = cv2.boundingRect((ground != before).any(axis=2).astype(np.uint8))
    assert np.allclose(box, (x, y, x + width, y + height), atol=1.01)


def test_a_boxs_edges_are_finer_than_a_pixel() -> None:
    pen = Pen(Pose(50.25, 40.0, 40.0, 0.0))
    pen.polygon([(-0.5, -0.25), (0.5, -0.25), (0.5, 0.25), (-0.5, 0.25)], (9, 9, 9))
    box, _ = pen.sprite().visible((100, 100))
    assert box is not None
    assert np.allclose(box, (30.25, 30.0, 70.25, 50.0), atol=0.26)


def test_an_object_outside_the_frame_is_not_there() -> None:
    sprite = draw_object(np.random.default_rng(0), "Nut", Pose(-80.0, 50.0, 40.0, 0.0))
    assert sprite.visible((100, 100)) == (None, 0.0)


@pytest.mark.parametrize("kind", GROUNDS)
def test_every_ground_is_textured(kind: str) -> None:
    for seed in range(8):
        ground = GROUNDS[kind](np.random.default_rng(seed), SIZE)
        assert ground.shape == (SIZE[1], SIZE[0], 3)
        assert ground.std(axis=(0, 1)).max() > 1


def test_a_frame_larger_than_the_noise_pictures_is_filled() -> None:
    scene = SceneGenerator(0, (1920, 1080)).scene(0)
    assert scene.pixels.shape == (1080, 1920, 3)


def test_a_clips_frames_can_be_asked_for_in_any_order() -> None:
    clip = SceneGenerator(6, SIZE).clip(1, 200)
    frames = list(clip)
    assert len(frames) == 200
    for number in (150, 3, 77):
        again = SceneGenerator(6, SIZE).clip(1).frame(number)
        assert np.array_equal(again.pixels, frames[number].pixels)
        assert again.box == frames[number].box
    with pytest.raises(IndexError, match="no frame 200"):
        clip.frame(200)


def test_a_clip_moves_smoothly_and_has_empty_stretches() -> None:
    boxes = [SceneGenerator(6, SIZE).clip(1).frame(number).box for number in range(300)]
    present = [box is not None for box in boxes]
    assert 0.5 < np.mean(present) < 0.95
    runs = sum(now != before for now, before in zip(present[1:], present, strict=False))
    assert runs <= 6  # comes and goes with each visit, no flicker
    whole = [
        (one, other)
        for one, other in pairwise(boxes)
        if one and other and min(one[:2]) > 0 and one.x2 < SIZE[0] and one.y2 < SIZE[1]
    ]
    steps = [abs((one.x1 + one.x2) - (other.x1 + other.x2)) / 2 for one, other in whole]
    assert np.mean(steps) > 0
    assert max(steps) < 8


def test_objects_of_a_clip_cross_and_hidden_ones_are_not_in_the_truth() -> None:
    clip = SceneGenerator(6, SIZE, 3).clip()
    truths = [clip.frame(number).objects for number in range(0, 300, 2)]
    assert {len(truth) for truth in truths} == {0, 1, 2, 3}
    overlaps = [max((one.box.iou(other.box) for one, other in combinations(truth, 2)), default=0) for truth in truths]
    assert max(overlaps) > 0.2
    front = draw_object(np.random.default_rng(0), "Nut", Pose(80, 60, 60, 0))
    behind = draw_object(np.random.default_rng(0), "Nut", Pose(80, 60, 58, 0))
    beside = draw_object(np.random.default_rng(0), "Nut", Pose(20, 20, 20, 0))
    hidden, whole, own = _shares([behind, beside, front], SIZE)
    assert hidden < 0.15 and whole == own == 1


def test_a_clips_ground_pans() -> None:
    clip = SceneGenerator(0, SIZE).clip()
    empty = [frame.pixels.astype(int) for frame in map(clip.frame, (140, 290)) if frame.box is None]
    assert len(empty) == 2
    assert np.abs(empty[0] - empty[1]).mean() > 3


def test_values_that_make_no_scene_are_refused() -> None:
    with pytest.raises(UsageError, match="seed is -1"):
        SceneGenerator(-1)
    with pytest.raises(UsageError, match=r"size is \(8, 300\)"):
        SceneGenerator(0, (8, 300))
    with pytest.raises(UsageError, match="objects is 0"):
        SceneGenerator(objects=0)
