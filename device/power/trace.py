"""Energy from power readings: sampling a meter, its trace, the energy of a span of time and its uncertainty.

Between two readings the power is taken as a straight line (trapezoid rule on the real times); a
counter is differenced. The error is bounded by what the trace itself shows:

- *between readings*: three standard deviations of the integral as if readings were independent, with
  the variance of each from successive differences (von Neumann 1941).
  A power that changes slowly or in few steps is then well inside.
- *gaps*, intervals of more than three times the median: the power in them may have been any that
  the trace shows elsewhere.
- *the meter*: one step of its resolution, its offset and its gain error, where these are known.

A peak between all readings is in no bound.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import DataError, DeviceError, EdgelocError, first_line

if TYPE_CHECKING:
    from edgeloc.device.power.base import PowerMeter, PowerSample

__all__ = ["EnergyEstimate", "PowerSampler", "PowerTrace", "net_energy", "unwrap"]

_SIGMAS = 3.0
_GAP = 3.0  # times the median interval
# RAPL counters are brought up to date about every millisecond.
_COUNTER_LAG_S = 0.001
# Up to so many times the highest power seen, one more wrap of a counter in a gap is thought possible.
_ONCE_MORE = 1.5
Series = NDArray[np.float64]
_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class EnergyEstimate:
    """Energy over a span of time, and the parts of its uncertainty.

    Parameters:
        joules: the energy, J.
        seconds: the span.
        samples: how many readings fell into it.
        longest_gap_s: the longest time between two of them.
        between_j: how far off it may be by the power between readings.
        resolution_j: by the meter's steps.
        offset_j: by the meter's offset.
        gain_error: the meter's, as a fraction; None: not stated.
    """

    joules: float
    seconds: float
    samples: int
    longest_gap_s: float
    between_j: float
    resolution_j: float
    offset_j: float
    gain_error: float | None

    @property
    def mean_w(self) -> float:
        """Mean power, W."""
        return self.joules / self.seconds

    @property
    def uncertainty_j(self) -> float:
        """The true energy is within this of `joules`, J; without the gain error where the meter states none."""
        return self.between_j + self.resolution_j + self.offset_j + (self.gain_error or 0) * abs(self.joules)


@dataclass(frozen=True)
class PowerTrace:
    """Readings in order of time.

    Parameters:
        t: s, float64 (n,), growing.
        watts: W, float64 (n,); None of a counter.
        joules: of a counter, J, float64 (n,), without its wraps; else None.
        resolution_w: the meter's, see `PowerMeter`.
        resolution_j: likewise.
        offset_w: likewise.
        gain_error: likewise.
        counter_range_j: the smallest range of the counters that were added up, J; 0 without one.
    """

    t: Series
    watts: Series | None = None
    joules: Series | None = None
    resolution_w: float = 0.0
    resolution_j: float = 0.0
    offset_w: float = 0.0
    gain_error: float | None = None
    counter_range_j: float = 0.0

    def __post_init__(self) -> None:
        values = self.watts if self.watts is not None else self.joules
        if values is None or len(values) != len(self.t) or (self.watts is None) == (self.joules is None):
            raise DataError("a power trace needs either watts or joules, one for each time")
        if len(self.t) < 2 or not (np.diff(self.t) > 0).all():
            raise DataError("a power trace needs at least two readings, and times that grow")

    @classmethod
    def from_samples(cls, samples: Sequence[PowerSample], meter: PowerMeter) -> PowerTrace:
        """The total of `meter`'s rails over `samples`; DataError for fewer than two."""
        t = np.array([sample.t for sample in samples])
        known: dict[str, Any] = {
            name: getattr(meter, name) for name in ("resolution_w", "resolution_j", "offset_w", "gain_error")
        }
        if not (samples and samples[0].joules):
            watts = np.array([sum(sample.watts[rail] for rail in meter.total) for sample in samples])
            return cls(t, watts=watts, **known)
        ranges = meter.counter_range_j
        joules = sum(unwrap([sample.joules[rail] for sample in samples], ranges[rail]) for rail in meter.total)
        return cls(t, joules=np.asarray(joules), counter_range_j=min(ranges[rail] for rail in meter.total), **known)

    def energy(self, start: float, end: float) -> EnergyEstimate:
        """Energy from `start` to `end`, s of the trace's clock; DataError outside of the trace."""
        if not self.t[0] <= start < end <= self.t[-1]:
            covered = f"{self.t[0]:.3f} to {self.t[-1]:.3f} s"
            raise DataError(f"the power trace covers {covered}, not {start:.3f} to {end:.3f} s")
        first = int(np.searchsorted(self.t, start, "right")) - 1
        last = int(np.searchsorted(self.t, end, "left"))
        overlap = np.minimum(self.t[first + 1 : last + 1], end) - np.maximum(self.t[first:last], start)
        if self.watts is not None:
            joules, between = self._of_power(start, end, first, last, overlap)
            resolution = self.resolution_w * (end - start)
        else:
            joules, between = self._of_counter(start, end, first, last)
            resolution = 2 * self.resolution_j
        return EnergyEstimate(
            joules=joules,
            seconds=end - start,
            samples=int(((self.t >= start) & (self.t <= end)).sum()),
            longest_gap_s=float(overlap.max()),
            between_j=between,
            resolution_j=resolution,
            offset_j=self.offset_w * (end - start),
            gain_error=self.gain_error,
        )

    def _of_power(self, start: float, end: float, first: int, last: int, overlap: Series) -> tuple[float, float]:
        """Integral, and what may hide between the readings `first` to `last` around the span."""
        assert self.watts is not None
        inner = self.t[(self.t > start) & (self.t < end)]
        times = np.concatenate([[start], inner, [end]])
        powers = np.interp(times, self.t, self.watts)
        pieces = np.diff(times) * (powers[1:] + powers[:-1]) / 2
        whole, change = np.diff(self.t[first : last + 1]), np.diff(self.watts[first : last + 1])
        gap = whole > _GAP * np.median(np.diff(self.t))
        random = _SIGMAS * math.sqrt(float(((whole * change)[~gap] ** 2).sum()) / 2)
        means = pieces / overlap
        hidden = overlap * np.maximum(self.watts.max() - means, means - self.watts.min())
        return float(pieces.sum()), random + float(hidden[gap].sum())

    def _of_counter(self, start: float, end: float, first: int, last: int) -> tuple[float, float]:
        """Difference, and the uncertainty at its two ends and where the counter may have wrapped unseen."""
        assert self.joules is not None
        at = np.interp([start, end], self.t, self.joules)
        steps = np.diff(self.t)
        powers = np.diff(self.joules) / steps
        gap = steps > _GAP * np.median(steps)
        spread, peak = float(powers.max() - powers.min()), float(powers[~gap].max())
        ends = sum(steps[i] * spread for i, edge in ((first, start), (last - 1, end)) if edge not in self.t)
        once_more = np.diff(self.joules)[first:last] + self.counter_range_j
        possible = bool(self.counter_range_j) and once_more <= _ONCE_MORE * peak * steps[first:last]
        unseen = self.counter_range_j * float(np.sum(possible))
        return float(at[1] - at[0]), ends + 2 * _COUNTER_LAG_S * peak + unseen


def unwrap(readings: Sequence[float], counter_range: float) -> Series:
    """A counter's readings from 0 on, with `counter_range` added wherever it started again; same unit as given."""
    steps = np.diff(np.asarray(readings, np.float64))
    steps[steps < 0] += counter_range
    return np.concatenate([[0.0], np.cumsum(steps)])


def net_energy(run: EnergyEstimate, idle: Mapping[str, EnergyEstimate]) -> tuple[float, float]:
    """Energy above idle, J, and its uncertainty, J.

    A constant offset of the meter drops out; the difference between the idle measurements counts in full.

    Parameters:
        run: the work.
        idle: idle measurements by name; idle power is their mean.
    """
    seconds = run.seconds
    powers = [part.mean_w for part in idle.values()]
    joules = run.joules - seconds * sum(powers) / len(powers)
    of_idle = [seconds * part.between_j / part.seconds / len(powers) for part in idle.values()]
    steps = run.resolution_j + seconds * max(part.resolution_j / part.seconds for part in idle.values())
    drift = seconds * (max(powers) - min(powers)) / 2
    gain = (run.gain_error or 0) * abs(joules)
    return joules, math.hypot(run.between_j, *of_idle) + steps + drift + gain


class PowerSampler:
    """Reads an open meter in the background: `start()`, work, `stop()`, `trace()`; or use it in a `with`.

    The time between readings is drawn from 1 to 2 times the meter's own interval, so that a rhythm in the work (its
    frames) does not fall into step with the readings. A meter that fails ends the sampling: `error` holds the reason,
    and the readings until then stay.

    Parameters:
        meter: open.
        seed: of the times between readings.
    """

    def __init__(self, meter: PowerMeter, seed: int = 0) -> None:
        self.meter = meter
        self.samples: list[PowerSample] = []
        self.error: EdgelocError | None = None
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._first = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, and wait for the first reading; DeviceError when none comes."""
        self._thread = threading.Thread(target=self._run, name="edgeloc-power", daemon=True)
        self._thread.start()
        if not self._first.wait(_ANSWER_S):
            self._stop.set()
            raise _silent(self.meter)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        interval = 1 / self.meter.rate_hz
        while True:
            began = time.monotonic()
            try:
                self.samples.append(self.meter.read())
            except EdgelocError as error:
                self.error = error
            # Whatever a driver raises ends as a sentence in the result, not as a dead thread.
            except Exception as error:
                self.error = DeviceError(f"power meter {self.meter.name} failed: {first_line(error)}")
            self._first.set()
            if self.error is not None or self._stop.is_set():
                return
            if not self.meter.paced:
                self._stop.wait(max(0.0, began + interval * self._random.uniform(1, 2) - time.monotonic()))

    def stop(self) -> None:
        """End after one more reading; a meter that no longer answers is left behind, with `error` set."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_ANSWER_S)
            if self._thread.is_alive() and self.error is None:
                self.error = _silent(self.meter)
            self._thread = None

    def trace(self) -> PowerTrace:
        """The total over the readings so far; DataError for fewer than two."""
        return PowerTrace.from_samples(list(self.samples), self.meter)

    def __enter__(self) -> PowerSampler:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _silent(meter: PowerMeter) -> DeviceError:
    hint = "check its cable, then start again"
    return DeviceError(f"power meter {meter.name} did not answer for {_ANSWER_S:g} s", hint=hint)
