"""The contract of tests/sdk/cameras/test_contract.py over the cameras that are hardware, streams and stand-ins."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from edgeloc.cameras import Camera, open_camera
from edgeloc.device.cameras import gstreamer as gst
from edgeloc.device.cameras.gstreamer import has_gobject

_SUITE = Path(__file__).parents[2] / "sdk" / "cameras" / "test_contract.py"
_spec = importlib.util.spec_from_file_location("camera_contract", _SUITE)
assert _spec is not None and _spec.loader is not None
_suite = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_suite)
camera = _suite.camera
globals().update({name: value for name, value in vars(_suite).items() if name.startswith("test_")})

KINDS = ("v4l2", "picamera", "picamera-standin", "csi", "gst", "gst-opencv")
PIPELINE = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=66,height=48,framerate=50/1"


@pytest.fixture(params=[*KINDS, pytest.param("rtsp", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opener(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Camera]:
    """Opens a camera of the kind; the test is skipped, with the reason, where there is none."""
    if kind == "picamera-standin":
        request.getfixturevalue("board")
    elif kind == "gst-opencv":
        monkeypatch.setattr(gst, "has_gobject", lambda: False)
    reason = _absent(kind)
    if reason:
        pytest.skip(reason)
    uris = {
        "v4l2": "v4l2:///dev/video0",
        "picamera": "picamera://0",
        "picamera-standin": "picamera://0?size=64x48",
        "csi": "csi://0",
        "gst": f"gst://{PIPELINE}",
        "gst-opencv": f"gst://{PIPELINE}",
    }
    uri = request.getfixturevalue("rtsp_url") if kind == "rtsp" else uris[kind]
    return lambda: open_camera(uri, size=(64, 48))


def _absent(kind: str) -> str:
    """Why there is no camera of the kind here; "" where there is one."""
    if kind == "v4l2" and not Path("/dev/video0").exists():
        return "no V4L2 camera is connected: /dev/video0 is not there"
    if kind == "picamera" and importlib.util.find_spec("picamera2") is None:
        return "picamera2 is not installed: this is no Raspberry Pi with a camera"
    if kind == "csi" and not Path("/etc/nv_tegra_release").exists():
        return "no Jetson: /etc/nv_tegra_release is not there"
    if kind == "gst" and not has_gobject():
        return "PyGObject and GStreamer are not installed for this Python"
    if kind == "gst-opencv" and not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        return "this OpenCV was built without GStreamer"
    return ""
