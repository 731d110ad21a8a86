"""Hands each observation as a line of JSON to the processes of this machine that connect to a socket."""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from edgeloc._support.backend import Uri
from edgeloc.errors import OutputError, UsageError
from edgeloc.observation import Observation
from edgeloc.sinks.base import Sink
from edgeloc.sinks.lines import has_hung_up
from edgeloc.sinks.record import as_line
from edgeloc.types import Pixels

__all__ = ["UnixSink"]

MOST_CLIENTS = 32
# For its owner and its group.
MODE = 0o660
# What lies in the system's buffer is as old as it is long: about a second of results.
BUFFER_BYTES = 16_384
# The frames of a file wait for a client as long as this, since none may be skipped.
FILE_SEND_S = 10.0
_PROBE_S = 1.0
_LAST_S = 0.2
_PAUSE_S = 0.1


class UnixSink(Sink):
    """`unix://PATH`: who connects gets the newest line at once, and every one that follows.

    With a live camera a client that reads too slowly skips lines, whole ones, and holds up nobody else. At most 32 are
    connected at a time; more are turned away.

    Parameters:
        path: of the socket. What a process that was killed left there is replaced.
    """

    pictures = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._server: socket.socket | None = None
        self._clients: list[_Client] = []
        # Of the two lists and of what is sent to each client.
        self._lock = threading.Lock()
        self._newest = b""
        self._patience_s = 0.0
        self._made: os.stat_result | None = None

    @classmethod
    def from_uri(cls, uri: Uri) -> UnixSink:
        """unix:///run/edgeloc.sock, or unix://edgeloc.sock in the working folder."""
        uri.options({})
        if not uri.path:
            raise UsageError(f"sink {uri.text} names no socket: write unix:///run/edgeloc.sock")
        return cls(uri.path)

    @property
    def name(self) -> str:
        """Its URI."""
        return f"unix://{self.path}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Listen; UsageError where another process does or the path is no socket, OutputError where none can be."""
        self._patience_s, self._newest = 0.0 if live else FILE_SEND_S, b""
        self._server = server = _listen(self.path)
        self._made = os.stat(self.path)
        threading.Thread(target=self._welcome, args=(server,), name="edgeloc-unix", daemon=True).start()

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Hand the line to each client that has room for it; those that are gone are forgotten."""
        line = as_line(observation)
        with self._lock:
            self._newest = line
            self._clients = [client for client in self._clients if client.take(line, self._patience_s)]

    def close(self) -> None:
        """Disconnect everybody and remove the socket."""
        server, self._server = self._server, None
        if server is None:
            return
        with suppress(OSError):
            # Another process may have taken its name meanwhile.
            if self._made is not None and os.path.samestat(os.stat(self.path), self._made):
                os.unlink(self.path)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # wakes the thread
        server.close()
        with self._lock:
            clients, self._clients = self._clients, []
        for client in clients:
            client.close()

    def _welcome(self, server: socket.socket) -> None:
        """What the thread does: take in who connects, until the sink is closed."""
        while self._server is server:
            try:
                client = _Client(server.accept()[0])
            except OSError:  # closed, or the process has no descriptor left
                time.sleep(_PAUSE_S)
                continue
            with self._lock:
                self._clients = [other for other in self._clients if other.is_there()]
                if self._server is server and len(self._clients) < MOST_CLIENTS and client.take(self._newest, 0.0):
                    self._clients.append(client)
                else:
                    client.close()


class _Client:
    """One connection, and the end of the line that it has the beginning of."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._connection, self._rest = connection, b""

    def take(self, line: bytes, patience_s: float) -> bool:
        """Hand over a line, or skip it where there is no room; False where the client is gone or had its time."""
        until = time.monotonic() + patience_s
        try:
            if self._has_sent_all(until):
                self._rest = line
                self._has_sent_all(until)
        except OSError:
            self.close()
            return False
        if self._rest and patience_s:
            self.close()
            return False
        return True

    def is_there(self) -> bool:
        """Whether it has not hung up; what it sends is dropped."""
        if has_hung_up(self._connection):
            self.close()
            return False
        return True

    def close(self) -> None:
        """Hang up, behind a whole line where the client still reads."""
        with suppress(OSError):
            self._has_sent_all(time.monotonic() + _LAST_S)
        self._connection.close()

    def _has_sent_all(self, until: float) -> bool:
        """Send on as far as there is room, or room comes until then, in seconds of `time.monotonic()`."""
        while self._rest:
            try:
                self._rest = self._rest[self._connection.send(self._rest) :]
            except BlockingIOError:
                ready = select.poll()
                ready.register(self._connection, select.POLLOUT)
                if not ready.poll(max(0.0, until - time.monotonic()) * 1000):
                    return False
        return True


def _listen(path: str) -> socket.socket:
    _make_room(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before it has a name nobody can connect to it with more rights than these.
        os.fchmod(server.fileno(), MODE)
        server.bind(path)
        os.chmod(path, MODE)
        server.listen(MOST_CLIENTS)
    except OSError as error:
        server.close()
        raise OutputError(f"no socket can be made at {path}: {error.strerror or error}") from error
    return server


def _make_room(path: str) -> None:
    """Remove the socket of a process that is dead; UsageError where the path is anything else."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{path} is there already, and is no socket", hint="give another name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(path)
    except (FileNotFoundError, NotADirectoryError):
        return  # binding says why it cannot be there
    except ConnectionRefusedError:
        os.unlink(path)
    except UsageError:
        raise
    except PermissionError as error:
        raise OutputError(f"no socket can be made at {path}: {error.strerror}") from error
    except OSError:
        raise _taken(path) from None  # its owner is too busy to answer
    else:
        raise _taken(path)


def _taken(path: str) -> UsageError:
    return UsageError(f"another process listens at {path}", hint="give another name, or end it")
