"""GStreamer pipelines as cameras, run by PyGObject or OpenCV; a Jetson's CSI camera is one of them."""

from __future__ import annotations

import importlib
import re
import time
from typing import Any, Protocol

import cv2
import numpy as np

from edgeloc._support.backend import Uri
from edgeloc.cameras import base
from edgeloc.cameras.base import Camera, Setting, cover, rate, require_within_frame, sensor_time
from edgeloc.cameras.base import size as parse_size
from edgeloc.device.cameras.grab import Grabber
from edgeloc.errors import CameraError, CameraTimeout, UsageError, mask_credentials
from edgeloc.types import Frame, Pixels

__all__ = ["AppSink", "CsiCamera", "GstCamera", "Source", "has_gobject"]

_START_S = 10.0
_SINK = re.compile(r"!\s*appsink\b[^!]*$")
# OpenCV knows its sink by "appsink" in the name.
_TAIL = "videoconvert ! video/x-raw,format=BGR ! appsink name=edgeloc-appsink drop=true max-buffers=1 sync=false"
_APT = "sudo apt install python3-gi gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
MODE = (1280, 720)
_FIX = (
    "on a Jetson: check the ribbon cable, that no other program holds the sensor, and"
    " `sudo systemctl restart nvargus-daemon`"
)


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


class Source(Protocol):
    """A running pipeline, of which the newest frame can be read."""

    size: tuple[int, int]
    fps: float | None

    def read(self, timeout_s: float) -> Frame: ...
    def close(self) -> None: ...


class GstCamera(Camera):
    """`gst://PIPELINE`, such as `gst://v4l2src device=/dev/video0 ! image/jpeg ! jpegdec`; the newest frame is read.

    The pipeline is as for gst-launch-1.0; its end (conversion to BGR and an appsink that keeps one
    frame) is added here, in place of an appsink of its own. With PyGObject `captured_at` is the time
    stamp of the buffer in the pipeline's clock, which is the monotonic one; through an OpenCV that
    was built with GStreamer it is the time at which the frame arrived.
    """

    live = True
    reconnects = True
    # A compressed stream repeats a still scene exactly, up to the next key frame.
    still_s = 30.0

    def __init__(self, pipeline: str) -> None:
        if not pipeline.strip():
            raise UsageError("camera gst:// needs a pipeline, such as gst://videotestsrc is-live=true")
        self.pipeline = f"{_SINK.sub('', pipeline).strip().rstrip('!').strip()} ! {_TAIL}"
        self._source: Source | None = None

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> Camera:
        """The camera of a gst:// URI; scaling is up to the pipeline."""
        return cls(uri.path)

    @property
    def name(self) -> str:
        """The pipeline without credentials, and without what is put at its end."""
        return mask_credentials(f"gst://{self.pipeline.removesuffix(_TAIL).rstrip(' !')}")

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


class CsiCamera(GstCamera):
    """`csi://0?mode=1280x720&fps=30&size=400x224`: the Jetson's sensor by number.

    `mode` is what the sensor sends (it must be one of its own modes); the board's converter scales
    it to the smallest size of the same shape that covers what the model takes, or to `size`. `exposure` (in
    microseconds) and `gain` (a factor) are each automatic unless given; NVIDIA's daemon brings a value within
    the sensor's range without a word.
    """

    def __init__(
        self,
        sensor: int = 0,
        *,
        mode: tuple[int, int] = MODE,
        fps: float = 30.0,
        size: tuple[int, int] | None = None,
        exposure: Setting | None = None,
        gain: float | None = None,
    ) -> None:
        self._sensor = sensor
        require_within_frame(self.name, exposure, fps)
        width, height = size or mode
        super().__init__(
            f"nvarguscamerasrc sensor-id={sensor}{_held(exposure, gain)}"
            f" ! video/x-raw(memory:NVMM),width={mode[0]},height={mode[1]},framerate={round(fps * 1000)}/1000"
            f" ! nvvidconv ! video/x-raw,format=BGRx,width={width},height={height}"
        )

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> CsiCamera:
        """The camera of a csi:// URI; `size` is what the model takes."""
        parsers = {"mode": parse_size, "fps": rate, "size": parse_size}
        options = uri.options({**parsers, "exposure": base.exposure, "gain": base.gain})
        if uri.path and not uri.path.isdecimal():
            raise UsageError(f"camera {uri.text}: give the sensor's number, such as csi://0")
        if size is not None:
            options.setdefault("size", cover(size, options.get("mode", MODE)))
        return cls(int(uri.path or 0), **options)

    @property
    def name(self) -> str:
        """The URI's beginning."""
        return f"csi://{self._sensor}"

    def _start(self) -> Source:
        try:
            return super()._start()
        except CameraError as error:
            raise CameraError(f"{error}; {_FIX}") from error


def _held(exposure: Setting | None, gain: float | None) -> str:
    """nvarguscamerasrc's properties that hold exposure (in ns there) and gain, that of the ISP behind it too."""
    text = (
        f' exposuretimerange="{exposure * 1000:.0f} {exposure * 1000:.0f}"'
        if isinstance(exposure, (int, float))
        else ""
    )
    return text if gain is None else f'{text} gainrange="{gain:g} {gain:g}" ispdigitalgainrange="1 1"'


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


def _unparsed(name: str, message: str) -> str:
    """What is wrong with a pipeline: most often a plug-in that is not installed."""
    if "no element" in message:
        return (
            f"camera {name}: {message}: install the plug-in that brings it (`gst-inspect-1.0 ELEMENT` shows whether"
            " it is installed), such as gstreamer1.0-plugins-good; nvarguscamerasrc is on Jetson boards only"
        )
    return f"camera {name}: GStreamer does not understand its pipeline: {message}; try it with gst-launch-1.0"


def _opencv_has_gstreamer() -> bool:
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))
