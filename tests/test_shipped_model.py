"""The model that ships: what the model card says of it holds, on scenes and, where they are there, on photos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import edgeloc
from edgeloc.data.sample import cut_background
from edgeloc.models import (
    SHIPPED_DETECTOR_INT8,
    SHIPPED_DETECTOR_KERAS,
    SHIPPED_DIGESTS,
    SHIPPED_INT8,
    SHIPPED_KERAS,
)

LEAST_IOU_ON_SCENES = 0.78
LEAST_IOU_ON_PHOTOS = 0.76


@pytest.fixture(scope="module")
def localizer() -> edgeloc.Localizer:
    return edgeloc.Localizer(SHIPPED_INT8)


def boxes_of(localizer: edgeloc.Localizer, samples: Iterable[edgeloc.Sample]) -> tuple[float, float]:
    """Mean IoU over all objects, a missed one counting 0, and the share that was found."""
    ious = []
    for sample in samples:
        result = localizer(sample.load())
        assert sample.box is not None
        ious.append(sample.box.iou(result.box) if result.box else 0.0)
    return float(np.mean(ious)), float(np.mean([iou > 0 for iou in ious]))


def test_the_file_is_small_and_integer_throughout() -> None:
    report = edgeloc.inspect_model(SHIPPED_INT8)
    assert report.file_bytes < 1_500_000
    assert report.is_full_integer
    assert report.contract is not None
    assert len(report.labels) == 16


def test_it_says_what_it_was_trained_on_and_keeps_in_int8() -> None:
    contract = edgeloc.read_model(SHIPPED_INT8).contract
    assert contract is not None
    assert contract.measured["training"]["data"]["images"] == 5189 + 1500
    kept = contract.measured["quantization"]
    assert kept["mean_iou_float_to_quantized"] >= 0.970 and kept["mean_iou_drop"] <= 0.001
    assert kept["by_size"]["small"]["mean_iou_float_to_quantized"] >= 0.940


def test_it_passes_its_own_test(localizer: edgeloc.Localizer) -> None:
    localizer.self_test()


def test_it_finds_the_object_in_scenes(localizer: edgeloc.Localizer) -> None:
    scenes = edgeloc.open_dataset("synthetic?count=150&seed=5", split="test")
    iou, found = boxes_of(localizer, (sample for sample in scenes if sample.box))
    assert iou > LEAST_IOU_ON_SCENES
    assert found > 0.9


def test_it_says_when_nothing_is_there(localizer: edgeloc.Localizer) -> None:
    scenes = edgeloc.open_dataset("synthetic?count=200&seed=6", split="test")
    empty = [localizer(sample.load()) for sample in scenes if sample.box is None]
    assert len(empty) > 10
    assert sum(result.present for result in empty) <= 0.15 * len(empty)
    assert all(result.box is None for result in empty if not result.present)


def test_it_localizes_on_photos(localizer: edgeloc.Localizer, fod_a: Path) -> None:
    photos = edgeloc.open_dataset(fod_a, split="val")[::12]
    iou, found = boxes_of(localizer, photos)
    assert iou > LEAST_IOU_ON_PHOTOS
    assert found > 0.94
    alarms = []
    for number, sample in enumerate(photos):
        assert sample.box is not None
        background = cut_background(sample.load(), sample.objects, np.random.default_rng(number))
        if background is not None:
            alarms.append(localizer(background.pixels).present)
    assert np.mean(alarms) < 0.06


@pytest.mark.parametrize(
    ("int8", "keras"), [(SHIPPED_INT8, SHIPPED_KERAS), (SHIPPED_DETECTOR_INT8, SHIPPED_DETECTOR_KERAS)]
)
def test_the_int8_file_was_made_from_the_float_one(int8: Path, keras: Path) -> None:
    import hashlib

    model = edgeloc.read_model(int8)
    assert model.contract is not None
    assert model.contract.hashes["float_model"] == hashlib.sha256(keras.read_bytes()).hexdigest()
    assert model.digest in SHIPPED_DIGESTS


def test_the_detector_finds_several_objects() -> None:
    detector = edgeloc.Localizer(SHIPPED_DETECTOR_INT8)
    detector.self_test()
    report = edgeloc.inspect_model(SHIPPED_DETECTOR_INT8)
    assert report.file_bytes < 2_000_000
    assert report.is_full_integer
    found, total, most = 0, 0, 0
    for sample in edgeloc.open_dataset("synthetic?count=60&seed=7&size=640x480&objects=4", split="test"):
        objects = detector(sample.load()).objects
        most = max(most, len(objects))
        total += len(sample.objects)
        found += sum(any(one.box and truth.box.iou(one.box) > 0.5 for one in objects) for truth in sample.objects)
    assert most > 1
    assert found > 0.4 * total
