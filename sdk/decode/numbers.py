"""What every decoder works with: quantized numbers, activations, four numbers as corners, and what a head reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import EngineError
from edgeloc.model.contract import Activation

__all__ = ["ORDER", "REAL", "Array", "Quantization", "Reading", "activate", "corners_of", "dequantized", "not_finite"]

Array = NDArray[np.float32]

# Where x, y, width, height (or x1, y1, x2, y2) stand in each form of four numbers.
ORDER: dict[str, tuple[int, int, int, int]] = {
    "cxcywh": (0, 1, 2, 3),
    "cxcyhw": (0, 1, 3, 2),
    "xywh": (0, 1, 2, 3),
    "xyxy": (0, 1, 2, 3),
    "yxyx": (1, 0, 3, 2),
}
_NONE_BEYOND: Mapping[int, int] = {}


class Quantization(NamedTuple):
    """How a tensor's integers stand for numbers, real = (q - zero_point) * scale; `scale` None where they are real."""

    scale: float | None
    zero_point: int


REAL = Quantization(None, 0)


def dequantized(values: NDArray[Any], quantization: Quantization) -> Array:
    """Raw values as float32."""
    if quantization.scale is None:
        return values.astype(np.float32, copy=False)
    real: Array = np.subtract(values, np.float32(quantization.zero_point), dtype=np.float32)
    real *= np.float32(quantization.scale)
    return real


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
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
    return values


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
