"""Reads what a model answers that has selected its objects itself, such as one with TFLite_Detection_PostProcess."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from edgeloc.decode.numbers import ORDER, REAL, WHOLE
from edgeloc.model.contract import Contract

__all__ = ["Finished", "finished_reader"]

_Outputs = Mapping[str, NDArray[Any]]


class Finished(NamedTuple):
    """An object as the model answers it: its score, its class's place among the labels, its corners in input pixels."""

    score: float
    number: int
    corners: list[float]


def finished_reader(contract: Contract, parts: Mapping[str, Any]) -> Callable[[_Outputs], list[Finished] | None] | None:
    """A reader of the few objects that such a model answers, best first, in plain Python; None for another model.

    NumPy takes microseconds a call, the longer the more the network has used the caches, however few numbers there are.
    The reader answers None where no score reaches the threshold, and where a number is none that it knows: then the
    detector's own reading finds out what it is.

    Parameters:
        contract: a detector's.
        parts: by name, what calls a part's numbers (rows, columns) out of the outputs, with its `output`, its
            `quantization` and how many `channels` that output has.
    """
    spec = contract.detector
    assert spec is not None
    scores, form = spec.scores, spec.box.form
    plain = scores.activation == "none" and scores.scale == 1 and spec.selection.nms == "none"
    real = all(part.quantization == REAL for part in parts.values())
    if form not in ("xyxy", "yxyx") or not plain or not real or not {"score", "class-number"} <= set(parts):
        return None
    fraction = spec.box.units == "fraction"
    across, down = (contract.input.width, contract.input.height) if fraction else (1, 1)
    edges, units = ORDER[form], (across, down, across, down)
    threshold, labels = contract.thresholds.presence, len(contract.labels)
    most = min(spec.selection.candidates, spec.selection.objects)

    strength, named = _column(parts["score"]), _column(parts["class-number"])
    count = _column(parts["count"]) if "count" in parts else None

    def read(outputs: _Outputs) -> list[Finished] | None:
        strengths = strength(outputs)
        if count is not None:
            strengths = strengths[: max(0, int(count(outputs)[0]))]
        if not math.isfinite(sum(strengths)) or max(strengths, default=2) > 1:
            return None
        rows = [row for row, score in enumerate(strengths) if score >= threshold]
        rows.sort(key=lambda row: -strengths[row])
        del rows[most:]
        answered, boxes = named(outputs), parts["box"](outputs).tolist()
        found = []
        for row in rows:
            number = answered[row] - scores.first_class
            if not -0.5 < number < labels - 0.5 or abs(number - round(number)) > WHOLE:
                return None
            corners = [boxes[row][edge] * unit for edge, unit in zip(edges, units, strict=True)]
            found.append(Finished(strengths[row], round(number), corners))
        return found or None

    return read


def _column(part: Any) -> Callable[[_Outputs], list[float]]:
    """What calls a part of one number for each object as a list."""
    if part.channels == 1:
        return lambda outputs: outputs[part.output.tensor].ravel().tolist()
    return lambda outputs: part(outputs)[:, 0].tolist()
