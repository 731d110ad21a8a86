"""What rounding to int8 does: the levels of a tensor, the cost in answers, and what a user is shown of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeloc.findings import Finding

__all__ = ["PROBABILITIES", "Cost", "Diagnosis", "Levels", "box_iou", "worth_repair"]

Array = NDArray[np.float32]
_STEPS = 255
# Less than this is small beside what the weights lose, and no reason to change a model.
_IOU, _SHARE = 0.005, 0.01


@dataclass(frozen=True)
class Cost:
    """What rounding does to the answers.

    `iou` is 1 minus the mean IoU between the boxes before and after; `presence` and `label` are
    the shares of objects whose presence or class turns into another.
    """

    iou: float
    presence: float
    label: float


@dataclass(frozen=True)
class Levels:
    """The 256 numbers that an int8 tensor can hold: `low` and the `step` to the next one."""

    low: float
    step: float

    @classmethod
    def over(cls, arrays: Iterable[Array]) -> Levels:
        """The levels of a tensor with these values: from the lowest to the highest, 0 among them."""
        ends = [(float(values.min()), float(values.max())) for values in arrays]
        low, high = min(0.0, *(end for end, _ in ends)), max(0.0, *(end for _, end in ends))
        step = (high - low) / _STEPS or 1.0
        return cls(np.round(low / step) * step, step)

    def round(self, values: Array) -> Array:
        """Each value as the nearest level."""
        steps = np.clip(np.rint((values - self.low) / self.step), 0, _STEPS)
        return np.asarray(steps * self.step + self.low, np.float32)


# A TFLite sigmoid or softmax always leaves with this one, whatever its values are.
PROBABILITIES = Levels(0.0, 1 / 256)


def box_iou(first: Array, second: Array) -> Array:
    """IoU of boxes (..., 4) as x1, y1, x2, y2 with edges in order, pair by pair; 1 where both are empty."""
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (first, second)]
    union = areas[0] + areas[1] - overlap
    return np.asarray(np.where(union > 0, overlap / np.where(union > 0, union, 1), 1.0), np.float32)


@dataclass(frozen=True)
class Diagnosis:
    """One fault of an output, with its figures.

    `finding` is what a user should know; `output` the output's name, `parts` the roles, slots or positions concerned.
    `cost` is what rounding the outputs to int8 does as they are, `repaired` what it does after `repair_head`; None
    where rounding is not the fault, or no repair helps.
    """

    finding: Finding
    output: str
    parts: tuple[str, ...]
    cost: Cost | None = None
    repaired: Cost | None = None


def worth_repair(before: Cost, after: Cost) -> bool:
    """Whether the cost after a repair is clearly below the one before."""
    return (
        before.iou - after.iou >= _IOU
        or before.presence - after.presence >= _SHARE
        or before.label - after.label >= _SHARE
    )
