"""Reports the object's direction to an autopilot by MAVLink: for landing on it, and for following it."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, TypeGuard

from edgeloc._support.backend import Uri
from edgeloc._support.numbers import whole
from edgeloc.errors import MissingExtra, OutputError, UsageError, first_line
from edgeloc.findings import Finding
from edgeloc.loop.summary import Ages
from edgeloc.observation import Bearing, Observation
from edgeloc.sinks.base import Sink
from edgeloc.sinks.mavlink.links import Link, SerialLink, UdpLink
from edgeloc.types import Box, Pixels

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
# After so long without a HEARTBEAT of the autopilot a user should know; it comes once a second.
_SILENT_S = 5.0
_AUTOPILOT_COMPONENT = 1  # MAV_COMP_ID_AUTOPILOT1

logger = logging.getLogger(__name__)


class MavlinkSink(Sink):
    """`mavlink://HOST:PORT`, `mavlink:///dev/serial0?baud=921600`, `mavlink://:14550` to be called by the autopilot.

    LANDING_TARGET while an object is seen (or its track predicted) below the horizon, with the time for which its
    direction holds, the frame's capture or what the tracker predicts for: angles in radians for ArduPilot, their
    tangents for PX4, which read that message so. CAMERA_TRACKING_IMAGE_STATUS says where it is in the picture, and
    whether it is seen or predicted. Neither is sent for what is lost, stale, or older than a second.
    The autopilot's HEARTBEAT says which of the two it is, unless `autopilot=ardupilot` or `px4` does; its TIMESYNC is
    answered in this machine's monotonic clock, that of the times of capture. `system` is the vehicle's number; without
    it, that of the first autopilot heard.

    The run needs the camera's geometry.
    """

    pictures = False
    needs_geometry = True

    def __init__(self, link: Link, name: str, *, autopilot: Autopilot | None = None, system: int | None = None) -> None:
        self._link, self._name, self._asked = link, name, (autopilot, system)
        self._autopilot, self._system = self._asked
        self._heard_at, self._silent = 0.0, False
        self._mavlink: Any = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._ages = Ages()

    @classmethod
    def from_uri(cls, uri: Uri) -> MavlinkSink:
        """A host and a port, a port to be called at, or a serial device."""
        options = uri.options({"autopilot": _autopilot, "system": whole(1, 255), "baud": whole(1, 10_000_000)})
        link: Link
        if uri.path.startswith("/dev/"):
            link = SerialLink(uri.path, options.pop("baud", _BAUD))
        else:
            if "baud" in options:
                raise UsageError(f"sink {uri.text}: only a serial device has a baud rate")
            place = uri.host_and_port()
            if place is None:
                hint = "give mavlink://127.0.0.1:14550, mavlink://:14550 or mavlink:///dev/serial0"
                raise UsageError(f"sink {uri.text}: this is no host and port, and no device", hint=hint)
            link = UdpLink(*place)
        return cls(link, uri.text.partition("?")[0], **options)

    @property
    def name(self) -> str:
        """Its URI without options."""
        return self._name

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Open the link and listen; MissingExtra without pymavlink, OutputError where the link does not open."""
        self.close()
        self._mavlink = _dialect()
        (self._autopilot, self._system), self._ages = self._asked, Ages()
        self._heard_at, self._silent = time.monotonic(), False
        try:
            self._link.open()
        # pyserial's for a rate that the port does not have.
        except (OSError, ValueError) as error:
            raise _unopened(self.name, error) from error
        self._protocol = self._mavlink.MAVLink(None, srcSystem=self._system or 1, srcComponent=_COMPONENT)
        self._stop.clear()
        self._thread = threading.Thread(target=self._listen, name="edgeloc-mavlink", daemon=True)
        self._thread.start()

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Report where the object is, or be silent; OutputError when the link takes nothing."""
        now, track = time.monotonic(), observation.track
        box = observation.result.box if track is None else track.box
        if box is None or observation.stale or now - observation.captured_at > _MOST_AGE_S:
            return
        if self._autopilot is not None and _is_below(observation.bearing):
            at = observation.captured_at if track is None else track.at
            self._send(self._landing_target(observation, self._autopilot, at))
            self._ages.add((now - at) * 1000)
        self._send(self._tracking(observation, box))

    def _landing_target(self, observation: Observation, autopilot: Autopilot, at: float) -> Any:
        """The direction of the target at a time, seconds of `time.monotonic()`, as this autopilot reads it.

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
            wide, high = 2 * math.tan(wide / 2), 2 * math.tan(high / 2)
        return self._mavlink.MAVLink_landing_target_message(
            round(at * 1e6), 0, _FRAME_BODY_FRD, right, back, distance_m, wide, high,
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
        """What the thread does: a heartbeat each second, and to hear what comes."""
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
                self._watch()
            try:
                data, at_ns = self._link.receive(_POLL_S), time.monotonic_ns()
            except OSError:
                self._stop.wait(_POLL_S)
                continue
            for message in (parser.parse_buffer(data) or ()) if data else ():
                if self._is_of_the_autopilot(message):
                    self._link.answer()
                    self._hear(message, at_ns)

    def _is_of_the_autopilot(self, message: Any) -> bool:
        """Ground stations, cameras, noise, and other vehicles may be heard as well."""
        vehicle = message.get_srcSystem()
        return message.get_srcComponent() == _AUTOPILOT_COMPONENT and self._system in (None, vehicle)

    def _hear(self, message: Any, at_ns: int) -> None:
        """Which autopilot this is, and answers to its TIMESYNC."""
        m, kind = self._mavlink, message.get_type()
        if kind == "TIMESYNC" and message.tc1 == 0:
            with contextlib.suppress(OutputError):
                self._send(m.MAVLink_timesync_message(at_ns, message.ts1))
        elif kind == "HEARTBEAT" and message.autopilot != m.MAV_AUTOPILOT_INVALID:
            self._heard_at = time.monotonic()
            if self._silent:
                self._silent = False
                logger.info("%s hears the autopilot", self.name)
            self._system = self._protocol.srcSystem = message.get_srcSystem()
            known: dict[int, Autopilot] = {m.MAV_AUTOPILOT_ARDUPILOTMEGA: "ardupilot", m.MAV_AUTOPILOT_PX4: "px4"}
            if self._autopilot is None and message.autopilot in known:
                self._autopilot = known[message.autopilot]
                logger.info("%s is called by %s", self.name, self._autopilot)

    def _watch(self) -> None:
        """Report an autopilot that is not heard: a serial line does not show that it leads nowhere."""
        if not self._silent and time.monotonic() - self._heard_at > _SILENT_S:
            self._silent = True
            message = f"{self.name} has heard no HEARTBEAT of an autopilot for {_SILENT_S:g} s"
            if self._autopilot is None:
                message += ", and sends no LANDING_TARGET until it does"
            self._notice(Finding("mavlink-silent", "warning", message, "check its wires, baud= and port"))

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
            self._notice(_lag(p50 / 1000, self._autopilot))


def _is_below(bearing: Bearing | None) -> TypeGuard[Bearing]:
    """Whether the direction is one to land in; the tangents of others point the opposite way."""
    return bearing is not None and bearing.direction[2] > 0


def _lag(seconds: float, autopilot: Autopilot | None) -> Finding:
    """The parameter by which the autopilot takes the median delay into account, which it cannot see itself."""
    low, high = _LAG_S
    message = f"LANDING_TARGET was sent {seconds * 1000:.0f} ms after the time in it (median)"
    if autopilot == "px4":
        fix = "give {track} and {predict_ms}, which makes up for the delay"
        return Finding("mavlink-lag", "note", f"{message}, and PX4 counts from its arrival", fix)
    message += f": ArduPilot's PLND_LAG = {min(max(seconds, low), high):.3f}"
    if seconds > high:
        return Finding("mavlink-lag", "warning", f"{message}, the most that it takes", "use a faster model or camera")
    return Finding("mavlink-lag", "note", message)


def _unopened(name: str, error: OSError | ValueError) -> OutputError:
    number, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or first_line(error)
    hint = "`sudo usermod -aG dialout $USER`, then log in again" if number == errno.EACCES else ""
    return OutputError(f"{name} cannot be opened: {reason}", hint=hint)


def _dialect() -> Any:
    """The messages alone: the rest of pymavlink takes six times as long to load."""
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
