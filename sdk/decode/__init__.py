"""Turns a model's dequantized outputs into a Result in the frame's pixels, as the contract says; runs no model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeloc.decode.heads import head_reader
from edgeloc.errors import EngineError
from edgeloc.model.contract import Contract
from edgeloc.preprocess import Placement
from edgeloc.types import Box, Result

__all__ = ["Decoder"]


class Decoder:
    """Decodes outputs of one contract.

    Raises ContractError when the contract's outputs, labels and box encoding contradict each other.
    """

    def __init__(self, contract: Contract) -> None:
        self._read = head_reader(contract)
        self._labels = contract.labels
        self._presence, self._label = contract.thresholds.presence, contract.thresholds.label
        pixels = contract.box.units == "pixels" and contract.output("ssd-boxes") is None
        self._unit_x, self._unit_y = (1, 1) if pixels else (contract.input.width, contract.input.height)
        self._no_scores = np.zeros(len(contract.labels), np.float32)

    def __call__(
        self, outputs: Mapping[str, NDArray[np.float32]], placement: Placement, frame_size: tuple[int, int]
    ) -> Result:
        """The result for dequantized float32 outputs by tensor name; `frame_size` is (width, height) in pixels.

        The result is the most probable object; a model made for more gives the further ones that
        are present as `others`. Raises EngineError when an output that matters is no finite number.
        """
        with np.errstate(all="ignore"):  # numbers that are not finite are found below
            presence, scores, corners = self._read(outputs)
        boxes = None if corners is None else corners.tolist()
        results = [
            self._result(presence[i], scores[i], None if boxes is None else boxes[i], placement, frame_size)
            for i in range(len(presence))
        ]
        if len(results) == 1:
            return results[0]
        if not results:
            return Result(0.0, False, None, None, self._no_scores)
        return _joined(results)

    def _result(
        self,
        presence: float,
        scores: NDArray[np.float32],
        corners: list[float] | None,
        placement: Placement,
        frame_size: tuple[int, int],
    ) -> Result:
        if not math.isfinite(presence):
            raise _not_finite("presence")
        present = presence >= self._presence
        label = self._best_label(scores)
        if not present:
            return Result(presence, False, None, None, scores)
        return Result(presence, True, self._box(corners, placement, frame_size), label, scores)

    def _best_label(self, scores: NDArray[np.float32]) -> str | None:
        if not self._labels:
            return None
        best = int(scores.argmax())
        score = float(scores[best])
        if not math.isfinite(score):
            raise _not_finite("class scores")
        return self._labels[best] if score >= self._label else None

    def _box(self, corners: list[float] | None, placement: Placement, frame_size: tuple[int, int]) -> Box | None:
        """Corners of the contract's units as a box in frame pixels: edges in order, clipped to the frame."""
        if corners is None:
            return None
        x1, y1, x2, y2 = corners
        if not math.isfinite(x1 + y1 + x2 + y2):
            raise _not_finite("box")
        box = Box(x1 * self._unit_x, y1 * self._unit_y, x2 * self._unit_x, y2 * self._unit_y)
        x1, y1, x2, y2 = placement.to_frame(box)
        width, height = float(frame_size[0]), float(frame_size[1])
        (left, right), (top, bottom) = _span(x1, x2, width), _span(y1, y2, height)
        return Box(left, top, right, bottom)


def _span(first: float, last: float, limit: float) -> tuple[float, float]:
    """Two edges in order, within 0 and `limit`; independent edges can come out inverted."""
    low, high = (first, last) if first <= last else (last, first)
    return min(max(low, 0.0), limit), min(max(high, 0.0), limit)


def _joined(results: list[Result]) -> Result:
    """The most probable object, with the others that are present behind it."""
    ordered = sorted(results, key=lambda result: -result.presence)
    return dataclasses.replace(ordered[0], others=tuple(other for other in ordered[1:] if other.present))


def _not_finite(what: str) -> EngineError:
    return EngineError(
        f"the model's {what} came out as no finite number: the file is broken, or this engine cannot run it; "
        "try another engine, and look into the file with `edgeloc inspect`"
    )
