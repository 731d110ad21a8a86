"""The threshold of presence, chosen anew on the scores of the quantized model; boxes and classes are not looked at."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeloc.benchmarks.result import Row

__all__ = ["PresenceFit", "fit_presence"]

# Scores are kept to six decimals: two that differ by less are one.
_FINEST = 1e-5
_TINY = 1e-9
_LEAST_GAIN = 0.005


@dataclass(frozen=True, slots=True)
class PresenceFit:
    """The quantized model's threshold before and after, and how often it then decides as the float model does.

    Agreement is a share, 0 to 1: the mean of that over images with an object and that over images
    without one, None where there is none of either kind. `reason` says why the threshold was kept,
    "" where it was moved.
    """

    before: float
    after: float
    agreement_before: float | None
    agreement_after: float | None
    reason: str

    @property
    def moved(self) -> bool:
        """Whether the threshold is another one than before."""
        return self.after != self.before


def fit_presence(rows: Sequence[Row], threshold_float: float, threshold_quantized: float) -> PresenceFit:
    """The threshold at which the quantized model decides most as the float model does at its own.

    Both kinds of image, with and without an object, weigh the same however many there are. The old
    threshold stays where the best gains no more than one image's worth or half a per cent, so that
    chance does not move it; among the best, the one nearest to the old is taken. Between two scores
    that the quantized model gives (steps of its integer output) all thresholds decide alike: of
    these it is the shortest decimal near the middle. It always lies between 0 and 1; where the data
    has only one kind of image, or the old threshold is 0 or 1 (presence was switched off), the old
    one stays.
    """

    def kept(reason: str, agreement: float | None = None) -> PresenceFit:
        return PresenceFit(threshold_quantized, threshold_quantized, agreement, agreement, reason)

    objects = np.array([row.kind == "object" for row in rows], bool)
    if objects.all() or not objects.any():
        missing = "without" if objects.any() else "with"
        return kept(f"the data has no image {missing} an object")
    before = np.array([row.presence_float for row in rows]) >= threshold_float
    scores = np.array([row.presence_quantized for row in rows])
    old = _agreement(before, scores, objects, threshold_quantized)
    if not 0 < threshold_quantized < 1:
        return kept(f"it is {threshold_quantized:g}, which switches presence off", old)
    gaps = _gaps(scores)
    reached = [_agreement(before, scores, objects, (low + high) / 2) for low, high in gaps]
    needed = max(_LEAST_GAIN, 0.5 / min(objects.sum(), (~objects).sum()))
    best = max(reached)
    if best <= old + needed + _TINY:
        return kept("at no other are the decisions noticeably more those of the float model", old)
    good = [gap for gap, agreement in zip(gaps, reached, strict=True) if agreement >= best - _TINY]
    chosen = _between(*min(good, key=lambda gap: _distance(gap, threshold_quantized)))
    return PresenceFit(threshold_quantized, chosen, old, _agreement(before, scores, objects, chosen), "")


def _agreement(before: NDArray[np.bool_], scores: NDArray[np.float64], objects: NDArray[np.bool_], at: float) -> float:
    same = before == (scores >= at)
    return float((same[objects].mean() + same[~objects].mean()) / 2)


def _gaps(scores: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The open intervals between neighbouring scores, with 0 and 1 as the outermost."""
    edges = np.unique(np.concatenate([[0.0, 1.0], scores]))
    return [(float(a), float(b)) for a, b in itertools.pairwise(edges) if b - a > _FINEST]


def _distance(gap: tuple[float, float], value: float) -> float:
    return max(gap[0] - value, value - gap[1], 0.0)


def _between(low: float, high: float) -> float:
    """The decimal of fewest digits inside the gap that is nearest to its middle."""
    middle = (low + high) / 2
    for digits in range(2, 7):
        value = round(middle, digits)
        if low < value < high:
            return value
    return middle
