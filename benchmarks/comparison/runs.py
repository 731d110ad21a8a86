"""How much slower, hungrier or larger one side is than the other, and how sure that is: runs of one model differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["FEWEST_SAMPLES", "RUN_TO_RUN", "Estimate", "of_samples", "of_starts", "of_values", "relative_change"]

RUN_TO_RUN = 0.015
"""How much two runs of one model on one quiet machine are taken to differ, as a standard deviation of the logarithm.

Caches, the layout of memory and clocks stay as they are for a whole run, so that no length of one run shows it
(Mytkowicz et al., Producing Wrong Data Without Doing Anything Obviously Wrong, ASPLOS 2009).
`edgeloc.benchmarks.false_alarms` measures it.
"""
FEWEST_SAMPLES = 20
_PARTS = 10
_START_PARTS = 5
# From so many times itself on an uncertainty leaves nothing of a figure.
_LOST = 100
_FEWEST_STARTS = 3
# Student's t, two-sided 95 %, by degrees of freedom from 1 on.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL95 = 1.960


@dataclass(frozen=True, slots=True)
class Estimate:
    """A positive figure of one side.

    Parameters:
        log: the mean over the runs of its logarithm.
        variance: of one run's logarithm around the next run's.
        degrees: of freedom of that variance.
        runs: how many there are.
        parts: of a single run in time, the logarithms of its parts, one after the other.
    """

    log: float
    variance: float
    degrees: int
    runs: int
    parts: tuple[float, ...] = ()

    @property
    def value(self) -> float:
        """The figure itself, the geometric mean over the runs."""
        return math.exp(self.log)


def of_samples(runs: Sequence[Sequence[float]], percent: float) -> Estimate | None:
    """The percentile of the samples, such as 90; None where a run has fewer than FEWEST_SAMPLES.

    Of several runs, the variance is that between them. Of one, it is that between its ten parts, one after the other,
    and at least RUN_TO_RUN's: samples in time are not independent, what slows a machine lasts, and the next run differs
    from this one at least as much as a part of this one from the next. (The deviation of noise that has all time
    scales is the same on each: D. W. Allan, Proc. IEEE 54 (1966) 221. Runs as the units: Kalibera & Jones, Rigorous
    Benchmarking in Reasonable Time, ISMM 2013.)
    """
    if not runs or min(map(len, runs)) < FEWEST_SAMPLES:
        return None
    values = [float(np.percentile(samples, percent)) for samples in runs]
    if min(values) <= 0:
        return None
    if len(runs) > 1:
        return _between(values)
    parts = [float(np.percentile(part, percent)) for part in np.array_split(np.asarray(runs[0]), _PARTS)]
    if min(parts) <= 0:
        return None
    logs = np.log(parts)
    variance = max(float(logs.var(ddof=1)), RUN_TO_RUN**2)
    return Estimate(math.log(values[0]), variance, _PARTS - 1, 1, tuple(map(float, logs)))


def of_starts(runs: Sequence[Sequence[float]]) -> Estimate | None:
    """The geometric mean of samples that each come from a process of its own; None where a run has fewer than three.

    The variance is made as in `of_samples`, of five parts: what slows a machine lasts for several processes, too.
    """
    if not runs or min(map(len, runs)) < _FEWEST_STARTS or min(map(min, runs)) <= 0:
        return None
    means = [float(np.log(samples).mean()) for samples in runs]
    if len(runs) > 1:
        return _between([math.exp(mean) for mean in means])
    logs = [part.mean() for part in np.array_split(np.log(runs[0]), min(_START_PARTS, len(runs[0])))]
    return Estimate(means[0], max(float(np.var(logs, ddof=1)), RUN_TO_RUN**2), len(logs) - 1, 1)


def of_values(values: Sequence[float], uncertainties: Sequence[float]) -> Estimate | None:
    """A figure with its uncertainty from each run: the truth is within that of it, 19 times of 20.

    None where a figure is not above 0, or nothing beside its uncertainty. Of several runs the variance is that between
    them, where it is larger.
    """
    if any(value <= max(0.0, spread / _LOST) for value, spread in zip(values, uncertainties, strict=True)):
        return None
    inner = max((spread / 2 / value) ** 2 for value, spread in zip(values, uncertainties, strict=True))
    if len(values) == 1:
        return Estimate(math.log(values[0]), max(inner, RUN_TO_RUN**2), len(_T95), 1)
    between = _between(values)
    return between if between.variance > inner else Estimate(between.log, inner, len(_T95), len(values))


def _between(values: Sequence[float]) -> Estimate:
    logs = np.log(values)
    return Estimate(float(logs.mean()), float(logs.var(ddof=1)), len(values) - 1, len(values))


def relative_change(before: Estimate, after: Estimate) -> tuple[float, float, float]:
    """By which share `after` is above `before`, and the ends of its 95 % interval, by Student's t on the logarithms.

    Two single runs are compared part by part, so that what both do over time, such as to become warm, cancels out; else
    it is Welch's test.
    """
    change = after.log - before.log
    if before.parts and after.parts:
        steps = np.subtract(after.parts, before.parts)
        half = _t95(len(steps) - 1) * math.sqrt(max(float(steps.var(ddof=1)), 2 * RUN_TO_RUN**2))
    else:
        half = _welch(before, after)
    return math.expm1(change), math.expm1(change - half), math.expm1(change + half)


def _welch(before: Estimate, after: Estimate) -> float:
    """Half the interval."""
    shares = before.variance / before.runs, after.variance / after.runs
    terms = sum(share**2 / side.degrees for share, side in zip(shares, (before, after), strict=True))
    return _t95(int(sum(shares) ** 2 / terms)) * math.sqrt(sum(shares)) if terms > 0 else 0.0


def _t95(degrees: int) -> float:
    return _T95[degrees - 1] if degrees <= len(_T95) else _NORMAL95
