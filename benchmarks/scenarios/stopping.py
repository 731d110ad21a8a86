"""When a measurement is long enough: its least duration and count, and how well its 90th percentile is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

__all__ = [
    "CONFIDENCE",
    "LEAST_SAMPLES",
    "SCENARIOS",
    "TOLERANCE",
    "Scenario",
    "ScenarioName",
    "StoppedBy",
    "Stopping",
    "p90_bound",
    "reached",
]

ScenarioName = Literal["single-stream", "stream", "sustained", "cold-start"]
SCENARIOS: tuple[ScenarioName, ...] = get_args(ScenarioName)
StoppedBy = Literal["known", "time", "count", "interrupted"]

CONFIDENCE = 0.99
# The 90th percentile counts as known once its upper bound is at most this share above it.
TOLERANCE = 0.05
# Fewer samples have no such bound.
LEAST_SAMPLES = 64
_QUANTILE = 0.9
# The bound is looked at again once there are so many times the samples.
_MORE = 1.1


@dataclass(frozen=True, slots=True)
class Scenario:
    """What was asked of a measurement, and what was reached; one sample is a frame, or of a cold start a process.

    Parameters:
        name: single-stream (one frame after the other), stream (a camera at a rate), sustained (minutes of the first)
            or cold-start (fresh processes).
        least_samples: how many samples were asked for at least.
        least_s: for how many seconds at least.
        most_s: for how many at most; None: no end was set.
        samples: how many there are, without the warm-up.
        seconds: from the begin of the first of them to the end of the last.
        stopped_by: known (least_samples, least_s, and the 90th percentile known well enough), time (most_s), count (the
            count that was asked for) or interrupted.
        p90_ms: the 90th percentile of the total.
        p90_bound_ms: the true one is not above this, with `confidence`; None of fewer than LEAST_SAMPLES.
        p90_known: whether the bound is at most `tolerance` above p90_ms.
        confidence: of the bound, 0 to 1.
        tolerance: as a share of p90_ms.
        fps: of a stream, the camera's frames a second; None where it does not say.
        dropped: of a stream, how many frames had no result, because a newer one was there.
        seed: of whatever was drawn.
    """

    name: ScenarioName
    least_samples: int
    least_s: float
    most_s: float | None
    samples: int = 0
    seconds: float = 0.0
    stopped_by: StoppedBy = "interrupted"
    p90_ms: float | None = None
    p90_bound_ms: float | None = None
    p90_known: bool = False
    confidence: float = CONFIDENCE
    tolerance: float = TOLERANCE
    fps: float | None = None
    dropped: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in SCENARIOS:
            raise ValueError(f"name is {self.name!r}: it must be one of {', '.join(SCENARIOS)}")


class Stopping:
    """Ends a measurement once it is long enough.

    Parameters:
        asked: what is asked of it.
        count: how many samples to take, neither more nor fewer; None: what `asked` says.
        warmup: how many come before them, which do not count.
        alone: whether it decides; else it ends when `end` is called.
        patience: how many samples it takes all the same when the longest time has passed.
    """

    def __init__(
        self, asked: Scenario, count: int | None, warmup: int, *, alone: bool = True, patience: int = 1
    ) -> None:
        self.asked, self.warmup, self._alone, self._patience = asked, warmup, alone, patience
        self.stopped_by: StoppedBy = "interrupted"
        self._count = count
        self._look_at = 0.0

    def turns(self, began: Sequence[float], totals: Sequence[float]) -> Iterator[int]:
        """The number of each sample that is to be taken, those of the warm-up included.

        `began` says when each sample so far began, in seconds, `totals` how long it took, in ms; those of the warm-up
        come first. Time is theirs, as in the result: from the begin of the first that counts to the end of the last.
        """
        for number in itertools.count():
            counted = len(totals) - self.warmup
            if counted >= 0:
                seconds = began[-1] + totals[-1] / 1000 - began[self.warmup] if counted else 0.0
                if self._is_enough(counted, seconds, totals):
                    return
            yield number

    def end(self, totals: Sequence[float]) -> None:
        """There are enough samples, as another has decided."""
        asked, counted = self.asked, totals[self.warmup :]
        known = reached(asked, counted, 0.0, "known").p90_known
        self.stopped_by = "count" if self._count is not None else "known" if known else "time"

    def _is_enough(self, samples: int, seconds: float, totals: Sequence[float]) -> bool:
        asked = self.asked
        if not self._alone:
            return self.stopped_by != "interrupted"
        if self._count is not None and samples >= self._count:
            self.stopped_by = "count"
        elif asked.most_s is not None and samples >= self._patience and seconds >= asked.most_s:
            self.stopped_by = "time"
        elif self._count is None and samples >= max(asked.least_samples, self._look_at) and seconds >= asked.least_s:
            self._look_at = samples * _MORE
            if reached(asked, totals[self.warmup :], seconds, "known").p90_known:
                self.stopped_by = "known"
        return self.stopped_by != "interrupted"


def reached(asked: Scenario, totals: Sequence[float], seconds: float, stopped_by: StoppedBy) -> Scenario:
    """What was asked, with what was reached by the samples of the total, in ms."""
    from edgeloc.evaluation.statistics import summarize

    if not totals:
        return replace(asked, stopped_by=stopped_by)
    p90, bound = summarize(totals).p90_ms, p90_bound(totals, asked.confidence)
    return replace(
        asked,
        samples=len(totals),
        seconds=round(seconds, 4),
        stopped_by=stopped_by,
        p90_ms=p90,
        p90_bound_ms=bound,
        p90_known=bound is not None and bound <= (1 + asked.tolerance) * p90,
    )


def p90_bound(samples: Sequence[float], confidence: float = CONFIDENCE) -> float | None:
    """A value that the true 90th percentile is not above, with `confidence`; None of too few samples.

    It is the t-th largest sample, for the largest t with P(Binomial(n, 0.1) <= t) <= 1 - confidence; that holds
    whatever the distribution is, as long as samples are independent. It is the "early stopping estimate" of MLPerf's
    LoadGen: https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc (appendix Early Stopping).
    """
    above = _most_above(len(samples), 1 - confidence)
    return None if above < 1 else sorted(samples)[len(samples) - above]


def _most_above(count: int, doubt: float) -> int:
    """The largest t with P(Binomial(count, 0.1) <= t) <= doubt; -1 where there is none."""
    above = 1 - _QUANTILE
    logs = (
        math.lgamma(count + 1) - math.lgamma(t + 1) - math.lgamma(count - t + 1)
        + t * math.log(above) + (count - t) * math.log(_QUANTILE)
        for t in range(count + 1)
    )  # fmt: skip
    total, most = 0.0, -1
    for t, log in enumerate(logs):
        total += math.exp(log)
        if total > doubt:
            break
        most = t
    return most
