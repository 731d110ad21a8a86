"""Repairing a head: every quantity becomes an output of its own, and the model still says the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.converters.output_heads.repair import repair_head
from edgeloc.converters.quantization.quantize import quantize, recipe
from edgeloc.errors import ContractError, ModelError
from edgeloc.localizer import Localizer
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec
from edgeloc.model.file import ModelFile
from edgeloc.model.flatbuffer import parse_flatbuffer
from edgeloc.model.inspection import report_payload
from edgeloc.types import Result

ACTIVATIONS = {
    "joined_as_logits", "of_three_layers", "activated_slices", "activated_layers",
    "all_sigmoid", "convolved", "number_by_number", "added",
}  # fmt: skip
APART = {"presence": "sigmoid", "class": "softmax", "box": "sigmoid"}


def localize(flatbuffer: bytes, contract: Contract) -> list[Result]:
    """What the runtime says of some pictures, boxes of all of them."""
    shown = dataclasses.replace(contract, thresholds=dataclasses.replace(contract.thresholds, presence=0.0))
    localizer = Localizer(ModelFile(Path("memory"), flatbuffer, "tflite", contract=shown, trusted=True))
    noise = np.random.default_rng(1).integers(0, 256, (6, 8, 6, 3)).astype(np.uint8)
    return [localizer(cv2.resize(small, (96, 128), interpolation=cv2.INTER_CUBIC)) for small in noise]


def assert_same(first: list[Result], second: list[Result]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.box == pytest.approx(other.box, abs=2e-3)  # pixels of a frame of 128
        assert one.presence == pytest.approx(other.presence, abs=1e-5)
        assert one.class_scores == pytest.approx(other.class_scores, abs=1e-5)


def outputs_of(flatbuffer: bytes) -> set[str]:
    signature = parse_flatbuffer(flatbuffer, "memory").signature
    assert signature is not None
    return set(signature.outputs)


@pytest.mark.parametrize("head", sorted(ACTIVATIONS))
def test_parts_leave_alone_as_logits_and_say_the_same(
    make_head: Callable[[str], tuple[bytes, Contract]], images: np.ndarray, head: str
) -> None:
    flatbuffer, contract = make_head(head)
    repaired, described, done = repair_head(flatbuffer, contract, images)
    assert outputs_of(repaired) == {"presence", "class", "box"}
    wanted = {**APART, "class": "sigmoid"} if head == "all_sigmoid" else APART
    assert {output.role: output.activation for output in described.outputs} == wanted
    assert len(done) == 3 and all("split off vector" in sentence for sentence in done)
    assert_same(localize(flatbuffer, contract), localize(repaired, described))
    operators = {operator.name for operator in parse_flatbuffer(repaired, "memory").graphs[0].operators}
    assert not operators & {"LOGISTIC", "SOFTMAX", "STRIDED_SLICE"}


@pytest.mark.parametrize("head", ["of_three_layers", "activated_slices", "number_by_number", "added", "convolved"])
def test_the_repaired_model_quantizes_to_int8_with_its_names(
    make_head: Callable[[str], tuple[bytes, Contract]], images: np.ndarray, head: str
) -> None:
    flatbuffer, contract = make_head(head)
    repaired, described, _ = repair_head(flatbuffer, contract, images)
    quantized = quantize(repaired, recipe("int8"), described.input, images)
    report = report_payload(quantized, "memory")
    assert report.precision == "int8 (full integer)"
    ports = {port.name: port for port in report.outputs}
    assert set(ports) == {"presence", "class", "box"}
    assert [ports[name].shape[-1] for name in ("presence", "class", "box")] == [1, 3, 4]
    for one, other in zip(localize(flatbuffer, contract), localize(quantized, described), strict=True):
        assert one.box is not None and other.box is not None
        assert one.box.iou(other.box) > 0.8
        assert one.presence == pytest.approx(other.presence, abs=0.2)


def test_every_order_of_slots_is_understood(
    make_head: Callable[[str], tuple[bytes, Contract]], make_contract: Callable[..., Contract], images: np.ndarray
) -> None:
    flatbuffer, _ = make_head("joined_as_logits")
    for slots, form in (
        (("class:2", "h", "w", "presence", "cy", "class:0", "cx", "class:1"), "cxcywh"),
        (("y2", "x1", "y1", "x2", "presence", "class:1", "class:0", "class:2"), "xyxy"),
        (("w", "x1", "h", "y1", "presence", "class:1", "class:0", "class:2"), "xywh"),
    ):
        contract = make_contract(slots=slots)
        repaired, described, _ = repair_head(flatbuffer, contract, images)
        assert described.box.form == form
        assert_same(localize(flatbuffer, contract), localize(repaired, described))


def test_unused_slots_are_left_out(make_head: Callable[[str], tuple[bytes, Contract]], images: np.ndarray) -> None:
    flatbuffer, _ = make_head("joined_as_logits")
    slots = ("unused", "cx", "cy", "w", "h", "unused", "unused", "unused")
    contract = Contract(InputSpec("image", 32, 32), (OutputSpec("vector", "vector", "sigmoid", slots),))
    repaired, described, _ = repair_head(flatbuffer, contract, images)
    assert outputs_of(repaired) == {"box"}
    assert_same(localize(flatbuffer, contract), localize(repaired, described))


def test_two_objects_in_one_vector(make_head: Callable[[str], tuple[bytes, Contract]], images: np.ndarray) -> None:
    flatbuffer, _ = make_head("joined_as_logits")
    slots = ("cx", "cy", "w", "h")
    box = BoxEncoding("cxcywh", objects=2)
    contract = Contract(InputSpec("image", 32, 32), (OutputSpec("vector", "vector", "sigmoid", slots),), box)
    repaired, described, done = repair_head(flatbuffer, contract, images)
    assert (repaired, described, done) == (flatbuffer, contract, ())  # nothing shares with anything
    contract = dataclasses.replace(
        contract, outputs=(OutputSpec("vector", "vector", "sigmoid", ("h", "w", "cy", "cx")),)
    )
    repaired, described, done = repair_head(flatbuffer, contract, images)
    assert described.box == box
    assert_same(localize(flatbuffer, contract), localize(repaired, described))


def test_a_head_without_fault_comes_back_as_it_is(
    to_float: Callable[..., bytes], make_network: Callable[..., Any], contract: Contract, images: np.ndarray
) -> None:
    flatbuffer = to_float(make_network())
    assert repair_head(flatbuffer, contract, images) == (flatbuffer, contract, ())


def test_only_the_activation_goes_where_outputs_are_apart(
    to_float: Callable[..., bytes], build_network: Callable[..., Any], contract: Contract, images: np.ndarray
) -> None:
    from keras import layers

    network = build_network(
        lambda pooled, hidden: {
            "presence": layers.Dense(1, activation="sigmoid")(pooled),
            "class": layers.Dense(3, activation="softmax")(pooled),
            "box": layers.Dense(4)(hidden),
        }
    )
    outputs = (OutputSpec("presence", "presence"), OutputSpec("class", "class"), OutputSpec("box", "box", "sigmoid"))
    flatbuffer, given = to_float(network), dataclasses.replace(contract, outputs=outputs)
    repaired, described, done = repair_head(flatbuffer, given, images)
    assert described.outputs == contract.outputs
    assert len(done) == 2 and "sigmoid, which the host applies" in done[0] and "softmax" in done[1]
    assert_same(localize(flatbuffer, given), localize(repaired, described))


def test_a_grid_cut_out_of_one_layer_gets_two(
    to_float: Callable[..., bytes], contract: Contract, images: np.ndarray
) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(2)
    image = keras.Input((32, 32, 3), name="image")
    cells = layers.Conv2D(5, 1)(layers.Conv2D(8, 3, 4, "same", activation="relu")(image))
    network = keras.Model(image, {"weights": cells[..., :1], "distances": cells[..., 1:]})
    outputs = (OutputSpec("weights", "grid-weights"), OutputSpec("distances", "grid-distances"))
    given = Contract(contract.input, outputs, BoxEncoding("grid"))
    flatbuffer = to_float(network)
    repaired, described, done = repair_head(flatbuffer, given, images)
    assert described == given and len(done) == 2
    operators = [operator.name for operator in parse_flatbuffer(repaired, "memory").graphs[0].operators]
    assert operators == ["CONV_2D"] * 3
    assert_same(localize(flatbuffer, given), localize(repaired, described))


def test_a_softmax_over_more_than_the_classes_stays(
    to_float: Callable[..., bytes], build_network: Callable[..., Any], make_contract: Callable[..., Contract],
    images: np.ndarray,
) -> None:  # fmt: skip
    """Four classes of which the last is background, unused: the host could not tell what they add up to."""
    from keras import layers

    network = build_network(
        lambda pooled, hidden: {
            "vector": layers.Concatenate()([layers.Dense(4)(hidden), layers.Dense(4, activation="softmax")(pooled)])
        }
    )
    given = make_contract("none", "none", ("cx", "cy", "w", "h", "class:0", "class:1", "class:2", "unused"))
    with pytest.raises(ModelError, match=r"output class come out of SOFTMAX, which cannot be split: give each"):
        repair_head(to_float(network), given, images)


def test_an_output_that_the_model_does_not_have(
    make_head: Callable[[str], tuple[bytes, Contract]], contract: Contract, images: np.ndarray
) -> None:
    flatbuffer, _ = make_head("joined_as_logits")
    with pytest.raises(ContractError, match="names the output 'presence', which the model does not have; it has vec"):
        repair_head(flatbuffer, contract, images)


def test_what_was_sliced_does_not_travel_twice(
    make_head: Callable[[str], tuple[bytes, Contract]], images: np.ndarray
) -> None:
    flatbuffer, contract = make_head("activated_slices")
    repaired, _, _ = repair_head(flatbuffer, contract, images)
    graph = parse_flatbuffer(repaired, "memory").graphs[0]
    read = {index for operator in graph.operators for index in operator.inputs}
    written = {index for operator in graph.operators for index in operator.outputs}
    assert set(range(len(graph.tensors))) == (read | written | set(graph.inputs)) - {-1}
    before = parse_flatbuffer(flatbuffer, "memory").graphs[0]
    stored = [sum(t.elements for t in g.tensors if t.is_constant and t.is_float) for g in (before, graph)]
    assert stored[0] == stored[1]
