"""The contract of every camera, over each real one that is connected here; run it by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edgeloc.cameras import Camera, open_camera
from edgeloc.device.cameras.probe import capture_devices
from edgeloc.testing import CameraSuite


def _found() -> list[str]:
    """A URI for each camera here: a Pi's are known to picamera2, of a Jetson's the first is tried."""
    found = [f"v4l2://{device}" for device in capture_devices()]
    if importlib.util.find_spec("picamera2") and importlib.util.find_spec("libcamera"):
        try:
            from picamera2 import Picamera2
        except ImportError:
            return found
        # A Pi's sensor also has V4L2 nodes, which give raw data only.
        found = [f"picamera://{number}" for number in range(len(Picamera2.global_camera_info()))] or found
    if Path("/etc/nv_tegra_release").exists():
        found.append("csi://0")
    return found


class TestEveryConnectedCamera(CameraSuite):
    finite = False

    @pytest.fixture(params=_found() or ["none"])
    def camera(self, request: pytest.FixtureRequest) -> Camera:
        if request.param == "none":
            pytest.skip("no camera is connected here: no V4L2 device, no picamera2, no Jetson")
        return open_camera(request.param, size=(224, 224))
