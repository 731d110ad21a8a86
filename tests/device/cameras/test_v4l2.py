"""V4L2 without hardware: what each way to fail is told, over a fake of OpenCV's capture."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.cameras import open_camera
from edgeloc.cameras.base import parse_uri, sensor_time
from edgeloc.device.cameras import probe as v4l2_probe
from edgeloc.device.cameras import v4l2
from edgeloc.device.cameras.v4l2 import V4l2Camera
from edgeloc.errors import CameraError, CameraTimeout, UsageError


class FakeCapture:
    """As much of cv2.VideoCapture as the camera uses; its class attributes are the driver's mood."""

    opens = True
    grants = True
    ready = True
    decodes = True
    error = False
    driver_ahead_s = -0.02

    def __init__(self, device: str, backend: int) -> None:
        assert backend == cv2.CAP_V4L2
        self.values = {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0, cv2.CAP_PROP_FPS: 30.0}
        self.values[cv2.CAP_PROP_FOURCC] = 0.0
        self.released = False

    def isOpened(self) -> bool:
        return self.opens

    def set(self, name: int, value: float) -> bool:
        if self.grants:
            self.values[name] = value
        # OpenCV says so too when it fell back to something else.
        return True

    def get(self, name: int) -> float:
        if name == cv2.CAP_PROP_POS_MSEC:
            return (time.monotonic() + self.driver_ahead_s) * 1000
        return self.values[name]

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        return (True, np.zeros((480, 640, 3), np.uint8)) if self.decodes else (False, None)

    def release(self) -> None:
        self.released = True

    @classmethod
    def waitAny(cls, streams: list[FakeCapture], timeout_ns: int) -> tuple[bool, list[int]]:
        if cls.error:
            raise cv2.error("stream error")
        if not cls.ready:
            time.sleep(timeout_ns / 1e9)
        return cls.ready, [0] if cls.ready else []


@pytest.fixture
def mood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[FakeCapture]]:
    class Mood(FakeCapture):
        pass

    monkeypatch.setattr(v4l2, "probe", lambda device: None)
    monkeypatch.setattr(cv2, "VideoCapture", Mood)
    yield Mood


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "video0"
    path.touch()
    return path


def test_frames_come_with_the_drivers_time(mood: type[FakeCapture], device: Path) -> None:
    with V4l2Camera(str(device)) as camera:
        first, second = camera.read(), camera.read()
    assert first is not None and second is not None
    assert (first.sequence, second.sequence) == (0, 1)
    assert time.monotonic() - first.captured_at > 0.015
    assert camera.live and camera.fps == 30.0 and camera.size == (640, 480)


def test_options_reach_the_driver(mood: type[FakeCapture], device: Path) -> None:
    uri = parse_uri(f"v4l2://{device}?size=1280x720&fps=15&format=mjpg")
    camera = V4l2Camera.from_uri(uri, (192, 192))
    camera.open()
    assert (camera.size, camera.fps) == ((1280, 720), 15.0)


def test_a_size_that_is_not_granted_is_told(mood: type[FakeCapture], device: Path) -> None:
    mood.grants = False
    with pytest.raises(CameraError, match=r"640x480 instead of 1280x720.*list-formats-ext"):
        V4l2Camera(str(device), size=(1280, 720)).open()


def test_a_format_that_is_not_granted_is_told(mood: type[FakeCapture], device: Path) -> None:
    mood.grants = False
    with pytest.raises(CameraError, match="does not send YUYV"):
        V4l2Camera(str(device), format="YUYV").open()


def test_a_busy_camera_says_who_to_ask(mood: type[FakeCapture], device: Path) -> None:
    mood.opens = False
    with pytest.raises(CameraError, match=r"another program holds it.*fuser"):
        V4l2Camera(str(device)).open()


def test_a_silent_camera_times_out(mood: type[FakeCapture], device: Path) -> None:
    mood.ready = False
    with V4l2Camera(str(device)) as camera, pytest.raises(CameraTimeout, match="cable"):
        camera.read(0.02)


@pytest.mark.parametrize("error", [False, True])
def test_an_unplugged_camera_is_gone(mood: type[FakeCapture], device: Path, error: bool) -> None:
    with V4l2Camera(str(device)) as camera:
        assert camera.read() is not None
        device.unlink()
        mood.ready, mood.error = False, error
        with pytest.raises(CameraError, match="unplugged"):
            camera.read(0.02)


def test_a_camera_that_fails_at_its_first_frame_may_be_busy(mood: type[FakeCapture], device: Path) -> None:
    mood.error = True
    with V4l2Camera(str(device)) as camera, pytest.raises(CameraError, match="another program holds it"):
        camera.read(0.02)


def test_frames_that_cannot_be_decoded_are_not_made_up(mood: type[FakeCapture], device: Path) -> None:
    mood.decodes = False
    with V4l2Camera(str(device)) as camera, pytest.raises(CameraError, match="cannot be decoded"):
        camera.read(0.02)


def test_an_unknown_format_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(UsageError, match="MJPG or YUYV"):
        V4l2Camera(format="H264")


@pytest.mark.parametrize("driver_s", [0.0, 1.7e9, 105.0, 80.0])
def test_a_time_of_another_clock_is_not_believed(driver_s: float) -> None:
    assert sensor_time(driver_s, 100.0) == 100.0


def test_a_monotonic_time_is_believed() -> None:
    assert sensor_time(99.95, 100.0) == 99.95
    assert sensor_time(99.95, 100.0, 99.9) == 99.95


def test_a_clock_that_jumped_back_is_not_believed() -> None:
    assert sensor_time(95.0, 100.0, 99.97) == 100.0


def test_a_device_that_is_no_camera_is_told(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="no V4L2 camera"):
        v4l2_probe.probe("/dev/null")
    (tmp_path / "video9").touch()
    with pytest.raises(CameraError, match="no device"):
        v4l2_probe.probe(str(tmp_path / "video9"))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "group video"),
        (errno.EBUSY, "busy"),
        (errno.ENOENT, "not there"),
        (errno.ENODEV, "not there"),
        (errno.EIO, "cannot be opened"),
    ],
)
def test_each_refusal_of_the_system_has_its_sentence(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(v4l2_probe.os, "open", refuse)
    with pytest.raises(CameraError, match=words) as caught:
        open_camera("v4l2:///dev/video0")
    assert "/dev/video0" in str(caught.value)


def settings_of(uri: str) -> dict[int, float]:
    """OpenCV's properties after a camera was opened."""
    with open_camera(f"{uri}&reconnect=0") as camera:
        values: dict[int, float] = camera._camera._capture.values  # type: ignore[attr-defined]
    return values


def test_exposure_gain_and_focus_are_set_in_v4l2s_units(mood: type[FakeCapture], device: Path) -> None:
    values = settings_of(f"v4l2://{device}?exposure=8000&gain=64&focus=30")
    assert values[cv2.CAP_PROP_AUTO_EXPOSURE] == 1 and values[cv2.CAP_PROP_EXPOSURE] == 80
    assert values[cv2.CAP_PROP_GAIN] == 64
    assert values[cv2.CAP_PROP_AUTOFOCUS] == 0 and values[cv2.CAP_PROP_FOCUS] == 30
    values = settings_of(f"v4l2://{device}?focus=auto&exposure=auto")
    assert values[cv2.CAP_PROP_AUTOFOCUS] == 1 and values[cv2.CAP_PROP_AUTO_EXPOSURE] == 3
    untouched = settings_of(f"v4l2://{device}?fps=30")
    assert not {cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_GAIN, cv2.CAP_PROP_AUTOFOCUS} & set(untouched)


def test_a_control_that_the_driver_lacks_is_named(
    mood: type[FakeCapture], device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks = {cv2.CAP_PROP_FOCUS, cv2.CAP_PROP_AUTOFOCUS}
    monkeypatch.setattr(mood, "set", lambda self, name, value: name not in lacks)
    with pytest.raises(CameraError, match=r"does not take focus=30.*list-ctrls"):
        open_camera(f"v4l2://{device}?focus=30")
    with pytest.raises(CameraError, match=r"has no automatic focus.*list-ctrls"):
        open_camera(f"v4l2://{device}?focus=auto")
    with pytest.raises(UsageError, match="auto, or a number from 0"):
        open_camera(f"v4l2://{device}?focus=near")
    with pytest.raises(UsageError, match="gain=auto must be a gain from 0"):
        open_camera(f"v4l2://{device}?gain=auto")


def test_a_driver_without_an_automatic_takes_the_value(
    mood: type[FakeCapture], device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = mood.set
    monkeypatch.setattr(
        mood, "set", lambda self, name, value: name != cv2.CAP_PROP_AUTOFOCUS and grant(self, name, value)
    )
    assert settings_of(f"v4l2://{device}?focus=30")[cv2.CAP_PROP_FOCUS] == 30


def test_a_value_that_the_driver_changes_is_told(
    mood: type[FakeCapture], device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = mood.set
    monkeypatch.setattr(mood, "set", lambda self, name, value: grant(self, name, min(round(value), 5000)))
    with pytest.raises(CameraError, match="gives exposure=500000 instead of 900000"):
        open_camera(f"v4l2://{device}?exposure=900000")
    # Steps of 100 us are the driver's nature, and no refusal.
    assert settings_of(f"v4l2://{device}?exposure=8049")[cv2.CAP_PROP_EXPOSURE] == 80
