"""Reads presence, class scores and box corners out of a model's outputs, by their roles; thresholds are elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloc.boxes import Corners, Outputs, activate, box_reader, corners_of, rows
from edgeloc.contract import Activation, BoxForm, Contract, OutputSpec
from edgeloc.errors import ContractError

__all__ = ["BOX_PARTS", "Reading", "head_reader", "vector_columns"]

Array = NDArray[np.float32]
# Which slots of a vector make a box, in the order of the form they make.
BOX_PARTS: dict[tuple[str, ...], BoxForm] = {
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("cx", "cy", "w", "h"): "cxcywh",
    ("x1", "y1", "w", "h"): "xywh",
}
_UNUSED = "unused"


class Reading(NamedTuple):
    """What the outputs say, one row for each object: presence (n,), class scores (n, K), corners (n, 4) or None."""

    presence: list[float]
    scores: Array
    corners: Array | None


Reader = Callable[[Outputs], Reading]


def head_reader(contract: Contract) -> Reader:
    """The reader of a model of this contract; ContractError when its outputs' roles contradict each other."""
    roles = {output.role for output in contract.outputs}
    if any(role.startswith("ssd-") for role in roles):
        return _Ssd(contract)
    if "yolo" in roles:
        return _Yolo(contract)
    return _Heads(contract)


class _Heads:
    """Presence, class and box, each from an output of its own or from slots of one vector."""

    def __init__(self, contract: Contract) -> None:
        self._objects = contract.box.objects
        vector = contract.output("vector")
        columns = vector_columns(vector, contract) if vector is not None else {}
        self._presence = self._presence_reader(contract.output("presence"), vector, columns.get("presence"))
        self._scores = self._class_reader(contract.output("class"), vector, columns.get("class"), len(contract.labels))
        self._corners = box_reader(contract)
        if vector is not None and "box" in columns:
            if self._corners is not None:
                raise ContractError(f"outputs: both a slot of {vector.tensor} and another output hold the box")
            self._corners = _vector_box(vector, columns["box"], self._objects)

    def __call__(self, outputs: Outputs) -> Reading:
        corners = None if self._corners is None else self._corners(outputs)
        return Reading(self._presence(outputs), self._scores(outputs), corners)

    def _presence_reader(
        self, own: OutputSpec | None, vector: OutputSpec | None, column: list[int] | None
    ) -> Callable[[Outputs], list[float]]:
        output = _only_one("presence", own, vector if column else None)
        if output is None:
            # A model without a presence output was made for frames that always hold its objects.
            always = [1.0] * self._objects
            return lambda outputs: always
        if output.activation == "softmax":
            raise ContractError(f"outputs[{output.tensor}].activation is 'softmax': presence allows none and sigmoid")
        tensor, objects = output.tensor, self._objects
        index = column[0] if column else 0
        finish = _logistic if output.activation == "sigmoid" else float
        return lambda outputs: [finish(value) for value in rows(outputs[tensor], objects)[:, index].tolist()]

    def _class_reader(
        self, own: OutputSpec | None, vector: OutputSpec | None, columns: list[int] | None, labels: int
    ) -> Callable[[Outputs], Array]:
        output = _only_one("class", own, vector if columns else None)
        if output is None:
            if labels:
                raise ContractError(f"outputs: there are {labels} labels, but no output has the role class")
            none = np.zeros((self._objects, 0), np.float32)
            return lambda outputs: none
        tensor, objects = output.tensor, self._objects
        if columns:
            activation: Activation = output.class_activation
            return lambda outputs: activate(rows(outputs[tensor], objects)[:, columns], activation)
        activation = output.activation
        return lambda outputs: activate(rows(outputs[tensor], objects), activation)


def _only_one(role: str, own: OutputSpec | None, vector: OutputSpec | None) -> OutputSpec | None:
    if own is not None and vector is not None:
        raise ContractError(f"outputs: both {own.tensor} and a slot of {vector.tensor} hold the {role}")
    return own or vector


def vector_columns(vector: OutputSpec, contract: Contract) -> dict[str, list[int]]:
    """Which columns of a vector hold `presence`, `box` (in the order of its form) and `class`.

    Raises ContractError naming the slot that is unknown, repeated or missing.
    """
    where, slots = f"outputs[{vector.tensor}].slots", vector.slots
    parts = {name for form in BOX_PARTS for name in form}
    used = [slot for slot in slots if slot != _UNUSED]
    for slot in used:
        if used.count(slot) > 1:
            raise ContractError(f"{where} names {slot} more than once")
        if slot != "presence" and slot not in parts and not re.fullmatch(r"class:\d+", slot):
            known = f"presence, {', '.join(sorted(parts))}, class:0 ..., {_UNUSED}"
            raise ContractError(f"{where} has {slot!r}: known are {known}")
    columns: dict[str, list[int]] = {}
    if "presence" in slots:
        columns["presence"] = [slots.index("presence")]
    classes = sorted((int(slot[6:]), i) for i, slot in enumerate(slots) if slot.startswith("class:"))
    if classes:
        if [number for number, _ in classes] != list(range(len(contract.labels))):
            raise ContractError(
                f"{where} must hold class:0 to class:K-1 for the contract's {len(contract.labels)} labels"
            )
        columns["class"] = [i for _, i in classes]
    given = parts & set(slots)
    if given:
        columns["box"] = [slots.index(part) for part in _box_parts(where, given)]
    return columns


def _box_parts(where: str, given: set[str]) -> tuple[str, ...]:
    for form in BOX_PARTS:
        if given == set(form):
            return form
    allowed = " or ".join(" ".join(form) for form in BOX_PARTS)
    raise ContractError(f"{where} gives the box as {' '.join(sorted(given))}: it must be {allowed}")


def _vector_box(vector: OutputSpec, columns: list[int], objects: int) -> Corners:
    if vector.activation == "softmax":
        raise ContractError(f"outputs[{vector.tensor}].activation is 'softmax': use class_activation for the classes")
    form = BOX_PARTS[tuple(vector.slots[i] for i in columns)]
    tensor, activation = vector.tensor, vector.activation
    return lambda outputs: corners_of(form, activate(rows(outputs[tensor], objects)[:, columns], activation))


class _Ssd:
    """The outputs of the operator TFLite_Detection_PostProcess: y1, x1, y2, x2 in fractions, best first."""

    def __init__(self, contract: Contract) -> None:
        _alone(contract, "ssd-")
        self._objects, self._classes = contract.box.objects, len(contract.labels)
        self._boxes, self._scores = _need(contract, "ssd-boxes"), _need(contract, "ssd-scores")
        self._labels = _need(contract, "ssd-classes") if self._classes else None
        count = contract.output("ssd-count")
        self._count = None if count is None else count.tensor

    def __call__(self, outputs: Outputs) -> Reading:
        presence = outputs[self._scores].reshape(-1)
        found = len(presence) if self._count is None else min(int(outputs[self._count].reshape(-1)[0]), len(presence))
        best = np.argsort(-presence[:found], kind="stable")[: self._objects]
        scores = np.zeros((len(best), self._classes), np.float32)
        if self._labels is not None:
            self._fill(scores, outputs[self._labels].reshape(-1)[best].tolist(), presence[best])
        corners = corners_of("yxyx", outputs[self._boxes].reshape(-1, 4)[best])
        return Reading(presence[best].tolist(), scores, corners)

    def _fill(self, scores: Array, classes: list[float], presence: Array) -> None:
        for row, number in enumerate(classes):
            if not 0 <= number < self._classes:
                raise ContractError(
                    f"labels: the model answered class {number:g}, the contract has {self._classes} labels; "
                    "name every number, those that are never used too"
                )
            scores[row, int(number)] = presence[row]


class _Yolo:
    """One output (1, 4 + K, anchors), as Ultralytics exports it; only the best anchor counts, so nothing overlaps."""

    def __init__(self, contract: Contract) -> None:
        _alone(contract, "yolo")
        output = next(output for output in contract.outputs if output.role == "yolo")
        if output.activation == "softmax":
            raise ContractError(f"outputs[{output.tensor}].activation is 'softmax': yolo allows none and sigmoid")
        if contract.box.objects != 1:
            raise ContractError(f"box.objects is {contract.box.objects}: of a yolo output only the best box is read")
        if contract.box.form in ("grid", "distribution"):
            raise ContractError(f"box.form is {contract.box.form!r}: a yolo output holds four numbers an anchor")
        if not contract.labels:
            raise ContractError("labels: a yolo output needs the names of its classes")
        self._tensor, self._activation, self._form = output.tensor, output.activation, contract.box.form

    def __call__(self, outputs: Outputs) -> Reading:
        values = outputs[self._tensor]
        values = values.reshape(values.shape[-2], values.shape[-1])
        anchor = int(values[4:].argmax()) % values.shape[1]
        column = values[:, anchor : anchor + 1].T
        scores = activate(column[:, 4:], self._activation)
        return Reading([float(scores.max())], scores, corners_of(self._form, column[:, :4]))


def _alone(contract: Contract, prefix: str) -> None:
    for output in contract.outputs:
        if not output.role.startswith(prefix):
            raise ContractError(f"outputs[{output.tensor}].role is {output.role!r}: it does not go with {prefix}")


def _need(contract: Contract, role: str) -> str:
    for output in contract.outputs:
        if output.role == role:
            return output.tensor
    raise ContractError(f"outputs: the role {role} is missing")


def _logistic(value: float) -> float:
    return 0.5 + 0.5 * math.tanh(0.5 * value)
