"""Images that are unfit to calibrate on are named: noise, plain colours, all alike, too few, ranges left to luck."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgeloc.converters.calibration import calibrate, check_images, check_range_stability
from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.findings import Finding
from edgeloc.model.contract import InputSpec
from edgeloc.types import Pixels

SPEC = InputSpec("image", 96, 96)
COUNT = 60


def noise(index: int) -> Pixels:
    return np.random.default_rng(index).integers(0, 256, (120, 160, 3)).astype(np.uint8)


def plain(index: int) -> Pixels:
    return np.full((120, 160, 3), 3 * index, np.uint8)


def still(index: int) -> Pixels:
    """One view of a camera that does not move, with a little noise."""
    y, x = np.mgrid[0:120, 0:160]
    view = np.stack([x, y, x + y // 2], -1).astype(np.int16)
    return np.clip(view + np.random.default_rng(index).integers(-2, 3, view.shape), 0, 255).astype(np.uint8)


def judged(read: Callable[[int], Pixels], count: int = COUNT, spec: InputSpec = SPEC) -> tuple[Finding, ...]:
    samples = tuple(Sample(f"image-{i}", labelled=False, read=partial(read, i)) for i in range(count))
    return check_images(calibrate(Dataset("some", "some", (), samples), spec, count, 0), spec)


def scenes(count: int = COUNT) -> Dataset:
    return open_dataset(f"synthetic?count={count}&size=160x120", split="train")


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        InputSpec("image", 96, 96, mean=(0.0,), std=(1.0,)),
        InputSpec("image", 96, 96, "gray"),
        InputSpec("image", 96, 96, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)),
    ],
    ids=["-1..1", "0..255", "gray", "imagenet"],
)
class TestWhateverTheNormalization:
    def test_scenes_are_fine(self, spec: InputSpec) -> None:
        assert check_images(calibrate(scenes(), spec, COUNT, 0), spec) == ()

    def test_noise_is_named(self, spec: InputSpec) -> None:
        (warning,) = judged(noise, spec=spec)
        assert f"{COUNT} of the {COUNT} calibration images look like noise" in warning.message
        assert warning.code == "calibration-noise"
        assert warning.fix is not None and "calibrate on about 200 images" in warning.fix

    def test_plain_colours_are_named(self, spec: InputSpec) -> None:
        (warning,) = judged(plain, spec=spec)
        assert (warning.code, "are blank (a plain colour)" in warning.message) == ("calibration-blank", True)


def test_a_broken_frame_or_two_are_no_matter() -> None:
    some = [sample.load() for sample in scenes()]
    assert judged(lambda i: noise(i) if i == 7 else plain(i) if i == 9 else some[i]) == ()
    assert "20 of the 60 calibration images look like noise" in str(
        judged(lambda i: noise(i) if i < 20 else some[i])[0]
    )


def test_one_view_again_and_again_is_named() -> None:
    (warning,) = judged(still)
    assert (warning.code, "all look the same" in warning.message) == ("calibration-one-view", True)


def test_one_clip_is_named() -> None:
    data = scenes()
    one = tuple(dataclasses.replace(sample, group="flight 7") for sample in data)
    drawn = calibrate(dataclasses.replace(data, samples=one), SPEC, COUNT, 0)
    (warning,) = check_images(drawn, SPEC)
    assert f"all {COUNT} calibration images are of one group (flight 7)" in warning.message
    assert warning.code == "calibration-one-group"


def test_few_images_are_named() -> None:
    (warning,) = check_images(calibrate(scenes(), SPEC, 10, 0), SPEC)
    assert (warning.code, "10 calibration images are few" in warning.message) == ("calibration-few-images", True)


def test_halves_that_agree_are_not_spoken_of(tiny_models: Path) -> None:
    images = np.random.default_rng(1).uniform(-1, 1, (60, 32, 32, 3)).astype(np.float32)
    assert check_range_stability((tiny_models / "float32.tflite").read_bytes(), images) is None


def test_a_tensor_whose_range_is_luck_is_named_with_its_factor(tiny_models: Path) -> None:
    # One picture in four is bright: whichever half it falls into has the range.
    images = np.random.default_rng(1).uniform(-0.05, 0.05, (4, 32, 32, 3)).astype(np.float32)
    images[2] *= 20
    warning = check_range_stability((tiny_models / "float32.tflite").read_bytes(), images)
    assert warning is not None
    assert "two halves of the 4 calibration images give the tensor " in warning.message
    assert warning.code == "calibration-range-unstable"
    factor = float(warning.message.split("a factor of ")[1].split(",")[0])
    assert 3 < factor < 40


def test_one_image_has_no_halves(tiny_models: Path) -> None:
    assert (
        check_range_stability((tiny_models / "float32.tflite").read_bytes(), np.zeros((1, 32, 32, 3), np.float32))
        is None
    )


def test_photos_are_fine(fod_a: Path) -> None:
    spec = InputSpec("image", 160, 160)
    for split in ("train", "val"):
        assert check_images(calibrate(open_dataset(fod_a, split=split), spec, 100, 0), spec) == ()
