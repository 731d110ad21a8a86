"""Notifies systemd of a run's progress; only results feed the watchdog, never a timer or a thread."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from edgeloc.errors import OutputError
from edgeloc.observation import Observation
from edgeloc.sinks import Sink
from edgeloc.types import Pixels

__all__ = ["ProgressSink", "watchdog_s"]


class ProgressSink(Sink):
    """A sink that notifies systemd: READY=1 with the first result, WATCHDOG=1 with later ones, STOPPING=1 at the end.

    `address` is systemd's socket ($NOTIFY_SOCKET; a leading @ stands for an abstract one) and
    `interval_s` the watchdog's, None without one. At most one WATCHDOG=1 goes out in half an
    interval. A loop that hangs in a driver writes no result, so systemd ends and restarts it.
    """

    auxiliary = True
    inline = True
    pictures = False

    def __init__(self, address: str, interval_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._pause_s = None if interval_s is None else interval_s / 2
        self._socket: socket.socket | None = None
        self._fed_at: float | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ProgressSink:
        """The sink for the service manager that started this process; KeyError where none did."""
        return cls(environment["NOTIFY_SOCKET"], watchdog_s(environment))

    @property
    def name(self) -> str:
        """What messages call it."""
        return "systemd's notify socket"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Connect; OutputError when systemd does not listen."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            opened.connect(self._address)
        except OSError as error:
            opened.close()
            raise OutputError(
                f"{self.name} {self._address!r} does not answer: {error.strerror or error}",
                hint="outside of a service, run without NOTIFY_SOCKET in the environment",
            ) from error
        self._socket, self._fed_at = opened, None

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """One more result: that is progress."""
        now = time.monotonic()
        if self._fed_at is None:
            self._send("READY=1\nSTATUS=Localizing")
        elif self._pause_s is None or now - self._fed_at < self._pause_s:
            return
        else:
            self._send("WATCHDOG=1")
        self._fed_at = now

    def close(self) -> None:
        """Notify systemd that the run is over."""
        if self._socket is not None:
            self._send("STOPPING=1")
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        # systemd being reloaded loses a message; the run is worth more than it.
        with suppress(OSError):
            assert self._socket is not None
            self._socket.send(text.encode())


def watchdog_s(environment: Mapping[str, str]) -> float | None:
    """How many seconds systemd waits for a sign of life; None where it does not wait for this process."""
    interval, owner = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    if not interval.isdecimal() or int(interval) == 0 or owner != str(os.getpid()):
        return None
    return int(interval) / 1e6
