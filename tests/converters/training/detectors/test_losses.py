"""A detector reads its outputs as the runtime does, and learns what is in its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.converters.training.backbones import HEADS
from edgeloc.converters.training.batches import EveryObject
from edgeloc.converters.training.detectors.losses import (
    TrainableDetector,
    best_threshold,
    check_detector,
    decode_boxes,
    read_parts,
)
from edgeloc.decode import Decoder
from edgeloc.decode.places import Places
from edgeloc.errors import ContractError
from edgeloc.model.contract import Contract, OutputSpec
from edgeloc.preprocess import Placement
from edgeloc.types import Box, Detection, LabelledBox

AS_IT_IS = Placement(1.0, 1.0, 0.0, 0.0)
TRUTH = [(np.array([20.0, 18.0, 44.0, 50.0]), 0), (np.array([70.0, 40.0, 120.0, 80.0]), 2)]


def nearest(places: Places, box: np.ndarray, anchor: int) -> int:
    """The location of the object's cell, of its anchor number `anchor`, at the level of stride 16."""
    rows = np.flatnonzero(places.strides[:, 0] == 16)
    middle = (box[:2] + box[2:]) / 2
    away = np.abs(places.centers[rows] + (8 if (places.centers[rows] % 16 == 0).all() else 0) - middle).max(axis=1)
    return int(rows[np.flatnonzero(away == away.min())[anchor]])


def perfect(contract: Contract, places: Places, answer: Callable[..., Any]) -> dict[str, np.ndarray]:
    anchor = 0 if not contract.detector.locations.anchors else 2  # type: ignore[union-attr]
    found: dict[str, np.ndarray] = answer(contract, [(nearest(places, box, anchor), box, n) for box, n in TRUTH])
    return found


@pytest.mark.parametrize("head", HEADS["detect"])
def test_what_is_encoded_is_decoded_in_training_and_at_run_time(
    head: str,
    make_contract: Callable[[str], Contract],
    find_places: Callable[[Contract], Places],
    answer: Callable[..., Any],
) -> None:
    contract = make_contract(head)
    places = find_places(contract)
    outputs = perfect(contract, places, answer)
    raw = read_parts(outputs, contract)
    assert contract.detector is not None
    corners = np.asarray(decode_boxes(raw["box"], contract.detector, places, (128, 96)))[0]
    for box, _ in TRUTH:
        assert np.abs(corners - box).max(axis=1).min() < 0.01
    objects = Decoder(contract)(outputs, AS_IT_IS, (128, 96)).objects
    assert {found.label for found in objects} == {"bolt", "washer"}
    for found in objects:
        wanted = TRUTH[0][0] if found.label == "bolt" else TRUTH[1][0]
        assert np.array(found.box) == pytest.approx(wanted, abs=0.01)


def targets() -> dict[str, np.ndarray]:
    objects = tuple(LabelledBox(Box(*box.tolist()), ("bolt", "nut", "washer")[number]) for box, number in TRUTH)
    return EveryObject(("bolt", "nut", "washer"), 4)([objects])


def loss_of(contract: Contract, outputs: dict[str, np.ndarray]) -> float:
    import keras

    names = tuple(output.tensor for output in contract.outputs)
    image = keras.Input((96, 128, 3))
    network = keras.Model(image, keras.layers.Identity()(image))  # not called: the outputs are given
    model = TrainableDetector(network, names, contract, ("giou",))
    return float(model.compute_loss(y=targets(), y_pred=outputs))


@pytest.mark.parametrize("head", HEADS["detect"])
def test_the_loss_of_the_truth_is_the_least(
    head: str,
    make_contract: Callable[[str], Contract],
    find_places: Callable[[Contract], Places],
    answer: Callable[..., Any],
) -> None:
    contract = make_contract(head)
    outputs = perfect(contract, find_places(contract), answer)
    right = loss_of(contract, outputs)
    nothing = loss_of(contract, answer(contract, []))
    assert right < nothing
    swapped = dict(outputs)
    for name in outputs:
        if name.startswith("class_16"):
            rows = outputs[name].reshape(-1, outputs[name].shape[-1]).copy()
            swapped[name] = np.roll(rows, 1, axis=1).reshape(outputs[name].shape)
    assert loss_of(contract, swapped) > right


def picture() -> np.ndarray:
    """A dark image with a red object and a blue one, normalized."""
    pixels = np.full((96, 128, 3), 30, np.uint8)
    for (box, _), color in zip(TRUTH, ((255, 30, 30), (30, 30, 255)), strict=True):
        x1, y1, x2, y2 = box.astype(int)
        cv2.rectangle(pixels, (x1, y1), (x2 - 1, y2 - 1), color, -1)
    return ((pixels.astype(np.float32) - 127.5) / 127.5)[None]


@pytest.mark.parametrize(
    "head",
    [
        one if one in ("anchor-free", "faster-rcnn") else pytest.param(one, marks=pytest.mark.long)
        for one in HEADS["detect"]
    ],
)
def test_a_network_learns_the_objects_of_an_image(
    head: str, make_contract: Callable[[str], Contract], make_network: Callable[[Contract], Any]
) -> None:
    import keras

    keras.utils.set_random_seed(1)
    contract = make_contract(head)
    network = make_network(contract)
    model = TrainableDetector(network, tuple(network.output), contract, ("giou",))
    model.compile(optimizer=keras.optimizers.Adam(2e-3), jit_compile=False)
    for _ in range(150):
        model.train_on_batch(picture(), targets())
    outputs = {name: np.asarray(values) for name, values in network(picture()).items()}
    lower = dataclasses.replace(contract, thresholds=dataclasses.replace(contract.thresholds, presence=0.3))
    objects = Decoder(lower)(outputs, AS_IT_IS, (128, 96)).objects
    for (box, _), label in zip(TRUTH, ("bolt", "washer"), strict=True):
        best = max(
            (found.box.iou(Box(*box.tolist())) for found in objects if found.box and found.label == label), default=0
        )
        assert best > 0.6
    metrics = model.evaluate([(picture(), targets())])
    assert metrics["map50"] == pytest.approx(1.0)
    assert {"loss", "box_loss", "class_loss", "threshold", "f1"} <= set(metrics)


def test_a_contract_that_training_cannot_learn_by_is_refused(make_contract: Callable[[str], Contract]) -> None:
    contract = make_contract("anchor-free")
    assert contract.detector is not None
    corners = dataclasses.replace(contract.detector, box=dataclasses.replace(contract.detector.box, bins=8))
    joined = (OutputSpec("all", "detections", parts=("box", "class")),)
    raw = dataclasses.replace(contract.detector.scores, activation="none")
    for changes, sentence in (
        ({"detector": corners}, "training learns boxes of"),
        ({"outputs": joined}, "each part in an output of its own"),
        ({"outputs": (OutputSpec("box", "detections", parts=("box",)),)}, "needs the parts box and class"),
        ({"detector": dataclasses.replace(contract.detector, scores=raw)}, "needs a sigmoid, or a softmax"),
    ):
        with pytest.raises(ContractError, match=sentence):
            check_detector(dataclasses.replace(contract, **changes))


def test_a_class_that_is_not_known_is_left_out() -> None:
    objects = (LabelledBox(Box(0, 0, 5, 5), "cup"), LabelledBox(Box(5, 5, 9, 9), "nut"))
    made = EveryObject(("bolt", "nut"), 3)([objects, ()])
    assert made["labels"].tolist() == [[1, -1, -1], [-1, -1, -1]]
    assert made["boxes"][0, 0].tolist() == [5, 5, 9, 9]


def test_the_threshold_with_the_best_f1_lies_between_two_scores() -> None:
    truths = [[LabelledBox(Box(0, 0, 10, 10), "bolt"), LabelledBox(Box(20, 20, 40, 40), "nut")], []]
    right = Detection(Box(0, 0, 10, 9), 0.9, "bolt"), Detection(Box(20, 20, 40, 39), 0.6, "nut")
    wrong = Detection(Box(0, 0, 10, 10), 0.7, "nut"), Detection(Box(50, 50, 60, 60), 0.5, "bolt")
    assert best_threshold(truths, [right, ()]) == (0.3, 1.0)
    assert best_threshold(truths, [(right[0], wrong[0], right[1]), (wrong[1],)]) == (0.55, pytest.approx(0.8))
    twice = Detection(Box(0, 0, 10, 10), 0.8, "bolt")
    assert best_threshold(truths, [(right[0], twice), ()]) == (pytest.approx(0.85), pytest.approx(2 / 3))
    assert best_threshold(truths, [(), ()]) == (0.5, 0.0)
    assert best_threshold([[]], [right]) == (0.5, 0.0)
