"""Reads presence, class scores and box corners out of a model's outputs, by their roles and box encodings."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgeloc.decode.numbers import (
    ORDER,
    REAL,
    Array,
    Lookup,
    Quantization,
    Reading,
    activated,
    corners_of,
    powers,
    softplus,
)
from edgeloc.errors import ContractError
from edgeloc.model.contract import Activation, BoxForm, Contract, OutputSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeloc.decode.detector import DetectorReader

__all__ = [
    "BOX_PARTS",
    "ClassReader",
    "Corners",
    "LocalizerReader",
    "Outputs",
    "PresenceReader",
    "box_reader",
    "head_reader",
    "rows",
    "vector_columns",
]

Outputs: TypeAlias = "Mapping[str, NDArray[Any]]"
Corners = Callable[[Outputs], "list[list[float]]"]
Quantizations = Mapping[str, Quantization]

# Which slots of a vector make a box, in the order of the form they make.
BOX_PARTS: dict[tuple[str, ...], BoxForm] = {
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("cx", "cy", "w", "h"): "cxcywh",
    ("x1", "y1", "w", "h"): "xywh",
}
_UNUSED = "unused"


def head_reader(contract: Contract, quantizations: Quantizations | None = None) -> LocalizerReader | DetectorReader:
    """The reader of the outputs of a model of this contract; ContractError when their roles contradict each other.

    It takes raw outputs, which `quantizations` explain by tensor; without, they are real numbers.
    """
    if contract.detector is not None:
        from edgeloc.decode.detector import DetectorReader  # which a localizer starts without

        return DetectorReader(contract, quantizations or {})
    return LocalizerReader(contract, quantizations or {})


def box_reader(contract: Contract, quantizations: Quantizations) -> Corners | None:
    """The reader of the contract's box output; None where the box has no output of its own.

    A reader returns the corners of each object in the contract's units.

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
        return _four_numbers(four, form, objects, quantizations)
    if bins is not None:
        _need_form(contract, bins, "distribution")
        return Distribution(bins.tensor, objects, quantizations)
    if weights is not None and distances is not None:
        _need_form(contract, distances, "grid")
        return Grid(weights.tensor, distances.tensor, objects, quantizations)
    return None


def _need_form(contract: Contract, output: OutputSpec, form: BoxForm) -> None:
    if contract.box.form != form:
        raise ContractError(field="box.form", value=contract.box.form, allowed=f"{form!r} for the role {output.role}")
    if contract.box.units != "fraction":
        raise ContractError(field="box.units", value=contract.box.units, allowed=f"'fraction' for the form {form}")


def _four_numbers(output: OutputSpec, form: BoxForm, objects: int, quantizations: Quantizations) -> Corners:
    if form not in ORDER:
        raise ContractError(field="box.form", value=form, allowed=f"one of {', '.join(ORDER)} for the role box")
    _refuse_softmax(output)
    tensor, real = output.tensor, activated(output.activation, quantizations.get(output.tensor, REAL))
    return lambda outputs: _listed(corners_of(form, real(rows(outputs[tensor], objects))))


def _listed(corners: Array) -> list[list[float]]:
    listed: list[list[float]] = corners.tolist()
    return listed


def rows(values: NDArray[Any], objects: int) -> NDArray[Any]:
    """One row for each object."""
    return values.reshape(objects, -1)


class Distribution:
    """Four groups of logits over evenly spaced bins from 0 to 1; each edge is the expectation.

    The formula is that of the general distribution in Generalized Focal Loss (Li et al. 2020).
    """

    def __init__(self, tensor: str, objects: int, quantizations: Quantizations) -> None:
        self._tensor, self._objects = tensor, objects
        self._shares = activated("softmax", quantizations.get(tensor, REAL))
        self._positions: Array = np.zeros(0, np.float32)

    def __call__(self, outputs: Outputs) -> list[list[float]]:
        """Corners in fractions; independent edges can come out inverted."""
        logits = outputs[self._tensor].reshape(self._objects, 4, -1)
        bins = logits.shape[-1]
        if len(self._positions) != bins:
            self._positions = np.linspace(0, 1, bins, dtype=np.float32)
        return _listed(self._shares(logits) @ self._positions)


class Grid:
    """For each object, a weight logit and four edge distances in each cell of a feature map; boxes are expectations.

    With p = softmax of an object's weights over all cells and d = softplus of its distances (left, top,
    right, bottom, in fractions of the input), box = sum p * (cx - l, cy - t, cx + r, cy + b). The
    distances are those of FCOS (Tian et al. 2019); the expectation takes the place of its non-maximum suppression.
    """

    def __init__(self, weights: str, distances: str, objects: int, quantizations: Quantizations) -> None:
        self._weights, self._distances, self._objects = weights, distances, objects
        self._powers = Lookup(partial(powers, axis=0), quantizations.get(weights, REAL), nonzero=True)
        self._edges = Lookup(softplus, quantizations.get(distances, REAL))
        # Of each cell x and y of its centre, and a 1, whose expectation is the sum of the weights.
        self._cells = np.zeros((0, 3))
        self._shape: tuple[int, ...] = ()

    def __call__(self, outputs: Outputs) -> list[list[float]]:
        """Corners in fractions."""
        weights = self._powers(outputs[self._weights].reshape(-1, self._objects))
        edges = self._edges(outputs[self._distances])
        if edges.shape != self._shape:
            self._lay_out(*edges.shape[-3:-1])
            self._shape = edges.shape
        edges = edges.reshape(-1, self._objects, 4)
        found = []
        for number in range(self._objects):
            weight = weights[:, number]
            left, top, right, bottom = weight.dot(edges[:, number]).tolist()
            x, y, total = weight.dot(self._cells).tolist()
            found.append([(x - left) / total, (y - top) / total, (x + right) / total, (y + bottom) / total])
        return found

    def _lay_out(self, height: int, width: int) -> None:
        y, x = np.mgrid[:height, :width]
        self._cells = np.stack([(x.ravel() + 0.5) / width, (y.ravel() + 0.5) / height, np.ones(height * width)], axis=1)


class PresenceReader:
    """The probability of each object of a localizer, out of one of the numbers that each has in a tensor."""

    def __init__(self, output: OutputSpec, index: int, objects: int, quantizations: Quantizations) -> None:
        self._tensor, self._index, self._objects = output.tensor, index, objects
        sigmoid = output.activation == "sigmoid"
        function = _logistic if sigmoid else np.asarray
        self._of_one: Callable[[float], float] = _logistic_of_one if sigmoid else float
        self._values = Lookup(function, quantizations.get(output.tensor, REAL))
        self._dtype: np.dtype[Any] | None = None
        self._table: list[float] | None = None

    def __call__(self, outputs: Outputs) -> list[float]:
        """A probability for each object."""
        raw = outputs[self._tensor]
        if raw.dtype is not self._dtype:
            values = self._values.table(raw.dtype)
            self._dtype, self._table = raw.dtype, None if values is None else values.tolist()
        table = self._table
        if table is None:
            if self._objects == 1 and raw.dtype.kind == "f":
                return [self._of_one(raw.item(self._index))]
            found: list[float] = self._values(rows(raw, self._objects)[:, self._index]).tolist()
            return found
        if self._objects == 1:
            return [table[raw.item(self._index)]]
        return [table[raw.item(at)] for at in range(self._index, raw.size, raw.size // self._objects)]


class ClassReader:
    """The class scores of each object of a localizer, out of some of the numbers that each has in a tensor.

    Attributes:
        tensor: the name of the tensor.
        exact: whether no score can be other than finite, and larger raw numbers mean more probable classes.
    """

    def __init__(
        self,
        output: OutputSpec,
        columns: list[int] | None,
        activation: Activation,
        objects: int,
        quantizations: Quantizations,
    ) -> None:
        self.tensor, self._columns, self._objects = output.tensor, columns, objects
        self.exact = quantizations.get(output.tensor, REAL).sane
        self._real = activated(activation, quantizations.get(output.tensor, REAL))

    def scores(self, raw: NDArray[Any], row: int) -> Array:
        """The probabilities (K,) of an object's classes, out of the tensor's raw numbers."""
        return self._real(self._own(raw, row))

    def best(self, raw: NDArray[Any], row: int) -> int:
        """An object's most probable class."""
        return int(self._own(raw, row).argmax())

    def all(self, raw: NDArray[Any]) -> Array:
        """The probabilities (objects, K)."""
        by_object = rows(raw, self._objects)
        return self._real(by_object if self._columns is None else by_object[:, self._columns])

    def has_finite_scores(self, raw: NDArray[Any], row: int) -> bool:
        """Whether an object's class scores are finite, by its raw numbers, without decoding them."""
        return math.isfinite(sum(self._own(raw, row).tolist()))

    def _own(self, raw: NDArray[Any], row: int) -> NDArray[Any]:
        own: NDArray[Any] = rows(raw, self._objects)[row]
        return own if self._columns is None else own[self._columns]


class LocalizerReader:
    """Reads presence, class and box, each from its own output or from slots of one vector.

    Attributes:
        presence: the probability of each object; None where the model has none, since it was made for frames that
            always hold its objects.
        classes: their class scores, None without classes.
        corners: the corners of their boxes, None without boxes.
    """

    def __init__(self, contract: Contract, quantizations: Quantizations) -> None:
        self._objects = objects = contract.box.objects
        vector = contract.output("vector")
        columns = vector_columns(vector, contract) if vector is not None else {}
        self.presence = _presence_reader(contract, vector, columns.get("presence"), quantizations)
        self.classes = _class_reader(contract, vector, columns.get("class"), quantizations)
        self.corners = box_reader(contract, quantizations)
        if vector is not None and "box" in columns:
            if self.corners is not None:
                raise ContractError(f"outputs: both a slot of {vector.tensor} and another output hold the box")
            self.corners = _vector_box(vector, columns["box"], objects, quantizations)

    def __call__(self, outputs: Outputs) -> Reading:
        """All of them at once."""
        objects, classes = self._objects, self.classes
        none = np.zeros((objects, 0), np.float32)
        return Reading(
            [1.0] * objects if self.presence is None else self.presence(outputs),
            none if classes is None else classes.all(outputs[classes.tensor]),
            None if self.corners is None else np.asarray(self.corners(outputs), np.float32),
        )


def _presence_reader(
    contract: Contract, vector: OutputSpec | None, column: list[int] | None, quantizations: Quantizations
) -> PresenceReader | None:
    output = _only_one("presence", contract.output("presence"), vector if column else None)
    if output is None:
        return None
    _refuse_softmax(output)
    return PresenceReader(output, column[0] if column else 0, contract.box.objects, quantizations)


def _class_reader(
    contract: Contract, vector: OutputSpec | None, columns: list[int] | None, quantizations: Quantizations
) -> ClassReader | None:
    output = _only_one("class", contract.output("class"), vector if columns else None)
    if output is None:
        if contract.labels:
            raise ContractError(f"outputs: there are {len(contract.labels)} labels, but no output has the role class")
        return None
    activation = output.class_activation if columns else output.activation
    return ClassReader(output, columns, activation, contract.box.objects, quantizations)


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


def _vector_box(vector: OutputSpec, columns: list[int], objects: int, quantizations: Quantizations) -> Corners:
    _refuse_softmax(vector, hint="a softmax over the classes is class_activation")
    form, tensor = BOX_PARTS[tuple(vector.slots[i] for i in columns)], vector.tensor
    real = activated(vector.activation, quantizations.get(tensor, REAL))
    return lambda outputs: _listed(corners_of(form, real(rows(outputs[tensor], objects)[:, columns])))


def _refuse_softmax(output: OutputSpec, hint: str = "") -> None:
    """A softmax is for classes: over a presence or the numbers of a box it means nothing."""
    if output.activation == "softmax":
        field = f"outputs[{output.tensor}].activation"
        raise ContractError(
            field=field, value="softmax", allowed=f"none or sigmoid for the role {output.role}", hint=hint
        )


def _logistic_of_one(value: float) -> float:
    return 0.5 + 0.5 * math.tanh(0.5 * value)


def _logistic(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values.astype(np.float64)))
