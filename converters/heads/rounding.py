"""What rounding a model's outputs to 8 bits costs, computed from float answers; the layers before them stay exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeloc.boxes import activate
from edgeloc.contract import Contract
from edgeloc.converters.heads.parts import Part
from edgeloc.converters.heads.splitting import Answers, Split
from edgeloc.heads import Reading, head_reader

__all__ = ["Cost", "Grid", "Readings", "apart", "as_outputs", "box_iou", "cost", "exact", "step_alone", "today"]

Array = NDArray[np.float32]
_STEPS = 255


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
class Grid:
    """The 256 numbers that an int8 tensor can hold: `low` and the `step` to the next one."""

    low: float
    step: float

    @classmethod
    def over(cls, arrays: Iterable[Array]) -> Grid:
        """The grid of a tensor with these values: from the lowest to the highest, 0 among them."""
        ends = [(float(values.min()), float(values.max())) for values in arrays]
        low, high = min(0.0, *(end for end, _ in ends)), max(0.0, *(end for _, end in ends))
        step = (high - low) / _STEPS or 1.0
        return cls(np.round(low / step) * step, step)

    def round(self, values: Array) -> Array:
        """Each value as the nearest one on the grid."""
        steps = np.clip(np.rint((values - self.low) / self.step), 0, _STEPS)
        return np.asarray(steps * self.step + self.low, np.float32)


# A TFLite sigmoid or softmax always leaves with this one, whatever its values are.
_PROBABILITIES = Grid(0.0, 1 / 256)


@dataclass(frozen=True)
class Readings:
    """What the answers to n images say: presence (n, objects), scores (n, objects, K), corners (n, objects, 4)."""

    presence: Array
    scores: Array
    corners: Array | None

    def found(self, threshold: float) -> NDArray[np.bool_]:
        """Where presence reaches the threshold, (n, objects); everywhere, if it does so nowhere."""
        here = self.presence >= threshold
        return here if here.any() else np.ones_like(here)


def exact(split: Split, values: Answers) -> Readings:
    """What the float model says; `values` are the answers of the split head."""
    return _read(split.contract, values)


def apart(split: Split, values: Answers) -> Readings:
    """What it says when each part is rounded on the grid of its own tensor."""
    return _read(split.contract, {name: Grid.over([rows]).round(rows) for name, rows in values.items()})


def today(split: Split, values: Answers) -> Readings:
    """What it says when each output is rounded as the graph gives it today.

    An output's parts are rounded together. Where the graph applies an activation, what goes into
    it is rounded, with all that the same layer computes, and what comes out of it again.
    """
    rounded = {}
    for name, part in split.named.items():
        mates = (values[other] for other, mate in split.named.items() if part.scales & mate.scales)
        rows = Grid.over(mates).round(values[name])
        rounded[name] = _leave(split, values, part, _in_graph(split, part, rows))
    return _read(_left_as_it_is(split), rounded)


def step_alone(split: Split, values: Answers) -> Readings:
    """What it says when only what leaves through an activation in the graph is rounded, to 1/256."""
    rounded = {}
    for name, part in split.named.items():
        rows = _in_graph(split, part, values[name])
        rounded[name] = rows if part.in_graph == "none" else _PROBABILITIES.round(rows)
    return _read(_left_as_it_is(split), rounded)


def as_outputs(contract: Contract, values: Answers) -> tuple[Readings, Readings]:
    """What a model says whose outputs are not taken apart: exact, and with each of them on a grid of its own."""
    return _read(contract, values), _read(contract, {n: Grid.over([rows]).round(rows) for n, rows in values.items()})


def _leave(split: Split, values: Answers, part: Part, rows: Array) -> Array:
    """What an output of today makes of the numbers of one of its parts."""
    mates = {name: mate for name, mate in split.named.items() if mate.tensor == part.tensor}
    if all(mate.in_graph != "none" for mate in mates.values()):
        return _PROBABILITIES.round(rows)
    if all(mate.in_graph == "none" for mate in mates.values()):
        return rows
    return Grid.over(_in_graph(split, mate, values[name]) for name, mate in mates.items()).round(rows)


def _in_graph(split: Split, part: Part, rows: Array) -> Array:
    by_object = rows.reshape(len(rows), split.contract.box.objects, -1)
    return rows if part.in_graph == "none" else activate(by_object, part.in_graph).reshape(rows.shape)


def _left_as_it_is(split: Split) -> Contract:
    """The contract for values whose activation in the graph has been applied."""
    outputs = tuple(
        dataclasses.replace(output, activation="none") if split.named[output.tensor].in_graph != "none" else output
        for output in split.contract.outputs
    )
    return dataclasses.replace(split.contract, outputs=outputs)


def _read(contract: Contract, values: Answers) -> Readings:
    reader = head_reader(contract)
    count = len(next(iter(values.values())))
    each: list[Reading] = [reader({name: rows[i : i + 1] for name, rows in values.items()}) for i in range(count)]
    found = [one.corners for one in each if one.corners is not None]
    corners = None
    if found:
        first, second = np.stack(found)[..., :2], np.stack(found)[..., 2:]
        corners = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)
    return Readings(np.array([one.presence for one in each]), np.stack([one.scores for one in each]), corners)


def cost(before: Readings, after: Readings, threshold: float) -> Cost:
    """How far `after` is from `before`; boxes and labels count where `before` sees an object (anywhere, if nowhere)."""
    flips = float(np.mean((before.presence >= threshold) != (after.presence >= threshold)))
    here = before.found(threshold)
    labels = 0.0
    if before.scores.shape[-1]:
        labels = float(np.mean((before.scores.argmax(-1) != after.scores.argmax(-1))[here]))
    iou = 1.0
    if before.corners is not None and after.corners is not None:
        iou = float(np.mean(box_iou(before.corners[here], after.corners[here])))
    return Cost(1 - iou, flips, labels)


def box_iou(first: Array, second: Array) -> Array:
    """IoU of boxes (..., 4) as x1, y1, x2, y2 with edges in order, pair by pair; 1 where both are empty."""
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (first, second)]
    union = areas[0] + areas[1] - overlap
    return np.asarray(np.where(union > 0, overlap / np.where(union > 0, union, 1), 1.0), np.float32)
