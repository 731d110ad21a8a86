"""The model's contract: what goes in, what comes out and in which units; read from JSON, checked, written as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from edgeloc._support.json import from_data, parse_json
from edgeloc.errors import ContractError

__all__ = [
    "SCHEMA_VERSION",
    "BoxEncoding",
    "Contract",
    "InputSpec",
    "OutputSpec",
    "Shaped",
    "Thresholds",
    "check_contract",
    "read_contract",
]

SCHEMA_VERSION = 1
_AS_JSON = "give a contract as JSON"
# What follows is far above any model for a camera, and keeps a hostile contract from taking all memory.
_LONGEST = 4_000_000
_MOST_PIXELS, _LONGEST_SIDE = 1 << 24, 1 << 14
_MOST_OBJECTS = 100_000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Color = Literal["rgb", "bgr", "gray"]
Resize = Literal["letterbox", "stretch", "center-crop"]
Interpolation = Literal["linear", "area", "nearest", "cubic"]
Activation = Literal["none", "sigmoid", "softmax"]
Role = Literal[
    "presence", "class", "box", "vector",
    "box-bins", "grid-weights", "grid-distances",
    "ssd-boxes", "ssd-classes", "ssd-scores", "ssd-count", "yolo",
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
        resize: letterbox, stretch or center-crop.
        pad_value: fills what a letterbox leaves free, 0 to 255.
        interpolation: linear, area, nearest or cubic.
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
        role: presence, class, box, vector, box-bins, grid-weights, grid-distances, ssd-boxes, ssd-classes, ssd-scores,
            ssd-count or yolo.
        activation: what the host still has to apply to the dequantized values; in a vector to presence and box.
        slots: of a vector, what each number is: `presence`, a part of the box (`x1 y1 x2 y2 cx cy w h`), `class:0` ...
            `class:K-1`, or `unused`.
        class_activation: of a vector, the activation of its classes.
    """

    tensor: str
    role: Role
    activation: Activation = "none"
    slots: tuple[str, ...] = ()
    class_activation: Activation = "none"

    def __post_init__(self) -> None:
        _one_of(f"outputs[{self.tensor}].role", self.role, get_args(Role))
        _one_of(f"outputs[{self.tensor}].activation", self.activation, get_args(Activation))
        _one_of(f"outputs[{self.tensor}].class_activation", self.class_activation, get_args(Activation))
        if (self.role == "vector") != bool(self.slots):
            raise ContractError(f"outputs[{self.tensor}].slots must be given for the role vector, and only for it")


@dataclass(frozen=True, slots=True)
class BoxEncoding:
    """What the numbers of a box mean.

    Parameters:
        form: the order of four numbers; or `distribution` (logits of four groups of bins over [0, 1], in the order x1,
            y1, x2, y2); or `grid` (for each cell of a feature map a weight logit and the distances from its centre to
            the left, top, right and bottom edge, as softplus logits in units of the input's side).
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
        box: what the numbers of a box mean.
        labels: the names of the classes, in the model's order.
        thresholds: from which probability an object is present, and its class known.
        recipe: the quantization recipe's name.
        tools: versions by name.
        hashes: SHA-256 of the float model, of the calibration manifest and of the file's own network (`payload`).
        measured: figures, and the data they were measured on.
    """

    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    box: BoxEncoding = field(default_factory=BoxEncoding)
    labels: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)
    recipe: str = ""
    tools: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        roles = [output.role for output in self.outputs]
        repeated = sorted(role for role, count in Counter(roles).items() if count > 1)
        if repeated:
            raise ContractError(f"outputs: the role {repeated[0]} is given to more than one tensor")
        if not roles:
            raise ContractError("outputs: a contract needs at least one output")
        if any(_CONTROL.search(label) for label in self.labels):
            raise ContractError("labels: a label must not hold control characters")

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
        if version != SCHEMA_VERSION:
            raise ContractError(
                field="schema_version", value=version, allowed=f"{SCHEMA_VERSION}, the one that this release reads"
            )
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


class Shaped(Protocol):
    """Anything with a tensor's shape: an engine's tensor, or one read out of the file; -1 where a size is open."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, the batch first."""


def check_contract(contract: Contract, inputs: Mapping[str, Shaped], outputs: Mapping[str, Shaped]) -> None:
    """Make sure that every tensor of the contract is there and has room for what the contract describes.

    Raises ContractError naming the tensor, what it is and what there is. A size that is open until
    the model runs is taken on trust.
    """
    _check_input(contract.input, inputs)
    for output in contract.outputs:
        info = outputs.get(output.tensor)
        if info is None:
            raise ContractError(
                f"the contract's output {output.tensor!r} (role {output.role}) is not in the model, "
                f"which has {_names(outputs)}"
            )
        if all(size > 0 for size in info.shape):
            _check_output(contract, output, info.shape)
    _check_grid(contract, outputs)


def _check_input(spec: InputSpec, inputs: Mapping[str, Shaped]) -> None:
    info = inputs.get(spec.tensor)
    if info is None:
        raise ContractError(f"the contract's input {spec.tensor!r} is not in the model, which has {_names(inputs)}")
    wanted = (1, spec.height, spec.width, 1 if spec.color == "gray" else 3)
    fits = [have in (size, -1) for have, size in zip(info.shape, wanted, strict=False)]
    if len(info.shape) != len(wanted) or not all(fits):
        raise ContractError(
            f"the model's input {spec.tensor!r} is {info.shape}, but the contract's size and colour ask for {wanted} "
            "(batch, height, width, channels)"
        )


def _check_output(contract: Contract, output: OutputSpec, shape: tuple[int, ...]) -> None:
    objects, labels, numbers = contract.box.objects, len(contract.labels), prod(shape)
    needed = {
        "presence": (objects, f"one number for each of {objects} object(s)"),
        "class": (objects * labels, f"one number for each of {labels} label(s) and {objects} object(s)"),
        "box": (objects * 4, f"4 numbers for each of {objects} object(s)"),
        "vector": (objects * len(output.slots), f"the {len(output.slots)} slots of {objects} object(s)"),
    }
    if output.role in needed and numbers != needed[output.role][0]:
        raise _misfit(output, shape, needed[output.role][1])
    if output.role == "box-bins" and (numbers % (objects * 4) or numbers < objects * 8):
        raise _misfit(output, shape, f"4 groups of at least 2 bins for each of {objects} object(s)")
    if output.role == "yolo" and (len(shape) < 2 or shape[-2] != 4 + labels):
        raise _misfit(output, shape, f"(1, {4 + labels}, anchors) for {labels} label(s)")
    if output.role == "ssd-boxes" and shape and shape[-1] != 4:
        raise _misfit(output, shape, "(1, boxes, 4)")


def _check_grid(contract: Contract, outputs: Mapping[str, Shaped]) -> None:
    weights, distances = contract.output("grid-weights"), contract.output("grid-distances")
    if weights is None or distances is None:
        return
    cells, edges = outputs[weights.tensor].shape, outputs[distances.tensor].shape
    if min((*cells, *edges), default=1) < 1:
        return
    if len(edges) != 4 or edges[-1] != 4:
        raise _misfit(distances, edges, "(1, height, width, 4)")
    if prod(cells) != edges[1] * edges[2]:
        raise _misfit(
            weights, cells, f"one number for each of the {edges[1]} x {edges[2]} cells of {distances.tensor!r}"
        )


def _misfit(output: OutputSpec, shape: tuple[int, ...], needed: str) -> ContractError:
    return ContractError(f"the output {output.tensor!r} is {shape}: the role {output.role} needs {needed}")


def _names(tensors: Mapping[str, Shaped]) -> str:
    return ", ".join(f"{name!r} {info.shape}" for name, info in tensors.items()) or "none"
