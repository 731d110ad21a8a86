"""The contract of every camera, over those that are hardware, streams and fakes of hardware."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from edgeloc.cameras import Camera, open_camera
from edgeloc.device.cameras import gstreamer as gst
from edgeloc.device.cameras.gstreamer import has_gobject
from edgeloc.testing import CameraSuite

PIPELINE = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=66,height=48,framerate=50/1"
URIS = {
    "v4l2": "v4l2:///dev/video0",
    "picamera": "picamera://0",
    "picamera-fake": "picamera://0?size=64x48",
    "csi": "csi://0",
    "gst": f"gst://{PIPELINE}",
    "gst-opencv": f"gst://{PIPELINE}",
}


class TestEveryCamera(CameraSuite):
    finite = False

    @pytest.fixture(params=[*URIS, pytest.param("rtsp", marks=pytest.mark.slow)])
    def camera(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Camera]:
        """A camera of each kind; the test is skipped, with the reason, where there is none."""
        kind = request.param
        if kind == "picamera-fake":
            request.getfixturevalue("board")
        elif kind == "gst-opencv":
            monkeypatch.setattr(gst, "has_gobject", lambda: False)
        reason = _absent(kind)
        if reason:
            pytest.skip(reason)
        uri = request.getfixturevalue("rtsp_url") if kind == "rtsp" else URIS[kind]
        with open_camera(uri, size=(64, 48)) as camera:
            yield camera


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
