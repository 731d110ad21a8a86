"""Publishes results for other machines, a summary for people, and what lets Home Assistant show it."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeloc._support.backend import Uri
from edgeloc._version import __version__
from edgeloc.cameras.base import flag
from edgeloc.errors import UsageError
from edgeloc.loop.draw import as_jpeg
from edgeloc.observation import Observation
from edgeloc.sinks.base import Sink
from edgeloc.sinks.mqtt.connection import Broker, Connection
from edgeloc.sinks.record import as_record
from edgeloc.types import Pixels, Result

__all__ = ["MqttSink", "device_id", "discovery"]

# User and password end at the last @, as in what messages mask.
_ADDRESS = re.compile(
    r"(?:(?P<user>[^/:]*)(?::(?P<password>.*))?@)?"
    r"(?P<host>\[[^]]+\]|[^][/:@]+)(?::(?P<port>\d{1,5}))?(?:/(?P<prefix>.*))?",
    re.DOTALL,
)
# How long a file's result waits for a broker that is away.
_FILE_WAIT_S = 10.0
_SUMMARY_S = 1.0
_JPEG_QUALITY = 80
# What had no summary for so long Home Assistant shows as unavailable.
_EXPIRE_S = 30


class MqttSink(Sink):
    """`mqtt://USER@HOST:1883/PREFIX?id=NAME&picture=1&discovery=0`, with TLS `mqtts://`.

    A result is sent at most once; while the broker is away none is kept.

    Parameters:
        broker: where to.
        prefix: what the topics begin with; "" for edgeloc/ID.
        id: the device's name at the broker and in Home Assistant, which no other run may have: letters, digits, _ and
            -; "" for one made of the machine's id.
        picture: whether to send the annotated picture, once a second.
        discovery: whether to announce the device to Home Assistant.
    """

    def __init__(
        self, broker: Broker, *, prefix: str = "", id: str = "", picture: bool = False, discovery: bool = True
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", id):
            raise UsageError(field="id", value=id, allowed="at most 64 letters, digits, _ and -")
        if re.search(r"[+#\0]|^[$/]", prefix):
            raise UsageError(field="prefix", value=prefix, allowed="a topic that holds no + and # and begins with no $")
        self.broker, self.id, self.pictures, self._discovery = broker, id or device_id(), picture, discovery
        self.prefix = prefix.rstrip("/") or f"edgeloc/{self.id}"
        self._connection: Connection | None = None
        self._wait_s = 0.0
        # Since the last summary.
        self._results, self._best, self._summed_at = 0, Result(), 0.0

    @classmethod
    def from_uri(cls, uri: Uri) -> MqttSink:
        """The sink of an mqtt:// or mqtts:// URI; UsageError where that names no broker."""
        options = uri.options({"id": str, "picture": flag, "discovery": flag, "password_file": str, "ca": str})
        found = _ADDRESS.fullmatch(uri.path)
        if found is None:
            raise UsageError(f"sink {uri.text} names no broker", hint=f"write {uri.scheme}://HOST or HOST:PORT/PREFIX")
        broker = Broker(
            found["host"].strip("[]"),
            int(found["port"]) if found["port"] else None,
            uri.scheme == "mqtts",
            options.pop("ca", None),
            found["user"] or "",
            found["password"],
            options.pop("password_file", None),
        )
        return cls(broker, prefix=found["prefix"] or "", **options)

    @property
    def name(self) -> str:
        """The URI of broker and prefix, without the user."""
        return f"{self.broker}/{self.prefix}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Connect.

        With a live camera a broker that is not there yet is waited for while the run goes on: boards boot before their
        brokers. Raises OutputError where it refuses the user, where its certificate is not trusted, and for a file's
        run where there is none.
        """
        self._wait_s = 0.0 if live else _FILE_WAIT_S
        self._results, self._best, self._summed_at = 0, Result(), 0.0
        announcement = None
        if self._discovery:
            message = discovery(self.id, self.prefix, picture=self.pictures)
            announcement = (f"homeassistant/device/{self.id}/config", json.dumps(message))
        self._connection = Connection(self.broker, f"edgeloc-{self.id}", f"{self.prefix}/status", announcement)
        self._connection.open(live=live)

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Send the result, and once a second the summary and the picture; OutputError while the broker is away."""
        assert self._connection is not None
        self._connection.require_room(self._wait_s)
        record = {**as_record(observation), "delivered_ms": round(observation.frame.age_ms, 3)}
        self._send("result", json.dumps(record))
        self._results += 1
        self._best = max(self._best, observation.result, key=lambda result: (result.present, result.presence))
        now = time.monotonic()
        if now - self._summed_at >= _SUMMARY_S:
            self._sum_up(observation.age_ms, now)
            if self.pictures:
                self._send("picture", as_jpeg(drawn(), _JPEG_QUALITY))

    def close(self) -> None:
        """Leave the status "offline" behind and disconnect, in a few seconds even where the broker hangs."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _sum_up(self, age_ms: float, now: float) -> None:
        """Send the best result since the last summary, the newest age, and the rate."""
        rate = self._results / (now - self._summed_at) if self._summed_at else None
        summary = {
            "present": self._best.present,
            "label": self._best.label,
            "presence": round(self._best.presence, 5),
            "age_ms": round(age_ms, 3),
            "rate": None if rate is None else round(rate, 2),
        }
        self._send("summary", json.dumps(summary))
        self._results, self._best, self._summed_at = 0, Result(), now

    def _send(self, topic: str, payload: str | bytes) -> None:
        assert self._connection is not None
        self._connection.send(f"{self.prefix}/{topic}", payload)


def discovery(id: str, prefix: str, *, picture: bool) -> dict[str, Any]:
    """The message by which Home Assistant learns of the device, its entities and their topics.

    Parameters:
        id: the device's.
        prefix: what its topics begin with.
        picture: whether it sends one.
    """
    diagnostic = {"entity_category": "diagnostic"}
    cmps = {
        "object": _entity("binary_sensor", "Object", "'ON' if value_json.present else 'OFF'", device_class="occupancy"),
        "label": _entity("sensor", "Label", "value_json.label"),
        "score": _measured("Score", "(100 * value_json.presence) | round(1)", "%"),
        "age": _measured("Frame age", "value_json.age_ms", "ms", device_class="duration", **diagnostic),
        "rate": _measured("Result rate", "value_json.rate", "Hz", device_class="frequency", **diagnostic),
    }
    if picture:
        cmps["picture"] = {"p": "camera", "name": "Picture", "topic": f"{prefix}/picture"}
    return {
        "dev": {"ids": [f"edgeloc_{id}"], "name": f"edgeloc {id}", "mf": "edgeloc", "sw": __version__},
        "o": {"name": "edgeloc", "sw": __version__},
        "availability_topic": f"{prefix}/status",
        "state_topic": f"{prefix}/summary",
        "cmps": {key: {**entity, "unique_id": f"edgeloc_{id}_{key}"} for key, entity in cmps.items()},
    }


def _entity(platform: str, name: str, value: str, **more: str) -> dict[str, Any]:
    """An entity whose state a template takes from the summary."""
    return {"p": platform, "name": name, "value_template": f"{{{{ {value} }}}}", "expire_after": _EXPIRE_S, **more}


def _measured(name: str, value: str, unit: str, **more: str) -> dict[str, Any]:
    """A number with a history."""
    return _entity("sensor", name, value, unit_of_measurement=unit, state_class="measurement", **more)


def device_id(path: Path = Path("/etc/machine-id")) -> str:
    """12 hexadecimal digits that stay the same on this machine, and do not give its id away."""
    try:
        machine = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        machine = ""
    return hashlib.sha256(f"edgeloc {machine or socket.gethostname()}".encode()).hexdigest()[:12]
