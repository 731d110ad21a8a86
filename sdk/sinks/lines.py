"""Sends each observation as a line of JSON: through the standard output, in datagrams, over a connection."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edgeloc._support.backend import Uri
from edgeloc.errors import EdgelocError, OutputError, UsageError
from edgeloc.observation import Observation
from edgeloc.sinks.base import Sink
from edgeloc.sinks.record import as_line
from edgeloc.types import Frame, Pixels

__all__ = ["StdoutSink", "TcpSink", "UdpSink", "has_hung_up"]

# How long a reader may take before it counts as stopped; the frames of a file wait longer, since none may be skipped.
SEND_S, FILE_SEND_S = 2.0, 30.0
CONNECT_S = 5.0
# What lies in the system's buffer is as old as it is long: about a second of results.
BUFFER_BYTES = 16_384
_MOST_READS = 8


class StdoutSink(Sink):
    """`-`: one line for each observation on the standard output, for the program behind a pipe.

    The run ends when that program goes away, as with a closed window.
    """

    capacity = 2000
    pictures = False
    _descriptor = -1
    _patience_ms: float | None = None
    # What is left of a line of which a part is out, and the frame that it is of.
    _rest: bytes = b""
    _begun: Frame | None = None

    @property
    def name(self) -> str:
        """Always `-`."""
        return "-"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Find the standard output; OutputError where the process has none."""
        try:
            sys.stdout.flush()
            self._descriptor = os.dup(sys.stdout.fileno())
        except (AttributeError, OSError, ValueError) as error:
            message = "sink -: this process has no standard output to write to"
            raise OutputError(message, hint="name a file, such as out.jsonl") from error
        # A file's frames wait as long as the reader likes, as in any pipe.
        self._patience_ms = SEND_S * 1000 if live else None
        self.ended = False

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Write one whole line; OutputError where nobody reads for a while, or the disk behind it is full."""
        if self.ended:
            return
        if self._rest:
            self._send()
            if observation.frame is self._begun:  # offered again, since only a part was out
                return
        line = as_line(observation)
        self._begun, self._rest = observation.frame, line
        try:
            self._send()
        except OutputError:
            if self._rest == line:
                self._rest = b""
            raise

    def _send(self) -> None:
        """Write what is left of a line, in parts that a pipe with room takes without a wait."""
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        while self._rest:
            if not ready.poll(self._patience_ms):
                raise OutputError(f"sink -: nobody has read from the standard output for {SEND_S:g} s")
            try:
                self._rest = self._rest[os.write(self._descriptor, self._rest[: select.PIPE_BUF]) :]
            except ConnectionError:
                self.ended, self._rest = True, b""
            except OSError as error:
                raise OutputError(f"sink -: the standard output cannot be written to: {error.strerror}") from error

    def close(self) -> None:
        """Leave the standard output to others, behind a whole line where there is room for one."""
        if self._descriptor < 0:
            return
        self._patience_ms = 0
        with suppress(OutputError):
            self._send()
        os.close(self._descriptor)
        self._descriptor, self._rest = -1, b""


class _RemoteSink(Sink):
    """Lines to HOST:PORT; a name is looked up again after each failure.

    With a live camera it begins with the first result, so that the two machines may start in any order.
    """

    pictures = False
    scheme = ""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._socket: socket.socket | None = None
        self._patience_s = SEND_S

    @classmethod
    def from_uri(cls, uri: Uri) -> _RemoteSink:
        """SCHEME://HOST:PORT; an IPv6 address stands in brackets."""
        uri.options({})
        host, port = uri.host_and_port() or ("", 0)
        if not host:
            raise UsageError(f"sink {uri.text} names no receiver: write {cls.scheme}://HOST:PORT")
        return cls(host, port)

    @property
    def name(self) -> str:
        """Its URI."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self.scheme}://{host}:{self._port}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Get ready to send; without a live camera OutputError where the receiver cannot be reached."""
        self._patience_s = SEND_S if live else FILE_SEND_S
        if not live:
            self._try(self._connect)

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Send one line; OutputError where that cannot be done now."""
        line = as_line(observation)
        self._try(lambda: self._send(line))

    def close(self) -> None:
        """Give the socket back."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _try(self, action: Callable[[], object]) -> None:
        """Do it; after a failure, and one is an OutputError, begin again with another socket."""
        try:
            action()
        except EdgelocError:
            raise
        # The first is a name that no look-up can hold.
        except (UnicodeError, OSError) as error:
            self.close()
            reason = "nothing comes through" if isinstance(error, TimeoutError) else _reason(error)
            raise OutputError(f"{self.name} cannot be reached: {reason}") from error

    @abstractmethod
    def _connect(self) -> socket.socket:
        """Make the socket."""

    @abstractmethod
    def _send(self, line: bytes) -> None:
        """Send a line; OSError where that failed."""


class UdpSink(_RemoteSink):
    """`udp://HOST:PORT`: one datagram for each observation, to one machine, or to a broadcast or multicast address.

    What nobody waits for is lost, as datagrams are. Of a name with both kinds of address the IPv4 one is taken.
    """

    scheme = "udp"
    _address: Any = ()

    def _connect(self) -> socket.socket:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, self._address = min(found, key=lambda one: one[0] != socket.AF_INET)
        self._socket = socket.socket(family, kind, protocol)
        self._socket.settimeout(self._patience_s)
        if family == socket.AF_INET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return self._socket

    def _send(self, line: bytes) -> None:
        try:
            (self._socket or self._connect()).sendto(line, self._address)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            message = f"{self.name}: a result of {len(line):,} bytes does not fit into a datagram (65,507 at most)"
            raise OutputError(message, hint="use tcp://") from error


class TcpSink(_RemoteSink):
    """`tcp://HOST:PORT`: connects there, and sends one line for each observation.

    A receiver that went away is connected to again. One that stops reading is disconnected from after 2 s, since what
    would lie in between is old; a new connection begins with a whole line.
    """

    scheme = "tcp"

    def _connect(self) -> socket.socket:
        self._socket = connection = socket.create_connection((self._host, self._port), timeout=CONNECT_S)
        # Without a receiver, a port of this machine's may connect to itself.
        if connection.getsockname() == connection.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(self._patience_s)
        return connection

    def _send(self, line: bytes) -> None:
        if self._socket is not None and has_hung_up(self._socket):
            self.close()
        (self._socket or self._connect()).sendall(line)


def has_hung_up(connection: socket.socket) -> bool:
    """Whether the other side is gone, which sending would only show one line later; what it sends is dropped.

    Of a Unix socket the system knows whether the other side still reads. Over TCP its end may be that of either.
    """
    ready, knows = select.poll(), connection.family == socket.AF_UNIX
    ready.register(connection, select.POLLIN)
    try:
        # Its end is behind what it sent; one that never stops is left to itself.
        for _ in range(_MOST_READS):
            events = ready.poll(0)
            if not events or events[0][1] & (select.POLLHUP | select.POLLERR):
                return bool(events)
            if not connection.recv(65_536):
                return not knows
    except OSError:
        return True
    return False


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
