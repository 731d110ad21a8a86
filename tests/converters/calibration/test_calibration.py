"""Which images calibrate: drawn with a seed, of every label and clip, and written down with their hashes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from edgeloc.converters.calibration import Calibration, calibrate
from edgeloc.data import Dataset, Sample
from edgeloc.errors import DataError
from edgeloc.model.contract import InputSpec
from edgeloc.preprocess import Preprocessor

SPEC = InputSpec("image", 32, 32)


def names(drawn: Calibration) -> list[str]:
    return [entry["name"] for entry in drawn.manifest["images"]]


def as_dataset(samples: list[Sample]) -> Dataset:
    return Dataset("some", "some", ("a", "b"), tuple(samples))


def test_images_come_as_the_runtime_makes_them(dataset: Dataset) -> None:
    drawn = calibrate(dataset, SPEC, 6, seed=0)
    assert (drawn.images.shape, drawn.images.dtype) == ((6, 32, 32, 3), np.float32)
    by_name = {sample.name: sample for sample in dataset}
    preprocess = Preprocessor(SPEC, np.dtype(np.float32), None, None)
    assert not any("crop" in entry for entry in drawn.manifest["images"])  # the set has empty images of its own
    for image, name in zip(drawn.images, names(drawn), strict=True):
        assert np.array_equal(image, preprocess(by_name[name].load())[0][0])


def test_the_manifest_says_what_was_used(dataset: Dataset) -> None:
    drawn = calibrate(dataset, SPEC, 6, seed=4)
    manifest = drawn.manifest
    assert (manifest["dataset"], manifest["split"], manifest["seed"], manifest["count"]) == ("drawn", "train", 4, 6)
    by_name = {sample.name: sample for sample in dataset}
    for entry in manifest["images"]:
        assert entry["sha256"] == hashlib.sha256(by_name[entry["name"]].load().tobytes()).hexdigest()
    assert json.loads(json.dumps(manifest)) == manifest
    assert len(drawn.digest) == 64


def test_data_without_empty_images_gives_crops_beside_the_object(make_sample: Callable[..., Sample]) -> None:
    samples = [make_sample(i) for i in range(8)]
    drawn = calibrate(as_dataset(samples), SPEC, 8, seed=0)
    crops = [i for i, entry in enumerate(drawn.manifest["images"]) if "crop" in entry]
    assert crops == [0, 4]
    assert (drawn.images[crops] < 0.1).all()  # dark ground and padding: the object is bright
    assert json.loads(json.dumps(drawn.manifest))["images"][0]["crop"] == list(drawn.manifest["images"][0]["crop"])


def test_images_that_are_not_labelled_are_taken_whole(make_sample: Callable[..., Sample]) -> None:
    samples = [make_sample(i, empty=True, labelled=False) for i in range(4)]
    assert not any("crop" in entry for entry in calibrate(as_dataset(samples), SPEC, 4, 0).manifest["images"])


def test_the_seed_decides(dataset: Dataset) -> None:
    assert names(calibrate(dataset, SPEC, 8, 1)) == names(calibrate(dataset, SPEC, 8, 1))
    assert names(calibrate(dataset, SPEC, 8, 1)) != names(calibrate(dataset, SPEC, 8, 2))
    assert calibrate(dataset, SPEC, 8, 1).digest == calibrate(dataset, SPEC, 8, 1).digest
    assert calibrate(dataset, SPEC, 8, 1).digest != calibrate(dataset, SPEC, 8, 2).digest


def test_no_image_is_drawn_twice(dataset: Dataset) -> None:
    assert len(set(names(calibrate(dataset, SPEC, 16, 0)))) == 16


def test_fewer_images_than_asked_for_are_all_taken(dataset: Dataset) -> None:
    assert calibrate(dataset, SPEC, 500, 0).manifest["count"] == 16


def test_labels_and_clips_take_turns(make_sample: Callable[..., Sample]) -> None:
    # Ninety frames of one clip and label, three of each of the others.
    crowd = [make_sample(i, label="a", group="long") for i in range(90)]
    rest = [make_sample(100 + i, label="a", group="short") for i in range(3)]
    other = [make_sample(200 + i, label="b", group="third") for i in range(3)]
    chosen = names(calibrate(as_dataset(crowd + rest + other), SPEC, 12, 0))
    count = Counter(int(name[-3:]) // 100 for name in chosen)
    assert count[2] == 3
    assert count[1] == 3


def test_a_damaged_image_stops_or_is_left_out(make_sample: Callable[..., Sample]) -> None:
    def broken() -> np.ndarray:
        raise DataError("photo.jpg is damaged")

    samples = [make_sample(i) for i in range(5)] + [make_sample(5, read=broken)]
    with pytest.raises(DataError, match=r"photo\.jpg is damaged"):
        calibrate(as_dataset(samples), SPEC, 6, 0)
    drawn = calibrate(as_dataset(samples), SPEC, 6, 0, skip_bad=True)
    assert drawn.manifest["count"] == len(drawn.images) == 5
    assert drawn.manifest["skipped"] == ["image-005"]
    with pytest.raises(DataError, match="some has no image to calibrate on"):
        calibrate(as_dataset(samples[5:]), SPEC, 6, 0, skip_bad=True)


def test_an_empty_data_set() -> None:
    with pytest.raises(DataError, match="some has no image to calibrate on"):
        calibrate(as_dataset([]), SPEC, 6, 0)


def test_the_whole_image_is_kept_small_and_its_clip_by_name(make_sample: Callable[..., Sample]) -> None:
    samples = [make_sample(i) for i in range(4)] + [make_sample(4, group=None)]
    drawn = calibrate(as_dataset(samples), SPEC, 5, 0)
    assert (drawn.thumbnails.shape, drawn.thumbnails.dtype) == ((5, 32, 32), np.uint8)
    assert (drawn.thumbnails.reshape(5, -1).max(axis=1) > 180).all()  # the object, also where a crop beside it is used
    groups = {entry["name"]: entry.get("group") for entry in drawn.manifest["images"]}
    assert groups == {sample.name: sample.group for sample in samples}
