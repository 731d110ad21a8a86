"""Calibration images that the validation data holds too: found by their pixels, their looks and their groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.converters.calibration import calibrate, check_leaks
from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.errors import DataError
from edgeloc.model.contract import InputSpec
from edgeloc.types import Pixels

SPEC = InputSpec("image", 32, 32)


def as_dataset(samples: list[Sample], name: str = "val") -> Dataset:
    return Dataset(name, name, (), tuple(samples))


def scenes(split: str) -> Dataset:
    return open_dataset("synthetic?count=12&seed=3", split=split)


def changed(sample: Sample, change: Callable[[Pixels], Pixels], name: str) -> Sample:
    return dataclasses.replace(sample, name=name, read=lambda: change(sample.load()))


def saved_anew(pixels: Pixels) -> Pixels:
    done, jpeg = cv2.imencode(".jpg", cv2.resize(pixels, None, fx=0.8, fy=0.8), [cv2.IMWRITE_JPEG_QUALITY, 70])
    assert done
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)


def test_images_of_both_sides_are_refused_by_name() -> None:
    train, val = scenes("train"), scenes("val")
    drawn = calibrate(train, SPEC, 12, 0)
    mixed = as_dataset([*val.samples[:5], *train.samples[4:9]])
    with pytest.raises(
        DataError, match="5 of the 12 calibration images are also in the validation data of val"
    ) as info:
        check_leaks(drawn, mixed)
    assert sum(sample.name in str(info.value) for sample in train.samples[4:9]) == 3
    assert "calibrate on other images" in str(info.value)


def test_another_name_does_not_hide_an_image() -> None:
    train = scenes("train")
    renamed = changed(train[2], lambda pixels: pixels, "renamed.png")
    with pytest.raises(DataError, match=rf"1 of the 12 .*\({train[2].name} as renamed\.png\)"):
        check_leaks(calibrate(train, SPEC, 12, 0), as_dataset([renamed]))


def test_an_image_of_which_only_a_crop_was_used_is_found(make_sample: Callable[..., Sample]) -> None:
    samples = [make_sample(i) for i in range(4)]
    drawn = calibrate(as_dataset(samples), SPEC, 4, 0)
    cropped = next(entry["name"] for entry in drawn.manifest["images"] if "crop" in entry)
    with pytest.raises(DataError, match=cropped):
        check_leaks(drawn, as_dataset([sample for sample in samples if sample.name == cropped]))


def test_a_copy_saved_anew_and_smaller_is_warned_of() -> None:
    train = scenes("train")
    (warning,) = check_leaks(
        calibrate(train, SPEC, 12, 0), as_dataset([changed(train[5], saved_anew, "copy.jpg"), *scenes("val")])
    )
    assert f"1 of the 12 calibration images look just like validation images of val ({train[5].name} as copy.jpg)" in (
        warning.message
    )


def test_other_images_pass() -> None:
    assert check_leaks(calibrate(scenes("train"), SPEC, 12, 0), scenes("val")) == ()


def test_pictures_of_nothing_are_not_taken_for_copies() -> None:
    def wall(grey: int) -> Pixels:
        return np.full((40, 40, 3), grey, np.uint8)

    walls = [Sample(f"wall-{grey}", read=partial(wall, grey)) for grey in (100, 101, 102, 103)]
    assert check_leaks(calibrate(as_dataset(walls[::2]), SPEC, 2, 0), as_dataset(walls[1::2])) == ()


def test_a_clip_on_both_sides_is_warned_of(make_sample: Callable[..., Sample]) -> None:
    train = as_dataset([make_sample(i, group=f"clip{i % 2}") for i in range(6)], "mine")
    val = [make_sample(10 + i, group=f"clip{1 + i % 2}") for i in range(6)]
    drawn = calibrate(train, SPEC, 6, 0)
    (warning,) = check_leaks(drawn, as_dataset(val, "mine"))
    assert "1 group of mine (clip1) gives images to calibration and validation" in warning.message
    assert warning.code == "validation-shares-group"
    assert check_leaks(drawn, as_dataset(val, "of somebody else")) == ()


def test_a_damaged_image_stops_or_is_passed_over(make_sample: Callable[..., Sample]) -> None:
    def broken() -> Pixels:
        raise DataError("photo.jpg is damaged")

    drawn = calibrate(as_dataset([make_sample(0)], "mine"), SPEC, 1, 0)
    val = as_dataset([make_sample(1, read=broken), make_sample(2)])
    with pytest.raises(DataError, match=r"photo\.jpg is damaged"):
        check_leaks(drawn, val)
    assert check_leaks(drawn, val, skip_bad=True) == ()


def test_clips_apart_raise_no_alarm_on_photos(fod_a: Path) -> None:
    # Several clips of either split show the same floor under the same lamp.
    drawn = calibrate(open_dataset(fod_a, split="train"), SPEC, 200, 0)
    val = open_dataset(fod_a, split="val")
    assert check_leaks(drawn, dataclasses.replace(val, samples=val.samples[::10])) == ()
