"""Live capture: a thread that reads the camera, and the slot that holds its newest frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Literal

from edgeloc._support.interrupt import Interrupt
from edgeloc.cameras.base import READ_TIMEOUT_S, Camera
from edgeloc.errors import CameraTimeout
from edgeloc.types import Frame

__all__ = ["LiveCapture", "Mode", "NewestSlot"]

Mode = Literal["newest", "fresh"]

# How often a wait for a frame looks for an interrupt.
_POLL_S = 0.1
# After how long a camera whose read() does not return is given up.
_HANG_S = 10.0
# A read gives up after 2 s by itself.
_JOIN_S = 2.5


class NewestSlot:
    """Holds at most one frame; a newer one replaces it, and the replaced one counts as dropped.

    One thread puts, another takes. What ends the stream (its end, a failure, `close`) is handed over too, after the
    frame that was put last, so that no captured frame is lost.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many frames were never taken: replaced by a newer one, or too old for `take`."""
        return self._dropped

    def put(self, frame: Frame) -> None:
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

    def take(self, timeout_s: float, *, after: float = float("-inf")) -> Frame | None:
        """The newest frame; None at the stream's end.

        `timeout_s` is how long to wait for one, in seconds; then TimeoutError is raised.
        `after` drops frames captured before it, seconds of `time.monotonic()`.

        Raises the error that the capturing side handed to `fail`.
        """
        deadline = time.monotonic() + timeout_s
        with self._condition:
            while True:
                frame, self._frame = self._frame, None
                if frame is not None and frame.captured_at >= after:
                    return frame
                if frame is not None:
                    self._dropped += 1
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return None
                if not self._condition.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise TimeoutError(f"no frame in {timeout_s:g} s")


class LiveCapture:
    """A live camera, read by a thread of its own into a newest-frame slot; iterating gives the frames to localize.

    To be used in a `with`, which starts and ends the thread.

    `camera` is an open camera that is `live`.
    `mode` is "newest" (the newest frame there is) or "fresh" (one whose exposure began after it was asked for).
    `interrupt` ends the iteration once the user asked for it.

    Raises CameraTimeout when the camera's `read` does not return, and whatever it raises.
    """

    def __init__(self, camera: Camera, mode: Mode, interrupt: Interrupt) -> None:
        self._camera, self._fresh, self._interrupt = camera, mode == "fresh", interrupt
        self._slot, self._stop = NewestSlot(), threading.Event()
        self._thread = threading.Thread(target=self._read, name="edgeloc-capture", daemon=True)

    def __enter__(self) -> LiveCapture:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._slot.close()
        self._thread.join(_JOIN_S)

    def __iter__(self) -> Iterator[Frame]:
        while not self._interrupt.asked:
            asked_at = time.monotonic()
            frame = self._take(asked_at, asked_at if self._fresh else float("-inf"))
            if frame is None:
                return
            yield frame

    def _read(self) -> None:
        """What the thread does: read, put, until the end, a failure or `_stop`."""
        try:
            last_at = time.monotonic()
            while not self._stop.is_set():
                try:
                    frame = self._camera.read(READ_TIMEOUT_S)
                except CameraTimeout:
                    stalled = time.monotonic() - last_at >= self._camera.stall_s
                    if stalled and not self._camera.reconnecting:
                        raise
                    continue
                last_at = time.monotonic()
                if frame is None:
                    return self._slot.end()
                self._slot.put(frame)
        except BaseException as error:
            self._slot.fail(error)

    def _take(self, began_at: float, after: float) -> Frame | None:
        """One frame; wakes up now and then, so that a signal ends the wait and a hung driver is given up."""
        while not self._interrupt.asked:
            try:
                return self._slot.take(_POLL_S, after=after)
            except CameraTimeout:
                raise
            except TimeoutError:
                if self._camera.reconnecting:
                    began_at = time.monotonic()
                limit_s = _HANG_S + self._camera.stall_s - READ_TIMEOUT_S
                if time.monotonic() - began_at > limit_s:
                    name = self._camera.name
                    raise CameraTimeout(f"camera {name} hangs: it gave no frame for {limit_s:g} s") from None
        return None
