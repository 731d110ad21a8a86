"""Turns the numbers of one output into box corners, for each box encoding that a contract can name; no presence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import Activation, BoxForm, Contract, OutputSpec
from edgeloc.errors import ContractError

__all__ = ["Corners", "Outputs", "activate", "box_reader", "corners_of", "rows"]

Array = NDArray[np.float32]
Outputs = Mapping[str, Array]
Corners = Callable[[Outputs], Array]

# Where x, y, width, height (or x1, y1, x2, y2) stand in each form of four numbers.
_ORDER: dict[BoxForm, tuple[int, int, int, int]] = {
    "cxcywh": (0, 1, 2, 3),
    "cxcyhw": (0, 1, 3, 2),
    "xywh": (0, 1, 2, 3),
    "xyxy": (0, 1, 2, 3),
    "yxyx": (1, 0, 3, 2),
}


def activate(values: Array, activation: Activation) -> Array:
    """Apply what the network left to the host; a softmax runs over the last axis."""
    if activation == "sigmoid":
        half = 0.5 * np.tanh(0.5 * values) + 0.5  # the logistic function without an overflow
        return np.asarray(half, np.float32)
    if activation == "softmax":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
    return values


def corners_of(form: BoxForm, four: Array) -> Array:
    """Corners (n, 4) as x1, y1, x2, y2, from four numbers (n, 4) in the order of `form`."""
    order = _ORDER[form]
    if order != (0, 1, 2, 3):
        four = four[:, order]
    if form in ("xyxy", "yxyx"):
        return four
    position, size = four[:, :2], four[:, 2:]
    if form == "xywh":
        return np.concatenate([position, position + size], axis=1)
    half = size * np.float32(0.5)
    return np.concatenate([position - half, position + half], axis=1)


def box_reader(contract: Contract) -> Corners | None:
    """The reader of the contract's box output; None where no output of its own holds the box.

    A reader gives corners (objects, 4) in the contract's units. Raises ContractError when the
    roles of the outputs and the box's form contradict each other.
    """
    form, objects = contract.box.form, contract.box.objects
    four, bins = contract.output("box"), contract.output("box-bins")
    weights, distances = contract.output("grid-weights"), contract.output("grid-distances")
    if (weights is None) != (distances is None):
        raise ContractError("outputs: grid-weights and grid-distances go together; one of them is missing")
    if sum(output is not None for output in (four, bins, weights)) > 1:
        raise ContractError("outputs: the box is given twice; keep one of box, box-bins and the grid's two")
    if four is not None:
        return _four_numbers(four, form, objects)
    if bins is not None:
        _need_form(contract, bins, "distribution")
        return Distribution(bins.tensor, objects)
    if weights is not None and distances is not None:
        _need_form(contract, distances, "grid")
        if objects != 1:
            raise ContractError(f"box.objects is {objects}: a grid holds 1 object")
        return Grid(weights.tensor, distances.tensor)
    return None


def _need_form(contract: Contract, output: OutputSpec, form: BoxForm) -> None:
    if contract.box.form != form:
        raise ContractError(f"box.form is {contract.box.form!r}: the role {output.role} needs {form!r}")
    if contract.box.units != "fraction":
        raise ContractError(f"box.units is {contract.box.units!r}: the form {form} is in fractions")


def _four_numbers(output: OutputSpec, form: BoxForm, objects: int) -> Corners:
    if form not in _ORDER:
        raise ContractError(f"box.form is {form!r}: the role box needs one of {', '.join(_ORDER)}")
    if output.activation == "softmax":
        raise ContractError(f"outputs[{output.tensor}].activation is 'softmax': a box allows none and sigmoid")
    return lambda outputs: corners_of(form, activate(rows(outputs[output.tensor], objects), output.activation))


def rows(values: Array, objects: int) -> Array:
    """One row for each object."""
    return values.reshape(objects, -1)


class Distribution:
    """Four groups of logits over bins that stand evenly from 0 to 1; each edge is the expectation.

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
    """A weight logit and four edge distances for each cell of a feature map; the box is the expectation.

    With p = softmax of the weights over all cells and d = softplus of the distances (left, top,
    right, bottom, in fractions of the input), box = sum p * (cx - l, cy - t, cx + r, cy + b). The
    distances are those of FCOS (Tian et al. 2019), the expectation takes the place of its
    suppression of overlapping boxes.
    """

    def __init__(self, weights: str, distances: str) -> None:
        self._weights, self._distances = weights, distances
        self._shape: tuple[int, ...] = ()

    def __call__(self, outputs: Outputs) -> Array:
        """Corners (1, 4) in fractions."""
        weights, distances = outputs[self._weights].reshape(-1), outputs[self._distances]
        if distances.shape != self._shape:
            self._lay_out(distances.shape)
        share = np.exp(weights - weights.max())
        share /= share.sum()
        _softplus(distances.reshape(-1, 4), out=self._edges)
        left, top, right, bottom, cx, cy = (share @ self._cells).tolist()
        return np.array([[cx - left, cy - top, cx + right, cy + bottom]], np.float32)

    def _lay_out(self, shape: tuple[int, ...]) -> None:
        """Cell centres beside room for the edges, so that one product gives both expectations."""
        height, width = shape[-3], shape[-2]
        y, x = np.mgrid[:height, :width]
        self._cells = np.zeros((height * width, 6), np.float32)
        self._cells[:, 4], self._cells[:, 5] = (x.ravel() + 0.5) / width, (y.ravel() + 0.5) / height
        self._edges = self._cells[:, :4]
        self._shape = shape


def _softplus(values: Array, out: Any) -> None:
    """log(1 + exp(x)) into `out`, in the form that does not overflow."""
    powers = np.exp(-np.abs(values))
    np.log1p(powers, out=powers)
    np.add(powers, np.maximum(values, 0), out=out)
