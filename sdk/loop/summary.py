"""What a run did: the figures that `run` returns, and that sinks may show while it lasts."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from edgeloc.findings import Finding

__all__ = ["Ages", "EndedBy", "RunSummary", "SinkState", "SinkSummary"]

EndedBy = Literal["camera", "frames", "interrupt", "terminated", "sink"]
SinkState = Literal["open", "down", "lost"]

_WHY: dict[EndedBy, str] = {
    "camera": "the source ended",
    "frames": "its number of results was reached",
    "interrupt": "interrupted",
    "terminated": "terminated by a signal",
    "sink": "the window or the pipe was closed",
}

# Bins this much apart, each 0.3 % wider than the one before.
_BINS_PER_E = 300
_SMALLEST_MS = 1e-3


@dataclass(frozen=True, slots=True)
class SinkSummary:
    """What became of a run's results at one sink.

    Parameters:
        name: the sink's.
        delivered: how many results it took.
        skipped: how many it did not get: newer ones replaced them while it was busy or down, or it was lost.
        state: "open", "down" (its last write failed, and it is offered results again) or "lost" (it was given up).
        reason: why it is or was down or lost; "" for one that always worked.
        failed_s: how long after the run's beginning it was lost, in seconds; None for one that was not.
        delivered_ms_p50: the median time from a frame's capture until the sink had taken its result, in ms; for a file,
            from reading the frame. None without a result.
        delivered_ms_p90: its 90th percentile.
        delivered_ms_p99: its 99th percentile.
        stale: how many results were over the age budget when they got there.
    """

    name: str
    delivered: int = 0
    skipped: int = 0
    state: SinkState = "open"
    reason: str = ""
    failed_s: float | None = None
    delivered_ms_p50: float | None = None
    delivered_ms_p90: float | None = None
    delivered_ms_p99: float | None = None
    stale: int = 0


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Parameters:
        frames: the number of results.
        dropped: the number of frames that had none.
        stale: the number of results over the age budget.
        present: the number of results with an object.
        seconds: how long the run took.
        fps: its results per second.
        age_ms_p50: the median age in ms, from a frame's capture to its result; for a file, of the time since the frame
            was read. None without a result.
        age_ms_p90: its 90th percentile.
        age_ms_p99: its 99th percentile.
        live: whether the camera's frames came by themselves.
        ended_by: `camera` (the source ended), `frames` (its number of results was reached), `interrupt` (Ctrl-C),
            `terminated` (SIGTERM or SIGHUP) or `sink` (a window or a pipe was closed); None while it lasts.
        failed: how many frames the localizer failed on.
        last_at: when the last result was ready, seconds of `time.monotonic()`; None without one.
        camera: the camera's name.
        engine: the name of the engine of the last result; "" where the localizer has none.
        sinks: what became of the results, sink by sink.
        findings: what a user should know of how the source, the localizer and the sinks did: away for a while, cut
            short, lost; the newest of each kind, with how often it came.
    """

    frames: int
    dropped: int
    stale: int
    present: int
    seconds: float
    fps: float
    age_ms_p50: float | None
    age_ms_p90: float | None
    age_ms_p99: float | None
    live: bool
    ended_by: EndedBy | None
    failed: int = 0
    last_at: float | None = None
    camera: str = ""
    engine: str = ""
    sinks: tuple[SinkSummary, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        """The figures in one paragraph."""
        text = f"{self.frames} results in {self.seconds:.1f} s ({self.fps:.1f} a second), {self.present} with an object"
        if self.live:
            text += f"; {self.dropped} frames dropped"
        if self.failed:
            text += f"; {self.failed} inferences failed"
        if self.age_ms_p50 is not None:
            kind = "frame age" if self.live else "time from reading a frame to its result"
            text += (
                f"; {kind} {self.age_ms_p50:.1f} / {self.age_ms_p90:.1f} / {self.age_ms_p99:.1f} ms (p50 / p90 / p99)"
            )
        if self.stale:
            text += f"; {self.stale} stale"
        for sink in self.sinks:
            if sink.state == "lost" and sink.failed_s is not None:
                text += f"; {sink.name} failed after {sink.delivered} results, {sink.failed_s:.1f} s"
            elif sink.skipped:
                down = ", and is down" if sink.state == "down" else ""
                text += f"; {sink.name} skipped {sink.skipped} results{down}"
        return text if self.ended_by is None else f"{text}. Ended: {_WHY[self.ended_by]}."


class Ages:
    """Counts ages in ms in bounded memory; a percentile is exact to 0.2 %, and an age below 1 us counts as that.

    A run may last for weeks: a bin for each 0.3 % from the smallest to the largest age seen, 2,000 of them if these are
    1 ms and 1 s.
    """

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0

    def add(self, age_ms: float) -> None:
        """Count one."""
        self._bins[round(math.log(max(age_ms, _SMALLEST_MS)) * _BINS_PER_E)] += 1
        self.count += 1

    def percentiles(self, *percents: float) -> list[float | None]:
        """The ages in ms that so many percent of them do not exceed (the nearest rank); None without any.

        May be called while another thread counts.
        """
        bins = sorted(dict(self._bins).items())
        counts = list(accumulate(count for _, count in bins))
        ranks = (max(1, math.ceil(counts[-1] * percent / 100)) if counts else 0 for percent in percents)
        return [math.exp(bins[bisect_left(counts, rank)][0] / _BINS_PER_E) if counts else None for rank in ranks]
