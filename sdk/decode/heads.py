"""Reads presence, class scores and box corners out of a model's outputs, by their roles and box encodings."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgeloc.decode.detector import DetectorReader
from edgeloc.decode.numbers import ORDER, Array, Quantization, Reading, activate, corners_of
from edgeloc.errors import ContractError
from edgeloc.model.contract import Activation, BoxForm, Contract, OutputSpec

__all__ = [
    "BOX_PARTS",
    "Corners",
    "Outputs",
    "box_reader",
    "head_reader",
    "rows",
    "vector_columns",
]

Outputs = Mapping[str, Array]
Corners = Callable[[Outputs], Array]

# Which slots of a vector make a box, in the order of the form they make.
BOX_PARTS: dict[tuple[str, ...], BoxForm] = {
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("cx", "cy", "w", "h"): "cxcywh",
    ("x1", "y1", "w", "h"): "xywh",
}
_UNUSED = "unused"

Reader = Callable[[Outputs], Reading]


def head_reader(contract: Contract, quantizations: Mapping[str, Quantization] | None = None) -> Reader:
    """The reader of the outputs of a model of this contract; ContractError when their roles contradict each other.

    A detector's takes raw outputs, which `quantizations` explain by tensor, float ones without; a localizer's takes
    float ones.
    """
    if contract.detector is not None:
        return DetectorReader(contract, quantizations or {})
    return _Heads(contract)


def box_reader(contract: Contract) -> Corners | None:
    """The reader of the contract's box output; None where the box has no output of its own.

    A reader returns corners (objects, 4) in the contract's units.

    Raises ContractError when the roles of the outputs and the box's form contradict each other.
    """
    form, objects = contract.box.form, contract.box.objects
    four, bins = contract.output("box"), contract.output("box-bins")
    weights, distances = contract.output("grid-weights"), contract.output("grid-distances")
    if (weights is None) != (distances is None):
        raise ContractError("outputs: grid-weights and grid-distances go together; one of them is missing")
    if sum(output is not None for output in (four, bins, weights)) > 1:
        raise ContractError("outputs: the box is given twice", hint="keep one of box, box-bins and the grid's two")
    if four is not None:
        return _four_numbers(four, form, objects)
    if bins is not None:
        _need_form(contract, bins, "distribution")
        return Distribution(bins.tensor, objects)
    if weights is not None and distances is not None:
        _need_form(contract, distances, "grid")
        return Grid(weights.tensor, distances.tensor, objects)
    return None


def _need_form(contract: Contract, output: OutputSpec, form: BoxForm) -> None:
    if contract.box.form != form:
        raise ContractError(field="box.form", value=contract.box.form, allowed=f"{form!r} for the role {output.role}")
    if contract.box.units != "fraction":
        raise ContractError(field="box.units", value=contract.box.units, allowed=f"'fraction' for the form {form}")


def _four_numbers(output: OutputSpec, form: BoxForm, objects: int) -> Corners:
    if form not in ORDER:
        raise ContractError(field="box.form", value=form, allowed=f"one of {', '.join(ORDER)} for the role box")
    _refuse_softmax(output)
    return lambda outputs: corners_of(form, activate(rows(outputs[output.tensor], objects), output.activation))


def rows(values: Array, objects: int) -> Array:
    """One row for each object."""
    return values.reshape(objects, -1)


class Distribution:
    """Four groups of logits over evenly spaced bins from 0 to 1; each edge is the expectation.

    The formula is that of the general distribution in Generalized Focal Loss (Li et al. 2020).
    """

    def __init__(self, tensor: str, objects: int) -> None:
        self._tensor, self._objects = tensor, objects
        self._positions: Array = np.zeros(0, np.float32)

    def __call__(self, outputs: Outputs) -> Array:
        """Corners (objects, 4) in fractions; independent edges can come out inverted."""
        logits = outputs[self._tensor].reshape(self._objects, 4, -1)
        bins = logits.shape[-1]
        if len(self._positions) != bins:
            self._positions = np.linspace(0, 1, bins, dtype=np.float32)
        corners: Array = activate(logits, "softmax") @ self._positions
        return corners


class Grid:
    """For each object, a weight logit and four edge distances in each cell of a feature map; boxes are expectations.

    With p = softmax of an object's weights over all cells and d = softplus of its distances (left, top,
    right, bottom, in fractions of the input), box = sum p * (cx - l, cy - t, cx + r, cy + b). The
    distances are those of FCOS (Tian et al. 2019); the expectation takes the place of its non-maximum suppression.
    """

    def __init__(self, weights: str, distances: str, objects: int) -> None:
        self._weights, self._distances, self._objects = weights, distances, objects
        self._shape: tuple[int, ...] = ()

    def __call__(self, outputs: Outputs) -> Array:
        """Corners (objects, 4) in fractions."""
        weights, distances = outputs[self._weights].reshape(-1, self._objects), outputs[self._distances]
        if distances.shape != self._shape:
            self._lay_out(distances.shape)
        share = np.exp(weights - weights.max(axis=0))
        share /= share.sum(axis=0)
        _softplus(distances.reshape(-1, self._objects, 4).transpose(1, 0, 2), out=self._edges)
        sums = (share.T[:, np.newaxis] @ self._cells)[:, 0]
        center = sums[:, 4:]
        return np.concatenate([center - sums[:, :2], center + sums[:, 2:4]], axis=1)

    def _lay_out(self, shape: tuple[int, ...]) -> None:
        """Cell centres beside space for the edges, so that one product gives both expectations."""
        height, width = shape[-3], shape[-2]
        y, x = np.mgrid[:height, :width]
        self._cells = np.zeros((self._objects, height * width, 6), np.float32)
        self._cells[..., 4], self._cells[..., 5] = (x.ravel() + 0.5) / width, (y.ravel() + 0.5) / height
        self._edges = self._cells[..., :4]
        self._shape = shape


def _softplus(values: Array, out: Any) -> None:
    """log(1 + exp(x)) into `out`, in a form that does not overflow."""
    powers = np.exp(-np.abs(values))
    np.log1p(powers, out=powers)
    np.add(powers, np.maximum(values, 0), out=out)


class _Heads:
    """Presence, class and box, each from its own output or from slots of one vector."""

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
        _refuse_softmax(output)
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
    repeated = [slot for slot, count in Counter(used).items() if count > 1]
    if repeated:
        raise ContractError(f"{where} holds {repeated[0]} more than once")
    for slot in used:
        if slot != "presence" and slot not in parts and not re.fullmatch(r"class:\d{1,6}", slot):
            known = f"presence, {', '.join(sorted(parts))}, class:0 ..., {_UNUSED}"
            raise ContractError(f"{where} holds {slot!r}: known are {known}")
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
    _refuse_softmax(vector, hint="a softmax over the classes is class_activation")
    form = BOX_PARTS[tuple(vector.slots[i] for i in columns)]
    tensor, activation = vector.tensor, vector.activation
    return lambda outputs: corners_of(form, activate(rows(outputs[tensor], objects)[:, columns], activation))


def _refuse_softmax(output: OutputSpec, hint: str = "") -> None:
    """A softmax is for classes: over a presence or the numbers of a box it means nothing."""
    if output.activation == "softmax":
        field = f"outputs[{output.tensor}].activation"
        raise ContractError(
            field=field, value="softmax", allowed=f"none or sigmoid for the role {output.role}", hint=hint
        )


def _logistic(value: float) -> float:
    return 0.5 + 0.5 * math.tanh(0.5 * value)
