"""GStreamer pipelines as cameras; PyGObject and OpenCV, which run them, are in gst_appsink and grab."""

from __future__ import annotations

import re
from typing import Protocol

import cv2

from edgeloc.cameras.base import Camera
from edgeloc.device.cameras.grab import Grabber
from edgeloc.device.cameras.gst_appsink import AppSink, has_gobject
from edgeloc.errors import CameraError, UsageError
from edgeloc.types import Frame
from edgeloc.uri import Uri

__all__ = ["GstCamera", "Source"]

_SINK = re.compile(r"!\s*appsink\b[^!]*$")
# OpenCV knows its sink by "appsink" in the name.
_TAIL = "videoconvert ! video/x-raw,format=BGR ! appsink name=edgeloc-appsink drop=true max-buffers=1 sync=false"
_APT = "sudo apt install python3-gi gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"


class Source(Protocol):
    """A running pipeline, of which the newest frame can be read."""

    size: tuple[int, int]
    fps: float | None

    def read(self, timeout_s: float) -> Frame: ...
    def close(self) -> None: ...


class GstCamera(Camera):
    """`gst://PIPELINE`, such as `gst://v4l2src device=/dev/video0 ! image/jpeg ! jpegdec`; the newest frame is read.

    The pipeline is as for gst-launch-1.0; its end (conversion to BGR and an appsink that keeps one
    frame) is put here, in place of an appsink of its own. With PyGObject `captured_at` is the time
    stamp of the buffer in the pipeline's clock, which is the monotonic one; through an OpenCV that
    was built with GStreamer it is the time at which the frame arrived.
    """

    live = True

    def __init__(self, pipeline: str) -> None:
        if not pipeline.strip():
            raise UsageError("camera gst:// needs a pipeline, such as gst://videotestsrc is-live=true")
        self.pipeline = f"{_SINK.sub('', pipeline).strip().rstrip('!').strip()} ! {_TAIL}"
        self._source: Source | None = None

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> Camera:
        """The camera of a gst:// URI; scaling is the pipeline's own affair."""
        return cls(uri.path)

    @property
    def name(self) -> str:
        """The pipeline, without what is put at its end."""
        return f"gst://{self.pipeline.removesuffix(_TAIL).rstrip(' !')}"

    def _open(self) -> None:
        if not (has_gobject() or _opencv_has_gstreamer()):
            raise CameraError(
                f"camera {self.name} needs GStreamer, and neither PyGObject nor an OpenCV with GStreamer is here"
                f" (pip's OpenCV has none): {_APT}, in a venv made with --system-site-packages"
            )
        self._source = self._start()
        self.size, self.fps = self._source.size, self._source.fps

    def _start(self) -> Source:
        """The running pipeline; CameraError where it does not run."""
        if has_gobject():
            return AppSink(self.pipeline, self.name)
        return Grabber(self.pipeline, cv2.CAP_GSTREAMER, self.name)

    def _read(self, timeout_s: float) -> Frame | None:
        assert self._source is not None
        return self._source.read(timeout_s)

    def _close(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None


def _opencv_has_gstreamer() -> bool:
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))
