"""A GStreamer pipeline run through PyGObject, and its newest frame; what pipelines there are is in gst and csi."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np

from edgeloc.cameras.base import sensor_time
from edgeloc.errors import CameraError, CameraTimeout
from edgeloc.types import Frame, Pixels

__all__ = ["AppSink", "has_gobject"]

_START_S = 10.0


def _gst() -> Any:
    """GStreamer through PyGObject, ready for use; ImportError where a part of it is missing."""
    gi: Any = importlib.import_module("gi")
    try:
        gi.require_version("Gst", "1.0")
    except ValueError as error:
        raise ImportError(str(error)) from error
    gst: Any = importlib.import_module("gi.repository.Gst")
    gst.init(None)
    return gst


def has_gobject() -> bool:
    """Whether PyGObject and GStreamer's description for it are installed for this Python."""
    try:
        return _gst() is not None
    except ImportError:
        return False


class AppSink:
    """A running pipeline whose last element is an appsink named edgeloc-appsink that gives BGR.

    Raises CameraError when the pipeline does not parse, does not start, or gives no frame in 10 s.
    """

    def __init__(self, pipeline: str, name: str) -> None:
        self._gst, self._name = _gst(), name
        self._next, self._last_at = 0, 0.0
        try:
            self._pipeline: Any = self._gst.parse_launch(pipeline)
        except Exception as error:  # GLib.Error, which is known only where PyGObject is
            raise CameraError(_unparsed(name, str(getattr(error, "message", error)))) from error
        # The monotonic clock, so that a buffer's time is one that other parts know.
        self._pipeline.use_clock(self._gst.SystemClock.obtain())
        self._sink: Any = self._pipeline.get_by_name("edgeloc-appsink")
        self._pipeline.set_state(self._gst.State.PLAYING)
        try:
            caps = self._pull(_START_S).get_caps().get_structure(0)
        except BaseException:
            self.close()
            raise
        self.size = (int(caps.get_value("width")), int(caps.get_value("height")))
        known, numerator, denominator = caps.get_fraction("framerate")
        self.fps: float | None = numerator / denominator if known and numerator else None

    def read(self, timeout_s: float) -> Frame:
        """The newest frame that was not read yet; CameraTimeout when none comes, CameraError when none will."""
        sample = self._pull(timeout_s)
        taken_at = time.monotonic()
        buffer = sample.get_buffer()
        self._last_at = sensor_time((self._pipeline.get_base_time() + buffer.pts) / 1e9, taken_at, self._last_at)
        self._next += 1
        return Frame(self._pixels(buffer), self._last_at, self._next - 1)

    def _pull(self, timeout_s: float) -> Any:
        sample = self._sink.emit("try-pull-sample", int(timeout_s * self._gst.SECOND))
        if sample is not None:
            return sample
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        if message is not None:
            error, details = message.parse_error()
            reason = (details or "").strip().splitlines()[-1:] or [""]
            raise CameraError(f"camera {self._name} failed: {' '.join((error.message, *reason)).strip()}")
        if self._sink.get_property("eos"):
            raise CameraError(f"camera {self._name} is gone: its pipeline came to an end")
        raise CameraTimeout(f"camera {self._name} sent no frame for {timeout_s:g} s: check its cable and its pipeline")

    def _pixels(self, buffer: Any) -> Pixels:
        """A copy of the picture, without what pads its rows to a multiple of four bytes."""
        mapped, memory = buffer.map(self._gst.MapFlags.READ)
        if not mapped:
            raise CameraError(f"camera {self._name} sent a frame that cannot be read: add `! videoconvert` to it")
        width, height = self.size
        try:
            rows = np.frombuffer(memory.data, np.uint8).reshape(height, -1)
            return np.array(rows[:, : 3 * width].reshape(height, width, 3), np.uint8)
        except ValueError as error:
            raise CameraError(f"camera {self._name} sent a frame of another size than {width}x{height}") from error
        finally:
            buffer.unmap(memory)

    def close(self) -> None:
        """Stop the pipeline."""
        self._pipeline.set_state(self._gst.State.NULL)


def _unparsed(name: str, message: str) -> str:
    """What is wrong with a pipeline: most often a plug-in that is not installed."""
    if "no element" in message:
        return (
            f"camera {name}: {message}: install the plug-in that brings it (`gst-inspect-1.0 ELEMENT` tells when it"
            " is there), such as gstreamer1.0-plugins-good; nvarguscamerasrc is on Jetson boards only"
        )
    return f"camera {name}: GStreamer does not understand its pipeline: {message}; try it with gst-launch-1.0"
