"""The contract as JSON and back, and the sentence that each bad field gets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeloc.errors import ContractError
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec, Thresholds

FULL = Contract(
    input=InputSpec("image", 224, 192, "bgr", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "center-crop", 0, "area"),
    outputs=(
        OutputSpec("y", "vector", "sigmoid", ("presence", "cx", "cy", "w", "h", "class:0"), "softmax"),
        OutputSpec("b", "box-bins"),
    ),
    box=BoxEncoding("xyxy", "pixels", 2),
    labels=("bolt",),
    thresholds=Thresholds(0.25, 0.125),
    recipe="int8",
    tools={"tensorflow": "2.21"},
    hashes={"float": "00"},
    measured={"iou": 0.5},
)


def test_json_gives_the_same_contract_back() -> None:
    assert Contract.from_json(FULL.to_json()) == FULL
    assert json.loads(FULL.to_json())["schema_version"] == 2


def test_whole_numbers_are_accepted_for_real_ones() -> None:
    data = json.loads(FULL.to_json())
    data["thresholds"] = {"presence": 1}
    assert Contract.from_json(json.dumps(data)).thresholds.presence == 1


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema_version",), 3, r"schema_version is 3: it must be 1 or 2\b"),
        (("inputs",), {}, "inputs is not a field"),
        (("input",), None, "input must be an object"),
        (("input", "width"), 0, r"input\.width is 0"),
        (("input", "width"), 65_536, r"input\.width is 65536: it must be 1 to 16,384"),
        (("input", "height"), 10**250, r"input\.height is 1000*: it must be 1 to 16,384"),
        (("input", "width"), "224", r"input\.width must be a whole number"),
        (("input", "width"), True, r"input\.width must be a whole number"),
        (("input", "color"), "rbg", "one of rgb, bgr, gray"),
        (("input", "resize"), "crop", "letterbox, letterbox-top-left, letterbox-padded, stretch"),
        (("input", "interpolation"), "lanczos", "linear, area"),
        (("input", "pad_value"), 256, "0 to 255"),
        (("input", "mean"), [1, 2], "1 or 3 numbers"),
        (("input", "std"), [0], "above 0"),
        (("input", "mean"), [float("nan")], r"input\.mean is \[nan\]: it must be finite numbers"),
        (("input", "std"), [float("inf")], "must be finite"),
        (("input", "mean"), 3, "must be a list"),
        (("outputs",), [], "at least one output"),
        (("outputs", 0, "role"), "boxes", r"outputs\[0\]\.role must be one of .*, not 'boxes'"),
        (("outputs", 0, "slots"), [], "must be given for the role vector"),
        (("outputs", 1, "role"), "vector", "slots must be given"),
        (("box", "form"), "cxywh", r"box\.form must be one of .*, not 'cxywh'"),
        (("box", "objects"), 0, r"box\.objects is 0"),
        (("thresholds", "presence"), 1.5, r"thresholds\.presence is 1\.5"),
        (("labels",), "bolt", "labels must be a list"),
        (("labels",), [1], r"labels\[0\] must be text"),
        (("labels",), ["\x1b[31mred"], "control characters"),
        (("labels",), ["\ud800"], r"labels\[0\] must be text, and holds half of a surrogate pair"),
        (("box", "objects"), 2**31, r"box\.objects is 2147483648: it must be 1 to 100,000"),
        (("hashes",), [], "hashes must be an object"),
    ],
)
def test_a_bad_field_is_named(path: tuple[Any, ...], value: Any, words: str) -> None:
    data = json.loads(FULL.to_json())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ContractError, match=words):
        Contract.from_json(json.dumps(data))


def test_a_missing_field_is_named() -> None:
    data = json.loads(FULL.to_json())
    del data["input"]["tensor"]
    with pytest.raises(ContractError, match=r"input\.tensor is missing"):
        Contract.from_json(json.dumps(data))


def test_a_role_given_twice_is_refused() -> None:
    with pytest.raises(ContractError, match="more than one tensor"):
        Contract(InputSpec("x", 8, 8), (OutputSpec("a", "box"), OutputSpec("b", "box")))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 10**5, '{"input":' * 10**5, "9" * 5000, " " * 10**7])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="JSON|longer than"):
        Contract.from_json(text)
