"""Capture in a thread of its own: it reads the camera, prepares each frame, and hands it over in a slot for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from edgeloc._support.interrupt import Interrupt
from edgeloc.cameras.base import READ_TIMEOUT_S, Camera
from edgeloc.errors import CameraTimeout
from edgeloc.types import Frame, Result

__all__ = ["Capture", "Captured", "Mode", "NewestSlot", "Prepare", "WaitingSlot"]

Mode = Literal["newest", "fresh"]


class Captured(NamedTuple):
    """A frame, and what is left to do for its answer: of the localizer, what was not done while it was captured."""

    frame: Frame
    answer: Callable[[], Result]

    @property
    def captured_at(self) -> float:
        """The frame's."""
        return self.frame.captured_at


Prepare = Callable[[Frame], Captured]


class _NoFrame(TimeoutError):
    """Nothing came in the time of one `take`; any other TimeoutError is the camera's."""


class _Timed(Protocol):
    @property
    def captured_at(self) -> float:
        """Seconds of `time.monotonic()`."""


T = TypeVar("T", bound=_Timed)

# How often a wait for a frame looks for an interrupt.
_POLL_S = 0.1
# After how long a camera whose read() does not return is given up.
_HANG_S = 10.0
# A read gives up after 2 s by itself.
_JOIN_S = 2.5


class NewestSlot(Generic[T]):
    """Holds at most one frame; a newer one replaces it, and the replaced one counts as dropped.

    One thread puts, another takes. What ends the stream (its end, a failure, `close`) is handed over too, after the
    frame that was put last, so that no captured frame is lost.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: T | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many frames were never taken: replaced by a newer one, or too old for `take`."""
        return self._dropped

    def wanted(self) -> bool:
        """Whether a frame is to be put in: until the stream has ended, always."""
        return not self._ended

    def put(self, frame: T) -> None:
        """Put in the newest frame; one that was not taken yet is dropped. After `close` nothing is kept."""
        with self._condition:
            if self._ended:
                return
            if self._frame is not None:
                self._dropped += 1
            self._frame = frame
            self._condition.notify_all()

    def end(self) -> None:
        """End the stream: no frame will follow."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def fail(self, error: BaseException) -> None:
        """End the stream with an error, which `take` raises."""
        with self._condition:
            if not self._ended:
                self._error = error
                self._ended = True
            self._condition.notify_all()

    def close(self) -> None:
        """End the stream at once: drop the frame that is held, and wake a waiting `take` with None."""
        with self._condition:
            self._frame = self._error = None
            self._ended = True
            self._condition.notify_all()

    def take(self, timeout_s: float, *, after: float = float("-inf")) -> T | None:
        """The newest frame; None at the stream's end.

        `timeout_s` is how long to wait for one, in seconds; then TimeoutError is raised.
        `after` drops frames captured before it, seconds of `time.monotonic()`.

        Raises the error that the capturing side handed to `fail`.
        """
        deadline = time.monotonic() + timeout_s
        with self._condition:
            while True:
                frame, self._frame = self._frame, None
                if frame is not None:
                    self._condition.notify_all()
                if frame is not None and frame.captured_at >= after:
                    return frame
                if frame is not None:
                    self._dropped += 1
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return None
                if not self._condition.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise _NoFrame(f"no frame in {timeout_s:g} s")


class WaitingSlot(NewestSlot[T]):
    """The same for a source that waits: its next frame is wanted once the one before was taken, so none is dropped."""

    def wanted(self) -> bool:
        """Wait until the slot is empty; False once the stream has ended."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is None or self._ended)
            return not self._ended


class Capture:
    """A camera, read by a thread of its own; iterating gives the frames to localize.

    A live camera is read into a newest-frame slot. Any other gives every frame in order, and is read one frame ahead.

    To be used in a `with`, which starts and ends the thread.

    `camera` is an open camera.
    `mode` is "newest" (the newest frame there is) or "fresh" (one whose exposure began after it was asked for); it is
    of a live camera.
    `interrupt` ends the iteration once the user asked for it.
    `prepare` is called in the thread with each frame.

    Raises CameraTimeout when a live camera's `read` does not return, and whatever it or `prepare` raises.
    """

    def __init__(self, camera: Camera, mode: Mode, interrupt: Interrupt, prepare: Prepare) -> None:
        self._camera, self._interrupt, self._prepare = camera, interrupt, prepare
        self._fresh = camera.live and mode == "fresh"
        self._slot: NewestSlot[Captured] = NewestSlot() if camera.live else WaitingSlot()
        self._thread = threading.Thread(target=self._read, name="edgeloc-capture", daemon=True)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._slot.close()
        # A file is not closed while it is read, however long that takes: its decoder would crash.
        self._thread.join(_JOIN_S if self._camera.live else None)

    def __iter__(self) -> Iterator[Captured]:
        while not self._interrupt.asked:
            asked_at = time.monotonic()
            captured = self._take(asked_at, asked_at if self._fresh else float("-inf"))
            if captured is None:
                return
            yield captured

    def _read(self) -> None:
        """What the thread does: read, prepare, put, until the end or a failure."""
        try:
            last_at = time.monotonic()
            while self._slot.wanted():
                try:
                    frame = self._camera.read(READ_TIMEOUT_S if self._camera.live else None)
                except CameraTimeout:
                    stalled = time.monotonic() - last_at >= self._camera.stall_s
                    if stalled and not self._camera.reconnecting:
                        raise
                    continue
                last_at = time.monotonic()
                if frame is None:
                    return self._slot.end()
                self._slot.put(self._prepare(frame))
        except BaseException as error:
            self._slot.fail(error)

    def _take(self, began_at: float, after: float) -> Captured | None:
        """One frame; wakes up now and then, so that a signal ends the wait and a hung driver is given up."""
        while not self._interrupt.asked:
            try:
                return self._slot.take(_POLL_S, after=after)
            except _NoFrame:
                if self._camera.reconnecting:
                    began_at = time.monotonic()
                limit_s = _HANG_S + self._camera.stall_s - READ_TIMEOUT_S
                if self._camera.live and time.monotonic() - began_at > limit_s:
                    name = self._camera.name
                    raise CameraTimeout(f"camera {name} hangs: it gave no frame for {limit_s:g} s") from None
        return None
