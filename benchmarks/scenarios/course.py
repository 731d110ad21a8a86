"""A measurement over time: latencies beside temperature, clocks and load, and drift beside the cold start."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeloc.device.thermal import ThermalReader, ThermalSnapshot
from edgeloc.findings import Finding

__all__ = ["Course", "Drift", "Reading", "RecordingReader", "drift", "moved"]

# A share of the processors that others may take.
_MOST_BUSY = 0.1
# How much slower the end of a measurement may be than its begin, as a share; more than that by its whole interval is
# a drift.
_MOST_DRIFT = 0.05
_MOST_WINDOWS, _LEAST_WINDOWS, _LEAST_FRAMES = 30, 5, 20


@dataclass(frozen=True, slots=True)
class Reading:
    """The board at one moment; None is what it does not report.

    Parameters:
        t_s: seconds from the begin of the first frame that counts; before it, negative.
        celsius: the hottest sensor.
        mhz: by cluster, such as "0-3".
        throttled: what slows the board down.
    """

    t_s: float
    celsius: float | None
    mhz: dict[str, int]
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drift:
    """How the median latency of a frame changed in the course of the measurement.

    The measurement is cut into windows of equal duration. The first is the cold start, with cool silicon and whatever
    is done once; the trend is that of the others.

    Parameters:
        window_s: how long each window is.
        p50_ms: the median of each.
        p90_ms: the 90th percentile of each.
        cold_ms: the median of the first window.
        steady_ms: that of the last third.
        trend: the change from the second window to the last as a share of the steady median, by the Theil-Sen slope;
            above 0, frames became slower.
        trend_ci95: its 95 % interval.
    """

    window_s: float
    p50_ms: tuple[float, ...]
    p90_ms: tuple[float, ...]
    cold_ms: float
    steady_ms: float
    trend: float
    trend_ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Course:
    """A measurement over time, on one clock: seconds from the begin of the first frame that counts.

    Parameters:
        began_s: when each frame that counts began, in order.
        readings: the board, about once a second.
        energy_from_s: where the energy's `t_s` is 0 on this clock; None without a meter.
        others_busy: the share of all processors' time that other programs took meanwhile, 0 to 1; None: not known.
        drift: None where there are too few frames for windows.
    """

    began_s: tuple[float, ...] = ()
    readings: tuple[Reading, ...] = ()
    energy_from_s: float | None = None
    others_busy: float | None = None
    drift: Drift | None = None

    def findings(self) -> tuple[Finding, ...]:
        """`machine-busy` and `latency-drifts`, where they are."""
        found = []
        if self.others_busy is not None and self.others_busy > _MOST_BUSY:
            share = f"other programs took {100 * self.others_busy:.0f} % of the processors"
            message = f"the machine was busy while measuring ({share})"
            found.append(Finding("machine-busy", "warning", message, "stop other work and measure again"))
        drift = self.drift
        if drift is not None and drift.trend_ci95[0] > _MOST_DRIFT:
            message = f"frames became {100 * drift.trend:.0f} % slower while measuring, cold start apart"
            fix = "cool the board, or measure for longer ({scenario} sustained): the steady state counts"
            found.append(Finding("latency-drifts", "warning", message, fix))
        return tuple(found)


class RecordingReader(ThermalReader):
    """Reads a board for a ThermalSampler, and keeps each reading.

    Attributes:
        seen: the readings, in seconds of the monotonic clock.
    """

    def __init__(self, reader: ThermalReader) -> None:
        super().__init__()
        self._reader = reader
        self.seen: list[Reading] = []

    def read(self) -> ThermalSnapshot:
        """One reading."""
        read = self._reader.read()
        hottest = read.hottest
        mhz = {clock.cpus: clock.current_mhz for clock in read.clocks if clock.current_mhz is not None}
        celsius, throttled = None if hottest is None else hottest[1], read.throttled_now or ()
        self.seen.append(Reading(time.monotonic(), celsius, mhz, throttled))
        return read


def moved(reading: Reading, origin: float) -> Reading:
    """The same reading on a clock that is 0 at `origin` of its own."""
    return replace(reading, t_s=round(reading.t_s - origin, 3))


def drift(began_s: Sequence[float], totals: Sequence[float]) -> Drift | None:
    """How the frames' medians changed; None where there are too few frames for five windows of 20 each.

    `began_s` is when each frame began, in seconds, and `totals` what it took, in ms.

    The trend is Theil's and Sen's (the median of the slopes between all pairs), its interval by Kendall's statistic:
    Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968).
    """
    count = min(_MOST_WINDOWS, len(totals) // _LEAST_FRAMES)
    if count < _LEAST_WINDOWS:
        return None
    at, spent = np.asarray(began_s) - began_s[0], np.asarray(totals)
    window_s = (float(at[-1]) + spent[-1] / 1000) / count
    number = np.minimum((at / window_s).astype(int), count - 1)
    inside = [spent[number == index] for index in range(count)]
    middles = [float(np.median(part)) for part in inside if len(part)]
    if len(middles) < _LEAST_WINDOWS:
        return None
    steady = float(np.median(spent[len(spent) * 2 // 3 :]))
    trend, low, high = (slope * (len(middles) - 2) / steady for slope in _slopes(middles[1:]))
    return Drift(
        window_s=round(window_s, 4),
        p50_ms=tuple(round(middle, 4) for middle in middles),
        p90_ms=tuple(round(float(np.percentile(part, 90)), 4) for part in inside if len(part)),
        cold_ms=round(middles[0], 4),
        steady_ms=round(steady, 4),
        trend=round(trend, 5),
        trend_ci95=(round(low, 5), round(high, 5)),
    )


def _slopes(values: Sequence[float]) -> tuple[float, float, float]:
    """The median slope a step between all pairs of at least four values, and its 95 % interval.

    Sen, Estimates of the regression coefficient based on Kendall's tau, 1968.
    """
    n = len(values)
    slopes = sorted((values[j] - values[i]) / (j - i) for i in range(n) for j in range(i + 1, n))
    half = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    # The limits are the M1-th and the (M2 + 1)-th of the sorted slopes, counted from one: as many lie beyond each.
    beyond = max(0, round((len(slopes) - half) / 2) - 1)
    return float(np.median(slopes)), slopes[beyond], slopes[-1 - beyond]
