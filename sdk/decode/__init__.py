"""Decoding: from a model's outputs to the objects of the frame, in its pixels, by the contract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeloc.decode.heads import LocalizerReader, head_reader
from edgeloc.decode.numbers import REAL, Quantization, not_finite
from edgeloc.errors import EdgelocError, EngineError
from edgeloc.model.contract import Contract
from edgeloc.preprocess import Placement
from edgeloc.types import Box, Detection, Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeloc.decode.finished import Finished

__all__ = ["Decoder"]

_score = attrgetter("score")


class Decoder:
    """Decodes the outputs of models of one contract.

    Parameters:
        contract: the model's.
        quantizations: what the integers of its outputs stand for, by tensor; without, outputs are real numbers.

    Raises ContractError when the contract's outputs, labels and box encoding contradict each other.
    """

    def __init__(self, contract: Contract, quantizations: Mapping[str, Quantization] | None = None) -> None:
        given = quantizations or {}
        reader = head_reader(contract, given)
        self._reader = reader
        self._read = self._localized if isinstance(reader, LocalizerReader) else self._detected
        self._classes = reader.classes if isinstance(reader, LocalizerReader) else None
        self._finished = None if isinstance(reader, LocalizerReader) else reader.finished
        self._objects, self._labels = contract.box.objects, contract.labels
        self._presence, self._label = contract.thresholds.presence, contract.thresholds.label
        pixels = contract.box.units == "pixels" or contract.detector is not None
        self._unit_x, self._unit_y = (1, 1) if pixels else (contract.input.width, contract.input.height)
        # A localizer's integers need no care, which takes NumPy longer than to decode them.
        sane = all(given.get(output.tensor, REAL).sane for output in contract.outputs)
        self._careful = contract.detector is not None or not sane
        self._reported = False

    def __call__(
        self, outputs: Mapping[str, NDArray[Any]], placement: Placement, frame_size: tuple[int, int]
    ) -> Result:
        """The result of one frame.

        `outputs` are the model's outputs by tensor name, as the engine answers them.
        `placement` is where the frame lies in the model's input.
        `frame_size` is the frame's (width, height) in pixels.

        Raises EngineError when the presence or class scores of an object, or the box of a present one are not finite
        numbers, or when outputs whose sizes are open until the model runs turn out not to fit the contract.
        """
        try:
            finished = self._finished and self._finished(outputs)
            if finished:
                return self._selected(finished, placement, frame_size)
            if not self._careful:
                return self._read(outputs, placement, frame_size)
            with np.errstate(all="ignore"):  # numbers that are not finite are found where they matter
                return self._read(outputs, placement, frame_size)
        except EdgelocError:
            raise
        except (ValueError, IndexError, OverflowError) as error:
            raise _misfit(outputs) from error

    def _localized(
        self, outputs: Mapping[str, NDArray[Any]], placement: Placement, frame_size: tuple[int, int]
    ) -> Result:
        """A localizer's result: of an absent object nothing but its presence is computed."""
        reader = self._reader
        assert isinstance(reader, LocalizerReader)
        presence = [1.0] * self._objects if reader.presence is None else reader.presence(outputs)
        if self._careful and not math.isfinite(sum(presence)):
            raise not_finite("presence is not a finite number")
        # Of one object without two calls, which behind a network cost 4 us each.
        best = 0 if len(presence) == 1 else presence.index(max(presence))
        if presence[best] < self._presence:
            return Result((), self._detection(None, presence[best], outputs, best))
        corners = None if reader.corners is None else reader.corners(outputs)
        found = []
        for row, score in enumerate(presence):
            if score >= self._presence:
                box = None if corners is None else self._box(corners[row], placement, frame_size)
                found.append(self._detection(box, score, outputs, row))
        return Result(_best_first(found))

    def _detection(self, box: Box | None, score: float, outputs: Mapping[str, NDArray[Any]], row: int) -> Detection:
        """The object of one row, with its class where it is present; its scores are computed when they are read."""
        classes, present = self._classes, score >= self._presence
        if classes is None:
            return Detection(box, score)
        raw = outputs[classes.tensor]
        if not (present and self._label) and (classes.exact or classes.has_finite_scores(raw, row)):
            label = self._labels[classes.best(raw, row)] if present and self._labels else None
            return Detection.deferred(box, score, label, partial(classes.scores, raw, row))
        scores = classes.scores(raw, row)
        (label,) = self._best_labels(scores[np.newaxis])
        return Detection(box, score, label if present else None, scores)

    def _selected(self, found: list[Finished], placement: Placement, frame_size: tuple[int, int]) -> Result:
        """The result of a model that has selected its objects itself."""
        objects = []
        for score, number, corners in found:
            label = self._labels[number] if score >= self._label else None
            scores = partial(_one_hot, len(self._labels), number, score)
            objects.append(Detection.deferred(self._box(corners, placement, frame_size), score, label, scores))
        return Result(tuple(objects))

    def _detected(
        self, outputs: Mapping[str, NDArray[Any]], placement: Placement, frame_size: tuple[int, int]
    ) -> Result:
        """A detector's result: its reader gives what reaches the threshold, else the best candidate."""
        presence, scores, corners, beyond = self._reader(outputs)
        boxes = None if corners is None else corners.tolist()
        if not math.isfinite(sum(presence)):
            raise not_finite("presence is not a finite number")
        found, rejected, named = [], None, self._best_labels(scores)
        for i, score in enumerate(presence):
            label = self._number(beyond[i], score) if i in beyond else named[i]
            if score >= self._presence:
                box = None if boxes is None else self._box(boxes[i], placement, frame_size)
                found.append(Detection(box, score, label, scores[i]))
            elif rejected is None or score > rejected.score:
                rejected = Detection(None, score, None, scores[i])
        if not found:
            return Result((), rejected or Detection(None, 0.0, None, np.zeros(len(self._labels), np.float32)))
        return Result(_best_first(found))

    def _best_labels(self, scores: NDArray[np.float32]) -> list[str | None]:
        """The most probable class of each row, where it reaches the label threshold."""
        if not self._labels:
            return [None] * len(scores)
        tops = scores.max(axis=1).tolist()
        if not math.isfinite(sum(tops)):
            raise not_finite("class scores is not a finite number")
        pairs = zip(scores.argmax(axis=1).tolist(), tops, strict=True)
        return [self._labels[best] if score >= self._label else None for best, score in pairs]

    def _number(self, number: int, score: float) -> str | None:
        """The number of a class that has no label in the contract, as its label; reported once."""
        if score >= self._presence and not self._reported:
            self._reported = True
            message = f"the model answered class {number}, the contract has {len(self._labels)} labels"
            # Here, since most models load without anything to log.
            import logging

            from edgeloc.findings import Finding, report

            report(
                logging.getLogger(__name__),
                Finding("class-beyond-labels", "warning", message, "name every class number, unused ones too"),
            )
        return str(number) if score >= self._label else None

    def _box(self, corners: list[float], placement: Placement, frame_size: tuple[int, int]) -> Box:
        """Corners in the contract's units as a box in frame pixels: edges in order, clipped to the frame."""
        x1, y1, x2, y2 = corners
        if not math.isfinite(x1 + y1 + x2 + y2):
            raise not_finite("box is not a finite number")
        scale, offset = placement.scale_x * self._unit_x, placement.offset_x
        x1, x2 = x1 * scale + offset, x2 * scale + offset
        scale, offset = placement.scale_y * self._unit_y, placement.offset_y
        y1, y2 = y1 * scale + offset, y2 * scale + offset
        # Independent edges can come out inverted.
        if x1 > x2:
            x1, x2 = x2, x1
        if y1 > y2:
            y1, y2 = y2, y1
        width, height = frame_size
        return Box(
            min(max(x1, 0.0), float(width)),
            min(max(y1, 0.0), float(height)),
            min(max(x2, 0.0), float(width)),
            min(max(y2, 0.0), float(height)),
        )


def _one_hot(size: int, number: int, score: float) -> NDArray[np.float32]:
    scores = np.zeros(size, np.float32)
    scores[number] = score
    return scores


def _best_first(found: list[Detection]) -> tuple[Detection, ...]:
    if len(found) > 1:
        found.sort(key=_score, reverse=True)
    return tuple(found)


def _misfit(outputs: Mapping[str, NDArray[Any]]) -> EngineError:
    shapes = ", ".join(f"{name!r} {values.shape}" for name, values in outputs.items())
    return EngineError(
        f"the model's outputs are {shapes}, which do not fit its contract: the file or the contract is wrong",
        hint="look into the file with `edgeloc inspect`",
    )
