"""Sends each observation as one line of JSON: to standard output, by UDP or TCP, or to whoever connects to a socket."""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address

from edgeloc._support.backend import Uri
from edgeloc.errors import OutputError, UsageError
from edgeloc.sinks.base import Sink
from edgeloc.sinks.record import as_line
from edgeloc.types import Observation, Pixels

__all__ = ["LineSink", "StdoutSink", "TcpSink", "UdpSink", "UnixSink"]

# A reader that takes nothing for so long is given up.
_SEND_S = 2.0
_MOST_DATAGRAM = 65507
_MOST_READERS = 32


class LineSink(Sink):
    """A sink of lines: `_send` takes one."""

    pictures = False

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Send the observation's line; OutputError when it does not get out."""
        self._send(as_line(observation))

    @abstractmethod
    def _send(self, line: bytes) -> None:
        """Send a whole line."""


class StdoutSink(LineSink):
    """`-`: standard output, for a pipe. The run ends when its reader does."""

    @property
    def name(self) -> str:
        """Always `-`."""
        return "-"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Take standard output, which nothing else is to write to."""
        sys.stdout.flush()
        self.ended = False

    def _send(self, line: bytes) -> None:
        try:
            while line:
                line = line[os.write(1, line) :]
        except BrokenPipeError:
            # As `| head` does: its reader has what it wants.
            self.ended = True
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def close(self) -> None:
        """Nothing is held."""


class UdpSink(LineSink):
    """`udp://HOST:PORT`: a datagram a line, whether anybody listens or not."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._socket: socket.socket | None = None

    @classmethod
    def from_uri(cls, uri: Uri) -> UdpSink:
        """A host and a port."""
        uri.options({})
        return cls(*host_and_port(uri))

    @property
    def name(self) -> str:
        """Its URI."""
        return f"udp://{_shown(self._host)}:{self._port}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Find the host; OutputError where its name is unknown."""
        self.close()
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            if family == socket.AF_INET:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        except OSError as error:
            raise OutputError(f"{self.name} cannot be sent to: {error.strerror or error}") from error
        self._address = address

    def _send(self, line: bytes) -> None:
        assert self._socket is not None
        if len(line) > _MOST_DATAGRAM:
            raise OutputError(
                f"{self.name}: a result of {len(line)} bytes does not fit into a datagram", hint="use tcp://"
            )
        # A full buffer loses this one, as the network may.
        with suppress(BlockingIOError, ConnectionRefusedError):
            self._socket.sendto(line, self._address)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class TcpSink(LineSink):
    """`tcp://HOST:PORT`: lines to a server, which may come later, and go and come again."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._socket: socket.socket | None = None

    @classmethod
    def from_uri(cls, uri: Uri) -> TcpSink:
        """A host and a port."""
        uri.options({})
        return cls(*host_and_port(uri))

    @property
    def name(self) -> str:
        """Its URI."""
        return f"tcp://{_shown(self._host)}:{self._port}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Connect; with a live camera the server may still be away, else OutputError."""
        try:
            self._connect()
        except OutputError:
            if not live:
                raise

    def _connect(self) -> socket.socket:
        try:
            self._socket = socket.create_connection((self._host, self._port), timeout=_SEND_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise OutputError(f"{self.name} does not answer: {error.strerror or error}") from error
        return self._socket

    def _send(self, line: bytes) -> None:
        connection = self._socket or self._connect()
        try:
            if select.select([connection], [], [], 0)[0] and not connection.recv(65536):
                raise ConnectionResetError("the server has closed the connection")
            connection.sendall(line)
        except OSError as error:
            # What was sent of the line is half of one: the next begins on another connection.
            self.close()
            raise OutputError(f"{self.name} takes no results: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class UnixSink(LineSink):
    """`unix:///run/edgeloc.sock`: a socket that programs on this machine connect to.

    Each gets the newest line at once and then every one, but those that come while it reads too slowly. The run's user
    and group may connect (mode 0660).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._listening: socket.socket | None = None
        self._readers: list[socket.socket] = []
        self._newest = b""
        self._lock = threading.Lock()

    @classmethod
    def from_uri(cls, uri: Uri) -> UnixSink:
        """The socket's path."""
        uri.options({})
        if not uri.path.startswith("/"):
            raise UsageError(
                f"sink {uri.text}: the socket's path is not absolute", hint="give unix:///run/edgeloc.sock"
            )
        return cls(uri.path)

    @property
    def name(self) -> str:
        """Its URI."""
        return f"unix://{self.path}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Listen, in place of a run that has ended; OutputError where another still listens, or no socket can be."""
        self.close()
        try:
            self._clear()
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                before = os.umask(0o117)
                try:
                    listening.bind(self.path)
                finally:
                    os.umask(before)
                listening.listen(_MOST_READERS)
            except BaseException:
                listening.close()
                raise
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"{self.name} cannot be listened on: {error.strerror or error}") from error
        self._listening, self._newest = listening, b""
        threading.Thread(target=self._accept, args=(listening,), name="edgeloc-unix", daemon=True).start()

    def _clear(self) -> None:
        """Remove the socket of a run that has ended; nothing else is removed."""
        if not os.path.lexists(self.path):
            return
        if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
            raise OutputError(f"{self.name}: there is another file of that name", hint="give another name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            trial.settimeout(_SEND_S)
            try:
                trial.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
                return
        raise OutputError(f"{self.name} is in use by another program", hint="give another name")

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                reader, _ = listening.accept()
            except OSError:
                return
            reader.setblocking(False)
            with self._lock:
                if self._listening is listening and len(self._readers) < _MOST_READERS:
                    self._readers.append(reader)
                    self._hand(reader, self._newest)
                else:
                    reader.close()

    def _send(self, line: bytes) -> None:
        with self._lock:
            self._newest = line
            for reader in self._readers[:]:
                self._hand(reader, line)

    def _hand(self, reader: socket.socket, line: bytes) -> None:
        """Send a whole line to one reader, or nothing of it; a reader that has gone is left out from here on."""
        try:
            sent = reader.send(line) if line else 0
            if 0 < sent < len(line):
                # Never half a line: the rest must follow, and soon.
                reader.settimeout(_SEND_S / 10)
                reader.sendall(line[sent:])
                reader.setblocking(False)
        except BlockingIOError:
            return
        except OSError:
            self._readers.remove(reader)
            reader.close()

    def close(self) -> None:
        """Close all connections and remove the socket."""
        listening, self._listening = self._listening, None
        if listening is None:
            return
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        with suppress(OSError):
            os.unlink(self.path)
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._readers = []


def host_and_port(uri: Uri) -> tuple[str, int]:
    """Of HOST:PORT or [IPV6]:PORT; UsageError for anything else."""
    host, _, port = uri.path.rstrip("/").rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    plain = bare and not set(bare) & set("/@[]") and (":" not in bare or bare != host)
    if not (plain and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"sink {uri.text}: this is no host and port", hint=f"give {uri.scheme}://127.0.0.1:5005")
    return bare, int(port)


def _shown(host: str) -> str:
    try:
        return f"[{host}]" if ip_address(host).version == 6 else host
    except ValueError:
        return host
