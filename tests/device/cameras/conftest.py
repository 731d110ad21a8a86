"""Fakes of hardware that camera tests share, and a real RTSP server where one can run."""

from __future__ import annotations

import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeloc.testing import FakePicamera2

SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> type[FakePicamera2]:
    """picamera2 on a board that the test may change."""

    class Board(FakePicamera2):
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
