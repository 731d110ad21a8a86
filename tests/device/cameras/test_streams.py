"""Pipelines and network streams: what is run, newest frames only, and what each way to fail is told."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.cameras import open_camera
from edgeloc.cameras.base import parse_uri
from edgeloc.device.cameras import grab, network
from edgeloc.device.cameras import gstreamer as gst
from edgeloc.device.cameras.grab import Grabber
from edgeloc.device.cameras.gstreamer import CsiCamera, GstCamera, has_gobject
from edgeloc.device.cameras.network import RtspCamera
from edgeloc.errors import CameraError, CameraTimeout, UsageError

SYSTEM_PYTHON = "/usr/bin/python3"
REPOSITORY = Path(__file__).parents[3]


class FakeCapture:
    """An OpenCV capture that makes a frame every 5 ms, each brighter, and ends after `count`."""

    count = 10**6
    opens = True

    def __init__(self, source: str, backend: int, options: list[int]) -> None:
        self.source, self.made = source, 0
        self.released_by = ""

    def isOpened(self) -> bool:
        return self.opens

    def get(self, name: int) -> float:
        return {cv2.CAP_PROP_FRAME_WIDTH: 64, cv2.CAP_PROP_FRAME_HEIGHT: 48}.get(name, 200.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.005)
        self.made += 1
        return (True, np.full((48, 64, 3), self.made % 256, np.uint8)) if self.made <= self.count else (False, None)

    def release(self) -> None:
        type(self).released_by = threading.current_thread().name


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    class Capture(FakeCapture):
        pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    return Capture


def test_what_nobody_read_is_dropped_and_the_newest_frame_is_read(capture: type[FakeCapture]) -> None:
    grabber = Grabber("stream", cv2.CAP_FFMPEG, "camera")
    grabber.read(1)
    time.sleep(0.1)
    late = grabber.read(1)
    # At 5 ms a frame a queue would have handed out number 1.
    assert late.sequence >= 5
    grabber.close()
    # The thread that reads also releases: OpenCV's captures are not for two threads.
    assert capture.released_by == "edgeloc-grab"


def test_a_stream_that_ends_is_gone_after_its_last_frame(capture: type[FakeCapture]) -> None:
    capture.count = 1
    grabber = Grabber("stream", cv2.CAP_FFMPEG, "camera x")
    time.sleep(0.05)
    assert grabber.read(1).sequence == 0
    with pytest.raises(CameraError, match="camera x is gone"):
        grabber.read(1)
    grabber.close()


def test_a_stream_that_sends_nothing_times_out(capture: type[FakeCapture], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grab, "_JOIN_S", 0.5)
    capture.read = lambda self: (time.sleep(0.3), (False, None))[1]  # type: ignore[method-assign]
    grabber = Grabber("stream", cv2.CAP_FFMPEG, "camera x")
    with pytest.raises(CameraTimeout, match=r"no frame for 0\.02 s"):
        grabber.read(0.02)
    grabber.close()


def test_an_appsink_of_the_users_own_is_replaced() -> None:
    plain, ended = GstCamera("videotestsrc"), GstCamera("videotestsrc ! appsink drop=true max-buffers=5")
    assert plain.pipeline == ended.pipeline
    assert plain.pipeline.count("! appsink") == 1
    assert "format=BGR" in plain.pipeline and "max-buffers=1" in plain.pipeline and "drop=true" in plain.pipeline
    assert plain.name == "gst://videotestsrc"


def test_a_pipeline_may_hold_anything_and_an_address_keeps_its_own_query() -> None:
    pipeline = 'rtspsrc location="rtsp://h/s?a=1&b=2" latency=0 ! decodebin'
    assert parse_uri(f"gst://{pipeline}").path == pipeline
    uri = parse_uri(f"gst://{pipeline}?reconnect=5")
    assert (uri.path, uri.query) == (pipeline, (("reconnect", "5"),))
    uri = parse_uri("rtsp://u:p%40w@h:8554/cam?channel=1&transport=udp&subtype=0")
    camera = RtspCamera.from_uri(uri, None)
    assert camera.url == "rtsp://u:p%40w@h:8554/cam?channel=1&subtype=0"
    assert uri.query == (("transport", "udp"),)
    assert "p%40w" not in uri.text + camera.name and "rtsp://u:***@h:8554/cam" in camera.name


def test_without_gstreamer_the_apt_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gst, "has_gobject", lambda: False)
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: False)
    with pytest.raises(CameraError, match=r"pip's OpenCV has none.*sudo apt install python3-gi.*system-site-packages"):
        open_camera("gst://videotestsrc")
    with pytest.raises(UsageError, match="needs a pipeline"):
        open_camera("gst://")


def test_a_jetsons_pipeline_scales_on_the_board_to_what_the_model_takes() -> None:
    camera = CsiCamera.from_uri(parse_uri("csi://1?fps=60"), (224, 224))
    assert camera.pipeline.startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=60000/1000"
        " ! nvvidconv ! video/x-raw,format=BGRx,width=400,height=224 ! videoconvert ! video/x-raw,format=BGR ! appsink"
    )
    assert camera.name == "csi://1"
    with pytest.raises(UsageError, match="csi://0"):
        CsiCamera.from_uri(parse_uri("csi://front"), None)


def test_a_jetsons_camera_that_fails_names_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise CameraError("camera csi://0 sent no frame for 10 s")

    monkeypatch.setattr(gst, "has_gobject", lambda: True)
    monkeypatch.setattr(gst, "AppSink", fail)
    with pytest.raises(CameraError, match=r"no frame.*ribbon cable.*systemctl restart nvargus-daemon"):
        open_camera("csi://0")


def test_a_jetsons_camera_without_gstreamer_says_nothing_of_cables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gst, "has_gobject", lambda: False)
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: False)
    with pytest.raises(CameraError, match=r"csi://0 needs GStreamer.*apt install python3-gi") as caught:
        open_camera("csi://0")
    assert "ribbon" not in str(caught.value)


def test_a_host_that_is_not_there_is_told() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CameraError, match=r"rtsp://u:\*\*\*@127.*is not there: Connection refused.*network") as caught:
        open_camera(f"rtsp://u:secret@127.0.0.1:{port}/x")
    assert "secret" not in str(caught.value)
    assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ


@pytest.mark.parametrize(
    ("status", "has_user", "words"),
    [
        ("401", False, "wants a password"),
        ("401", True, "does not accept"),
        ("404", True, "no stream of that name"),
        ("454", True, "answers 454"),
        ("", True, "answers nothing"),
    ],
)
def test_each_refusal_of_a_server_has_its_sentence(status: str, has_user: bool, words: str) -> None:
    assert words in network._answered(status, has_user)


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(UsageError, match="tcp or udp"):
        open_camera("rtsp://h/s?transport=http")


@pytest.mark.slow
def test_a_stream_that_its_server_does_not_know_is_told(rtsp_url: str) -> None:
    with pytest.raises(CameraError, match="knows no stream of that name"):
        open_camera(rtsp_url.replace("/test", "/other"))


@pytest.mark.skipif(not has_gobject(), reason="PyGObject and GStreamer are not installed for this Python")
@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("nosuchelement", "no element.*install the plug-in"),
        ("videotestsrc ! video/x-raw,width=", "does not understand"),
        ("v4l2src device=/dev/video987", "/dev/video987"),
        ("videotestsrc num-buffers=2 ! video/x-raw,width=64,height=48", "came to an end"),
    ],
)
def test_gst_pipelines_that_fail_are_told(pipeline: str, words: str) -> None:
    with pytest.raises(CameraError, match=words), open_camera(f"gst://{pipeline}?reconnect=0") as camera:
        for _ in range(5):
            camera.read(1)


@pytest.mark.slow
def test_the_systems_own_python_runs_pipelines_through_pygobject_and_its_opencv(tmp_path: Path) -> None:
    probe = "import gi, cv2, numpy, pytest; gi.require_version('Gst', '1.0')"
    try:
        subprocess.run([SYSTEM_PYTHON, "-c", probe], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the system's Python has no PyGObject, OpenCV, NumPy or pytest: apt install python3-gi"
                    " gir1.2-gstreamer-1.0 gstreamer1.0-plugins-good python3-opencv python3-pytest")  # fmt: skip
    if has_gobject():
        pytest.skip("this Python has GStreamer itself")
    package = tmp_path / "edgeloc"
    package.mkdir()
    for part in [*(REPOSITORY / "sdk").iterdir(), REPOSITORY / "device"]:
        (package / part.name).symlink_to(part)
    done = subprocess.run(
        [SYSTEM_PYTHON, "-m", "pytest", "-q", "-W", "ignore::ImportWarning", "-p", "no:cacheprovider", "-k", "gst"]
        + [str(REPOSITORY / "tests/device/cameras" / name) for name in ("test_contract.py", "test_streams.py")],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_a_jetsons_exposure_and_gain_are_held() -> None:
    camera = CsiCamera.from_uri(parse_uri("csi://0?exposure=8000&gain=4"), None)
    held = 'sensor-id=0 exposuretimerange="8000000 8000000" gainrange="4 4" ispdigitalgainrange="1 1" ! video'
    assert held in camera.pipeline
    assert "sensor-id=0 ! video" in CsiCamera.from_uri(parse_uri("csi://0?exposure=auto"), None).pipeline
