"""A camera that is opened again when it goes away, with back-off; the gaps are reported."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

from edgeloc._support.backend import Uri
from edgeloc.cameras.base import Camera, Gap
from edgeloc.errors import CameraError, CameraTimeout, UsageError
from edgeloc.findings import Finding
from edgeloc.types import Frame

__all__ = ["RECONNECT_S", "ReconnectingCamera"]

RECONNECT_S = 30.0
# The pauses between two attempts: the first, and the longest, which is also how long Ctrl-C may wait.
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
# How long an open() may take beyond the limit before the run loop gives it up.
_SLACK_S = 10.0

logger = logging.getLogger(__name__)


class ReconnectingCamera(Camera):
    """Another camera, closed and opened again when it fails or stalls (see `Camera.stall_s`).

    `camera` is the one to open again.
    `limit_s` is for how many seconds it is tried after each failure.

    Until the camera is back, every `read` raises CameraTimeout; after `limit_s` it raises CameraError with the first
    reason. `sequence` continues where it stopped, and a frame captured before the gap is not handed out after it.
    Each gap is logged; those that ended are in `gaps`, and `findings` sums them up. A camera that fails before its
    first frame is not tried again: it is busy, or not the right one. After `close()` nothing is opened, and what an
    attempt that was under way opens is closed at once, also where another thread is reading.
    """

    live = True

    def __init__(self, camera: Camera, limit_s: float = RECONNECT_S) -> None:
        if not limit_s > 0:
            raise UsageError(field="limit_s", value=limit_s, allowed="above 0")
        self._camera, self._limit_s = camera, limit_s
        # Whether its owner wants it open; with the lock, so that what an attempt opens after close() is closed again.
        self._wanted, self._lock = threading.Event(), threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._last: Frame | None = None
        self._waiting_since: float | None = None
        self._offset = 0
        self._away_since: float | None = None
        self._reason = ""
        self._pause_s, self._try_at = _FIRST_PAUSE_S, 0.0
        self.gaps, self.findings = (), ()

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> ReconnectingCamera:
        """Not a scheme of its own: `open_camera` wraps what a URI names."""
        raise UsageError(
            f"camera {uri.text} does not reconnect by itself", hint="open it with open_camera, which does that"
        )

    @property
    def name(self) -> str:
        """The camera's own name."""
        return self._camera.name

    @property
    def reconnecting(self) -> bool:
        """Whether it is away, and the limit is not yet over."""
        since = self._away_since
        return since is not None and time.monotonic() - since < self._limit_s + _SLACK_S

    def _open(self) -> None:
        self._forget()
        self._wanted.set()
        self._start()

    def _start(self) -> None:
        """Open the camera; CameraError where it was closed meanwhile."""
        self._require_wanted()
        self._camera.open()
        with self._lock:
            if not self._wanted.is_set():
                self._camera.close()
        self._require_wanted()
        self.live, self.fps, self.size = self._camera.live, self._camera.fps, self._camera.size
        self._waiting_since = None

    def _require_wanted(self) -> None:
        if not self._wanted.is_set():
            raise CameraError(f"camera {self.name} is closed")

    def _close(self) -> None:
        with self._lock:
            self._wanted.clear()
            self._camera.close()

    def _read(self, timeout_s: float) -> Frame | None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if self._away_since is not None:
                    self._try_again(deadline)
                self._waiting_since = self._waiting_since or time.monotonic()
                frame = self._camera.read(max(0.0, deadline - time.monotonic()))
            except CameraError as error:
                self._require_wanted()
                self._lose(error, deadline)
                continue
            if frame is None:
                self.findings = (*self._gap_findings(), *self._camera.findings)
                return None
            if self._last is None or self._away_since is None or frame.captured_at > self._last.captured_at:
                return self._accept(frame)

    def _try_again(self, deadline: float) -> None:
        """Open the camera when its pause is over; wait for that no longer than `deadline`."""
        now = time.monotonic()
        if self._try_at > now:
            time.sleep(max(0.0, min(self._try_at, deadline) - now))
        self._require_wanted()
        if self._try_at > time.monotonic():
            raise CameraTimeout(f"camera {self.name} is not tried again yet")
        # One that is open was opened in an earlier read, and its first frame is still to come.
        if not self._camera._opened:
            self._start()

    def _lose(self, error: CameraError, deadline: float) -> None:
        """Record that the camera failed and when to try it again; raise what the reader is to get."""
        now = time.monotonic()
        if self._last is None:
            raise error
        waited_s = now - (self._waiting_since or now)
        if not isinstance(error, CameraTimeout) or (self._try_at <= now and waited_s >= self.stall_s):
            self._leave(error, now)
        since = self._away_since
        if since is None:
            raise error
        if now - since >= self._limit_s:
            self._camera.close()
            raise CameraError(f"{self._reason}; it did not come back in {self._limit_s:g} s") from error
        if now >= deadline:
            raise CameraTimeout(f"{self._reason}; it has been tried again for {now - since:.1f} s") from error

    def _leave(self, error: CameraError, now: float) -> None:
        self._camera.close()
        if self._away_since is None:
            self._away_since, self._reason, self._pause_s = now, str(error), _FIRST_PAUSE_S
            logger.info("%s; opening it again for up to %g s", error, self._limit_s)
            # A run that ends now has no gap that would show it.
            self.findings = self._gap_findings()
        self._try_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _accept(self, frame: Frame) -> Frame:
        """The frame with its number in the whole run; closes the gap before it."""
        if self._last is not None and self._away_since is not None:
            self._offset = self._last.sequence + 1
            self.gaps += (Gap(self._last.captured_at, frame.captured_at, self._reason),)
            self._away_since = None
            self.findings = self._gap_findings()
            logger.info("camera %s is back after %.1f s without a frame", self.name, self.gaps[-1].seconds)
        self._waiting_since = None
        self._last = dataclasses.replace(frame, sequence=self._offset + frame.sequence)
        return self._last

    def _gap_findings(self) -> tuple[Finding, ...]:
        findings = []
        if self.gaps:
            times = "once" if len(self.gaps) == 1 else f"{len(self.gaps)} times"
            total_s = sum(gap.seconds for gap in self.gaps)
            message = f"the camera was away {times}, {total_s:.1f} s in all without a frame ({self.gaps[-1].reason})"
            findings.append(Finding("camera-gaps", "warning", message))
        if self._away_since is not None:
            findings.append(Finding("camera-away", "warning", f"the camera was away at the end ({self._reason})"))
        return tuple(findings)
