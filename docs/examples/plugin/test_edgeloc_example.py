"""The plug-in keeps the contracts of its kinds: the suites come with edgeloc."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from edgeloc_example import PatternCamera, UdpSink

from edgeloc import Camera, Sink, UsageError, open_camera, open_sink
from edgeloc.testing import CameraSuite, SinkSuite


class TestPatternCamera(CameraSuite):
    """The suite, with this camera."""

    @pytest.fixture
    def camera(self) -> Camera:
        return PatternCamera(64, 48, frames=20)

    def test_its_options(self) -> None:
        with open_camera("pattern://?width=32&height=16&frames=3") as camera:
            assert camera.size == (32, 16)
            assert len(list(camera)) == 3
        with pytest.raises(UsageError, match="width=wide must be a whole number"):
            open_camera("pattern://?width=wide")


class TestUdpSink(SinkSuite):
    """The suite, with this sink and a server that listens."""

    @pytest.fixture
    def sink(self) -> Iterator[Sink]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            sink = open_sink(f"udp://127.0.0.1:{server.getsockname()[1]}")
            assert isinstance(sink, UdpSink)
            yield sink
            sink.close()

    def test_a_uri_without_a_port_is_refused(self) -> None:
        with pytest.raises(UsageError, match="udp://HOST:PORT"):
            open_sink("udp://robot")
