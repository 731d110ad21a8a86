"""The Pi's camera over a fake picamera2: what is asked of the ISP, colours, times, and every way to fail."""

from __future__ import annotations

import sys
import time
import types
from concurrent.futures import Future
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.cameras import open_camera
from edgeloc.cameras.base import cover
from edgeloc.device.cameras import picamera
from edgeloc.device.cameras.picamera import boot_time, to_bgr
from edgeloc.errors import CameraError, CameraTimeout, UsageError

BLUE = (250, 10, 20)


def test_the_isp_is_asked_for_the_models_size_in_the_sensors_whole_view(board: Any) -> None:
    with open_camera("picamera://0", size=(224, 224)) as camera:
        assert camera.size == (300, 224)
    # libcamera's RGB888 lies in memory as blue, green, red.
    assert board.asked["main"] == {"size": (300, 224), "format": "RGB888"}
    # The small mode is fast but a crop, the largest too slow for 30 a second.
    assert board.asked["sensor"] == {"output_size": (1640, 1232), "bit_depth": 10}
    assert board.asked["queue"] is False
    assert board.asked["controls"] == {"FrameDurationLimits": (33333, 33333)}


def test_a_rate_that_only_a_crop_could_give_still_sees_everything(board: Any) -> None:
    open_camera("picamera://0?fps=120").close()
    assert board.asked["sensor"]["output_size"] == (1640, 1232)


def test_a_size_in_the_uri_wins_and_one_that_is_not_granted_is_told(board: Any) -> None:
    with open_camera("picamera://0?size=640x480&fps=15", size=(224, 224)) as camera:
        assert camera.size == (640, 480) and camera.fps == 15

    def adjusted(self: Any, config: dict[str, Any]) -> None:
        self._main = {**config["main"], "size": (800, 600)}

    board.configure = adjusted
    with pytest.raises(CameraError, match="gives 800x600 instead of 640x480"):
        open_camera("picamera://0?size=640x480")
    assert board.open_cameras == 0


def test_a_camera_without_sensor_modes_is_taken_as_it_is(board: Any) -> None:
    board.camera_properties, board.camera_controls, board.pipeline_format = {}, {}, "NV12"
    with open_camera("picamera://0", size=(64, 64)) as camera:
        frame = camera.read()
    assert frame is not None and frame.pixels.shape == (64, 86, 3)
    assert "sensor" not in board.asked and board.asked["controls"] == {}


def test_a_format_that_is_not_known_is_told(board: Any) -> None:
    board.pipeline_format = "SRGGB10_CSI2P"
    with pytest.raises(CameraError, match="sends SRGGB10_CSI2P.*v4l2://"):
        open_camera("picamera://0")


def test_every_buffer_is_given_back_and_frames_lost_are_counted(board: Any) -> None:
    with open_camera("picamera://0?size=64x48") as camera:
        frames = [camera.read() for _ in range(5)]
    assert board.released == 5 and board.open_cameras == 0
    assert [frame.sequence for frame in frames if frame] == [0, 1, 2, 3, 4]
    assert tuple(frames[0].pixels[0, 0]) == (10, 20, 30)
    assert 0.004 < time.monotonic() - frames[0].captured_at < 5


@pytest.mark.parametrize(
    ("format", "code"),
    [
        ("RGB888", None),
        ("BGR888", cv2.COLOR_BGR2RGB),
        ("XRGB8888", cv2.COLOR_BGR2BGRA),
        ("XBGR8888", cv2.COLOR_BGR2RGBA),
        ("YUV420", cv2.COLOR_BGR2YUV_I420),
    ],
)
def test_blue_stays_blue_in_every_format(format: str, code: int | None) -> None:
    image = np.full((48, 64, 3), BLUE, np.uint8)
    sent = image if code is None else cv2.cvtColor(image, code)
    pixels = to_bgr(sent, format, (64, 48))
    assert pixels.shape == (48, 64, 3) and not np.shares_memory(pixels, sent)
    assert np.abs(pixels.astype(int) - BLUE).max() <= 4


def test_planes_with_a_wide_stride_are_cut_to_the_picture() -> None:
    image = cv2.cvtColor(np.full((48, 64, 3), BLUE, np.uint8), cv2.COLOR_BGR2YUV_I420)
    y, u, v = image[:48], image[48:60].reshape(24, 32), image[60:].reshape(24, 32)
    wide = np.zeros((72, 96), np.uint8)
    wide[:48, :64] = y
    halves = wide[48:].reshape(48, 48)
    halves[:24, :32], halves[24:, :32] = u, v
    pixels = to_bgr(wide, "YUV420", (64, 48))
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - BLUE).max() <= 4


@pytest.mark.parametrize(
    ("stamp_s", "suspended_s", "expected"),
    [(99.9, 0.0, 99.9), (1099.9, 1000.0, 99.9), (99.9, 1000.0, 99.9)],
    ids=["never suspended", "boot time after a suspension", "monotonic time after a suspension"],
)
def test_a_sensor_timestamp_becomes_monotonic_time(stamp_s: float, suspended_s: float, expected: float) -> None:
    assert boot_time(round(stamp_s * 1e9), 100.0, suspended_s) == pytest.approx(expected)


def test_a_silent_camera_times_out_and_its_frame_is_not_lost(board: Any) -> None:
    with open_camera("picamera://0?size=64x48&reconnect=0") as camera:
        board.silent = True
        with pytest.raises(CameraTimeout, match="ribbon cable"):
            camera.read(0.02)
        waiting: Future[Any] = camera._camera._job._future  # type: ignore[attr-defined]
        board.silent = False
        waiting.set_result(camera._camera._camera.capture_request(False).get_result(1))  # type: ignore[attr-defined]
        assert camera.read() is not None
    assert board.released == 1


def caused(text: str, cause: str) -> Exception:
    """An error as picamera2 raises it: the reason is in what caused it."""
    error = RuntimeError(text)
    error.__cause__ = RuntimeError(cause)
    return error


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (RuntimeError("Camera(s) not found (Do not forget to disable legacy camera ...)."), "rpicam-hello"),
        (RuntimeError('No camera number 0 found - use "rpicam-hello --list-cameras"'), "is not there.*group video"),
        (IndexError("list index out of range"), "is not there"),
        (caused("Camera __init__ sequence did not complete.", "Failed to acquire camera"), "is busy.*fuser"),
        (caused("Camera __init__ sequence did not complete.", "Could not open any dmaHeap device"), "usermod.*log in"),
        (RuntimeError("failed to allocate capture buffers for stream 0"), "no memory.*smaller size"),
        (caused("Camera __init__ sequence did not complete.", "No such tuning"), "No such tuning.*rpicam-hello"),
    ],
)  # fmt: skip
def test_each_failure_of_picamera2_is_a_sentence_with_its_mend(board: Any, failure: Exception, words: str) -> None:
    board.failure = failure
    with pytest.raises(CameraError, match=words) as caught:
        open_camera("picamera://0")
    assert "picamera://0" in str(caught.value) and caught.value.exit_status == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("picamera2", "sudo apt install python3-picamera2"),
        ("libcamera", "sudo apt install python3-libcamera.*Debian 12 has none"),
        ("libcamera._libcamera", "python3-libcamera"),
        ("pykms", r"python3-kms\+\+"),
        ("cv3", "No module named 'cv3'"),
    ],
)
def test_what_is_not_installed_is_named_with_its_apt_line(
    monkeypatch: pytest.MonkeyPatch, module: str, words: str
) -> None:
    def absent(name: str) -> types.ModuleType:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr(picamera.importlib, "import_module", absent)
    monkeypatch.setattr(sys, "prefix", "elsewhere")
    with pytest.raises(CameraError, match=words) as caught:
        picamera.PicameraCamera().open()
    assert "--system-site-packages" in str(caught.value)


def test_a_name_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="picamera://0"):
        open_camera("picamera://front")


@pytest.mark.parametrize(
    ("wanted", "sensor", "expected"),
    [
        ((224, 224), (3280, 2464), (300, 224)),
        ((640, 480), (4608, 2592), (854, 480)),
        ((320, 320), (160, 120), (160, 120)),
        ((100, 50), (1000, 1000), (100, 100)),
    ],
)
def test_the_smallest_size_of_the_sensors_shape_covers_the_model(
    wanted: tuple[int, int], sensor: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert cover(wanted, sensor) == expected


def test_exposure_gain_and_focus_are_libcameras_controls(board: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"ExposureTime": (14, 66666, 20000), "AnalogueGain": (1.0, 16.0, 1.0), "AfMode": (0, 2, 0)}
    monkeypatch.setattr(board, "camera_controls", {**known, "LensPosition": (0.0, 15.0, 1.0)})
    with open_camera("picamera://0?exposure=8000&gain=4&focus=2"):
        assert board.asked["controls"] == {"ExposureTime": 8000, "AnalogueGain": 4, "AfMode": 0, "LensPosition": 2}
    # The gain stays automatic, which AeEnable=False would end.
    with open_camera("picamera://0?exposure=8000&focus=auto"):
        assert board.asked["controls"] == {"ExposureTime": 8000, "AfMode": 2}
    with open_camera("picamera://0?exposure=auto"):
        assert board.asked["controls"] == {}
    with pytest.raises(CameraError, match="picamera://0 takes gain from 1 to 16, not 0.5"):
        open_camera("picamera://0?gain=0.5")
    with pytest.raises(CameraError, match="takes exposure from 14 to 66666, not 70000"):
        open_camera("picamera://0?exposure=70000&fps=10")
    assert board.open_cameras == 0


def test_a_camera_without_a_lens_motor_says_so(board: Any) -> None:
    with pytest.raises(CameraError, match="picamera://0 cannot set its focus: it has no AfMode"):
        open_camera("picamera://0?focus=2")
    assert board.open_cameras == 0


@pytest.mark.parametrize("scheme", ["picamera", "csi"])
def test_an_exposure_longer_than_a_frame_is_refused(scheme: str) -> None:
    with pytest.raises(UsageError, match=rf"{scheme}://0: exposure=50000 is longer than a frame at 30 .* 33333 us"):
        open_camera(f"{scheme}://0?exposure=50000")
