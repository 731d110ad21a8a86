"""A live camera under watch: opened again when it goes away, stalls or freezes; black pictures are held back."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
import zlib
from typing import Literal

import numpy as np

from edgeloc._support.backend import Uri
from edgeloc.cameras.base import Camera, Gap
from edgeloc.cameras.view import View
from edgeloc.errors import CameraError, CameraTimeout, UsageError
from edgeloc.findings import Finding
from edgeloc.types import Frame, Pixels

__all__ = ["RECONNECT_S", "ReconnectingCamera"]

RECONNECT_S = 30.0
# The pauses between two attempts: the first, and the longest, which is also how long Ctrl-C may wait.
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
# How long an open() may take beyond the limit before the run loop gives it up.
_SLACK_S = 10.0
# For how long the first frame is waited for, and from when on a camera takes long to open: those of the network
# negotiate first, and a compressed stream begins at its next key frame.
_FIRST_FRAME_S = 15.0
_LATE_S = 5.0
# A camera that is started gives a few black pictures.
_BLACK_S = 0.5
# So many gaps are kept one by one.
_MOST_GAPS = 100


class ReconnectingCamera(Camera):
    """Another camera, closed and opened again when it fails or stalls (see `Camera.stall_s`).

    `camera` is the one to open again.
    `limit_s` is for how many seconds it is tried after each failure; 0: not at all.
    `frozen_s` is after how many seconds of one and the same picture it has failed too; 0: never. None for its own.
    `view` is which part of its picture is taken, and how that is turned.
    `dark` is whether pictures that show nothing are handed out all the same.

    Until the camera is back, every `read` raises CameraTimeout; after `limit_s` it raises CameraError with the first
    reason. `sequence` continues where it stopped, and a frame captured before the gap is not handed out after it. A
    camera that fails before its first frame is not tried again: it is busy, or not the right one; one that is late is
    waited for. A black picture is not handed out: until there is something to see, `read` times out, and the camera
    counts as `reconnecting` for as long as black pictures come.

    Each fault is a finding when it comes (see `Camera.notify`); `findings` sums up the gaps. After `close()` nothing is
    opened, and what an attempt that was under way opens is closed at once, also where another thread is reading.
    """

    live = True

    def __init__(
        self,
        camera: Camera,
        limit_s: float = RECONNECT_S,
        *,
        frozen_s: float | None = None,
        dark: bool = False,
        view: View | None = None,
    ) -> None:
        if not limit_s >= 0:
            raise UsageError(field="limit_s", value=limit_s, allowed="at least 0")
        self._camera, self._limit_s, self._view = camera, limit_s, view or View()
        self._watch_options = camera.still_s if frozen_s is None else frozen_s, dark
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
        self._watch = _Watch(*self._watch_options)
        self._opened_at: float | None = None
        # Whether any frame came, and not only one that was handed out.
        self._began = self._late = False
        self._black_since: float | None = None
        self._black_noticed = False
        self._gone, self._gone_s = 0, 0.0
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
        """Whether it is away, black, or late with its first frame, and the limit for that is not yet over."""
        since, now = self._away_since, time.monotonic()
        if since is not None:
            return now - since < self._limit_s + _SLACK_S
        if not self._began:
            return self._opened_at is not None and now - self._opened_at < _FIRST_FRAME_S
        # What is black and stalls is away soon, unless it is not to be opened again.
        return self._black_since is not None and now - (self._waiting_since or now) < 2 * self.stall_s

    def _open(self) -> None:
        self._forget()
        self._wanted.set()
        self._start()

    def _start(self) -> None:
        """Open the camera; CameraError where it was closed meanwhile."""
        self._require_wanted()
        self._open_camera()
        with self._lock:
            if not self._wanted.is_set():
                self._camera.close()
        self._require_wanted()
        self.live, self.fps = self._camera.live, self._camera.fps
        self.size = None if self._camera.size is None else self._view.size(self._camera.size, self.name)
        self._waiting_since = None
        if not self._began:
            self._opened_at = time.monotonic()

    def _open_camera(self) -> None:
        """Open the camera; what takes long at the start is reported meanwhile."""
        late = threading.Timer(_LATE_S, self._be_late, (f"camera {self.name} has not opened yet; waiting for it",))
        late.daemon = True
        if not self._began:
            late.start()
        try:
            self._camera.open()
        finally:
            late.cancel()

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
                self._began = True
                if frame is not None and not self._shows_something(frame):
                    self._return()
                    self._wait_for_light(deadline)
                    continue
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
        if not self._began:
            self._wait_for_first(error, now)
        if isinstance(error, _BlackError) or not self._began or not self._limit_s:
            raise error
        waited_s = now - (self._waiting_since or now)
        if not isinstance(error, CameraTimeout) or (self._try_at <= now and waited_s >= self._patience_s):
            self._leave(error, now)
        since = self._away_since
        if since is None:
            raise error
        if now - since >= self._limit_s:
            self._camera.close()
            raise CameraError(f"{self._reason}; it did not come back in {self._limit_s:g} s") from error
        if now >= deadline:
            raise CameraTimeout(f"{self._reason}; it has been tried again for {now - since:.1f} s") from error

    @property
    def _patience_s(self) -> float:
        """The seconds to wait for a frame before it is opened again."""
        if self._away_since is None:
            return self.stall_s
        # A stream that stands still up to its next key frame also begins at one.
        return max(self.stall_s, min(self._camera.still_s, _FIRST_FRAME_S))

    def _leave(self, error: CameraError, now: float) -> None:
        self._camera.close()
        if self._away_since is None:
            self._away_since, self._reason, self._pause_s = now, str(error), _FIRST_PAUSE_S
            message = f"{error}; opening it again for up to {self._limit_s:g} s"
            if isinstance(error, _FrozenError):
                self._notice(Finding("camera-frozen", "warning", message))
            else:
                self._notice(Finding("camera-away", "warning", message))
            # A run that ends now has no gap that would show it.
            self.findings = self._gap_findings()
        self._black_since = None
        self._try_at = now + self._pause_s * random.uniform(1, 1.5)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _accept(self, frame: Frame) -> Frame:
        """The frame with its number in the whole run; closes the gap before it."""
        self._return()
        reason, self._reason = self._reason, ""
        self._black_since, self._black_noticed = None, False
        self._waiting_since = None
        if self._last is not None and reason:
            self._end_gap(self._last, frame, reason)
        elif reason or (self._last is None and self._late):
            self.findings = self._gap_findings()
            self._notice(Finding("camera-back", "note", f"camera {self.name} gives its first frame"))
        self._last = dataclasses.replace(frame, sequence=self._offset + frame.sequence)
        return self._last if self._view.plain else self._view(self._last, self.name)

    def _return(self) -> None:
        """It gives frames again, if only black ones."""
        if self._away_since is not None:
            self._away_since = None
            self._offset = 0 if self._last is None else self._last.sequence + 1
            self.findings = self._gap_findings()

    def _end_gap(self, last: Frame, frame: Frame, reason: str) -> None:
        gap = Gap(last.captured_at, frame.captured_at, reason)
        self.gaps = (*self.gaps[1 - _MOST_GAPS :], gap)
        self._gone, self._gone_s = self._gone + 1, self._gone_s + gap.seconds
        self.findings = self._gap_findings()
        message = f"camera {self.name} is back after {gap.seconds:.1f} s without a frame"
        self._notice(Finding("camera-back", "note", message))

    def _shows_something(self, frame: Frame) -> bool:
        """Whether a picture may be handed out; CameraError for one that has been the same for too long."""
        verdict = self._watch.judge(frame)
        if verdict == "frozen":
            raise _FrozenError(
                f"camera {self.name} is frozen: it has given the same picture for {self._watch.still_s:.1f} s"
            )
        return verdict == "new"

    def _wait_for_light(self, deadline: float) -> None:
        """Note a black picture; CameraTimeout where the reader has waited long enough."""
        now = time.monotonic()
        self._black_since = self._black_since or now
        if now - self._black_since >= _BLACK_S and not self._black_noticed:
            self._black_noticed, self._reason = True, f"camera {self.name} shows nothing but black"
            fix = "take off its cap, give it light, or give dark=1 in its URI"
            self._notice(Finding("camera-black", "warning", f"{self._reason}; its pictures are left out", fix))
            self.findings = self._gap_findings()
        # Frames do come.
        self._waiting_since = now
        if now >= deadline:
            raise _BlackError(f"camera {self.name} shows nothing but black")

    def _wait_for_first(self, error: CameraError, now: float) -> None:
        """Note that the first frame is late."""
        if isinstance(error, CameraTimeout) and now - (self._opened_at or now) >= self.stall_s:
            self._be_late(f"camera {self.name} has given no frame yet; waiting for up to {_FIRST_FRAME_S:g} s")

    def _be_late(self, message: str) -> None:
        if not self._late:
            self._late = True
            self._notice(Finding("camera-late", "warning", message))

    def _gap_findings(self) -> tuple[Finding, ...]:
        findings = []
        if self.gaps:
            times = "once" if self._gone == 1 else f"{self._gone} times"
            message = (
                f"the camera was away {times}, {self._gone_s:.1f} s in all without a frame ({self.gaps[-1].reason})"
            )
            findings.append(Finding("camera-gaps", "warning", message))
        if self._away_since is not None:
            findings.append(Finding("camera-away", "warning", f"the camera was away at the end ({self._reason})"))
        elif self._black_noticed:
            findings.append(Finding("camera-black", "warning", "the camera showed nothing but black at the end"))
        return tuple(findings)


class _FrozenError(CameraError):
    """The same picture came again and again."""


class _BlackError(CameraTimeout):
    """Pictures come, and show nothing."""


class _Watch:
    """Judges pictures by a sparse sample of their pixels, and by all of them where that is suspicious.

    A sensor's noise makes every picture new, at night as well; what is under a sixteenth of full brightness everywhere
    shows nothing. `still_s` is for how long the picture has been the same.
    """

    _STEP = 16
    _BLACK = 16
    _LEAST_FRAMES = 5

    def __init__(self, frozen_s: float, dark: bool) -> None:
        self._frozen_s, self._dark = frozen_s, dark
        self._sample: Pixels | None = None
        self._checksum: int | None = None
        self._since = self.still_s = 0.0
        self._same = 0

    def judge(self, frame: Frame) -> Literal["new", "black", "frozen"]:
        """What a picture is."""
        sample = np.ascontiguousarray(frame.pixels[:: self._STEP, :: self._STEP])
        if not self._dark and sample.size and sample.max() <= self._BLACK and frame.pixels.max() <= self._BLACK:
            return "black"
        if self._frozen_s and self._is_same(sample, frame):
            self._same, self.still_s = self._same + 1, frame.captured_at - self._since
            return "frozen" if self._same >= self._LEAST_FRAMES and self.still_s >= self._frozen_s else "new"
        self._sample, self._same, self._since = sample, 0, frame.captured_at
        return "new"

    def _is_same(self, sample: Pixels, frame: Frame) -> bool:
        if self._sample is None or not np.array_equal(sample, self._sample):
            self._checksum = None
            return False
        # Something small may move between the samples.
        before, self._checksum = self._checksum, zlib.crc32(np.ascontiguousarray(frame.pixels).data)
        return before in (None, self._checksum)
