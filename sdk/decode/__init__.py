"""Decoding: from a model's outputs to the objects of the frame, in its pixels, by the contract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.decode.heads import head_reader
from edgeloc.decode.numbers import REAL, Quantization, dequantized, not_finite
from edgeloc.errors import EdgelocError, EngineError
from edgeloc.model.contract import Contract
from edgeloc.preprocess import Placement
from edgeloc.types import Box, Detection, Result

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
        self._read = head_reader(contract, quantizations)
        # A detector's reader takes them as they are, since it looks at few of them.
        names = [output.tensor for output in contract.outputs] if contract.detector is None else []
        self._real = [(name, (quantizations or {}).get(name, REAL)) for name in names]
        self._labels = contract.labels
        self._presence, self._label = contract.thresholds.presence, contract.thresholds.label
        pixels = contract.box.units == "pixels" or contract.detector is not None
        self._unit_x, self._unit_y = (1, 1) if pixels else (contract.input.width, contract.input.height)
        self._reported = False
        self._nothing = Detection(None, 0.0, None, np.zeros(len(contract.labels), np.float32))

    def __call__(
        self, outputs: Mapping[str, NDArray[Any]], placement: Placement, frame_size: tuple[int, int]
    ) -> Result:
        """The result of one frame.

        `outputs` are the model's outputs by tensor name, as the engine answers them.
        `placement` is where the frame lies in the model's input.
        `frame_size` is the frame's (width, height) in pixels.

        Raises EngineError when a presence, a class score or the box of a present object is not a finite number, or when
        outputs whose sizes are open until the model runs turn out not to fit the contract.
        """
        try:
            return self._result(outputs, placement, frame_size)
        except EdgelocError:
            raise
        except (ValueError, IndexError, OverflowError) as error:
            raise _misfit(outputs) from error

    def _result(self, outputs: Mapping[str, NDArray[Any]], placement: Placement, frame_size: tuple[int, int]) -> Result:
        if self._real:
            outputs = {name: dequantized(outputs[name], quantization) for name, quantization in self._real}
        with np.errstate(all="ignore"):  # numbers that are not finite are found below
            presence, scores, corners, beyond = self._read(outputs)
        boxes = None if corners is None else corners.tolist()
        found, rejected = [], self._nothing
        for i, score in enumerate(presence):
            if not math.isfinite(score):
                raise not_finite("presence is not a finite number")
            label = self._number(beyond[i], score) if i in beyond else self._best_label(scores[i])
            if score >= self._presence:
                box = None if boxes is None else self._box(boxes[i], placement, frame_size)
                found.append(Detection(box, score, label, scores[i]))
            elif rejected is self._nothing or score > rejected.score:
                rejected = Detection(None, score, None, scores[i])
        if not found:
            return Result((), rejected)
        if len(found) > 1:
            found.sort(key=_score, reverse=True)
        return Result(tuple(found))

    def _best_label(self, scores: NDArray[np.float32]) -> str | None:
        if not self._labels:
            return None
        best = int(scores.argmax())
        score = float(scores[best])
        if not math.isfinite(score):
            raise not_finite("class scores is not a finite number")
        return self._labels[best] if score >= self._label else None

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
        box = Box(x1 * self._unit_x, y1 * self._unit_y, x2 * self._unit_x, y2 * self._unit_y)
        x1, y1, x2, y2 = placement.to_frame(box)
        width, height = float(frame_size[0]), float(frame_size[1])
        (left, right), (top, bottom) = _span(x1, x2, width), _span(y1, y2, height)
        return Box(left, top, right, bottom)


def _span(first: float, last: float, limit: float) -> tuple[float, float]:
    """Two edges in order, within 0 and `limit`; independent edges can come out inverted."""
    low, high = (first, last) if first <= last else (last, first)
    return min(max(low, 0.0), limit), min(max(high, 0.0), limit)


def _misfit(outputs: Mapping[str, NDArray[Any]]) -> EngineError:
    shapes = ", ".join(f"{name!r} {values.shape}" for name, values in outputs.items())
    return EngineError(
        f"the model's outputs are {shapes}, which do not fit its contract: the file or the contract is wrong",
        hint="look into the file with `edgeloc inspect`",
    )
