"""A camera that draws its own frames, `pattern://`, and a sink that sends boxes as datagrams, `udp://`."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable

import numpy as np

from edgeloc import Camera, Frame, Observation, OutputError, Pixels, Sink, Uri, UsageError


class PatternCamera(Camera):
    """`pattern://?width=320&height=240&frames=20`: a white square that moves over grey, one frame whenever asked."""

    def __init__(self, width: int = 320, height: int = 240, frames: int = 20) -> None:
        if min(width, height, frames) < 1:
            raise UsageError("pattern:// needs width, height and frames of 1 or more")
        self._shape, self._frames, self._next = (height, width, 3), frames, 0

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> PatternCamera:
        """The camera a URI asks for; `size`, what the model would like to get, is left to the resize."""
        uri.require_no_path()
        return cls(**uri.options({"width": int, "height": int, "frames": int}))

    @property
    def name(self) -> str:
        """The camera's name in messages."""
        return "pattern://"

    def _open(self) -> None:
        self.size = (self._shape[1], self._shape[0])
        self._next = 0

    def _read(self, timeout_s: float) -> Frame | None:
        if self._next == self._frames:
            return None
        pixels = np.full(self._shape, 90, np.uint8)
        side = min(self._shape[:2]) // 4
        left = (self._next * side) % max(1, self._shape[1] - side)
        pixels[side : 2 * side, left : left + side] = 255
        self._next += 1
        return Frame(pixels, time.monotonic(), self._next - 1)

    def _close(self) -> None:
        """Nothing is held."""


class UdpSink(Sink):
    """`udp://HOST:PORT`: one datagram of JSON for each frame, with the best object's box in pixels of the frame."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None

    @classmethod
    def from_uri(cls, uri: Uri) -> UdpSink:
        """The sink a URI asks for."""
        uri.options({})
        host, _, port = uri.path.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"sink {uri.text} names no server: write udp://HOST:PORT")
        return cls(host, int(port))

    @property
    def name(self) -> str:
        """The sink's name in messages."""
        return f"udp://{self._address[0]}:{self._address[1]}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Find the server; OutputError where its name is not known."""
        try:
            family, kind, protocol, _, self._address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
        except OSError as error:
            raise OutputError(f"sink {self.name}: {error.strerror}: check the server's name") from error

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Send one datagram; one that nobody waits for is lost, as datagrams are."""
        assert self._socket is not None
        box = observation.result.box
        record = {
            "sequence": observation.sequence,
            "age_ms": round(observation.age_ms, 1),
            "label": observation.result.label,
            "box": None if box is None else [round(float(edge), 1) for edge in box],
        }
        self._socket.sendto(json.dumps(record).encode(), self._address)

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
