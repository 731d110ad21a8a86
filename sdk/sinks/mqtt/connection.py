"""A connection to an MQTT broker that comes back by itself, and the sentence for why there is none."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeloc.errors import MissingExtra, OutputError, UsageError

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo

__all__ = ["PASSWORD", "Broker", "Connection"]

PASSWORD = "EDGELOC_MQTT_PASSWORD"

# A broker that hears nothing for one and a half of these publishes the last will.
_KEEPALIVE_S = 15
# Data that the broker's machine has not acknowledged for so long ends the connection: what waits in it is no news.
_UNACKNOWLEDGED_MS = 5000
# What may wait in the system's buffer: some seconds of results.
_BUFFER_BYTES = 65536
_CONNECT_S = 5.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 1, 30
# How long a message waits for the one before it, and the end of a run for the broker.
_SEND_S, _CLOSE_S = 3.0, 2.0
# Of the few messages that are repeated until the broker has them.
_MOST_QUEUED = 8
_NOT_YET_VALID = 9  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID: a board without a clock of its own boots in the past
_BIRTH = "homeassistant/status"


@dataclass(frozen=True)
class Broker:
    """An MQTT broker, and how to get in.

    Parameters:
        host: its name or address.
        port: its port; None for 1883, with TLS 8883.
        tls: whether to encrypt, and to check its certificate.
        ca: a file with the certificate of the CA to trust; None for the system's CAs.
        user: "" for none.
        password: None for that in `password_file`, or else in the environment's EDGELOC_MQTT_PASSWORD.
        password_file: a file that holds the password, such as a credential of systemd.
    """

    host: str
    port: int | None = None
    tls: bool = False
    ca: str | None = None
    user: str = ""
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None

    def __post_init__(self) -> None:
        try:
            self.host.encode("idna")
        except UnicodeError:
            raise UsageError(field="host", value=self.host, allowed="the name or the address of a broker") from None
        if self.port is not None and not 0 < self.port < 65536:
            raise UsageError(field="port", value=self.port, allowed="1 to 65535")
        if self.ca is not None and not self.tls:
            raise UsageError(f"{self}: without TLS there is no certificate that ca could check: write mqtts://")
        if not self.user and (self.password or self.password_file):
            raise UsageError(f"{self}: a password needs a user, whose name stands before the host and an @")

    def __str__(self) -> str:
        """Its URI without the user."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}" + (f":{self.port}" if self.port else "")

    def prepare(self, client: Client) -> None:
        """Give a client address, user and certificates; OutputError where a file of them cannot be read."""
        client.connect_async(self.host, self.port or (8883 if self.tls else 1883), keepalive=_KEEPALIVE_S)
        if self.user:
            client.username_pw_set(self.user, self._secret())
        if self.tls:
            try:
                client.tls_set_context(ssl.create_default_context(cafile=self.ca))
            except OSError as error:  # an SSLError where the file holds none
                raise OutputError(f"{self}: {self.ca} gives no certificate: {_reason(error)}") from None

    def _secret(self) -> str | None:
        if self.password is not None:
            return self.password
        if self.password_file is None:
            return os.environ.get(PASSWORD)
        try:
            return Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            reason = _reason(error)
        except UnicodeError:  # whose text would quote the file
            reason = "it is not UTF-8"
        raise OutputError(f"{self}: {self.password_file} gives no password: {reason}")


class _Failure(NamedTuple):
    """Why there is no connection, how to fix it, and whether trying again is of no use."""

    why: str
    fix: str = ""
    final: bool = False


class Connection:
    """A connection to a broker that comes back by itself, in a thread of paho's.

    Parameters:
        broker: where to.
        client_id: by it a broker knows a connection that hangs as an older one of ours, and gives that up.
        status: the topic of "online" and "offline".
        announcement: a topic and what to retain there, sent again when Home Assistant starts; None for nothing.
    """

    def __init__(self, broker: Broker, client_id: str, status: str, announcement: tuple[str, str] | None) -> None:
        self._broker, self._client_id = broker, client_id
        self._status, self._announcement = status, announcement
        self._client: Client | None = None
        self._up, self._settled = threading.Event(), threading.Event()
        self._live = False
        self._failure = _Failure("the broker does not answer")
        self._sent: MQTTMessageInfo | None = None
        # Held while a status is sent, so that no "online" follows the last "offline".
        self._lock, self._closing = threading.Lock(), False

    def open(self, *, live: bool) -> None:
        """Connect, and wait for how that ends; without `live` until it succeeds.

        Raises OutputError where the broker or the certificate is refused for good, without `live` where there is none.
        """
        self._live = live
        self._client = client = self._new_client()
        self._broker.prepare(client)
        client.loop_start()
        self._settled.wait(_CONNECT_S)
        if not self._up.is_set() and (self._failure.final or not live):
            self.close()
            raise self._error()

    def require_room(self, wait_s: float) -> None:
        """Raise OutputError where there is no connection in `wait_s`, or what was sent last does not get out."""
        if not self._up.wait(wait_s):
            raise self._error()
        if self._sent is None:
            return
        with suppress(RuntimeError):  # it was lost with its connection
            self._sent.wait_for_publish(_SEND_S)
            if not self._sent.is_published():
                self._failure = _Failure(f"the broker has taken nothing for {_SEND_S:g} s")
                raise self._error()

    def send(self, topic: str, payload: str | bytes) -> None:
        """Hand a message over, which is sent at most once; OutputError where there is no connection."""
        assert self._client is not None
        self._sent = self._client.publish(topic, payload)
        if self._sent.rc:
            raise self._error()

    def close(self) -> None:
        """Leave "offline" behind and disconnect; a broker that does not hear of it publishes the last will."""
        client = self._client
        if client is None:
            return
        with self._lock:
            self._closing = True
            last = client.publish(self._status, "offline", qos=1, retain=True) if self._up.is_set() else None
        if last is not None and _is_acknowledged(last):
            client.disconnect()
        elif (connection := client.socket()) is not None:
            with suppress(OSError):
                # Not TLS's own, which paho's thread may be using.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # type: ignore[arg-type]
        # It waits for paho's thread, which may be connecting or looking for the host.
        stopping = threading.Thread(target=client.loop_stop, daemon=True)
        stopping.start()
        stopping.join(_CLOSE_S)

    def _new_client(self) -> Client:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise MissingExtra("paho-mqtt", "mqtt", "the sink mqtt://") from None
        client = Client(CallbackAPIVersion.VERSION2, self._client_id)
        client.connect_timeout = _CONNECT_S
        client.reconnect_delay_set(_FIRST_DELAY_S, _LONGEST_DELAY_S)
        client.max_queued_messages_set(_MOST_QUEUED)
        client.will_set(self._status, "offline", qos=1, retain=True)
        client.on_socket_open = _hurry
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail, client.on_message = self._on_connect_fail, self._on_message
        return client

    def _error(self) -> OutputError:
        return OutputError(f"{self._broker}: {self._failure.why}", hint=self._failure.fix)

    def _fail(self, failure: _Failure) -> None:
        self._failure = failure
        if failure.final or self._live:
            self._settled.set()

    def _on_connect(self, client: Client, _data: Any, _flags: Any, answer: Any, _properties: Any) -> None:
        if answer.is_failure:
            self._fail(_refusal(str(answer), self._broker))
            return
        with self._lock:
            if self._closing:
                return
            client.publish(self._status, "online", qos=1, retain=True)
        if self._announcement is not None:
            client.subscribe(_BIRTH)
            client.publish(*self._announcement, qos=1, retain=True)
        self._up.set()
        self._settled.set()

    def _on_message(self, client: Client, _data: Any, message: Any) -> None:
        if self._announcement is not None and message.payload == b"online":
            client.publish(*self._announcement, qos=1, retain=True)

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        # paho calls this where it caught the error.
        self._fail(_explain(sys.exc_info()[1], self._broker))

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, answer: Any, _properties: Any) -> None:
        if self._up.is_set():
            self._up.clear()
            self._failure = _Failure("the connection to the broker broke")
        elif str(answer) == "Keep alive timeout":
            self._fail(_Failure("the broker does not answer"))
        elif not self._failure.final:
            fix = "" if self._broker.tls else "mqtts:// if its port wants TLS"
            self._fail(_Failure("the broker hung up before it answered", fix))


def _is_acknowledged(message: MQTTMessageInfo) -> bool:
    with suppress(RuntimeError, ValueError):  # the connection broke, or the queue is full
        message.wait_for_publish(_CLOSE_S)
        return message.is_published()
    return False


def _hurry(_client: Client, _data: Any, connection: Any) -> None:
    """Have each result sent at once, and none grow old in the system's buffer where the network is away."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)


def _refusal(answer: str, broker: Broker) -> _Failure:
    """What the broker's answer to a client means."""
    if answer not in ("Not authorized", "Bad user name or password"):
        return _Failure(f"the broker refuses the connection: {answer}", final=answer != "Server unavailable")
    fix = f"give the password in the environment's {PASSWORD} or by ?password_file="
    if not broker.user:
        return _Failure("the broker wants a user", f"write the user's name before the host and an @; {fix}", True)
    return _Failure("the broker does not accept this user and password", fix, True)


def _explain(error: BaseException | None, broker: Broker) -> _Failure:
    """Why the broker cannot be reached."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"the broker's certificate is not trusted: {error.verify_message}"
        return _Failure(why, "name the file of its CA by ?ca=", error.verify_code != _NOT_YET_VALID)
    if isinstance(error, socket.gaierror):
        return _Failure(f"no machine of the name {broker.host} is found")
    if isinstance(error, ssl.SSLError):
        return _Failure(f"no TLS connection can be made: {error.reason or error}")
    return _Failure(f"the broker cannot be reached: {_reason(error)}")


def _reason(error: BaseException | None) -> str:
    return getattr(error, "strerror", None) or str(error)
