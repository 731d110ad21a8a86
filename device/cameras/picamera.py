"""Raspberry Pi cameras through picamera2, scaled by the board's ISP."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import cv2
import numpy as np

from edgeloc._support.backend import Uri
from edgeloc.cameras import base
from edgeloc.cameras.base import Camera, Setting, cover, rate, require_within_frame, sensor_time
from edgeloc.cameras.base import size as parse_size
from edgeloc.errors import CameraError, CameraTimeout, UsageError, first_line
from edgeloc.types import Frame, Pixels

__all__ = ["PicameraCamera", "boot_time", "missing", "refused", "to_bgr"]

_APT = "sudo apt install python3-picamera2"
_VENV = "a venv must be made with `python3 -m venv --system-site-packages`"
DEFAULT_SIZE = (1280, 720)
# libcamera names formats by the bytes of a little-endian word: its RGB888 lies in memory as B, G, R.
_BGR = "RGB888"
_CONVERSIONS = {"BGR888": cv2.COLOR_RGB2BGR, "XRGB8888": cv2.COLOR_BGRA2BGR, "XBGR8888": cv2.COLOR_RGBA2BGR}
_PLANAR = {"YUV420": cv2.COLOR_YUV2BGR_I420, "NV12": cv2.COLOR_YUV2BGR_NV12}
_WIDEST = 0.99


def missing(name: str, error: ImportError) -> str:
    """What to install, for an import that failed."""
    in_venv = sys.prefix != sys.base_prefix
    where = f"; {_VENV} to see it, with the system's own Python" if in_venv else ""
    package = (error.name or "").partition(".")[0]
    if package == "libcamera":
        return (
            f"camera {name}: picamera2 is here but libcamera's bindings for Python are not: {_APT} (Raspberry Pi OS) or"
            f" sudo apt install python3-libcamera (Debian 13; Debian 12 has none){where}"
        )
    if package in ("kms", "pykms"):
        return f"camera {name}: picamera2 does not load without pykms: sudo apt install python3-kms++{where}"
    if package == "picamera2":
        return f"camera {name} needs picamera2: {_APT} (Raspberry Pi OS){where}"
    return f"camera {name}: picamera2 does not load: {first_line(error)}: {_APT}{where}"


def refused(name: str, error: BaseException) -> str:
    """Why a camera does not open, from the error and all that caused it."""
    text = " / ".join(_chain(error))
    if "Camera(s) not found" in text or "No camera number" in text or isinstance(error, IndexError):
        return (
            f"camera {name} is not there: `rpicam-hello --list-cameras` lists what is; check the ribbon cable, and that"
            " you are in the group video (sudo usermod -aG video $USER)"
        )
    if "busy" in text.lower() or "acquire" in text:
        return (
            f"camera {name} is busy: another program holds it (rpicam-*, libcamera-* or another Python;"
            " `fuser -v /dev/media* /dev/video*` names it)"
        )
    if "dmaHeap" in text:
        return (
            f"camera {name} may not use /dev/dma_heap: add yourself to the group video (sudo usermod -aG video $USER)"
            " and log in again; it needs the kernel of Raspberry Pi OS"
        )
    if "allocate" in text:
        return (
            f"camera {name} got no memory for its frames: ask for a smaller size, or give the camera more with cma= in"
            f" config.txt ({text})"
        )
    return f"camera {name} does not start: {text}; `rpicam-hello` shows whether the camera works at all"


class PicameraCamera(Camera):
    """`picamera://0?size=640x480&fps=30`: the Pi's camera by number, already at the model's size and in BGR.

    The ISP scales the whole view of the sensor to the smallest size of its shape that covers what
    the model takes, or to `size`, and converts the colour: no pixel is touched by the CPU but for
    one copy. `captured_at` is when the first row was exposed (`SensorTimestamp`). A camera whose
    pipeline has no RGB (USB, the virtual one) sends what it has, which is converted here.

    `exposure` (in microseconds) and `gain` (a factor) are each automatic unless given; `focus` is in dioptres
    (1 / metres), or "auto" for a continuous autofocus.
    """

    live = True
    reconnects = True

    def __init__(
        self,
        number: int = 0,
        *,
        size: tuple[int, int] | None = None,
        fps: float = 30.0,
        covers: tuple[int, int] | None = None,
        exposure: Setting | None = None,
        gain: float | None = None,
        focus: Setting | None = None,
    ) -> None:
        self.number = number
        require_within_frame(self.name, exposure, fps)
        self._asked_size, self._asked_fps, self._covers = size, fps, covers
        self._asked_controls = _controls(exposure, gain, focus)
        self._camera: Any = None
        self._job: Any = None
        self._first: int | None = None
        self._last_at = 0.0

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> PicameraCamera:
        """The camera of a picamera:// URI; `size` is what the model takes."""
        parsers = {"size": parse_size, "fps": rate}
        options = uri.options({**parsers, "exposure": base.exposure, "gain": base.gain, "focus": base.focus})
        if uri.path and not uri.path.isdecimal():
            raise UsageError(f"camera {uri.text}: give the camera's number, such as picamera://0")
        return cls(int(uri.path or 0), covers=size, **options)

    @property
    def name(self) -> str:
        """The URI's beginning."""
        return f"picamera://{self.number}"

    def _open(self) -> None:
        # Both log on the terminal what the error here states in one sentence; a user's own levels and handlers stay.
        os.environ.setdefault("LIBCAMERA_LOG_LEVELS", "*:FATAL")
        logging.getLogger("picamera2").addHandler(logging.NullHandler())
        try:
            picamera2: Any = importlib.import_module("picamera2")
        except ImportError as error:
            raise CameraError(missing(self.name, error)) from error
        try:
            self._camera = picamera2.Picamera2(self.number)
            self._configure(self._camera)
            self._camera.start()
        except CameraError:
            raise
        except Exception as error:  # RuntimeError, IndexError and others, by what failed
            raise CameraError(refused(self.name, error)) from error
        self._first, self._last_at = None, 0.0

    def _configure(self, camera: Any) -> None:
        """Ask the ISP for one stream: the whole view, the model's size, BGR, each frame as it comes."""
        # Only a camera behind the Pi's own ISP has sensor modes.
        modes = camera.sensor_modes if "ColorFilterArrangement" in camera.camera_properties else []
        mode = _whole_view(modes, self._asked_fps)
        limits = (round(1e6 / self._asked_fps),) * 2
        config = camera.create_video_configuration(
            main={"size": self._size(camera, mode), "format": _BGR},
            buffer_count=4,
            queue=False,
            controls=self._granted(camera.camera_controls, limits),
            **({"sensor": {"output_size": mode["size"], "bit_depth": mode["bit_depth"]}} if mode else {}),
        )
        camera.configure(config)
        self._require_within_range(camera.camera_controls)
        self._stream = camera.camera_configuration()["main"]
        self.size, self.fps = (int(self._stream["size"][0]), int(self._stream["size"][1])), self._asked_fps
        if self._stream["format"] not in (_BGR, *_CONVERSIONS, *_PLANAR):
            raise CameraError(
                f"camera {self.name} sends {self._stream['format']}, which is not known here: use v4l2:// for it"
            )
        if self._asked_size and self.size != self._asked_size:
            given, asked = ("x".join(map(str, size)) for size in (self.size, self._asked_size))
            raise CameraError(f"camera {self.name} gives {given} instead of {asked}: ask for a size that it has")

    def _granted(self, known: Any, limits: tuple[int, int]) -> dict[str, Any]:
        """libcamera's controls for the rate and what was asked for; CameraError for one that this camera lacks."""
        for control, (option, _) in self._asked_controls.items():
            if control not in known:
                raise CameraError(f"camera {self.name} cannot set its {option}: it has no {control}")
        rate_limits = {"FrameDurationLimits": limits} if "FrameDurationLimits" in known else {}
        return {**rate_limits, **{control: value for control, (_, value) in self._asked_controls.items()}}

    def _require_within_range(self, known: Any) -> None:
        """CameraError for a value that the sensor's mode does not have: libcamera would bring it within its range."""
        for control, (option, value) in self._asked_controls.items():
            least, most = known[control][:2]
            if not least <= value <= most:
                raise CameraError(f"camera {self.name} takes {option} from {least:g} to {most:g}, not {value:g}")

    def _size(self, camera: Any, mode: dict[str, Any] | None) -> tuple[int, int]:
        """What to ask for: the URI's size, else the view's shape around what the model takes."""
        if self._asked_size:
            return self._asked_size
        view = mode["crop_limits"][2:] if mode else camera.sensor_resolution
        return cover(self._covers or DEFAULT_SIZE, (int(view[0]), int(view[1])))

    def _read(self, timeout_s: float) -> Frame | None:
        # A job that timed out is kept, else its frame and buffer would be lost.
        self._job = self._job or self._camera.capture_request(wait=False)
        try:
            request = self._job.get_result(timeout=timeout_s)
        except (TimeoutError, FutureTimeout):
            raise CameraTimeout(
                f"camera {self.name} sent no frame for {timeout_s:g} s: check its ribbon cable at both ends"
            ) from None
        self._job = None
        try:
            return self._frame(request)
        finally:
            request.release()

    def _frame(self, request: Any) -> Frame:
        now = time.monotonic()
        pixels = to_bgr(request.make_array("main"), self._stream["format"], self.size or DEFAULT_SIZE)
        driver_s = boot_time(request.get_metadata().get("SensorTimestamp", 0), now, _suspended_s())
        self._last_at = sensor_time(driver_s, now, self._last_at)
        number = int(request.request.sequence)
        self._first = number if self._first is None else self._first
        return Frame(pixels, self._last_at, number - self._first)

    def _close(self) -> None:
        camera, self._camera, self._job = self._camera, None, None
        if camera is not None:
            camera.close()


def _controls(exposure: Setting | None, gain: float | None, focus: Setting | None) -> dict[str, tuple[str, float]]:
    """libcamera's controls for our options: by its name, the option and the value.

    AeEnable is not among them: it would hold the gain where only the exposure was given, and libcamera 0.5 ignores it.
    A value of its own ends the automatic of each.
    """
    controls: dict[str, tuple[str, float]] = {}
    if isinstance(exposure, (int, float)):
        controls["ExposureTime"] = ("exposure", round(exposure))
    if gain is not None:
        controls["AnalogueGain"] = ("gain", gain)
    if focus is not None:
        # AfModeEnum: 0 is manual, 2 continuous.
        controls["AfMode"] = ("focus", 2 if focus == "auto" else 0)
    if isinstance(focus, (int, float)):
        controls["LensPosition"] = ("focus", focus)
    return controls


def to_bgr(array: Any, format: str, size: tuple[int, int]) -> Pixels:
    """A stream's array as BGR pixels of `size`, (width, height), in memory of its own; `format` in libcamera's words.

    Planar arrays are (height * 3 / 2, stride), where the stride may be wider than the picture.
    """
    width, height = size
    if format == _BGR:
        return np.array(array[:height, :width], np.uint8)
    if format in _PLANAR:
        converted = cv2.cvtColor(np.ascontiguousarray(array), _PLANAR[format])
        return np.ascontiguousarray(converted[:height, :width], np.uint8)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(array), _CONVERSIONS[format]), np.uint8)


def boot_time(timestamp_ns: int, now_s: float, suspended_s: float) -> float:
    """A SensorTimestamp in seconds of `time.monotonic()`.

    libcamera promises CLOCK_BOOTTIME, which is ahead of the monotonic clock by the time the board
    was suspended; some drivers hand the monotonic time on. Taken for that, a boot time lies in the future.
    """
    stamp_s = timestamp_ns / 1e9
    return stamp_s if stamp_s <= now_s else stamp_s - suspended_s


def _chain(error: BaseException | None) -> list[str]:
    texts: list[str] = []
    while error is not None:
        texts.append(first_line(error))
        error = error.__cause__ or error.__context__
    return texts


def _suspended_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


def _whole_view(modes: list[dict[str, Any]], fps: float) -> dict[str, Any] | None:
    """The smallest sensor mode that sees all that the sensor can, and is fast enough; None where there is none.

    A small picture alone would make picamera2 choose a small mode, which on many sensors is a crop.
    """
    known = [mode for mode in modes if "crop_limits" in mode]
    if not known:
        return None
    widest = max(mode["crop_limits"][2] * mode["crop_limits"][3] for mode in known)
    whole = [mode for mode in known if mode["crop_limits"][2] * mode["crop_limits"][3] >= _WIDEST * widest]
    fast = [mode for mode in whole if mode["fps"] >= fps - 1] or [max(whole, key=lambda mode: float(mode["fps"]))]
    return min(fast, key=lambda mode: int(mode["size"][0] * mode["size"][1]))
