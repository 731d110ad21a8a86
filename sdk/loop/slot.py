"""A single place for the newest frame between a capture thread and the thread that uses frames; it reads no camera."""

from __future__ import annotations

import threading
import time

from edgeloc.types import Frame

__all__ = ["NewestSlot"]


class NewestSlot:
    """Holds at most one frame; a newer one replaces it, and the replaced one counts as dropped.

    One thread puts, another takes. What ends the stream (its end, a failure, `close`) is handed
    over too: after the frame that was put last, so that no captured frame is lost to it.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many frames were replaced, or refused as too old, without anyone having taken them."""
        return self._dropped

    def put(self, frame: Frame) -> None:
        """Leave the newest frame; one that still lies there is dropped. After `close` nothing is kept."""
        with self._condition:
            if self._ended:
                return
            if self._frame is not None:
                self._dropped += 1
            self._frame = frame
            self._condition.notify_all()

    def end(self) -> None:
        """Say that no frame will follow."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def fail(self, error: BaseException) -> None:
        """Say why no frame will follow; `take` raises it."""
        with self._condition:
            if not self._ended:
                self._error = error
                self._ended = True
            self._condition.notify_all()

    def close(self) -> None:
        """Wake who waits, with None, and forget the frame that lies here."""
        with self._condition:
            self._frame = self._error = None
            self._ended = True
            self._condition.notify_all()

    def take(self, timeout_s: float, *, after: float = float("-inf")) -> Frame | None:
        """The newest frame captured at `after` (seconds of `time.monotonic()`) or later; None at the stream's end.

        Waits up to `timeout_s` seconds, then raises TimeoutError. Frames captured before `after`
        are dropped. Raises what the capturing side handed to `fail`.
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
