"""When a measurement is long enough: its least duration and count, and how well its 90th percentile is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["CONFIDENCE", "LEAST_SAMPLES", "TOLERANCE", "Scenario", "ScenarioName", "StoppedBy", "p90_bound"]

ScenarioName = Literal["single-stream", "stream", "sustained", "cold-start"]
StoppedBy = Literal["known", "time", "count", "interrupted"]

CONFIDENCE = 0.99
# The 90th percentile counts as known once its upper bound is at most this share above it.
TOLERANCE = 0.05
# Fewer samples have no such bound.
LEAST_SAMPLES = 64
_QUANTILE = 0.9


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
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in get_args(ScenarioName):
            raise ValueError(f"name is {self.name!r}: it must be one of {', '.join(get_args(ScenarioName))}")


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
