"""What the page shows of a run: the newest picture and result, the last minutes, the figures for Prometheus."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from edgeloc._version import __version__
from edgeloc.findings import Finding
from edgeloc.loop.summary import RunSummary
from edgeloc.observation import Observation
from edgeloc.sinks.record import as_record

__all__ = ["Board"]

_HISTORY_S = 300
_MOST_FINDINGS = 20
_STATUS_S = 0.5
# Without a result for this long a run is not well.
_SILENT_S = 5.0
# Upper bounds of the histogram of ages, in seconds.
_BUCKETS = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


@dataclasses.dataclass
class _Second:
    """What one second brought: how many results, the sum and the greatest of their ages in ms."""

    at: int
    results: int = 0
    age_ms: float = 0.0
    worst_ms: float = 0.0


class Board:
    """Written by the sink's thread, read by the server's; everything in bounded memory.

    `watchers` is how many clients have a live picture. `number` grows with each result, `picture_number` with each
    picture.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.watchers = 0
        self.begin(None, live=False)

    def begin(self, status: Callable[[], RunSummary] | None, *, live: bool) -> None:
        """A run begins; `status` gives its figures."""
        self._status, self._live = status, live
        self.number = self.picture_number = 0
        self.picture: bytes | None = None
        self._observation: Observation | None = None
        self._began_at, self._shown_at = time.monotonic(), time.monotonic()
        self._seconds: deque[_Second] = deque(maxlen=_HISTORY_S)
        self._findings: deque[tuple[float, Finding]] = deque(maxlen=_MOST_FINDINGS)
        self._buckets = [0] * (len(_BUCKETS) + 1)
        self._age_sum_s = 0.0
        self._summary: tuple[float, RunSummary | None] = (-math.inf, None)

    def show(self, observation: Observation, picture: bytes | None) -> None:
        """The newest observation, and its picture as JPEG where one was made."""
        now = time.monotonic()
        age_s = now - observation.captured_at
        with self._lock:
            self._observation, self._shown_at = dataclasses.replace(observation), now
            self.number += 1
            if picture is not None:
                self.picture = picture
                self.picture_number += 1
            if not self._seconds or self._seconds[-1].at != int(now):
                self._seconds.append(_Second(int(now)))
            second = self._seconds[-1]
            second.results += 1
            second.age_ms += age_s * 1000
            second.worst_ms = max(second.worst_ms, age_s * 1000)
            self._findings.extend((time.time(), finding) for finding in observation.findings)
            self._buckets[bisect_left(_BUCKETS, age_s)] += 1
            self._age_sum_s += age_s

    def result(self) -> dict[str, Any] | None:
        """The newest result as in a `.jsonl`, with its age now; None before the first."""
        with self._lock:
            observation = self._observation
        if observation is None:
            return None
        return {**as_record(observation), "age_now_ms": round((time.monotonic() - observation.captured_at) * 1000, 3)}

    def status(self) -> dict[str, Any]:
        """The state of every part, and the last minutes second by second."""
        summary, now = self._figures(), time.monotonic()
        with self._lock:
            seconds, findings = list(self._seconds), list(self._findings)
        healthy, why = self.health()
        run = None if summary is None else dataclasses.asdict(summary)
        if run is not None:
            run["findings"] = [finding.to_dict() for finding in summary.findings] if summary else []
        return {
            "version": __version__,
            "healthy": healthy,
            "why": why,
            "silent_s": round(now - self._shown_at, 2),
            "run": run,
            "findings": [{"time": round(at, 3), **finding.to_dict()} for at, finding in findings],
            "history": _history(seconds, int(max(self._began_at, now - _HISTORY_S)), int(now)),
        }

    def health(self) -> tuple[bool, str]:
        """Whether results come and are young enough, and why not."""
        silent_s = time.monotonic() - self._shown_at
        if self._observation is None and silent_s < _SILENT_S:
            return True, "waiting for the first result"
        if silent_s > _SILENT_S:
            return False, f"no result for {silent_s:.0f} s"
        if self._observation is not None and self._observation.stale:
            age_ms = (self._shown_at - self._observation.captured_at) * 1000
            return False, f"the newest result was {age_ms:.0f} ms old when it came here, over the budget"
        return True, "results come"

    def _figures(self) -> RunSummary | None:
        """The run's own figures, taken at most twice a second, however many ask."""
        taken_at, summary = self._summary
        if self._status is not None and time.monotonic() - taken_at > _STATUS_S:
            summary = self._status()
            self._summary = time.monotonic(), summary
        return summary

    def metrics(self) -> str:
        """The figures in Prometheus' text format, version 0.0.4."""
        return "\n".join((*self._run_metrics(), *self._age_metrics())) + "\n"

    def _run_metrics(self) -> Iterator[str]:
        run = self._figures()
        yield from _metric("edgeloc_up", "gauge", "Whether results come and are young enough.", int(self.health()[0]))
        if run is None:
            return
        sinks = list(zip(_distinct([sink.name for sink in run.sinks]), run.sinks, strict=True))
        about = {"version": __version__, "camera": run.camera, "engine": run.engine}
        yield from _metric("edgeloc_info", "gauge", "The run, in its labels.", 1, about)
        yield from _metric("edgeloc_run_seconds", "gauge", "How long the run has lasted.", round(run.seconds, 3))
        for name, value, about_it in (
            ("results", run.frames, "Frames that have a result."),
            ("frames_dropped", run.dropped, "Frames without a result."),
            ("inferences_failed", run.failed, "Frames on which the localizer failed."),
            ("results_stale", run.stale, "Results over the age budget."),
            ("results_present", run.present, "Results with an object."),
        ):
            yield from _metric(f"edgeloc_{name}_total", "counter", about_it, value)
        for name, about_it in (
            ("delivered", "Results that a sink took."),
            ("skipped", "Results that a sink did not get."),
        ):
            yield from _head(f"edgeloc_sink_{name}_total", "counter", about_it)
            for label, sink in sinks:
                yield _row(f"edgeloc_sink_{name}_total", getattr(sink, name), {"sink": label})
        yield from _head("edgeloc_sink_up", "gauge", "Whether a sink took what it was offered last.")
        for label, sink in sinks:
            yield _row("edgeloc_sink_up", int(sink.state == "open"), {"sink": label})

    def _age_metrics(self) -> Iterator[str]:
        with self._lock:
            counts, total_s = list(self._buckets), self._age_sum_s
        silent_s = time.monotonic() - self._shown_at
        yield from _metric("edgeloc_silent_seconds", "gauge", "Time since the last result here.", round(silent_s, 3))
        name, so_far = "edgeloc_result_age_seconds", 0
        yield from _head(name, "histogram", "Age of a frame when its result was shown here.")
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), counts, strict=True):
            so_far += count
            yield _row(f"{name}_bucket", so_far, {"le": bound})
        yield _row(f"{name}_sum", round(total_s, 6))
        yield _row(f"{name}_count", so_far)


def _history(seconds: Iterable[_Second], first: int, now: int) -> list[dict[str, Any]]:
    """Every second that is over, oldest first; one without results has no age."""
    known = {one.at: one for one in seconds}
    return [
        {
            "ago_s": now - at,
            "results": one.results,
            "age_ms": round(one.age_ms / one.results, 1) if one.results else None,
            "worst_ms": round(one.worst_ms, 1) if one.results else None,
        }
        for at in range(first, now)
        for one in (known.get(at, _Second(at)),)
    ]


def _metric(name: str, kind: str, about: str, value: float, labels: dict[str, str] | None = None) -> Iterator[str]:
    yield from _head(name, kind, about)
    yield _row(name, value, labels)


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"


def _row(name: str, value: float, labels: dict[str, str] | None = None) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in (labels or {}).items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _distinct(names: list[str]) -> list[str]:
    """Names such as those of two functions, numbered: Prometheus takes no two rows with the same labels."""
    return [
        f"{name} {names[:place].count(name) + 1}" if name in names[:place] else name for place, name in enumerate(names)
    ]


def _escaped(text: str) -> str:
    """A label's text; a file's name may hold bytes that are no UTF-8."""
    text = text.encode(errors="replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
