"""The sinks of a run: opened together, written to, each given up when it fails, all of them closed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from edgeloc._support.interrupt import Interrupt
from edgeloc.cameras.base import Camera
from edgeloc.errors import EdgelocError, OutputError, mask_credentials
from edgeloc.findings import Finding, report
from edgeloc.loop.summary import SinkSummary
from edgeloc.sinks import Sink
from edgeloc.types import Observation, Pixels

__all__ = ["Outlets"]

logger = logging.getLogger(__name__)


class Outlets:
    """Hands each observation to every sink; used in a `with`, which opens the sinks and closes them.

    A sink that fails is closed and left out from there on: a finding, and an entry in `lost`. The last one's failure is
    raised. Closing is never interrupted, and the failure of one sink to close keeps no other from it.
    """

    def __init__(self, sinks: Iterable[Sink], camera: Camera, interrupt: Interrupt) -> None:
        self._sinks, self._camera, self._interrupt = list(sinks), camera, interrupt
        self._open: list[Sink] = []
        self.results = 0
        """How many observations a sink has taken, or all of them where there is none."""
        self._began_at = time.monotonic()
        self.lost: list[SinkSummary] = []
        self.findings: list[Finding] = []

    @property
    def ended(self) -> bool:
        """Whether the user of a sink wants the run to end."""
        return any(sink.ended for sink in self._open)

    def __enter__(self) -> Outlets:
        try:
            for sink in self._sinks:
                self._interrupt.at(sink.name)
                self._open.append(sink)
                sink.open(fps=self._camera.fps, live=self._camera.live)
        except BaseException:
            self._close(raises=False)
            raise
        self._began_at = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(raises=error is None)

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Hand the observation to each sink."""
        failed: list[tuple[Sink, Exception]] = []
        for sink in self._open:
            self._interrupt.at(sink.name)
            try:
                sink.write(observation, drawn)
            except Exception as error:
                failed.append((sink, error))
        for sink, failure in failed:
            self._lose(sink, failure)
        self.results += 1

    def _lose(self, sink: Sink, error: Exception) -> None:
        """Go on without the sink; raise its failure where no other takes results."""
        self._open.remove(sink)
        self._interrupt.at(f"closing {sink.name}")
        try:
            sink.close()
        except Exception as closing:
            logger.debug("closing %s: %r", sink.name, closing)
        reason = _reason(sink, error)
        self.lost.append(
            SinkSummary(
                mask_credentials(sink.name),
                self.results,
                state="lost",
                reason=mask_credentials(reason),
                failed_s=time.monotonic() - self._began_at,
            )
        )
        if all(other.auxiliary for other in self._open):
            if isinstance(error, OSError) and not isinstance(error, EdgelocError):
                raise OutputError(reason) from error
            raise error
        message = f"{reason}; it took {self.results} results, and the run goes on without it"
        self.findings.append(report(logger, Finding("sink-lost", "problem", message)))

    def _close(self, *, raises: bool) -> None:
        """Close every sink that is open; the failures are logged, but the first is raised where that is asked for."""
        self._interrupt.closing_since = time.monotonic()
        failures: list[Exception] = []
        while self._open:
            sink = self._open.pop(0)
            self._interrupt.at(f"closing {sink.name}")
            try:
                sink.close()
            except BaseException as error:
                failures.append(_unclosed(sink, error))
        for failure in failures[raises:]:
            logger.error("%s", failure)
        if raises and failures:
            raise failures[0]


def _unclosed(sink: Sink, error: BaseException) -> Exception:
    """What to raise or log: a bug of a sink as it is."""
    if isinstance(error, OSError) and not isinstance(error, EdgelocError):
        return OutputError(_reason(sink, error))
    # An interrupt is one that a sink raised by itself: signals only leave their number here.
    return error if isinstance(error, Exception) else OutputError(f"{sink.name} was not closed: {error!r}")


def _reason(sink: Sink, error: Exception) -> str:
    if isinstance(error, EdgelocError):
        return error.message or str(error)
    if isinstance(error, OSError):
        return f"{sink.name} cannot be written to: {error.strerror or error}"
    return f"{sink.name} failed: {type(error).__name__}: {error}"
