"""The sinks of a run: opened together, each written to by a thread of its own that a slow one alone waits for."""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType

import numpy as np

from edgeloc._support.interrupt import Interrupt
from edgeloc.cameras.base import Camera
from edgeloc.errors import EdgelocError, OutputError, mask_credentials
from edgeloc.findings import Finding
from edgeloc.loop.faults import MOST_AT_ONCE, Faults
from edgeloc.loop.summary import Ages, RunSummary, SinkState, SinkSummary
from edgeloc.observation import Observation
from edgeloc.sinks import Sink
from edgeloc.types import Pixels

__all__ = ["Outlets"]

# Pauses before a result is offered again to a sink that failed: the first and the longest, each up to half longer. They
# begin again after so long without a failure, so that one that comes and goes does not fill the log.
FIRST_PAUSE_S, LONGEST_PAUSE_S, SETTLED_S = 0.1, 10.0, 10.0
# A sink that takes longer than this for one result is reported.
SLOW_S = 2.0
# How long, at the end of a run, sinks may take for the results that still wait, and until they are closed.
DRAIN_S, CLOSE_S = 5.0, 10.0

_BLACK = np.uint8(0)

logger = logging.getLogger(__name__)

Drawn = Callable[[], Pixels]


class Outlets:
    """Hands each observation to every sink; used in a `with`, which opens the sinks and closes them.

    Of a live camera each sink gets them in a thread of its own, and skips some where it is too slow; one that cannot be
    written to is offered the next again after a while. A file waits for its sinks, and gives one up that fails. One
    that is given up is a finding, closed, and left out from there on; the last one's failure is raised. The failure of
    one sink to close keeps no other from it.

    `status` gives the run's figures, for the sinks that show them.
    """

    def __init__(
        self,
        sinks: Iterable[Sink],
        camera: Camera,
        interrupt: Interrupt,
        faults: Faults,
        status: Callable[[], RunSummary],
        budget_ms: float = float("inf"),
    ) -> None:
        self._camera, self._interrupt, self._faults, self._status = camera, interrupt, faults, status
        self._outlets = [_Outlet(sink, faults, budget_ms) for sink in sinks]
        self._opened: list[_Outlet] = []
        self._handed = 0

    @property
    def ended(self) -> bool:
        """Whether the user of a sink wants the run to end."""
        return any(outlet.sink.ended for outlet in self._opened if outlet.open)

    @property
    def results(self) -> int:
        """How many observations a sink has taken, or all of them where there is none."""
        return max((outlet.delivered for outlet in self._outlets if not outlet.sink.auxiliary), default=self._handed)

    @property
    def summary(self) -> tuple[SinkSummary, ...]:
        """What became of the results, sink by sink."""
        return tuple(outlet.summary for outlet in self._outlets)

    def __enter__(self) -> Outlets:
        try:
            for outlet in self._outlets:
                self._interrupt.at(outlet.sink.name)
                self._opened.append(outlet)
                outlet.sink.status, outlet.sink.notify = self._status, self._faults.notice
                outlet.sink.open(fps=self._camera.fps, live=self._camera.live)
        except BaseException:
            self._close(raises=False)
            raise
        for outlet in self._outlets:
            outlet.begin(threaded=self._camera.live and not outlet.sink.inline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(raises=error is None)

    def write(self, observation: Observation, drawn: Drawn) -> None:
        """Hand the observation to each sink; raise the failure of the last one."""
        for outlet in self._opened:
            if outlet.open:
                self._interrupt.at(outlet.sink.name)
                outlet.put(observation, drawn)
        lost = [outlet for outlet in self._opened if outlet.failure is not None]
        for outlet in lost:
            self._leave(outlet)
        self._handed += 1

    def _leave(self, outlet: _Outlet) -> None:
        """Go on without a sink that is lost; raise its failure where no other takes results."""
        error, outlet.failure = outlet.failure, None
        assert error is not None
        if not isinstance(error, Exception):
            raise error  # an exit, which is the program's and not the sink's
        if all(other.sink.auxiliary for other in self._opened if other.open):
            raise OutputError(outlet.reason) if _is_of_the_system(error) else error
        message = f"{outlet.reason}; it took {outlet.delivered} results, and the run goes on without it"
        self._faults.notice(Finding("sink-lost", "problem", message))

    def _close(self, *, raises: bool) -> None:
        """Close every sink that is open; the failures are logged, but the first is raised where that is asked for."""
        self._interrupt.closing_since = began_at = time.monotonic()
        for outlet in self._opened:
            outlet.end(began_at + DRAIN_S)
        failures: list[BaseException] = []
        for outlet in self._opened:
            self._interrupt.at(f"closing {outlet.sink.name}")
            error = outlet.close(began_at + CLOSE_S)
            if error is not None:
                failures.append(error)
        if not failures and all(outlet.failed for outlet in self._opened if not outlet.sink.auxiliary):
            failures = [OutputError(outlet.reason) for outlet in self._opened if outlet.failed]
        self._opened = []
        for failure in failures[raises:]:
            logger.error("%s", failure)
        if raises and failures:
            raise failures[0]


class _Outlet:
    """One sink, the results that wait for it, and the thread that hands them over where it has one.

    `failure` is what it was lost by, until that was dealt with; `reason` says why it is or was down or lost.
    """

    def __init__(self, sink: Sink, faults: Faults, budget_ms: float) -> None:
        self.sink, self._faults, self._budget_ms = sink, faults, budget_ms
        self._state: SinkState = "open"
        self.delivered = self._skipped = self._stale = 0
        self.failure: BaseException | None = None
        self.reason = ""
        self._ages = Ages()
        self._began_at = time.monotonic()
        self._failed_s: float | None = None
        self._waiting: deque[tuple[Observation, Drawn]] = deque()
        self._changed = threading.Condition()
        self._drain_until: float | None = None
        self._busy_since: float | None = None
        self._slow = False
        self._pause_s, self._down_since, self._back_at = FIRST_PAUSE_S, 0.0, 0.0
        self._thread: threading.Thread | None = None
        self._unclosed: Exception | None = None
        self._closed = False

    @property
    def open(self) -> bool:
        """Whether it takes results, now or after a while."""
        return self._state != "lost" and not self._closed

    @property
    def failed(self) -> bool:
        """Whether it did not take what it was offered last."""
        return self._state != "open"

    @property
    def summary(self) -> SinkSummary:
        """What became of the results here, from any thread."""
        p50, p90, p99 = self._ages.percentiles(50, 90, 99)
        return SinkSummary(
            mask_credentials(self.sink.name),
            self.delivered,
            self._skipped,
            self._state,
            mask_credentials(self.reason),
            self._failed_s,
            p50,
            p90,
            p99,
            self._stale,
        )

    def begin(self, *, threaded: bool) -> None:
        """The run begins, with a thread or without."""
        self._began_at = time.monotonic()
        if threaded:
            self._thread = threading.Thread(target=self._work, name="edgeloc-sink", daemon=True)
            self._thread.start()

    def put(self, observation: Observation, drawn: Drawn) -> None:
        """Hand an observation over: at once without a thread, else as soon as the sink has time."""
        if not self.sink.pictures:
            observation, drawn = _without_pixels(observation), _no_picture
        if self._thread is None:
            self._deliver(observation, drawn, heals=False)
            return
        with self._changed:
            self._waiting.append((observation, drawn))
            while len(self._waiting) > self.sink.capacity:
                self._skip(self._waiting.popleft()[0])
            self._changed.notify()
            busy_since = self._busy_since
        if busy_since is not None and not self._slow and time.monotonic() - busy_since > SLOW_S:
            self._slow = True
            message = f"{self.sink.name} has not taken a result for {SLOW_S:g} s; the run goes on, and it skips what"
            self._faults.notice(Finding("sink-slow", "warning", f"{message} it has no room for"))

    def _skip(self, skipped: Observation) -> None:
        """Count an observation that the sink does not get; what it said of gaps and faults goes with the next."""
        self._skipped += 1
        following, drawn = self._waiting[0]
        following = dataclasses.replace(
            following,
            dropped=skipped.dropped + 1 + following.dropped,
            gap_s=skipped.gap_s + following.gap_s,
            findings=(*skipped.findings, *following.findings)[-MOST_AT_ONCE:],
        )
        self._waiting[0] = following, drawn

    def _work(self) -> None:
        """What the thread does: hand over what waits until the end, then close."""
        while (handed := self._next()) is not None:
            self._deliver(*handed, heals=True)
            if self._state == "lost":
                break
            if self._state == "down":
                self._wait_out()
        if not self._closed:
            self._shut()

    def _next(self) -> tuple[Observation, Drawn] | None:
        """What waits longest; None at the end."""
        with self._changed:
            while not self._waiting and self._drain_until is None:
                self._changed.wait()
            if self._drain_until is not None and time.monotonic() > self._drain_until:
                self._skipped += len(self._waiting)
                self._waiting.clear()
            return self._waiting.popleft() if self._waiting else None

    def _wait_out(self) -> None:
        """Pause after a failure, unless the run ends; each pause is twice the one before, with chance in it."""
        pause_s = self._pause_s * random.uniform(1, 1.5)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        with self._changed:
            if self._drain_until is None:
                self._changed.wait_for(lambda: self._drain_until is not None, pause_s)
            else:
                # The run is over: what it did not take now it never will.
                self._drain_until = float("-inf")

    def _deliver(self, observation: Observation, drawn: Drawn, *, heals: bool) -> None:
        """Write one observation; `heals` is whether a failed write may be tried again."""
        age_ms = (time.monotonic() - observation.captured_at) * 1000
        if heals and observation.stale != (age_ms > self._budget_ms):
            observation = dataclasses.replace(observation, stale=age_ms > self._budget_ms)
        self._busy_since = began_at = time.monotonic()
        try:
            self.sink.write(observation, drawn)
        except OSError as error:
            if heals:
                self._miss(observation, drawn, error)
            else:
                self._lose(error)
        except BaseException as error:
            self._lose(error)
        else:
            self._count(observation)
        finally:
            self._busy_since = None
            self._slow = self._slow and time.monotonic() - began_at > SLOW_S

    def _count(self, observation: Observation) -> None:
        now = time.monotonic()
        self._ages.add((now - observation.captured_at) * 1000)
        self.delivered += 1
        self._stale += observation.stale
        if self._state == "down":
            self._state, self._back_at = "open", now
            message = f"{self.sink.name} takes results again after {now - self._down_since:.1f} s"
            self._faults.notice(Finding("sink-back", "note", message))

    def _miss(self, observation: Observation, drawn: Drawn, error: OSError) -> None:
        """Keep an observation that was not written, where there is room for it, to be offered again."""
        with self._changed:
            if len(self._waiting) < self.sink.capacity:
                self._waiting.appendleft((observation, drawn))
            else:
                self._skip(observation)
        self.reason = _reason(self.sink, error)
        if self._state == "open":
            self._state, self._down_since = "down", time.monotonic()
            if self._down_since - self._back_at > SETTLED_S:
                self._pause_s = FIRST_PAUSE_S
            self._faults.notice(Finding("sink-down", "problem", f"{self.reason}; it will be offered results again"))

    def _lose(self, error: BaseException) -> None:
        """Give the sink up."""
        self.reason, self._failed_s = _reason(self.sink, error), time.monotonic() - self._began_at
        with self._changed:
            self._skipped += 1 + len(self._waiting)
            self._waiting.clear()
            self._state = "lost"
        self._shut()
        if self._unclosed is not None:
            logger.debug("closing %s: %r", self.sink.name, self._unclosed)
            self._unclosed = None
        self.failure = error

    def _shut(self) -> None:
        self._closed = True
        try:
            self.sink.close()
        except BaseException as error:
            self._unclosed = _unclosed(self.sink, error)
        finally:
            self.sink.status = self.sink.notify = None

    def end(self, drain_until: float) -> None:
        """The run is over: what waits may still be taken until then, seconds of `time.monotonic()`."""
        with self._changed:
            self._drain_until = drain_until
            self._changed.notify()

    def close(self, limit: float) -> BaseException | None:
        """Close the sink, or wait until its thread has, no longer than `limit`; what went wrong."""
        if self._thread is None:
            if not self._closed:
                self._shut()
        else:
            self._thread.join(max(0.0, limit - time.monotonic()))
            if self._thread.is_alive():
                self._state, self.reason = "lost", f"{self.sink.name} hangs: it was not closed in {CLOSE_S:g} s"
                self._failed_s = time.monotonic() - self._began_at
                return OutputError(self.reason)
        return self._unclosed or self._late()

    def _late(self) -> BaseException | None:
        """A failure that came after the last result was handed over."""
        error, self.failure = self.failure, None
        return None if error is None else OutputError(self.reason) if _is_of_the_system(error) else error


def _no_picture() -> Pixels:
    raise RuntimeError("a sink without pictures asks for one")


def _without_pixels(observation: Observation) -> Observation:
    black: Pixels = np.broadcast_to(_BLACK, observation.frame.pixels.shape)
    return dataclasses.replace(observation, frame=dataclasses.replace(observation.frame, pixels=black))


def _is_of_the_system(error: BaseException) -> bool:
    return isinstance(error, OSError) and not isinstance(error, EdgelocError)


def _unclosed(sink: Sink, error: BaseException) -> Exception:
    """What to raise or log: a bug of a sink as it is."""
    if _is_of_the_system(error):
        assert isinstance(error, OSError)
        return OutputError(_reason(sink, error))
    # An interrupt is one that a sink raised by itself: signals only leave their number here.
    return error if isinstance(error, Exception) else OutputError(f"{sink.name} was not closed: {error!r}")


def _reason(sink: Sink, error: BaseException) -> str:
    if isinstance(error, EdgelocError):
        return error.message or str(error)
    if isinstance(error, OSError):
        return f"{sink.name} cannot be written to: {error.strerror or error}"
    return f"{sink.name} failed: {type(error).__name__}: {error}"
