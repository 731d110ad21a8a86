"""What every decoder works with: quantized numbers, functions of them, four numbers as corners, what a head reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from edgeloc.errors import EngineError
from edgeloc.model.contract import Activation

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ORDER",
    "REAL",
    "WHOLE",
    "Array",
    "Lookup",
    "Quantization",
    "Reading",
    "activate",
    "activated",
    "corners_of",
    "dequantized",
    "not_finite",
    "powers",
    "softplus",
]

Array: TypeAlias = "NDArray[np.float32]"
Floats: TypeAlias = "NDArray[np.floating[Any]]"

# Where x, y, width, height (or x1, y1, x2, y2) stand in each form of four numbers.
ORDER: dict[str, tuple[int, int, int, int]] = {
    "cxcywh": (0, 1, 2, 3),
    "cxcyhw": (0, 1, 3, 2),
    "xywh": (0, 1, 2, 3),
    "xyxy": (0, 1, 2, 3),
    "yxyx": (1, 0, 3, 2),
}
# What a quantized class number may be off from a whole one.
WHOLE = 0.1
_NONE_BEYOND: Mapping[int, int] = {}
# With a larger step or none above 0, integers are no numbers that a table could be made of.
_LARGEST_STEP = 1e30
_LARGEST_POWER = np.float32(80)  # whose exponential float32 still holds


class Quantization(NamedTuple):
    """How a tensor's integers stand for numbers, real = (q - zero_point) * scale; `scale` None where they are real."""

    scale: float | None
    zero_point: int

    @property
    def sane(self) -> bool:
        """Whether every integer stands for a finite number, and a larger one for a larger number."""
        return self.scale is not None and 0 < self.scale < _LARGEST_STEP


REAL = Quantization(None, 0)


def dequantized(values: NDArray[Any], quantization: Quantization) -> Array:
    """Raw values as float32."""
    if quantization.scale is None:
        return values.astype(np.float32, copy=False)
    real: Array = np.subtract(values, np.float32(quantization.zero_point), dtype=np.float32)
    real *= np.float32(quantization.scale)
    return real


class Lookup:
    """A function of each number of a tensor; that of 8-bit integers is read from a table of all 256.

    Parameters:
        function: takes real numbers of any shape, and gives as many.
        quantization: what the tensor's integers stand for.
        nonzero: do without the table where it would hold a 0, which the numbers by themselves need not give.
    """

    def __init__(self, function: Callable[[Any], Floats], quantization: Quantization, nonzero: bool = False) -> None:
        self._function, self._quantization, self._nonzero = function, quantization, nonzero
        self._dtype: np.dtype[Any] | None = None
        self._table: Floats | None = None

    def __call__(self, raw: NDArray[Any]) -> Floats:
        """The function's values, float32 or float64 in the shape of `raw`."""
        table = self.table(raw.dtype)
        if table is None:
            return self._function(dequantized(raw, self._quantization))
        values: Floats = table.take(raw)
        return values

    def table(self, dtype: np.dtype[Any]) -> Floats | None:
        """The values for all integers of this type, where a negative one counts from the end; None if they need more.

        A table is read much faster than its function computes: with what the network does between two frames, each
        function of NumPy must be fetched from memory again.
        """
        if dtype != self._dtype:
            self._dtype, self._table = dtype, self._tabled(dtype)
        return self._table

    def _tabled(self, dtype: np.dtype[Any]) -> Floats | None:
        if dtype.kind not in "iu" or dtype.itemsize != 1 or not self._quantization.sane:
            return None
        levels = np.arange(256, dtype=np.uint8).view(dtype)
        table = self._function(dequantized(levels, self._quantization).astype(np.float64))
        return None if self._nonzero and not table.all() else table


class Reading(NamedTuple):
    """What the outputs hold, one row for each candidate object.

    `presence` are probabilities (n,); `scores` are class probabilities (n, K); `corners` are x1, y1, x2, y2 (n, 4) in
    the contract's units, None where the model gives no box. `beyond` are the class numbers of those rows whose class
    has no label in the contract.
    """

    presence: list[float]
    scores: Array
    corners: Array | None
    beyond: Mapping[int, int] = _NONE_BEYOND


def activate(values: Array, activation: Activation) -> Array:
    """Apply the activation that the network leaves to the host; a softmax runs over the last axis."""
    if activation == "sigmoid":
        half = 0.5 * np.tanh(0.5 * values) + 0.5  # the logistic function without an overflow
        return np.asarray(half, np.float32)
    if activation == "softmax":
        return _shares(powers(values))
    return np.asarray(values, np.float32)


def activated(activation: Activation, quantization: Quantization) -> Callable[[NDArray[Any]], Array]:
    """From a tensor's raw numbers to the real ones that the activation makes of them."""
    if activation == "softmax":
        lookup = Lookup(powers, quantization, nonzero=True)
        return lambda raw: _shares(lookup(raw))
    plain: Any = Lookup(partial(activate, activation=activation), quantization)
    return plain  # type: ignore[no-any-return]


def powers(values: Floats, axis: int = -1) -> Floats:
    """The exponentials of values less their maximum along the axis, so that none overflows."""
    below: Floats = np.subtract(values, np.maximum.reduce(values, axis=axis, keepdims=True))
    return np.exp(below, out=below)


def softplus(values: Floats) -> Floats:
    """log(1 + exp(x)), in a form that does not overflow.

    What log1p would keep, in float32 less than 1e-7, is nothing beside a box's size, and it takes ten times as long.
    """
    grown: Floats = np.exp(np.minimum(values, _LARGEST_POWER))
    grown += 1
    np.log(grown, out=grown)
    return np.maximum(grown, values, out=grown)  # beyond the largest power they are the same


def _shares(powers: Floats) -> Array:
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def corners_of(form: str, four: Array) -> Array:
    """Corners (n, 4) as x1, y1, x2, y2, from four numbers (n, 4) in the order of `form`."""
    order = ORDER[form]
    if order != (0, 1, 2, 3):
        four = four[:, order]
    if form in ("xyxy", "yxyx"):
        return four
    position, size = four[:, :2], four[:, 2:]
    if form == "xywh":
        return np.concatenate([position, position + size], axis=1)
    half = size * np.float32(0.5)
    return np.concatenate([position - half, position + half], axis=1)


def not_finite(what: str) -> EngineError:
    """The error for outputs that hold NaN or infinity; `what` says which, as in "box is not a finite number"."""
    return EngineError(
        f"the model's {what}: the file is damaged, or this engine cannot run it",
        hint="try another engine, and look into the file with `edgeloc inspect`",
    )
