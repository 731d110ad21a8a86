"""Outputs of any contract reach the losses as the runtime's decoder reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeloc.converters.training.losses import check_roles, decode_boxes, read_roles
from edgeloc.decode import Decoder
from edgeloc.errors import ContractError
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.model.detector import DetectorSpec
from edgeloc.preprocess import frame_geometry

SPEC = InputSpec("image", 64, 48)
LABELS = ("bolt", "nut", "washer")
TEXTBOOK = ("presence", "cx", "cy", "h", "w", "class:0", "class:1", "class:2")


def contract(*outputs: OutputSpec, box: BoxEncoding | None = None, labels: tuple[str, ...] = ()) -> Contract:
    return Contract(SPEC, outputs, box or BoxEncoding(), labels, Thresholds(presence=0.0))


def agree(spoken: Contract, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Check box, presence and class of every row against the decoder's, and give what was read."""
    read: dict[str, Any] = read_roles(outputs, spoken)
    trained = {name: np.asarray(values) for name, values in read.items()}
    boxes, decoder = np.asarray(decode_boxes(read)), Decoder(spoken)
    placement = frame_geometry(SPEC, 64, 48).placement
    for i, corners in enumerate(boxes):
        result = decoder({name: values[i : i + 1] for name, values in outputs.items()}, placement, (64, 48))
        x1, y1, x2, y2 = np.clip(corners * (64, 48, 64, 48), 0, (64, 48, 64, 48))
        assert result.box == pytest.approx((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), abs=1e-2)
        if "presence" in trained:
            assert result.presence == pytest.approx(1 / (1 + np.exp(-trained["presence"][i, 0])), abs=1e-4)
        if "class" in trained:
            powers = np.exp(trained["class"][i])
            assert result.class_scores == pytest.approx(powers / powers.sum(), abs=1e-4)
    return trained


@pytest.mark.parametrize("form", ["xyxy", "yxyx", "xywh", "cxcywh", "cxcyhw"])
@pytest.mark.parametrize("units", ["fraction", "pixels"])
def test_every_form_of_four_numbers(form: Any, units: Any) -> None:
    numbers = np.random.default_rng(0).uniform(0.1, 0.6, (6, 4)).astype(np.float32)
    if units == "pixels":
        numbers = numbers * 48
    agree(contract(OutputSpec("b", "box"), box=BoxEncoding(form, units)), {"b": numbers})


def test_the_textbook_vector_of_logits() -> None:
    spoken = contract(OutputSpec("v", "vector", "sigmoid", TEXTBOOK, "softmax"), labels=LABELS)
    read = agree(spoken, {"v": np.random.default_rng(1).normal(0, 1.5, (6, 8)).astype(np.float32)})
    assert read["presence"].shape == (6, 1)


def test_probabilities_are_read_as_what_they_came_from() -> None:
    spoken = contract(OutputSpec("p", "presence"), OutputSpec("c", "class"), OutputSpec("b", "box"), labels=LABELS)
    rng = np.random.default_rng(2)
    classes = rng.dirichlet((1, 1, 1), 5).astype(np.float32)
    outputs = {"p": rng.uniform(0.05, 0.95, (5, 1)).astype(np.float32), "c": classes}
    agree(spoken, {**outputs, "b": rng.uniform(0.2, 0.5, (5, 4)).astype(np.float32)})


def test_a_network_of_a_box_alone_has_neither_presence_nor_class() -> None:
    assert set(read_roles({"b": np.zeros((2, 4), np.float32)}, contract(OutputSpec("b", "box")))) == {"corners"}


@pytest.mark.parametrize(
    ("spoken", "sentence"),
    [
        (
            Contract(SPEC, (OutputSpec("y", "detections", parts=("box",)),), detector=DetectorSpec()),
            r"outputs\[y\].role is 'detections': training cannot learn from it",
        ),
        (contract(OutputSpec("p", "presence")), "no output holds a box"),
    ],
)
def test_what_training_cannot_learn_by(spoken: Contract, sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        check_roles(spoken)


@pytest.mark.parametrize("form", ["grid", "distribution", "cxcywh"])
def test_several_objects_are_rows(form: Any) -> None:
    """Every object of every image is a row, image by image, as the decoder reads them one image at a time."""
    rng = np.random.default_rng(4)
    boxes: dict[str, tuple[tuple[OutputSpec, ...], dict[str, tuple[int, ...]]]] = {
        "grid": (
            (OutputSpec("w", "grid-weights"), OutputSpec("d", "grid-distances")),
            {"w": (6, 8, 3), "d": (6, 8, 12)},
        ),
        "distribution": ((OutputSpec("n", "box-bins"),), {"n": (12, 16)}),
        "cxcywh": ((OutputSpec("b", "box", "sigmoid"),), {"b": (12,)}),
    }
    outputs, shapes = boxes[form]
    heads = OutputSpec("p", "presence", "sigmoid"), OutputSpec("c", "class", "softmax")
    spoken = contract(*heads, *outputs, box=BoxEncoding(form, objects=3), labels=LABELS)
    values = {
        name: rng.normal(-1, 1, (4, *shape)).astype(np.float32)
        for name, shape in {**shapes, "p": (3,), "c": (9,)}.items()
    }
    read: dict[str, Any] = read_roles(values, spoken)
    rows = np.asarray(decode_boxes(read)).reshape(4, 3, 4), np.asarray(read["presence"]).reshape(4, 3)
    decoder, placement = Decoder(spoken), frame_geometry(SPEC, 64, 48).placement
    for i, (corners, presence) in enumerate(zip(*rows, strict=True)):
        result = decoder({name: part[i : i + 1] for name, part in values.items()}, placement, (64, 48))
        found = sorted((item.score, *item.box) for item in result.objects if item.box)
        x1, y1, x2, y2 = np.clip(corners * (64, 48, 64, 48), 0, (64, 48, 64, 48)).T
        edges = np.minimum(x1, x2), np.minimum(y1, y2), np.maximum(x1, x2), np.maximum(y1, y2)
        wanted = sorted(zip(1 / (1 + np.exp(-presence)), *edges, strict=True))
        assert np.array(found) == pytest.approx(np.array(wanted), abs=2e-2)
