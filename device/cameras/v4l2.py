"""V4L2 cameras (USB webcams and the like) through OpenCV."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edgeloc._support.backend import Uri
from edgeloc._support.terminal import quiet_opencv
from edgeloc.cameras import base
from edgeloc.cameras.base import Camera, Setting, rate, sensor_time
from edgeloc.cameras.base import size as parse_size
from edgeloc.device.cameras.probe import probe
from edgeloc.errors import CameraError, CameraTimeout, UsageError
from edgeloc.types import Frame

__all__ = ["FORMATS", "V4l2Camera"]

FORMATS = ("MJPG", "YUYV")
DEFAULT_SIZE = (640, 480)
_CONTROLS = {"exposure": base.exposure, "gain": base.gain, "focus": base.focus}


class _Control(NamedTuple):
    """A setting as OpenCV and V4L2 have it.

    `prop` is OpenCV's property, and `unit` how much of our option one of the driver's units is.
    `mode` is the property that hands it to the driver's automatic (`auto`, the first that the driver has) or takes it
    away (`fixed`); None where there is no such property.
    """

    prop: int
    unit: float = 1.0
    mode: int | None = None
    fixed: int = 0
    auto: tuple[int, ...] = ()


# Of exposures: V4L2_EXPOSURE_MANUAL; _APERTURE_PRIORITY as webcams have it, and _AUTO as others do.
_OF_V4L2 = {
    "exposure": _Control(cv2.CAP_PROP_EXPOSURE, 100.0, cv2.CAP_PROP_AUTO_EXPOSURE, 1, (3, 0)),
    "gain": _Control(cv2.CAP_PROP_GAIN),
    "focus": _Control(cv2.CAP_PROP_FOCUS, 1.0, cv2.CAP_PROP_AUTOFOCUS, 0, (1,)),
}


class V4l2Camera(Camera):
    """`v4l2:///dev/video0?size=640x480&fps=30&format=MJPG`, or `v4l2://0`.

    Without a size, 640x480; a size or format that is asked for and not granted raises CameraError,
    a frame rate may come out lower (dim light), and `fps` is what the driver promised. So does an `exposure` (in
    microseconds), `gain` or `focus` (in the driver's own units) that is not granted; "auto" hands exposure or
    focus back to a driver, which otherwise keeps what it was last set to, also by another program.

    `captured_at` is the driver's time for the buffer (V4L2 drivers use the monotonic clock; UVC
    takes the start of the exposure), or, where the driver gives none, the time of the grab.
    """

    live = True
    reconnects = True

    def __init__(
        self,
        device: str = "/dev/video0",
        *,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        format: str | None = None,
        exposure: Setting | None = None,
        gain: float | None = None,
        focus: Setting | None = None,
    ) -> None:
        if format is not None and format not in FORMATS:
            raise UsageError(f"camera {device}: format is {format!r}: it must be {' or '.join(FORMATS)}")
        self.device = device
        self._asked_size, self._asked_fps, self._asked_format = size, fps, format
        self._asked_controls: dict[str, Setting | None] = {"exposure": exposure, "gain": gain, "focus": focus}
        self._capture: cv2.VideoCapture | None = None
        self._next = 0
        self._last_at = 0.0

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> V4l2Camera:
        """The camera of a v4l2:// URI, or of a path such as /dev/video0.

        A webcam has no scaler, and its small modes are often cropped: so `size` only makes the
        default larger where the model takes more than 640x480.
        """
        options = uri.options({"size": parse_size, "fps": rate, "format": str.upper, **_CONTROLS})
        device = f"/dev/video{uri.path}" if uri.path.isdecimal() else uri.path or "/dev/video0"
        return cls(device, **options)

    @property
    def name(self) -> str:
        """The device's path."""
        return self.device

    def _open(self) -> None:
        probe(self.device)
        with quiet_opencv():
            self._capture = cv2.VideoCapture(self.device, cv2.CAP_V4L2)
            if not self._capture.isOpened():
                raise CameraError(_busy(self.device))
            self._configure(self._capture)
        self._next, self._last_at = 0, 0.0

    def _configure(self, capture: cv2.VideoCapture) -> None:
        """Ask for format, size, rate and one buffer, so that no queue of old frames builds up."""
        if self._asked_format:
            code = cv2.VideoWriter.fourcc(*self._asked_format)
            capture.set(cv2.CAP_PROP_FOURCC, code)
            # `set` also returns True when OpenCV fell back to another format.
            if int(capture.get(cv2.CAP_PROP_FOURCC)) != code:
                raise CameraError(f"camera {self.device} does not send {self._asked_format}: {_modes(self.device)}")
        width, height = self._asked_size or DEFAULT_SIZE
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        if self._asked_fps:
            capture.set(cv2.CAP_PROP_FPS, self._asked_fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        for option, setting in self._asked_controls.items():
            if setting is not None:
                self._set(capture, option, setting)
        if not capture.isOpened():
            raise CameraError(_busy(self.device))
        self.size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if self._asked_size and self.size != self._asked_size:
            given, asked = ("x".join(map(str, size)) for size in (self.size, self._asked_size))
            raise CameraError(f"camera {self.device} gives {given} instead of {asked}: {_modes(self.device)}")
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if fps > 0 else None

    def _set(self, capture: cv2.VideoCapture, option: str, asked: Setting) -> None:
        """Set exposure, gain or focus; CameraError where the driver lacks it, or grants another value."""
        control, hint = _OF_V4L2[option], f"`v4l2-ctl -d {self.device} --list-ctrls` shows what it takes"
        if asked == "auto":
            if control.mode is None or not any(capture.set(control.mode, value) for value in control.auto):
                raise CameraError(f"camera {self.device} has no automatic {option}", hint=hint)
            return
        if control.mode is not None:
            # A driver without an automatic refuses this, and needs no more than the value.
            capture.set(control.mode, control.fixed)
        if not capture.set(control.prop, asked / control.unit):
            raise CameraError(f"camera {self.device} does not take {option}={asked:g}", hint=hint)
        # Drivers bring a value within their range without a word.
        given = capture.get(control.prop) * control.unit
        if abs(given - asked) > control.unit / 2:
            raise CameraError(f"camera {self.device} gives {option}={given:g} instead of {asked:g}", hint=hint)

    def _read(self, timeout_s: float) -> Frame | None:
        assert self._capture is not None
        deadline = time.monotonic() + timeout_s
        undecodable = 0
        while self._grab(self._capture, deadline):
            grabbed_at = time.monotonic()
            found, pixels = self._capture.retrieve()
            number, self._next = self._next, self._next + 1
            if found and pixels.ndim == 3:
                driver_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                self._last_at = sensor_time(driver_s, grabbed_at, self._last_at)
                return Frame(np.asarray(pixels, np.uint8), self._last_at, number)
            undecodable += 1
        if undecodable:
            raise CameraError(f"camera {self.device} sent {undecodable} frames that cannot be decoded: try format=YUYV")
        hint = "check its cable and its USB port"
        raise CameraTimeout(f"camera {self.device} sent no frame for {timeout_s:g} s", hint=hint)

    def _grab(self, capture: cv2.VideoCapture, deadline: float) -> bool:
        """Wait for a frame until `deadline`; False when none came."""
        # A signal ends the wait early and looks like a timeout: hence the loop.
        while (left := deadline - time.monotonic()) > 0:
            try:
                if cv2.VideoCapture.waitAny([capture], max(1_000_000, int(left * 1e9)))[0]:
                    return True
            except cv2.error as error:
                raise CameraError(_gone(self.device) if self._next else _busy(self.device)) from error
            if not Path(self.device).exists():
                raise CameraError(_gone(self.device))
        return False

    def _close(self) -> None:
        if self._capture is not None:
            with quiet_opencv():
                self._capture.release()
        self._capture = None


def _gone(device: str) -> str:
    return f"camera {device} is gone: it was unplugged or its driver stopped"


def _busy(device: str) -> str:
    return (
        f"camera {device} does not start: another program holds it (`fuser -v {device}` names it) or its driver failed"
    )


def _modes(device: str) -> str:
    return f"`v4l2-ctl -d {device} --list-formats-ext` shows its modes"
