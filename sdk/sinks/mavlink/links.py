"""What carries MAVLink: UDP to a host or from a caller, or a serial port that may go away and come back."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import termios
from abc import ABC, abstractmethod
from typing import Any

from edgeloc.errors import MissingExtra, first_line

__all__ = ["Link", "SerialLink", "UdpLink"]

# A serial line that takes nothing for so long has failed.
_WRITE_S = 0.2


class Link(ABC):
    """Where bytes go and come from; OSError where they cannot."""

    @abstractmethod
    def open(self) -> None:
        """Get ready."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send one message, without waiting for long."""

    @abstractmethod
    def receive(self, timeout_s: float) -> bytes:
        """What has come, after waiting for it for up to `timeout_s`."""

    @abstractmethod
    def answer(self) -> None:
        """From here on send to whoever sent what came last, where there is a choice."""

    @abstractmethod
    def close(self) -> None:
        """Give it back."""


class UdpLink(Link):
    """To a host, or, without one, to the autopilot that called last."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._socket: socket.socket | None = None
        self._peer: Any = None
        self._caller: Any = None

    def open(self) -> None:
        host = self._host or "0.0.0.0"
        family, kind, protocol, _, address = socket.getaddrinfo(host, self._port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._peer = address if self._host else None
        if not self._host:
            try:
                self._socket.bind(address)
            except OSError:
                self.close()
                raise

    def send(self, data: bytes) -> None:
        if self._socket is None or self._peer is None:
            return
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self._socket.sendto(data, self._peer)

    def receive(self, timeout_s: float) -> bytes:
        if self._socket is None or not select.select([self._socket], [], [], timeout_s)[0]:
            return b""
        try:
            data, self._caller = self._socket.recvfrom(65536)
        except (BlockingIOError, ConnectionRefusedError):
            return b""
        return data

    def answer(self) -> None:
        if not self._host:
            self._peer = self._caller

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class SerialLink(Link):
    """A serial port. One that failed is closed and opened again by the thread that receives, so that none loses it."""

    def __init__(self, path: str, baud: int) -> None:
        self._path, self._baud = path, baud
        self._port: Any = None
        self._failed = False

    def open(self) -> None:
        try:
            import serial
        except ImportError as error:
            raise MissingExtra("pyserial", "mavlink", "MAVLink by a serial device") from error
        if not os.path.exists(self._path):
            raise FileNotFoundError(errno.ENOENT, f"there is no {self._path}")
        self._port = serial.Serial(self._path, self._baud, timeout=0, write_timeout=_WRITE_S, exclusive=True)
        self._failed = False

    def send(self, data: bytes) -> None:
        port = self._port
        if port is None or self._failed:
            raise ConnectionError(errno.ENOTCONN, f"{self._path} is away")
        try:
            port.write(data)
        except (OSError, TypeError) as error:
            self._failed = True
            raise _as_of_the_system(error) from error

    def receive(self, timeout_s: float) -> bytes:
        try:
            if self._failed:
                self.close()
            if self._port is None:
                self.open()
            if not select.select([self._port.fileno()], [], [], timeout_s)[0]:
                return b""
            return bytes(self._port.read(4096))
        except (OSError, ValueError) as error:
            self._failed = True
            raise _as_of_the_system(error) from error

    def answer(self) -> None:
        """There is one at the other end."""

    def close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            # Else the system waits up to half a minute for a line that takes nothing.
            with contextlib.suppress(OSError, termios.error):
                port.reset_output_buffer()
            port.close()


def _as_of_the_system(error: Exception) -> OSError:
    """What pyserial raises where another thread has closed the port, or for a rate that it does not have, as well."""
    return error if isinstance(error, OSError) else ConnectionError(errno.EIO, first_line(error))
