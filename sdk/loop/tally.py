"""What a run counts: results, ages, drops, and the summary of them; it touches neither camera nor sink."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeloc.types import Frame, Result

__all__ = ["EndedBy", "RunSummary", "Tally"]

EndedBy = Literal["camera", "frames", "interrupt", "sink"]


@dataclass(frozen=True)
class RunSummary:
    """What a run did: `frames` results, `dropped` frames that had none, `stale` results over the age budget.

    `present` counts the results with an object. `fps` is results a second over `seconds`. The ages
    in ms, from a frame's capture to its result, are percentiles, None without a result; for a file
    they are the time since it was read. `ended_by` is `camera` (the source ended), `frames` (as
    many as were asked for), `interrupt` (Ctrl-C or SIGTERM) or `sink` (its window was closed);
    `note` is what the source says of how it ended, most often nothing.
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
    ended_by: EndedBy
    note: str = ""

    def __str__(self) -> str:
        """One paragraph for people."""
        why = {
            "camera": "the source ended",
            "frames": "as many frames as asked for",
            "interrupt": "interrupted",
            "sink": "the window was closed",
        }
        text = f"{self.frames} results in {self.seconds:.1f} s ({self.fps:.1f} a second), {self.present} with an object"
        if self.live:
            text += f"; {self.dropped} frames dropped"
        if self.age_ms_p50 is not None:
            kind = "frame age" if self.live else "time from reading a frame to its result"
            text += (
                f"; {kind} {self.age_ms_p50:.1f} / {self.age_ms_p90:.1f} / {self.age_ms_p99:.1f} ms (p50 / p90 / p99)"
            )
        if self.stale:
            text += f"; {self.stale} stale"
        ended = f"{why[self.ended_by]}; {self.note}" if self.note else why[self.ended_by]
        return f"{text}. Ended: {ended}."


class Tally:
    """Counts, ages, and the rate of results; stamps each result with them."""

    def __init__(self, budget_ms: float | None) -> None:
        self._budget_ms = float("inf") if budget_ms is None else budget_ms
        self._began_at = time.monotonic()
        self._ages: list[float] = []
        self._recent: deque[float] = deque(maxlen=31)
        self._last: int | None = None
        self.dropped_before_first = 0
        self.dropped = self.stale = self.present = 0

    @property
    def frames(self) -> int:
        """How many results there were."""
        return len(self._ages)

    @property
    def rate(self) -> float | None:
        """Results a second over the last 30 of them."""
        if len(self._recent) < 2 or self._recent[-1] <= self._recent[0]:
            return None
        return (len(self._recent) - 1) / (self._recent[-1] - self._recent[0])

    def mark(self, frame: Frame, result: Result) -> Result:
        """The result with what the loop knows: which frame, how old, whether too old, what was dropped."""
        now = time.monotonic()
        age_ms = (now - frame.captured_at) * 1000
        dropped = self.dropped_before_first if self._last is None else frame.sequence - self._last - 1
        stale = age_ms > self._budget_ms
        self._last = frame.sequence
        self._ages.append(age_ms)
        self._recent.append(now)
        self.dropped += dropped
        self.stale += stale
        self.present += result.present
        return dataclasses.replace(
            result, sequence=frame.sequence, captured_at=frame.captured_at, age_ms=age_ms, stale=stale, dropped=dropped
        )

    def summary(self, live: bool, ended_by: EndedBy, note: str = "") -> RunSummary:
        """The figures of the whole run."""
        seconds = time.monotonic() - self._began_at
        ages = [float(age) for age in np.percentile(self._ages, (50, 90, 99))] if self._ages else [None] * 3
        return RunSummary(
            frames=self.frames,
            dropped=self.dropped,
            stale=self.stale,
            present=self.present,
            seconds=seconds,
            fps=self.frames / seconds if seconds > 0 else 0.0,
            age_ms_p50=ages[0],
            age_ms_p90=ages[1],
            age_ms_p99=ages[2],
            live=live,
            ended_by=ended_by,
            note=note,
        )
