"""Energy of a benchmark: idle, frames, inferences and idle again under a power meter of `edgeloc.device.power`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeloc.device.power import EnergyEstimate, PowerMeter, PowerSampler, PowerTrace, net_energy, open_meter
from edgeloc.errors import DataError, DeviceError

__all__ = [
    "IDLE_S",
    "MIN_READINGS",
    "SETTLE_S",
    "Energy",
    "EnergyRecorder",
    "format_digits",
    "format_energy",
    "format_uncertain",
]

T = TypeVar("T")

# Idle is measured so long, after the power has had this long to come down from what was done before.
IDLE_S = 3.0
SETTLE_S = 1.0
# The uncertainty of a mean of fewer readings is not known.
MIN_READINGS = 10
_SPANS = ("idle before", "frames", "inferences", "idle after")


@dataclass(frozen=True, slots=True)
class Energy:
    """What a frame and an inference cost beyond being idle.

    Parameters:
        status: measured, replayed (the readings are a recording's, not this run's) or not measured.
        reason: why nothing was measured.
        source: the meter.
        blind_to: what of the board's power it does not measure.
        rate_hz: its readings per second.
        resolution_w: its step.
        gain_error: the share by which it may be off; None where it states none, which is then not in the uncertainties.
        per_frame_mj: over all stages of a frame.
        per_frame_uncertainty_mj: the truth is within this of it.
        per_inference_mj: over the engine's invoke alone, repeated without a pause.
        per_inference_uncertainty_mj: the truth is within this of it.
        frames: how many frames were measured.
        inferences: how many inferences were measured.
        power_w: the mean while frames were timed, idle included.
        power_uncertainty_w: the truth is within this of it.
        idle_before_w: the mean without work, before.
        idle_after_w: the mean without work, after.
        readings: how many there are.
        longest_gap_s: the longest time between two of them.
        spans_s: begin and end of what was measured, by name, on the clock of `t_s`.
        t_s: when the readings were taken, from the first one on.
        watts: the readings.
    """

    status: str = "not measured"
    reason: str | None = None
    source: str | None = None
    blind_to: str | None = None
    rate_hz: float | None = None
    resolution_w: float | None = None
    gain_error: float | None = None
    per_frame_mj: float | None = None
    per_frame_uncertainty_mj: float | None = None
    per_inference_mj: float | None = None
    per_inference_uncertainty_mj: float | None = None
    frames: int = 0
    inferences: int = 0
    power_w: float | None = None
    power_uncertainty_w: float | None = None
    idle_before_w: float | None = None
    idle_after_w: float | None = None
    readings: int = 0
    longest_gap_s: float | None = None
    spans_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    t_s: tuple[float, ...] = ()
    watts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in ("measured", "replayed", "not measured"):
            raise ValueError(f"status is {self.status!r}: it must be measured, replayed or not measured")
        if len(self.t_s) != len(self.watts):
            raise ValueError(f"t_s holds {len(self.t_s)} readings, and watts {len(self.watts)}")
        unknown = sorted(set(self.spans_s) - set(_SPANS))
        if unknown:
            raise ValueError(f"spans_s has {unknown[0]!r}: known are {', '.join(_SPANS)}")


class EnergyRecorder:
    """Reads a power meter beside the benchmark; without one, every step is passed through and nothing is recorded.

    Parameters:
        power: a meter's URI, `auto` or `none`. A meter that was named and is not there raises DeviceError or
            UsageError; one that is lost later ends in `not measured` with its reason, and the benchmark continues.
    """

    def __init__(self, power: str) -> None:
        self._meter: PowerMeter | None = None
        self._sampler: PowerSampler | None = None
        self._required = power != "auto"
        self._reason = "no power meter was asked for"
        self._spans: dict[str, tuple[float, float]] = {}
        self._counts: dict[str, Any] = {"frames": 0, "inferences": 0}
        # The readings as a result holds them, made of the first `_taken` of the sampler's.
        self.t_s: list[float] = []
        self.watts: list[float] = []
        self._taken = 0
        try:
            self._meter = None if power == "none" else open_meter(power)
        except DeviceError as error:
            if self._required:
                raise
            self._reason = error.message or str(error)

    def __enter__(self) -> EnergyRecorder:
        if self._meter is not None:
            self._sampler = PowerSampler(self._meter)
            try:
                self._sampler.start()
            except DeviceError as error:
                if self._required:
                    raise
                self._reason = error.message or str(error)
                self.close()
                self._meter = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is not None:
            self._sampler.stop()

    def close(self) -> None:
        """Close the meter; may be called twice."""
        if self._meter is not None:
            self._meter.close()

    @property
    def _reads(self) -> bool:
        return self._sampler is not None and self._sampler.error is None

    def idle(self, which: str) -> None:
        """Do nothing for a few seconds, `before` or `after` the work."""
        if not self._reads or self._meter is None:
            return
        begin = time.monotonic() + SETTLE_S
        end = begin + max(IDLE_S, 2 * MIN_READINGS / self._meter.rate_hz)
        while self._reads and time.monotonic() < end:
            time.sleep(max(0.0, min(0.05, end - time.monotonic())))
        self._spans[f"idle {which}"] = begin, end

    def frames(self, turns: Iterable[T], warmup: int) -> Iterator[T]:
        """The same turns, one for each frame; those after the first `warmup` count."""
        begin = None
        for index, turn in enumerate(turns):
            if index == warmup:
                begin = time.monotonic()
            yield turn
            self._counts["frames"] = max(0, index + 1 - warmup)
        if begin is not None:
            self._spans["frames"] = begin, time.monotonic()

    def count_frames(self, frames: int) -> None:
        """So many frames were timed, where it was not one in each turn."""
        self._counts["frames"] = frames

    def inferences(self, prepare: Callable[[], Callable[[], object]], least: int) -> None:
        """Run what `prepare` returns, one inference, `least` times or as long as the meter needs."""
        if not self._reads or self._meter is None:
            return
        invoke = prepare()
        begin = time.monotonic()
        until, count = begin + 2 * MIN_READINGS / self._meter.rate_hz, 0
        while self._reads and (count < least or time.monotonic() < until):
            invoke()
            count += 1
        self._spans["inferences"] = begin, time.monotonic()
        self._counts["inferences"] = count

    @property
    def began_at(self) -> float | None:
        """When the first reading was taken, in seconds of the monotonic clock; None without one."""
        return self._sampler.samples[0].t if self._sampler and self._sampler.samples else None

    def take(self) -> None:
        """Bring `t_s` and `watts`, which a result has by these names, up to date."""
        meter, sampler = self._meter, self._sampler
        since = max(0, self._taken - 1)
        samples = sampler.samples[since:] if sampler else []
        if meter is None or len(samples) < 2:
            return
        trace = PowerTrace.from_samples(samples, meter)
        t, watts = _points(trace)
        # A counter needs the reading before, which was taken already.
        new = len(samples) - (1 if self._taken or trace.joules is not None else 0)
        began_at = self.began_at or 0.0
        self.t_s += [round(float(value) - began_at, 4) for value in t[-new:]]
        self.watts += [round(float(value), 5) for value in watts[-new:]]
        self._taken = since + len(samples)

    def head(self) -> Energy:
        """What is known of the meter, without readings and figures."""
        if self._meter is None:
            return Energy(reason=self._reason)
        return Energy(reason="the measurement ended before its figures were computed", **_meter_facts(self._meter))

    def figures(self) -> Energy:
        """What was measured so far; `not measured` with the reason where the readings do not suffice."""
        meter, sampler = self._meter, self._sampler
        if meter is None or sampler is None:
            return Energy(reason=self._reason if meter is None else "the measurement ended before it began")
        try:
            trace = sampler.trace()
            self.take()
        except DataError:
            return Energy(reason=str(sampler.error or "the meter was read less than twice"), **_meter_facts(meter))
        kept = {**_meter_facts(meter), **self._readings()}
        reason = str(sampler.error) if sampler.error else self._lacks(trace)
        if reason:
            return Energy(reason=reason, readings=len(trace.t), **kept)
        return self._energy(meter, {name: _estimate(trace, self._spans[name]) for name in _SPANS}, kept)

    def _readings(self) -> dict[str, Any]:
        first = self.began_at or 0.0
        spans = {name: (round(begin - first, 4), round(end - first, 4)) for name, (begin, end) in self._spans.items()}
        return {"t_s": tuple(self.t_s), "watts": tuple(self.watts), "spans_s": spans}

    def _lacks(self, trace: PowerTrace) -> str | None:
        """Why the readings do not suffice; None where they do."""
        missing = [name for name in _SPANS if name not in self._spans]
        if missing:
            return f"the measurement ended before its part {missing[0]!r} was complete"
        for name in _SPANS:
            begin, end = self._spans[name]
            count = int(((trace.t >= begin) & (trace.t <= end)).sum())
            if count < MIN_READINGS:
                wanted = f"time at least {_more(self._counts['frames'], count)} frames"
                return f"the meter was read {count} times during {name!r}, {MIN_READINGS} are needed: " + (
                    wanted if name == "frames" else "the meter is too slow or paused"
                )
        return None

    def _energy(self, meter: PowerMeter, parts: dict[str, EnergyEstimate], kept: dict[str, Any]) -> Energy:
        idle = {name: part for name, part in parts.items() if name.startswith("idle")}
        frame, inference = parts["frames"], parts["inferences"]
        values: dict[str, Any] = {}
        for name, part in (("frame", frame), ("inference", inference)):
            count = self._counts[f"{name}s"]
            for key, joules in zip(("mj", "uncertainty_mj"), net_energy(part, idle), strict=True):
                values[f"per_{name}_{key}"] = round(1000 * joules / count, 5)
        values |= {
            "power_w": round(frame.mean_w, 5),
            "power_uncertainty_w": round(frame.uncertainty_j / frame.seconds, 5),
            "idle_before_w": round(idle["idle before"].mean_w, 5),
            "idle_after_w": round(idle["idle after"].mean_w, 5),
            "readings": sum(part.samples for part in parts.values()),
            "longest_gap_s": round(max(part.longest_gap_s for part in parts.values()), 4),
        }
        status = "replayed" if meter.replayed else "measured"
        return Energy(status=status, **self._counts, **values, **kept)


def _meter_facts(meter: PowerMeter) -> dict[str, Any]:
    rate, step = round(meter.rate_hz, 3), round(meter.resolution_w, 6)
    facts = {"rate_hz": rate, "resolution_w": step, "gain_error": meter.gain_error}
    return {"source": meter.source, "blind_to": meter.blind_to, **facts}


def _points(trace: PowerTrace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and watts of a trace; of a counter, the mean power up to each reading but the first."""
    if trace.watts is not None:
        return trace.t, trace.watts
    assert trace.joules is not None
    return trace.t[1:], np.diff(trace.joules) / np.diff(trace.t)


def _estimate(trace: PowerTrace, span: tuple[float, float]) -> EnergyEstimate:
    """Energy over the span, as far as there were readings: the last one may lie just inside it."""
    return trace.energy(max(span[0], float(trace.t[0])), min(span[1], float(trace.t[-1])))


def _more(frames: int, readings: int) -> int:
    """About how many frames would give enough readings."""
    return -(-frames * 2 * MIN_READINGS // max(readings, 1))


def format_energy(energy: Energy) -> str:
    """The figures in one line, or that and why there are none."""
    if energy.per_frame_mj is None:
        return f"not measured: {energy.reason}" if energy.reason else "not measured"
    frame = format_uncertain(energy.per_frame_mj, energy.per_frame_uncertainty_mj)
    inference = format_uncertain(energy.per_inference_mj, energy.per_inference_uncertainty_mj)
    return (
        f"{frame} mJ per frame, {inference} mJ per inference beyond idle, {energy.power_w:.3g} W  "
        f"({energy.status}: {energy.source})"
    )


def format_digits(value: float, digits: int = 3) -> str:
    """A figure above 0 in so many digits, or in all before the point: never as a power of ten."""
    return f"{value:.{digits}g}" if value < 10**digits - 0.5 else f"{value:.0f}"


def format_uncertain(value: float | None, spread: float | None) -> str:
    """A value with as many decimals as two digits of its uncertainty have."""
    if value is None or spread is None:
        return "-"
    digits = max(0, 1 - int(f"{spread:e}".partition("e")[2])) if spread else 3
    return f"{value:.{digits}f} ± {spread:.{digits}f}"
