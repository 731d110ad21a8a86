"""Shows annotated frames in a window."""

from __future__ import annotations

from collections.abc import Callable

import cv2

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.errors import DeviceError
from edgeloc.observation import Observation
from edgeloc.sinks.base import Sink
from edgeloc.types import Pixels

__all__ = ["WindowSink"]

TITLE = "edgeloc (q ends)"
_END_KEYS = (ord("q"), ord("Q"), 27)
_NO_SCREEN = "there is no screen here (is DISPLAY set?)"
_NOT_IMPLEMENTED = -213  # cv2's Error::StsNotImplemented: built without windows
_PROBE = """
import cv2
try:
    cv2.namedWindow("edgeloc")
    cv2.waitKey(1)
    answer([0])
except cv2.error as error:
    answer([error.code])
"""
_PROBE_TIMEOUT_S = 20.0
_INSTEAD = "write to a file instead, such as out.mp4"


class WindowSink(Sink):
    """A window on the screen; q, Esc or closing it ends the run. Use it from the main thread."""

    inline = True

    def __init__(self) -> None:
        self._shown = False

    @property
    def name(self) -> str:
        """Always `window`."""
        return "window"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Check that a window can be shown; DeviceError when not."""
        _require_screen()
        self.ended = self._shown = False

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Show the annotated frame, and end the run where a key or the closed window asks for it."""
        if not self._shown:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            height, width = observation.frame.pixels.shape[:2]
            cv2.resizeWindow(TITLE, width, height)
            self._shown = True
        cv2.imshow(TITLE, drawn())
        key = cv2.waitKey(1) & 0xFF
        self.ended = key in _END_KEYS or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1

    def close(self) -> None:
        """Close the window."""
        if self._shown:
            self._shown = False
            cv2.destroyWindow(TITLE)


def _require_screen() -> None:
    """Open a window in a process of its own: Qt aborts the whole process where there is no screen."""
    try:
        (code,) = run_child(_PROBE, timeout_s=_PROBE_TIMEOUT_S)
    except ChildFailed as failure:
        reason = "the screen does not respond" if failure.ending == "timeout" else _NO_SCREEN
    else:
        if code == 0:
            return
        if code == _NOT_IMPLEMENTED:
            raise DeviceError(
                "window: this OpenCV cannot show windows",
                hint=f"pip uninstall opencv-python-headless, pip install opencv-python, or {_INSTEAD}",
            )
        reason = _NO_SCREEN
    raise DeviceError(f"window: {reason}", hint=_INSTEAD)
