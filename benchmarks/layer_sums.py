"""Running sums of a tensor's error over many images, and the figures they give; nothing is kept but the sums."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXACT_DB", "ErrorSums", "LayerError", "snr_db"]

# About what float32 arithmetic itself has; JSON knows no infinity.
EXACT_DB = 140.0
CLIPPED_SHARE = 0.001


@dataclass(frozen=True, slots=True)
class LayerError:
    """One tensor of the quantized model against the float model's, over all values of all images.

    `snr_db` is 10 log10(sum x^2 / sum (x - q)^2), from -140 to 140 (exact); `cosine` that of the angle
    between the two; `max_abs_error` in the tensor's own units. All three hold the error carried
    from before as well. `own_snr_db` and `own_rmse` are of what this layer adds alone, and None where an
    input has no counterpart; `own_steps` is `own_rmse` in steps of the tensor's scale: rounding
    the output alone gives 1/sqrt(12) = 0.29. `float_range` is what the float model's values span,
    `int_range` what the tensor can hold (None where it is float), `clipped` the share (0 to 1) of the
    float model's values that lie beyond it. `weight_snr_db` is of the layer's stored weights. `output` is
    the name of the model's output that this is, "" where it is none.
    """

    position: int
    operator: str
    tensor: str
    quantized_tensor: str
    shape: tuple[int, ...]
    dtype: str
    paired_by: str
    output: str
    snr_db: float
    cosine: float
    max_abs_error: float
    own_snr_db: float | None
    own_rmse: float | None
    own_steps: float | None
    float_range: tuple[float, float]
    int_range: tuple[float, float] | None
    clipped: float
    weight_snr_db: float | None

    @property
    def range_used(self) -> float | None:
        """How much of what the tensor can hold the float model's values span: each half leaves a bit unused."""
        if self.int_range is None or self.int_range[1] <= self.int_range[0]:
            return None
        low, high = max(self.float_range[0], self.int_range[0]), min(self.float_range[1], self.int_range[1])
        return max(0.0, high - low) / (self.int_range[1] - self.int_range[0])

    @property
    def cause(self) -> str:
        """What most of the layer's own error comes from, in a word; "" where it has none or it is not known.

        `clipping`: more than a thousandth of the values lie beyond the range. `rounding`: over half of the
        noise power is that of rounding the output, step^2 / 12. Else `weights`, or `other` without any.
        """
        if not self.own_rmse:
            return ""
        if self.clipped > CLIPPED_SHARE:
            return "clipping"
        if self.own_steps is not None and self.own_steps**2 < 2 / 12:
            return "rounding"
        return "weights" if self.weight_snr_db is not None else "other"


class ErrorSums:
    """Sums over images of one tensor: x is the float model's, q the quantized one's, alone what a float layer makes.

    `representable` is what the quantized tensor can hold and `step` its scale, None where it is float.
    """

    def __init__(self, representable: tuple[float, float] | None = None, step: float | None = None) -> None:
        self._representable, self._step = representable, step
        self._count = self._clipped = self._own_count = 0
        self._x2 = self._q2 = self._xq = self._error2 = self._alone2 = self._own2 = 0.0
        self._max_abs_error, self._low, self._high = 0.0, math.inf, -math.inf

    def add(self, x: NDArray[Any], q: NDArray[Any], alone: NDArray[Any] | None = None) -> None:
        """Take in one image; arrays of equal size, `alone` None where the layer's own error is not known."""
        x, q = x.ravel().astype(np.float64), q.ravel().astype(np.float64)
        error = x - q
        self._count += x.size
        self._x2 += _dot(x, x)
        self._q2 += _dot(q, q)
        self._xq += _dot(x, q)
        self._error2 += _dot(error, error)
        self._max_abs_error = max(self._max_abs_error, float(np.abs(error).max(initial=0.0)))
        self._low, self._high = min(self._low, float(x.min())), max(self._high, float(x.max()))
        if self._representable is not None:
            low, high = self._representable
            half_step = (self._step or 0.0) / 2
            self._clipped += int(np.count_nonzero((x < low - half_step) | (x > high + half_step)))
        if alone is not None:
            alone = alone.ravel().astype(np.float64)
            own = alone - q
            self._own_count += x.size
            self._alone2 += _dot(alone, alone)
            self._own2 += _dot(own, own)

    @property
    def snr_db(self) -> float:
        """Signal to noise so far, carried error included."""
        return snr_db(self._x2, self._error2)

    def layer(self, **known: Any) -> LayerError:
        """The figures, with what else is `known` of the tensor."""
        own_rmse = math.sqrt(self._own2 / self._own_count) if self._own_count else None
        length = math.sqrt(self._x2 * self._q2)
        return LayerError(
            snr_db=self.snr_db,
            cosine=self._xq / length if length else float(self._x2 == self._q2),
            max_abs_error=self._max_abs_error,
            own_snr_db=None if own_rmse is None else snr_db(self._alone2, self._own2),
            own_rmse=own_rmse,
            own_steps=own_rmse / self._step if self._step and own_rmse is not None else None,
            float_range=(self._low, self._high),
            int_range=self._representable,
            clipped=self._clipped / self._count,
            **known,
        )


def snr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two powers, held within -140 and 140 dB; 140 where there is no noise."""
    if noise <= 0:
        return EXACT_DB
    if signal <= 0:
        return -EXACT_DB
    return min(EXACT_DB, max(-EXACT_DB, 10 * math.log10(signal / noise)))


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    # Not a @ b: BLAS wakes all its threads for it, which costs more than the sum on a machine that is busy.
    return float(np.einsum("i,i", a, b))
