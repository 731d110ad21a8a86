"""Drains an OpenCV capture in a thread, so that the frame that is read is the newest."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import cv2
import numpy as np

from edgeloc._support.terminal import quiet_opencv
from edgeloc.errors import CameraError, CameraTimeout
from edgeloc.loop.slot import NewestSlot
from edgeloc.types import Frame

__all__ = ["Grabber"]

# A read that has nothing to read ends by itself after a while.
_JOIN_S = 2.0


class Grabber:
    """The newest frame of a stream whose back end always queues frames.

    `captured_at` is when a frame came out of the decoder: no time of the sensor's reaches OpenCV
    from these back ends. Raises CameraError when the stream does not open.
    """

    def __init__(self, source: str, backend: int, name: str, options: Sequence[int] = ()) -> None:
        self._name = name
        with quiet_opencv():
            capture = cv2.VideoCapture(source, backend, list(options))
        if not capture.isOpened():
            capture.release()
            raise CameraError(f"camera {name} does not open: there is no stream, or its format is unknown")
        self.size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = fps if 0 < fps <= 1000 else None
        self._slot, self._stop = NewestSlot[Frame](), threading.Event()
        self._thread = threading.Thread(target=self._drain, args=(capture,), name="edgeloc-grab", daemon=True)
        self._thread.start()

    def _drain(self, capture: cv2.VideoCapture) -> None:
        """The thread's work, which alone touches the capture: read until `close()`, or until the stream fails."""
        number = 0
        try:
            while not self._stop.is_set():
                found, pixels = capture.read()
                if not found:
                    raise CameraError(f"camera {self._name} is gone: its stream ended or its network failed")
                self._slot.put(Frame(np.asarray(pixels, np.uint8), time.monotonic(), number))
                number += 1
        except BaseException as error:
            self._slot.fail(error)
        finally:
            capture.release()

    def read(self, timeout_s: float) -> Frame:
        """The newest frame that was not read yet; CameraTimeout when none comes, CameraError when none will."""
        try:
            frame = self._slot.take(timeout_s)
        except CameraError:
            raise
        except TimeoutError:
            raise CameraTimeout(
                f"camera {self._name} sent no frame for {timeout_s:g} s", hint="check its network"
            ) from None
        if frame is None:
            raise CameraError(f"camera {self._name} is closed")
        return frame

    def close(self) -> None:
        """Stop the thread; one that hangs in a driver is left behind."""
        self._stop.set()
        self._slot.close()
        self._thread.join(_JOIN_S)
