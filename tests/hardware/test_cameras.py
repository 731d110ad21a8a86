"""The contract of tests/sdk/cameras/test_contract.py over every real camera that is connected here; run it by hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc.cameras import Camera, open_camera
from edgeloc.device.cameras.probe import capture_devices

_SUITE = Path(__file__).parents[1] / "sdk" / "cameras" / "test_contract.py"
_spec = importlib.util.spec_from_file_location("camera_contract", _SUITE)
assert _spec is not None and _spec.loader is not None
_suite = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_suite)
camera = _suite.camera
globals().update({name: value for name, value in vars(_suite).items() if name.startswith("test_")})


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


@pytest.fixture(params=_found() or ["none"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opener(kind: str) -> Callable[[], Camera]:
    if kind == "none":
        pytest.skip("no camera is connected here: no V4L2 device, no picamera2, no Jetson")
    return lambda: open_camera(kind, size=(224, 224))
