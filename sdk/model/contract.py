"""The model's contract: what goes in, what comes out and in which units; read from JSON, checked, written as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgeloc._support.json import from_data, parse_json
from edgeloc.errors import ContractError

if TYPE_CHECKING:
    from edgeloc.model.detector import DetectorSpec, Stages  # a localizer's contract is read without

__all__ = [
    "SCHEMA_VERSION",
    "BoxEncoding",
    "Contract",
    "InputSpec",
    "OutputSpec",
    "Thresholds",
    "read_contract",
]

SCHEMA_VERSION = 2
_FIRST_SCHEMA = 1
_AS_JSON = "give a contract as JSON"
# What follows is far above any model for a camera, and keeps a hostile contract from taking all memory.
_LONGEST = 4_000_000
_MOST_PIXELS, _LONGEST_SIDE = 1 << 24, 1 << 14
_MOST_OBJECTS = 100_000

_PARTS = ("box", "objectness", "class", "score", "class-number", "count")
_UNUSED = r"unused:[1-9]\d{0,5}"
_CONTROL = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0))))

Color = Literal["rgb", "bgr", "gray"]
Resize = Literal["letterbox", "letterbox-top-left", "letterbox-padded", "stretch", "center-crop"]
Layout = Literal["channels-last", "channels-first"]
Interpolation = Literal["linear", "area", "nearest", "cubic"]
Activation = Literal["none", "sigmoid", "softmax"]
Role = Literal[
    "presence", "class", "box", "vector",
    "box-bins", "grid-weights", "grid-distances",
    "detections",
]  # fmt: skip
BoxForm = Literal["cxcywh", "xyxy", "yxyx", "xywh", "cxcyhw", "distribution", "grid"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How a BGR frame becomes the model's input: one resize, then `(pixel - mean) / std`.

    Parameters:
        tensor: the input's name in the model's signature.
        width: its width in pixels.
        height: its height in pixels.
        color: rgb, bgr or gray.
        mean: one number, or one for each channel in the order of `color`.
        std: likewise.
        resize: letterbox (resized to whole pixels, then padded), letterbox-top-left (the same, in the corner instead of
            the middle), letterbox-padded (padded, then resized), stretch or center-crop.
        pad_value: fills what a letterbox leaves free, 0 to 255.
        interpolation: linear, area, nearest or cubic.
        layout: channels-last (1, height, width, channels), or channels-first (1, channels, height, width).
    """

    tensor: str
    width: int
    height: int
    color: Color = "rgb"
    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (127.5,)
    resize: Resize = "letterbox"
    pad_value: int = 114
    interpolation: Interpolation = "linear"
    layout: Layout = "channels-last"

    def __post_init__(self) -> None:
        _between("input.width", self.width, _LONGEST_SIDE)
        _between("input.height", self.height, _LONGEST_SIDE)
        if self.width * self.height > _MOST_PIXELS:
            raise ContractError(
                f"the input is {self.width} x {self.height} pixels: it must be at most {_MOST_PIXELS:,} in all"
            )
        _one_of("input.color", self.color, get_args(Color))
        _one_of("input.resize", self.resize, get_args(Resize))
        _one_of("input.interpolation", self.interpolation, get_args(Interpolation))
        _one_of("input.layout", self.layout, get_args(Layout))
        if not 0 <= self.pad_value <= 255:
            raise ContractError(field="input.pad_value", value=self.pad_value, allowed="0 to 255")
        channels = 1 if self.color == "gray" else 3
        for name in ("mean", "std"):
            where, values = f"input.{name}", list(getattr(self, name))
            if len(values) not in (1, channels):
                allowed = "1 number" if channels == 1 else f"1 or {channels} numbers"
                raise ContractError(field=where, value=values, allowed=allowed)
            if not all(math.isfinite(value) for value in values):
                raise ContractError(field=where, value=values, allowed="finite numbers")
        if any(value <= 0 for value in self.std):
            raise ContractError(field="input.std", value=list(self.std), allowed="numbers above 0")


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One output tensor and the role it plays.

    Parameters:
        tensor: its name in the model's signature.
        role: presence, class, box, vector, box-bins, grid-weights, grid-distances; of a detector, detections.
        activation: what the host still has to apply to the dequantized values; in a vector to presence and box.
        slots: of a vector, what each number is: `presence`, a part of the box (`x1 y1 x2 y2 cx cy w h`), `class:0` ...
            `class:K-1`, or `unused`.
        class_activation: of a vector, the activation of its classes.
        parts: of detections, what the numbers of one location are, in their order: `box`, `objectness`, `class` (a
            number for each label, and one for the background), `score`, `class-number`, `unused:N` (N numbers); or
            `count` alone, the number of rows that hold something.
        layout: of detections, whether these numbers are the last axis, or the one behind the batch (channels-first).
        level: of detections, the level whose locations these are, from 0; None where an output holds all.
    """

    tensor: str
    role: Role
    activation: Activation = "none"
    slots: tuple[str, ...] = ()
    class_activation: Activation = "none"
    parts: tuple[str, ...] = ()
    layout: Layout = "channels-last"
    level: int | None = None

    def __post_init__(self) -> None:
        _one_of(f"outputs[{self.tensor}].role", self.role, get_args(Role))
        _one_of(f"outputs[{self.tensor}].activation", self.activation, get_args(Activation))
        _one_of(f"outputs[{self.tensor}].class_activation", self.class_activation, get_args(Activation))
        if (self.role == "vector") != bool(self.slots):
            raise ContractError(f"outputs[{self.tensor}].slots must be given for the role vector, and only for it")
        if (self.role == "detections") != bool(self.parts):
            raise ContractError(f"outputs[{self.tensor}].parts must be given for the role detections, and only for it")
        for part in self.parts:
            if part not in _PARTS and not re.fullmatch(_UNUSED, part):
                allowed = f"{', '.join(_PARTS)}, unused:N"
                raise ContractError(field=f"outputs[{self.tensor}].parts", value=part, allowed=allowed)
        _one_of(f"outputs[{self.tensor}].layout", self.layout, get_args(Layout))


@dataclass(frozen=True, slots=True)
class BoxEncoding:
    """What the numbers of a box mean.

    Parameters:
        form: the order of four numbers; or `distribution` (logits of four groups of bins over [0, 1], in the order x1,
            y1, x2, y2); or `grid` (for each cell of a feature map and each object a weight logit, and the distances
            from the cell's centre to the left, top, right and bottom edge, as softplus logits in units of the input's
            side).
        units: whether coordinates are fractions of the model's input, or its pixels.
        objects: how many objects the model was made for.
    """

    form: BoxForm = "cxcywh"
    units: Literal["fraction", "pixels"] = "fraction"
    objects: int = 1

    def __post_init__(self) -> None:
        _one_of("box.form", self.form, get_args(BoxForm))
        _one_of("box.units", self.units, ("fraction", "pixels"))
        _between("box.objects", self.objects, _MOST_OBJECTS)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From which probability, 0 to 1, an object counts as present (`presence`) and its class as known (`label`)."""

    presence: float = 0.5
    label: float = 0.0

    def __post_init__(self) -> None:
        for name in ("presence", "label"):
            if not 0 <= getattr(self, name) <= 1:
                raise ContractError(field=f"thresholds.{name}", value=getattr(self, name), allowed="0 to 1")


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything that a user of the model file must know and that its tensors do not hold.

    Parameters:
        input: how a frame becomes the model's input.
        outputs: each output and its role.
        box: of a localizer, what the numbers of a box mean.
        labels: the names of the classes, in the model's order.
        thresholds: from which probability an object is present, and its class known.
        detector: of a model that finds any number of objects, how its numbers become boxes and scores; None for a
            localizer.
        stages: of a detector of two stages, how its networks are run; None for a model of one network.
        recipe: the quantization recipe's name.
        tools: versions by name.
        hashes: SHA-256 of the float model, of the calibration manifest and of the file's own network (`payload`).
        measured: figures, and the data they were measured on.
        adapted_from: of a file of `edgeloc adapt`: the SHA-256 of the one before, what was learned, from which images
            and when; and what that one was adapted from.
    """

    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    box: BoxEncoding = field(default_factory=BoxEncoding)
    labels: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)
    detector: DetectorSpec | None = None
    stages: Stages | None = None
    recipe: str = ""
    tools: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    adapted_from: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        roles = [output.role for output in self.outputs if output.role != "detections"]
        repeated = sorted(role for role, count in Counter(roles).items() if count > 1)
        if repeated:
            raise ContractError(f"outputs: the role {repeated[0]} is given to more than one tensor")
        if not self.outputs:
            raise ContractError("outputs: a contract needs at least one output")
        if self.detector is None and len(roles) < len(self.outputs):
            raise ContractError("outputs: the role detections needs the contract's section detector")
        if self.detector is not None and roles:
            raise ContractError(
                f"outputs: the role {roles[0]} is a localizer's, and the contract has the section detector",
                hint="give the outputs the role detections, or leave detector out",
            )
        if self.stages is not None and (self.detector is None or self.input.layout != "channels-last"):
            raise ContractError(
                "stages: they need the contract's section detector, and an input with its channels last"
            )
        if not all(_CONTROL.isdisjoint(label) for label in self.labels):
            raise ContractError("labels: a label must not hold control characters")

    @property
    def finds_one(self) -> bool:
        """Whether the model finds one object of a frame: a localizer, not made for more."""
        return self.detector is None and self.box.objects == 1

    def output(self, role: Role) -> OutputSpec | None:
        """The output that plays `role`, or None."""
        return next((output for output in self.outputs if output.role == role), None)

    def to_json(self) -> str:
        """The contract as JSON text, keys in the order of the fields."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Read a contract from JSON text; an unknown, missing or wrong field raises ContractError."""
        if len(text) > _LONGEST:
            raise ContractError(f"the contract is longer than {_LONGEST:,} characters")
        try:
            data = parse_json(text)
        except ValueError as error:
            raise ContractError(f"the contract is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise ContractError("the contract must be a JSON object")
        version = data.pop("schema_version", None)
        if version == _FIRST_SCHEMA:
            data = _from_first_schema(data)
        elif version != SCHEMA_VERSION:
            allowed = f"{_FIRST_SCHEMA} or {SCHEMA_VERSION}, those that this release reads"
            raise ContractError(field="schema_version", value=version, allowed=allowed)
        if data.get("detector") is not None or data.get("stages") is not None:
            _know_detectors()
        contract: Contract = from_data(cls, data, strict=True, failure=ContractError)
        return contract


def read_contract(path: str | Path) -> Contract:
    """Read a contract from a JSON file; ContractError names the file when it does not hold together."""
    try:
        return Contract.from_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ContractError(f"{path}: no such file", hint=_AS_JSON) from error
    except OSError as error:
        raise ContractError(f"{path} cannot be read: {error.strerror}", hint=_AS_JSON) from error
    except UnicodeDecodeError as error:
        raise ContractError(f"{path} is not text", hint=_AS_JSON) from error
    except ContractError as error:
        raise ContractError(f"{path}: {error}") from error


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ContractError(field=name, value=value, allowed=f"one of {', '.join(map(str, allowed))}")


def _between(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ContractError(field=name, value=value, allowed=f"1 to {most:,}")


def _know_detectors() -> None:
    """Import what the fields of a detector's contract are."""
    from edgeloc.model import detector

    globals().update(DetectorSpec=detector.DetectorSpec, Stages=detector.Stages)


_FIRST_ROLES = {
    "ssd-boxes": "box", "ssd-classes": "class-number", "ssd-scores": "score", "ssd-count": "count", "yolo": "yolo",
}  # fmt: skip


def _from_first_schema(data: dict[str, Any]) -> dict[str, Any]:
    """A contract of schema 1, where SSDs and YOLOs were roles, as one of today; what does not fit is left as it is."""
    outputs = data.get("outputs")
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        return data
    roles = [output.get("role") for output in outputs]
    if not any(isinstance(role, str) and role in _FIRST_ROLES for role in roles):
        return data
    box = data.get("box") if isinstance(data.get("box"), dict) else {}
    assert isinstance(box, dict)
    if "yolo" in roles:
        output = next(output for output in outputs if output.get("role") == "yolo")
        described: dict[str, Any] = {
            "box": {"form": box.get("form", "cxcywh"), "units": box.get("units", "fraction")},
            "scores": {"activation": output.get("activation", "none")},
            "selection": {"nms": "by-class", "iou": 0.45},
        }
        parts = {"yolo": ["box", "class"]}
        layout = "channels-first"
    else:
        # Their box.objects was 1 where nothing was said, and hid the second object.
        described = {"box": {"form": "yxyx"}, "selection": {"nms": "none"}}
        parts = {role: [part] for role, part in _FIRST_ROLES.items()}
        layout = "channels-last"
    changed = [
        {"tensor": output.get("tensor"), "role": "detections", "parts": parts[output["role"]], "layout": layout}
        if output.get("role") in parts
        else output
        for output in outputs
    ]
    rest = {name: value for name, value in data.items() if name != "box"}
    return {**rest, "outputs": changed, "detector": described}
