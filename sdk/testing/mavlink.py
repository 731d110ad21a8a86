"""An autopilot that is not there: it calls, keeps its clock in step, and reads what `mavlink://` reports."""

from __future__ import annotations

import math
import socket
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from edgeloc.errors import MissingExtra

__all__ = ["FakeAutopilot", "Sight"]

_PERIOD_S = 0.1


@dataclass(frozen=True)
class Sight:
    """What an autopilot made of one LANDING_TARGET.

    Parameters:
        right: the angle to the target from straight down to the body's right, in radians.
        back: the same to the body's back.
        captured_at: when the frame was captured, in seconds of the autopilot's own clock.
        received_at: when the message came, in the same clock.
        position: forward, right, down in metres, where the message has a valid one.
    """

    right: float
    back: float
    captured_at: float
    received_at: float
    position: tuple[float, float, float] | None = None


class FakeAutopilot:
    """ArduPilot or PX4 at a UDP port, as far as edgeloc speaks with it; used in a `with`.

        with FakeAutopilot("px4", call=("127.0.0.1", 14550)) as autopilot:
            edgeloc.run(camera, localizer, "mavlink://:14550", geometry=geometry)
        print(autopilot.sights[-1].right)

    It sends HEARTBEAT and TIMESYNC to `call`, and to whoever sends to its own `port`. Its clock is `offset_s` ahead of
    this machine's; it learns by how much from the answers to TIMESYNC, as PX4 does.

    Parameters:
        kind: which of the two it is.
        call: where it sends to before anybody has sent to it.
        offset_s: how far its clock is ahead.
        system: the vehicle's number.

    Attributes:
        sights: the LANDING_TARGETs as this autopilot reads them.
        messages: all that came, decoded by pymavlink.
        estimated_offset_s: how far its clock is ahead of the sender's, by TIMESYNC; NaN before the first answer.
        round_trip_s: the quickest answer to TIMESYNC; the estimate is right to half of it.

    Raises MissingExtra without pymavlink.
    """

    def __init__(
        self,
        kind: Literal["ardupilot", "px4"] = "ardupilot",
        *,
        call: tuple[str, int] | None = None,
        offset_s: float = 1000.0,
        system: int = 1,
    ) -> None:
        try:
            from pymavlink.dialects.v20 import common
        except ImportError as error:
            raise MissingExtra("pymavlink", "mavlink", "a fake autopilot") from error
        self._dialect: Any = common
        self.kind, self._peer, self._offset_s = kind, call, offset_s
        self.messages: list[Any] = []
        self.sights: list[Sight] = []
        self.estimated_offset_s, self.round_trip_s = math.nan, math.inf
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(_PERIOD_S)
        self.port: int = self._socket.getsockname()[1]
        self._protocol = common.MAVLink(None, srcSystem=system, srcComponent=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fly, name="fake-autopilot", daemon=True)

    @property
    def now(self) -> float:
        """Seconds of its own clock."""
        return time.monotonic() + self._offset_s

    def __enter__(self) -> FakeAutopilot:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _fly(self) -> None:
        parser, due = self._dialect.MAVLink(None), 0.0
        parser.robust_parsing = True
        while not self._stop.is_set():
            if time.monotonic() >= due:
                due = time.monotonic() + _PERIOD_S
                self._call()
            try:
                data, self._peer = self._socket.recvfrom(65536)
            except OSError:
                continue
            received_at = self.now
            for message in parser.parse_buffer(data) or ():
                self._hear(message, received_at)

    def _call(self) -> None:
        m = self._dialect
        ours = m.MAV_AUTOPILOT_PX4 if self.kind == "px4" else m.MAV_AUTOPILOT_ARDUPILOTMEGA
        self._send(m.MAVLink_heartbeat_message(m.MAV_TYPE_QUADROTOR, ours, 0, 0, m.MAV_STATE_ACTIVE, 3))
        self._send(m.MAVLink_timesync_message(0, round(self.now * 1e9)))

    def _send(self, message: Any) -> None:
        if self._peer is not None:
            self._socket.sendto(message.pack(self._protocol), self._peer)
            self._protocol.seq = (self._protocol.seq + 1) % 256

    def _hear(self, message: Any, received_at: float) -> None:
        self.messages.append(message)
        if message.get_type() == "TIMESYNC" and message.tc1:
            sent_at = message.ts1 / 1e9
            # The quickest answer is the truest; halfway there and back the other's clock showed tc1.
            if received_at - sent_at < self.round_trip_s:
                self.round_trip_s = received_at - sent_at
                self.estimated_offset_s = (sent_at + received_at) / 2 - message.tc1 / 1e9
        elif message.get_type() == "LANDING_TARGET":
            self.sights.append(self._sight(message, received_at))

    def _sight(self, message: Any, received_at: float) -> Sight:
        right, back = message.angle_x, message.angle_y
        if self.kind == "px4":
            right, back = math.atan(right), math.atan(back)
        in_body = message.frame == self._dialect.MAV_FRAME_BODY_FRD
        valid = self.kind == "ardupilot" and message.position_valid and in_body
        position = (message.x, message.y, message.z) if valid else None
        return Sight(right, back, message.time_usec / 1e6 + self.estimated_offset_s, received_at, position)
