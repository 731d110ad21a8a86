"""Stand-ins for hardware that camera tests share: a picamera2 of its own, and a real RTSP server where one can run."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

SYSTEM_PYTHON = "/usr/bin/python3"


class StandinPicamera2:
    """As much of picamera2.Picamera2 as the camera uses; its class attributes are what the board is like."""

    rate = 100.0
    pipeline_format: str | None = None
    failure: Exception | None = None
    silent = False
    modes: tuple[dict[str, Any], ...] = (
        {"size": (640, 480), "bit_depth": 10, "fps": 206.65, "crop_limits": (1000, 752, 1280, 960)},
        {"size": (1640, 1232), "bit_depth": 10, "fps": 83.7, "crop_limits": (0, 0, 3280, 2464)},
        {"size": (3280, 2464), "bit_depth": 10, "fps": 21.19, "crop_limits": (0, 0, 3280, 2464)},
    )
    camera_properties: ClassVar[dict[str, Any]] = {"ColorFilterArrangement": 2}
    camera_controls: ClassVar[dict[str, Any]] = {"FrameDurationLimits": (4839, 11767556, 33333)}
    sensor_resolution = (3280, 2464)
    asked: ClassVar[dict[str, Any]] = {}
    released = 0
    open_cameras = 0

    def __init__(self, number: int = 0) -> None:
        if self.failure:
            raise self.failure
        type(self).open_cameras += 1
        self._began_ns = 0

    @property
    def sensor_modes(self) -> list[dict[str, Any]]:
        return list(self.modes)

    def create_video_configuration(self, **asked: Any) -> dict[str, Any]:
        type(self).asked = asked
        return asked

    def configure(self, config: dict[str, Any]) -> None:
        self._main = dict(config["main"])
        self._main["format"] = self.pipeline_format or self._main["format"]
        self._main["stride"] = self._main["size"][0]

    def camera_configuration(self) -> dict[str, Any]:
        return {"main": self._main}

    def start(self) -> None:
        self._began_ns, self._sequence = time.monotonic_ns(), 0

    def capture_request(self, wait: bool) -> Any:
        assert wait is False
        if self.silent:
            return _Job(Future())
        self._sequence += 1
        due = self._began_ns / 1e9 + self._sequence / self.rate
        time.sleep(max(0.0, due - time.monotonic()))
        job: Future[Any] = Future()
        job.set_result(_Request(self._main, self._sequence + 3, type(self)))
        return _Job(job)

    def close(self) -> None:
        type(self).open_cameras -= 1


class _Job:
    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def get_result(self, timeout: float) -> Any:
        return self._future.result(timeout)


class _Request:
    def __init__(self, stream: dict[str, Any], sequence: int, board: type[StandinPicamera2]) -> None:
        self.request = types.SimpleNamespace(sequence=sequence)
        self._stream, self._board, self._at = stream, board, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 5_000_000

    def make_array(self, name: str) -> np.ndarray:
        assert name == "main"
        width, height = self._stream["size"]
        if self._stream["format"] in ("NV12", "YUV420"):
            return np.full((height * 3 // 2, width), 128, np.uint8)
        channels = 3 if self._stream["format"].endswith("888") and "X" not in self._stream["format"] else 4
        return np.full((height, width, channels), (10, 20, 30, 255)[:channels], np.uint8)

    def get_metadata(self) -> dict[str, int]:
        return {"SensorTimestamp": self._at}

    def release(self) -> None:
        self._board.released += 1


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> type[StandinPicamera2]:
    """picamera2 on a board that the test may change."""

    class Board(StandinPicamera2):
        pass

    module: Any = types.ModuleType("picamera2")
    module.Picamera2 = Board
    monkeypatch.setitem(sys.modules, "picamera2", module)
    return Board


@pytest.fixture(scope="session")
def rtsp_url() -> Iterator[str]:
    """The address of a stream of a real RTSP server, which the system's own Python runs."""
    script = Path(__file__).parent / "rtsp_server.py"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        server = subprocess.Popen(
            [SYSTEM_PYTHON, str(script), str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        pytest.skip(f"no system Python to run an RTSP server with: {error}")
    with server:
        assert server.stdout is not None and server.stderr is not None
        if server.stdout.readline() != "ready\n":
            reason = server.stderr.read().strip().splitlines()[-1:]
            pytest.skip(f"no RTSP server here (apt: gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-ugly): {reason}")
        yield f"rtsp://127.0.0.1:{port}/test"
        server.kill()
