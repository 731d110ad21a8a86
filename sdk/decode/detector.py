"""Reads objects out of a detector's raw outputs: what is behind the threshold is neither dequantized nor decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.decode.finished import finished_reader
from edgeloc.decode.numbers import REAL, WHOLE, Array, Quantization, Reading, activate, dequantized, not_finite
from edgeloc.decode.places import BoxDecoder, box_decoder, locate
from edgeloc.errors import ContractError, EngineError
from edgeloc.model.contract import Contract, Layout, OutputSpec
from edgeloc.model.detector import DetectorSpec
from edgeloc.model.fit import channels_of, columns_of, part_sizes

__all__ = ["DetectorReader", "location_rows"]

# What a stored scale may be off by, in steps: a candidate too many is found out in float.
_SLACK = 0.01
# A quantized output may answer a little more than a probability.
_SURE = 1.02


# Pixels; two such boxes have an area that OpenCV does not take for none.
_LEAST_SIDE = 1e-6


class DetectorReader:
    """Reads the objects of one frame: those whose score reaches the threshold, reduced by non-maximum suppression.

    Attributes:
        finished: a faster way for a model that has selected its objects itself; None for others.

    Raises ContractError when the parts of the outputs and the detector's description contradict each other.
    """

    def __init__(self, contract: Contract, quantizations: Mapping[str, Quantization]) -> None:
        spec = contract.detector
        assert spec is not None
        self._spec, self._labels = spec, len(contract.labels)
        self._threshold = contract.thresholds.presence
        width, height = contract.input.width, contract.input.height
        counts = spec.locations.counts(width, height)
        places = locate(spec.locations, width, height)
        decode = box_decoder(spec.box, places, width, height)
        levels: dict[int | None, list[OutputSpec]] = {}
        for output in contract.outputs:
            levels.setdefault(output.level, []).append(output)
        if None in levels and len(levels) > 1:
            raise ContractError("outputs: some have a level and others have none", hint="give it to all or to none")
        starts = [0, *np.cumsum(counts).tolist()]
        if None not in levels and sorted(level for level in levels if level is not None) != list(range(len(counts))):
            raise ContractError(f"outputs: the levels are {sorted(map(str, levels))}, the locations have {len(counts)}")
        self._levels = [
            _Level(contract, spec, outputs, quantizations, decode, 0 if level is None else starts[level])
            for level, outputs in sorted(levels.items(), key=lambda item: item[0] or 0)
        ]
        self.finished = finished_reader(contract, self._levels[0].parts) if len(self._levels) == 1 else None
        self._across = math.ceil(width / spec.locations.strides[0]) if spec.locations.strides else 0
        if spec.selection.nms == "merge" and (len(counts) != 1 or spec.box.form != "cell" or spec.locations.table):
            raise ContractError("detector.selection.nms: 'merge' is for the cells of one grid (box.form 'cell')")

    def __call__(self, outputs: Mapping[str, NDArray[Any]]) -> Reading:
        """The objects' scores, class probabilities and corners in input pixels, best first.

        Where nothing reaches the threshold it is the best candidate alone.
        """
        found = [level(outputs, self._threshold) for level in self._levels]
        if not any(len(level.scores) for level in found):
            return max((level.best(outputs) for level in self._levels), key=lambda best: best.presence[0])
        return _reading(self._select(_joined(found)), self._labels)

    def everything(self, outputs: Mapping[str, NDArray[Any]]) -> tuple[Array, Array, Array]:
        """All boxes in the order of the locations: scores (n,), classes' probabilities (n, K), corners (n, 4)."""
        found = _joined([level(outputs, 0.0) for level in self._levels])
        return found.scores, found.classes, found.corners

    def _select(self, found: _Candidates) -> _Candidates:
        selection = self._spec.selection
        order = np.argsort(-found.scores, kind="stable")[: selection.candidates]
        found = found.rows(order)
        if selection.nms == "merge":
            found = _merged(found, self._across)
        elif selection.nms != "none" and len(found.scores) > 1:
            found = found.rows(_suppressed(found, selection.iou, selection.nms == "by-class"))
        return found.rows(slice(selection.objects))


class _Candidates(NamedTuple):
    """Boxes above the threshold: scores (n,), the classes' numbers (n,) and probabilities (n, K), corners (n, 4) in
    input pixels, the location of each (n,).
    """

    scores: Array
    numbers: NDArray[np.int64]
    classes: Array
    corners: Array
    places: NDArray[np.int64]

    def rows(self, which: Any) -> _Candidates:
        return _Candidates(*(column[which] for column in self))


def _joined(levels: Sequence[_Candidates]) -> _Candidates:
    if len(levels) == 1:
        return levels[0]
    columns: list[Any] = [np.concatenate(column) for column in zip(*levels, strict=True)]
    return _Candidates(*columns)


def _reading(found: _Candidates, labels: int) -> Reading:
    beyond = {row: number for row, number in enumerate(found.numbers.tolist()) if not 0 <= number < labels}
    return Reading(found.scores.tolist(), found.classes, found.corners, beyond if labels else {})


def _suppressed(found: _Candidates, iou: float, by_class: bool) -> Any:
    """Which boxes stay, best first; boxes of other classes are no rivals where `by_class`."""
    edges = found.corners.astype(np.float64)
    low, high = np.minimum(edges[:, :2], edges[:, 2:]), np.maximum(edges[:, :2], edges[:, 2:])
    # OpenCV takes two boxes without an area for the same, wherever they are, and by class it wants none below 0.
    boxes: Any = np.hstack([low - low.min(), np.maximum(high - low, _LEAST_SIDE)])  # its stubs know lists alone
    scores = found.scores.tolist()
    if by_class and len(set(found.numbers.tolist())) > 1:
        classes = np.unique(found.numbers, return_inverse=True)[1].ravel().tolist()
        kept = cv2.dnn.NMSBoxesBatched(boxes, scores, classes, 0.0, iou)
        return np.sort(np.asarray(kept, np.int64).reshape(-1))  # they come class by class
    return np.asarray(cv2.dnn.NMSBoxes(boxes, scores, 0.0, iou), np.int64).reshape(-1)


def _merged(found: _Candidates, across: int) -> _Candidates:
    """One box for the cells of a class that touch each other, diagonally too."""
    rows, columns = found.places // across, found.places % across
    groups: dict[tuple[int, int], list[int]] = {}
    for number in set(found.numbers.tolist()):
        mask = np.zeros((int(rows.max()) + 1, across), np.uint8)
        own = found.numbers == number
        mask[rows[own], columns[own]] = 1
        _, marks = cv2.connectedComponents(mask, connectivity=8)
        for index in np.flatnonzero(own).tolist():
            groups.setdefault((number, int(marks[rows[index], columns[index]])), []).append(index)
    members = sorted(groups.values())
    merged = found.rows([indices[0] for indices in members])
    for row, indices in enumerate(members):
        corners = found.corners[indices]
        merged.corners[row, :2], merged.corners[row, 2:] = corners[:, :2].min(0), corners[:, 2:].max(0)
    return merged


def location_rows(values: NDArray[Any], layout: Layout, channels: int, anchors: int) -> NDArray[Any]:
    """An output's numbers as rows (locations, channels), where each cell has `anchors` of them; a view if possible."""
    if layout == "channels-last":
        rows: NDArray[Any] = values.reshape(-1, channels)
    elif anchors == 1:
        rows = values.reshape(channels, -1).T
    else:
        rows = values.reshape(anchors, channels, -1).transpose(2, 0, 1).reshape(-1, channels)
    return rows


@dataclass
class _Part:
    """Where one part of a location's numbers lies: in which output, as which columns."""

    output: OutputSpec
    columns: slice
    channels: int
    anchors: int
    quantization: Quantization

    def __call__(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Its raw numbers, a view (locations, numbers)."""
        rows = location_rows(outputs[self.output.tensor], self.output.layout, self.channels, self.anchors)
        return rows[:, self.columns]


@dataclass
class _Level:
    """The outputs of one level, or of all in one."""

    contract: Contract
    spec: DetectorSpec
    outputs: Sequence[OutputSpec]
    quantizations: Mapping[str, Quantization]
    decode: BoxDecoder
    start: int
    parts: dict[str, _Part] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = part_sizes(self.spec, len(self.contract.labels))
        level = self.outputs[0].level
        anchors = self.spec.locations.per_cell(level or 0)
        for output in self.outputs:
            for name, columns in columns_of(output, sizes):
                if name in self.parts:
                    raise ContractError(f"outputs: the part {name} is given twice{_at(level)}")
                quantization = self.quantizations.get(output.tensor, REAL)
                self.parts[name] = _Part(output, columns, channels_of(output, sizes), anchors, quantization)
        self._require_parts(level)
        self.primary = next(name for name in ("objectness", "score", "class") if name in self.parts)

    def _require_parts(self, level: int | None) -> None:
        parts, where = set(self.parts), _at(level)
        if self.spec.box.form != "cell" and "box" not in parts:
            raise ContractError(f"outputs: the part box is missing{where}")
        if not parts & {"class", "score", "objectness"}:
            raise ContractError(f"outputs: a part class, score or objectness is missing{where}")
        if "class-number" in parts and "score" not in parts:
            raise ContractError(f"outputs: the part class-number needs the part score{where}")
        if "score" in parts and parts & {"class", "objectness"}:
            raise ContractError(f"outputs: the part score does not go with class or objectness{where}")
        if "class" in parts and not self.contract.labels:
            raise ContractError("labels: a detector's classes need their names")
        if len(self.contract.labels) > 1 and not parts & {"class", "class-number"}:
            raise ContractError(
                f"outputs: there are {len(self.contract.labels)} labels, but no part class or class-number{where}"
            )

    def __call__(self, outputs: Mapping[str, NDArray[Any]], threshold: float) -> _Candidates:
        """What reaches the threshold."""
        strength, least = self._strength(outputs), self._least(threshold)
        if strength.dtype.kind == "f":
            if len(strength) and not math.isfinite(strength.max()):
                raise not_finite("scores are not finite numbers")
            rows = np.flatnonzero(strength >= np.float32(least))
        else:
            rows = np.flatnonzero(_reaches(strength, least))
        return self._candidates(outputs, rows, threshold)

    def best(self, outputs: Mapping[str, NDArray[Any]]) -> Reading:
        """The best candidate alone, without a box; a score of 0 where there is none at all."""
        strength = self._strength(outputs)
        labels = len(self.contract.labels)
        if not len(strength):
            return Reading([0.0], np.zeros((1, labels), np.float32), None)
        scores, _, classes = self._scores(outputs, np.array([int(strength.argmax())]))
        return Reading(scores.tolist(), classes, None)

    def _strength(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Of each location a raw number that grows with its score, or with what bounds that."""
        values = self.parts[self.primary](outputs)
        if self.primary != "class":
            strength = values[:, 0]
        else:
            foreground, background = self._split(values)
            strength = foreground.max(axis=1) if foreground.shape[1] > 1 else foreground[:, 0]
            if self.spec.scores.activation == "softmax" and background is not None:
                wide = np.float32 if strength.dtype.kind == "f" else np.int32
                strength = np.subtract(strength, background, dtype=wide)
        if "count" in self.parts:
            strength = strength[: max(0, int(self.parts["count"](outputs)[0, 0]))]
        if self.parts[self.primary].quantization.scale is None and strength.dtype.kind != "f":
            return strength.astype(np.float32)
        return strength

    def _split(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The columns of classes, and that of the background."""
        background = self.spec.scores.background
        if background == "first":
            return values[:, 1:], values[:, 0]
        if background == "last":
            return values[:, :-1], values[:, -1]
        return values, None

    def _least(self, threshold: float) -> float:
        """From which raw strength on a score can reach the threshold."""
        scores, scale = self.spec.scores, self.parts[self.primary].quantization
        softmax = self.primary == "class" and scores.activation == "softmax"
        if softmax and scores.background == "none":
            return -math.inf  # it depends on the others
        power = scores.powers[1 if self.primary == "class" else 0]
        wanted = math.pow(threshold, 1 / power) * scores.scale
        activation = scores.activation if self.primary == "class" else scores.objectness
        if self.primary == "score":
            activation = scores.activation
        if activation != "none":
            # A softmax of a class and the background alone is the sigmoid of their difference; others make it less.
            wanted = _logit(wanted)
        if scale.scale is None:
            return wanted - 1e-6 * max(1.0, abs(wanted)) if math.isfinite(wanted) else wanted
        return wanted / scale.scale + (0 if softmax else scale.zero_point) - _SLACK

    def _candidates(
        self, outputs: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], threshold: float
    ) -> _Candidates:
        scores, numbers, classes = self._scores(outputs, rows)
        kept = scores.astype(np.float64) >= threshold
        if not kept.all():
            rows, scores, numbers, classes = rows[kept], scores[kept], numbers[kept], classes[kept]
        places = rows + self.start
        if "box" in self.parts:
            part = self.parts["box"]
            raw = part(outputs)[rows]
            corners = self.decode(dequantized(raw, part.quantization), places)
        else:
            corners = self.decode(np.zeros((len(rows), 0), np.float32), places)
        return _Candidates(scores, numbers, classes, corners, places)

    def _scores(
        self, outputs: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]
    ) -> tuple[Array, NDArray[np.int64], Array]:
        """Scores, class numbers and class probabilities of some locations."""
        spec, labels = self.spec.scores, len(self.contract.labels)
        if "score" in self.parts:
            scores = self._real("score", outputs, rows)[:, 0]
            scores = np.asarray(activate(scores, spec.activation) / np.float32(spec.scale), np.float32)
            if len(scores) and scores.max() > _SURE:
                raise _exchanged(f"a score of {float(scores.max()):.3g}")
            return (scores, *self._numbered(outputs, rows, scores))
        sureness = np.ones(len(rows), np.float32)
        if "objectness" in self.parts:
            objectness = self._real("objectness", outputs, rows)[:, 0]
            sureness = _power(activate(objectness, spec.objectness) / np.float32(spec.scale), spec.powers[0])
        if "class" not in self.parts:
            classes = np.ones((len(rows), labels), np.float32)
            return sureness, np.zeros(len(rows), np.int64), classes
        values = activate(self._real("class", outputs, rows), spec.activation)
        classes = np.asarray(self._split(values)[0] / np.float32(spec.scale), np.float32)
        numbers = classes.argmax(axis=1)
        best = classes[np.arange(len(rows)), numbers]
        return sureness * _power(best, spec.powers[1]), numbers, classes

    def _numbered(
        self, outputs: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], scores: Array
    ) -> tuple[NDArray[np.int64], Array]:
        """The classes where the model answers their number."""
        labels = len(self.contract.labels)
        classes = np.zeros((len(rows), labels), np.float32)
        if "class-number" not in self.parts:
            classes[:] = scores[:, np.newaxis]
            return np.zeros(len(rows), np.int64), classes
        answered = self._real("class-number", outputs, rows)[:, 0]
        if not np.isfinite(answered).all():
            raise not_finite("class numbers are not finite numbers")
        off = np.abs(answered - np.rint(answered))
        if len(off) and off.max() > WHOLE:
            raise _exchanged(f"a class number of {float(answered[off.argmax()]):.3g}")
        numbers = np.rint(answered).astype(np.int64) - self.spec.scores.first_class
        known = np.flatnonzero((numbers >= 0) & (numbers < labels))
        classes[known, numbers[known]] = scores[known]
        return numbers, classes

    def _real(self, name: str, outputs: Mapping[str, NDArray[Any]], rows: NDArray[np.int64]) -> Array:
        part = self.parts[name]
        return dequantized(part(outputs)[rows], part.quantization)


def _at(level: int | None) -> str:
    return "" if level is None else f" at the level {level}"


def _reaches(strength: NDArray[Any], least: float) -> NDArray[np.bool_]:
    """Which integers are at least `least`; a bound beyond their type is none, or all."""
    limits = np.iinfo(strength.dtype)
    if least > limits.max:
        return np.zeros(len(strength), np.bool_)
    bound = limits.min if least <= limits.min else math.ceil(least)
    reaching: NDArray[np.bool_] = strength >= strength.dtype.type(bound)
    return reaching


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def _power(values: Array, power: float) -> Array:
    return values if power == 1 else np.power(np.maximum(values, 0), np.float32(power))


def _exchanged(what: str) -> EngineError:
    return EngineError(
        f"the model answered {what}: the contract may have exchanged its outputs, or have another scale for scores",
        hint="hold it against labelled images with `edgeloc contract check`",
    )
