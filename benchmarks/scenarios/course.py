"""A measurement over time: latencies beside temperature, clocks and load, and drift told apart from the cold start."""

from __future__ import annotations

from dataclasses import dataclass

from edgeloc.findings import Finding

__all__ = ["Course", "Drift", "Reading"]

# A share of the processors that others may take.
_MOST_BUSY = 0.1
# How much slower the end of a measurement may be than its begin, as a share.
_MOST_DRIFT = 0.05


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
        if drift is not None and drift.trend_ci95[0] > 0 and drift.trend > _MOST_DRIFT:
            message = f"frames became {100 * drift.trend:.0f} % slower while measuring, cold start apart"
            fix = "cool the board, or measure for longer ({scenario} sustained): the steady state counts"
            found.append(Finding("latency-drifts", "warning", message, fix))
        return tuple(found)
