"""What a network is given to learn from and to be measured on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.converters.training.augment import Augmentation
from edgeloc.converters.training.batches import ObjectSlots, TrainingBatches, ValidationBatches, slots_by_label
from edgeloc.data import Sample
from edgeloc.errors import DataError
from edgeloc.model.contract import InputSpec
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Box, LabelledBox

LABELS = ("bolt", "nut", "washer")
SPEC = InputSpec("image", 64, 64)
LARGEST = ObjectSlots(LABELS, SPEC)


def drawn_as(how: Augmentation, samples: list[Sample], batch_size: int, spec: InputSpec = SPEC) -> TrainingBatches:
    batches = TrainingBatches(samples, spec, ObjectSlots(LABELS, spec), batch_size, seed=0)
    batches.start_epoch(0, how)
    return batches


def test_a_training_batch(samples: list[Sample]) -> None:
    batches = TrainingBatches(samples, SPEC, LARGEST, 5, seed=1)
    assert len(batches) == 3
    images, targets = batches[0]
    assert (images.shape, images.dtype) == ((5, 64, 64, 3), np.float32)
    assert -1.001 <= images.min() < images.max() <= 1.001
    assert (targets["box"].shape, targets["box"].dtype) == ((5, 1, 4), np.float32)
    assert (targets["present"].shape, targets["label"].shape) == ((5, 1), (5, 1))


def test_a_view_is_padded_as_the_contract_pads(samples: list[Sample]) -> None:
    black = InputSpec("image", 64, 64, pad_value=0)
    far = Augmentation(crop=(3.0, 3.0), background=0, color=0)
    images, _ = drawn_as(far, samples, 4, black)[0]
    assert np.all(images[:, 0] == -1)


def test_a_set_smaller_than_a_batch_still_gives_one(samples: list[Sample]) -> None:
    batches = TrainingBatches(samples[:2], SPEC, LARGEST, 8, seed=1)
    assert len(batches) == 1
    assert batches[0][0].shape[0] == 8


def test_an_epoch_of_few_images_has_many_views_and_other_backgrounds(samples: list[Sample]) -> None:
    batches = TrainingBatches(samples[:2], SPEC, LARGEST, 4, seed=1, views=40)
    assert len(batches) == 10
    how = Augmentation(crop=(1.0, 1.0), aspect=0, background=0, color=0, turns=False)
    batches.start_epoch(0, how)
    plain, before = batches[0]
    batches.start_epoch(0, dataclasses.replace(how, pasted=1.0))
    pasted, after = batches[0]
    assert not np.array_equal(plain, pasted)
    assert np.all(after["present"] == 1) and not np.array_equal(before["box"], after["box"])


def test_the_same_seed_and_epoch_give_the_same_batch(samples: list[Sample]) -> None:
    def first(seed: int, epoch: int, index: int = 0) -> np.ndarray:
        batches = TrainingBatches(samples, SPEC, LARGEST, 4, seed)
        batches.start_epoch(epoch, Augmentation())
        return batches[index][0]

    assert np.array_equal(first(1, 2), first(1, 2))
    for other in (first(2, 2), first(1, 3), first(1, 2, 1)):
        assert not np.array_equal(first(1, 2), other)


def test_images_without_an_object_are_masked(make_sample: Callable[..., Sample]) -> None:
    nothing = [make_sample(i, empty=True) for i in range(4)]
    targets = TrainingBatches(nothing, SPEC, LARGEST, 6, seed=0)[0][1]
    assert not targets["present"].any()
    assert (targets["label"] == -1).all()


def test_background_crops_become_negatives(make_sample: Callable[..., Sample]) -> None:
    found = [make_sample(i) for i in range(8)]
    batches = TrainingBatches(found, SPEC, LARGEST, 64, seed=0)
    batches.start_epoch(0, Augmentation(background=0.5))
    targets = batches[0][1]
    assert 0.25 < targets["present"].mean() < 0.75
    assert ((targets["label"] == -1) == (targets["present"] == 0)).all()


def test_a_label_that_is_not_known_counts_as_none(make_sample: Callable[..., Sample]) -> None:
    batches = TrainingBatches([make_sample(0, label="cup")], SPEC, LARGEST, 3, 0)
    batches.start_epoch(0, Augmentation(background=0))
    targets = batches[0][1]
    assert (targets["present"] == 1).all()
    assert (targets["label"] == -1).all()


def test_rare_classes_are_drawn_more_often(make_sample: Callable[..., Sample]) -> None:
    uneven = [make_sample(i, label="bolt") for i in range(16)] + [make_sample(16, label="nut")]
    batches = drawn_as(Augmentation(background=0), uneven, 400, InputSpec("image", 32, 32))
    share = (batches[0][1]["label"] == 1).mean()
    # One of 17 images, of a class 16 times as rare: drawn 4 times as often, so with 4 in 20.
    assert share == pytest.approx(0.2, abs=0.06)


def test_channels_and_scale_follow_the_contract(make_sample: Callable[..., Sample]) -> None:
    blue = make_sample(0, empty=True, read=lambda: np.full((64, 64, 3), (200, 100, 50), np.uint8))
    plain = Augmentation(crop=(0.5, 0.5), background=0, color=0, letterbox=0)
    bgr = InputSpec("image", 64, 64, color="bgr", mean=(10, 20, 30), std=(2, 4, 5))
    for spec, expected in ((bgr, (95, 20, 4)), (SPEC, (-0.608, -0.216, 0.569))):
        images, _ = drawn_as(plain, [blue], 1, spec)[0]
        assert images[0, 32, 32] == pytest.approx(expected, abs=0.01)


def test_validation_sees_what_the_runtime_sees(make_sample: Callable[..., Sample]) -> None:
    sample = make_sample(1, size=(96, 48))
    images, targets = ValidationBatches([sample], SPEC, LARGEST, 4, limit=10)[0]
    expected, placement = Preprocessor(SPEC, np.dtype(np.float32), None, None)(sample.load())
    assert images[:1] == pytest.approx(expected, abs=1e-5)
    assert images[0, 0, 0] == pytest.approx((114 - 127.5) / 127.5)  # the letterbox's margin
    assert sample.box is not None
    assert targets["box"][0, 0] * 64 == pytest.approx(np.array(placement.to_input(sample.box)), abs=1e-3)
    assert (targets["present"][0, 0], targets["label"][0, 0]) == (1, 1)


def test_validation_adds_crops_beside_the_object(make_sample: Callable[..., Sample]) -> None:
    found = [make_sample(i, size=(120, 90)) for i in range(8)]
    batches = ValidationBatches(found, SPEC, LARGEST, 8, limit=100)
    images, targets = batches[0]
    assert len(images) == 10  # the first and the fifth
    assert list(np.flatnonzero(targets["present"] == 0)) == [1, 6]
    assert images[[1, 6]].max() < 0  # dark ground; the object is bright
    assert np.array_equal(images, batches[0][0])


def test_validation_looks_at_no_more_images_than_allowed(samples: list[Sample]) -> None:
    batches = ValidationBatches(samples, SPEC, LARGEST, 4, limit=5)
    seen = sum(len(batches[i][0]) for i in range(len(batches)))
    assert len(batches) == 1
    assert seen <= 5


def test_a_sample_from_a_file(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 30, 3), 90, np.uint8))

    def read() -> np.ndarray:
        return cv2.imread(str(tmp_path / "a.png"))

    sample = Sample("a.png", (LabelledBox(Box(5, 5, 20, 20), "nut"),), None, True, tmp_path / "a.png", read=read)
    assert TrainingBatches([sample], SPEC, LARGEST, 2, 0)[0][0].shape == (2, 64, 64, 3)


def several(*objects: tuple[tuple[float, float, float, float], str]) -> tuple[LabelledBox, ...]:
    return tuple(LabelledBox(Box(*box), label) for box, label in objects)


IMAGE = several(((0, 0, 16, 16), "nut"), ((0, 0, 32, 64), "bolt"), ((32, 32, 40, 40), "cup"))


def test_a_localizer_learns_the_largest_object() -> None:
    targets = LARGEST([IMAGE, ()])
    assert targets["box"].tolist() == [[[0, 0, 0.5, 1]], [[0, 0, 1, 1]]]
    assert targets["label"].tolist() == [[0], [-1]]
    assert targets["present"].tolist() == [[1], [0]]


def test_objects_go_to_the_slot_of_their_label_or_the_largest_come_first() -> None:
    by_label = ObjectSlots(LABELS, SPEC, 3, by_label=True)([IMAGE])
    assert by_label["label"].tolist() == [[0, 1, -1]]
    assert by_label["present"].tolist() == [[1, 1, 0]]
    assert by_label["box"][0, 1].tolist() == [0, 0, 0.25, 0.25]
    by_size = ObjectSlots(LABELS, SPEC, 2)([several(((0, 0, 8, 8), "nut"), ((0, 0, 16, 16), "nut"))])
    assert by_size["box"][0, :, 2].tolist() == [0.25, 0.125]
    assert by_size["label"].tolist() == [[1, 1]]


def test_labels_have_slots_where_none_repeats(make_sample: Callable[..., Sample]) -> None:
    def sample(*labels: str) -> Sample:
        return dataclasses.replace(make_sample(0), objects=several(*(((0, 0, 9, 9), label) for label in labels)))

    each = [sample("bolt", "nut"), sample("washer")]
    assert slots_by_label(each, LABELS, 3)
    assert not slots_by_label(each, LABELS, 4)
    assert not slots_by_label([*each, sample("nut", "nut")], LABELS, 3)
    assert not slots_by_label(each, LABELS, 1)
    with pytest.raises(DataError, match="image-000 holds 3 objects: give as many objects as an image holds at most"):
        slots_by_label([sample("bolt", "nut", "nut")], LABELS, 2)
