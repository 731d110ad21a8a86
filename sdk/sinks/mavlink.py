"""Reports the object's direction to an autopilot by MAVLink: for landing on it, and for following it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from edgeloc._support.backend import Uri
from edgeloc._support.numbers import whole
from edgeloc.errors import MissingExtra, OutputError, UsageError
from edgeloc.findings import Finding, report
from edgeloc.loop.ages import Ages
from edgeloc.sinks.base import Sink
from edgeloc.types import Box, Observation, Pixels

__all__ = ["MavlinkSink"]

Autopilot = Literal["ardupilot", "px4"]

_COMPONENT = 191  # MAV_COMP_ID_ONBOARD_COMPUTER
_HEARTBEAT_S = 1.0
_POLL_S = 0.2
# An older sight is void for ArduPilot, and PX4 has no time of its own for it.
_MOST_AGE_S = 1.0
# What the parameter PLND_LAG takes.
_LAG_S = (0.02, 0.25)
_FRAME_BODY_FRD = 12
_BAUD = 57600

logger = logging.getLogger(__name__)


class MavlinkSink(Sink):
    """`mavlink://HOST:PORT`, `mavlink:///dev/serial0?baud=921600`, `mavlink://:14550` to be called by the autopilot.

    LANDING_TARGET while an object is seen (or its track predicted), with the frame's time of capture: angles in radians
    for ArduPilot, their tangents for PX4, which read that message so. CAMERA_TRACKING_IMAGE_STATUS says where it is in
    the picture, and whether it is seen or predicted. Neither is sent for what is lost, stale, or older than a second.
    The autopilot's HEARTBEAT says which of the two it is, unless `autopilot=ardupilot` or `px4` does; its TIMESYNC is
    answered in this machine's monotonic clock, that of the times of capture. `system` is the vehicle's number (1).

    The run needs the camera's geometry.
    """

    pictures = False
    needs_geometry = True

    def __init__(self, link: _Link, name: str, *, autopilot: Autopilot | None = None, system: int = 1) -> None:
        self._link, self._name, self._asked_autopilot, self._system = link, name, autopilot, system
        self._autopilot: Autopilot | None = autopilot
        self._mavlink: Any = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._ages = Ages()

    @classmethod
    def from_uri(cls, uri: Uri) -> MavlinkSink:
        """A host and a port, a port to be called at, or a serial device."""
        options = uri.options({"autopilot": _autopilot, "system": whole(1, 255), "baud": whole(1, 10_000_000)})
        link: _Link
        if uri.path.startswith("/dev/"):
            link = _Serial(uri.path, options.pop("baud", _BAUD))
        else:
            if "baud" in options:
                raise UsageError(f"sink {uri.text}: only a serial device has a baud rate")
            host, colon, port = uri.path.rstrip("/").rpartition(":")
            host = host.strip("[]")
            if not (colon and port.isdecimal() and 0 < int(port) < 65536) or "/" in host:
                hint = "give mavlink://127.0.0.1:14550, mavlink://:14550 or mavlink:///dev/serial0"
                raise UsageError(f"sink {uri.text}: this is no host and port, and no device", hint=hint)
            link = _Udp(host, int(port))
        return cls(link, uri.text.partition("?")[0], **options)

    @property
    def name(self) -> str:
        """Its URI without options."""
        return self._name

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Open the link and listen; MissingExtra without pymavlink, OutputError where the link does not open."""
        self.close()
        self._mavlink = _dialect()
        self._autopilot, self._ages = self._asked_autopilot, Ages()
        try:
            self._link.open()
        except OSError as error:
            raise OutputError(f"{self.name} cannot be opened: {error.strerror or error}") from error
        self._protocol = self._mavlink.MAVLink(None, srcSystem=self._system, srcComponent=_COMPONENT)
        self._protocol.robust_parsing = True
        self._stop.clear()
        self._thread = threading.Thread(target=self._listen, name="edgeloc-mavlink", daemon=True)
        self._thread.start()

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Report where the object is, or be silent; OutputError when the link takes nothing."""
        age_s = time.monotonic() - observation.captured_at
        box = observation.result.box if observation.track is None else observation.track.box
        if box is None or observation.stale or age_s > _MOST_AGE_S:
            return
        if self._autopilot is not None and observation.bearing is not None:
            self._send(self._landing_target(observation, self._autopilot))
            self._ages.add(age_s * 1000)
        self._send(self._tracking(observation, box))

    def _landing_target(self, observation: Observation, autopilot: Autopilot) -> Any:
        """The direction of the target as this autopilot reads it.

        ArduPilot (AC_PrecLand) takes angles; its line of sight is (-tan(angle_y), tan(angle_x), 1), forward, right and
        down in the body. PX4 (mavlink_receiver) hands both on as tangents.
        """
        assert observation.bearing is not None
        right, back = observation.bearing.landing_angles
        distance_m, (wide, high) = observation.distance_m or 0.0, observation.angular_size or (0.0, 0.0)
        # A position in the body is ArduPilot's alone; PX4 takes none but in the local frame.
        located = autopilot == "ardupilot" and observation.distance_m is not None
        x, y, z = (distance_m * part for part in observation.bearing.direction) if located else (0.0, 0.0, 0.0)
        if autopilot == "px4":
            right, back = math.tan(right), math.tan(back)
        return self._mavlink.MAVLink_landing_target_message(
            round(observation.captured_at * 1e6), 0, _FRAME_BODY_FRD, right, back, distance_m, wide, high,
            x, y, z, (1.0, 0.0, 0.0, 0.0), self._mavlink.LANDING_TARGET_TYPE_VISION_OTHER, int(located),
        )  # fmt: skip

    def _tracking(self, observation: Observation, box: Box) -> Any:
        """Where the object is in the picture, 0 to 1 from the top left."""
        m = self._mavlink
        height, width = observation.frame.pixels.shape[:2]
        predicted = observation.track is not None and observation.track.state == "predicted"
        nan = math.nan
        return m.MAVLink_camera_tracking_image_status_message(
            m.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE | (_coasting(m) if predicted else 0),
            m.CAMERA_TRACKING_MODE_RECTANGLE,
            m.CAMERA_TRACKING_TARGET_DATA_IN_STATUS,
            nan, nan, nan,
            *(min(max(at / of, 0.0), 1.0) for at, of in zip(box, (width, height) * 2, strict=True)),
        )  # fmt: skip

    def _send(self, message: Any) -> None:
        with self._lock:
            data = message.pack(self._protocol)
            self._protocol.seq = (self._protocol.seq + 1) % 256
            try:
                self._link.send(data)
            except OSError as error:
                raise OutputError(f"{self.name} takes nothing: {error.strerror or error}") from error

    def _listen(self) -> None:
        """What the thread does: a heartbeat each second, answers to TIMESYNC, and which autopilot this is."""
        m, due = self._mavlink, 0.0
        parser = m.MAVLink(None)
        parser.robust_parsing = True
        while not self._stop.is_set():
            if time.monotonic() >= due:
                due = time.monotonic() + _HEARTBEAT_S
                with contextlib.suppress(OutputError):
                    self._send(
                        m.MAVLink_heartbeat_message(
                            m.MAV_TYPE_ONBOARD_CONTROLLER, m.MAV_AUTOPILOT_INVALID, 0, 0, m.MAV_STATE_ACTIVE, 3
                        )
                    )
            try:
                data, at_ns = self._link.receive(_POLL_S), time.monotonic_ns()
            except OSError:
                self._stop.wait(_POLL_S)
                continue
            for message in (parser.parse_buffer(data) or ()) if data else ():
                self._hear(message, at_ns)

    def _hear(self, message: Any, at_ns: int) -> None:
        m, kind = self._mavlink, message.get_type()
        if kind == "TIMESYNC" and message.tc1 == 0:
            with contextlib.suppress(OutputError):
                self._send(m.MAVLink_timesync_message(at_ns, message.ts1))
        elif kind == "HEARTBEAT" and self._asked_autopilot is None:
            known: dict[int, Autopilot] = {m.MAV_AUTOPILOT_ARDUPILOTMEGA: "ardupilot", m.MAV_AUTOPILOT_PX4: "px4"}
            found = known.get(message.autopilot)
            if found is not None and found != self._autopilot:
                self._autopilot = found
                logger.info("%s is called by %s", self.name, found)

    def close(self) -> None:
        """Close the link, and report the measured age of what was sent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        thread.join(2 * _POLL_S + 1)
        self._link.close()
        (p50,) = self._ages.percentiles(50)
        if p50 is not None:
            report(logger, _lag(p50 / 1000))


def _lag(seconds: float) -> Finding:
    """What ArduPilot is to be told: it cannot see a constant delay in the times of capture."""
    low, high = _LAG_S
    message = f"LANDING_TARGET was sent {seconds * 1000:.0f} ms after the exposure (median): ArduPilot's PLND_LAG = "
    message += f"{min(max(seconds, low), high):.3f}"
    if seconds > high:
        return Finding("mavlink-lag", "warning", f"{message}, the most that it takes", "use a faster model or camera")
    return Finding("mavlink-lag", "note", message)


class _Link(ABC):
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
    def close(self) -> None:
        """Give it back."""


class _Udp(_Link):
    """To a host, or, without one, to whoever called last."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._socket: socket.socket | None = None
        self._peer: Any = None

    def open(self) -> None:
        host = self._host or "0.0.0.0"
        family, kind, protocol, _, address = socket.getaddrinfo(host, self._port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
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
            data, peer = self._socket.recvfrom(65536)
        except (BlockingIOError, ConnectionRefusedError):
            return b""
        if not self._host:
            self._peer = peer
        return data

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Serial(_Link):
    """A serial port; one that went away is opened again with the next message."""

    def __init__(self, path: str, baud: int) -> None:
        self._path, self._baud = path, baud
        self._port: Any = None

    def open(self) -> None:
        try:
            import serial
        except ImportError as error:
            raise MissingExtra("pyserial", "mavlink", "MAVLink by a serial device") from error
        if not os.path.exists(self._path):
            raise FileNotFoundError(2, f"there is no {self._path}")
        self._port = serial.Serial(self._path, self._baud, timeout=0, write_timeout=1)

    def send(self, data: bytes) -> None:
        if self._port is None:
            self.open()
        try:
            self._port.write(data)
        except OSError:
            self.close()
            raise

    def receive(self, timeout_s: float) -> bytes:
        if self._port is None:
            raise ConnectionError
        try:
            if not select.select([self._port.fileno()], [], [], timeout_s)[0]:
                return b""
            return bytes(self._port.read(4096))
        except (OSError, TypeError, ValueError) as error:
            # Another thread may have closed it.
            raise ConnectionError from error

    def close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()


def _dialect() -> Any:
    """The messages alone: the rest of pymavlink takes six times as long to load."""
    os.environ["MAVLINK20"] = "1"
    try:
        from pymavlink.dialects.v20 import common
    except ImportError as error:
        raise MissingExtra("pymavlink", "mavlink", "the sink mavlink://") from error
    return common


def _coasting(dialect: Any) -> int:
    """Obscured, and its position predicted; younger than some releases of pymavlink."""
    return int(getattr(dialect, "CAMERA_TRACKING_STATUS_FLAGS_COASTING", 8))


def _autopilot(text: str) -> Autopilot:
    known: dict[str, Autopilot] = {"ardupilot": "ardupilot", "px4": "px4"}
    if text not in known:
        raise ValueError("ardupilot or px4")
    return known[text]
