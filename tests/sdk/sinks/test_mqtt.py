"""The MQTT sink with a real broker: what is published, what is refused and why, and that it heals."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.errors import OutputError
from edgeloc.loop.run import run
from edgeloc.loop.summary import RunSummary
from edgeloc.observation import Observation
from edgeloc.sinks import Sink, open_sink
from edgeloc.sinks.record import as_record
from edgeloc.testing import SinkSuite, SyntheticCamera, example_frame, example_observation
from edgeloc.types import Box, Detection, Frame, Pixels, Result

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")

# paho leaves the socket of a failed handshake to the garbage collector, which closes it.
left_to_the_collector = pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <ssl\.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)

USER, PASSWORD = "robot", "S3cr3t with a space"
# Any machine is done with anything here long before.
PATIENCE_S = 30.0
GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "mqtt.md"


class Mosquitto:
    """A broker on a port of its own, whose files lie in `folder`; `secure` is with TLS and a password."""

    def __init__(self, folder: Path, *, secure: bool = False) -> None:
        if shutil.which("mosquitto") is None:
            pytest.skip("mosquitto is not installed")
        self.ca = folder / "ca.crt"
        self._config = folder / "mosquitto.conf"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.uri = f"mqtts://{USER}@localhost:{self.port}" if secure else f"mqtt://127.0.0.1:{self.port}"
        # Started as root it would become another user, who cannot read the folder.
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", "user root"]
        if secure:
            make_certificates(folder)
            subprocess.run(["mosquitto_passwd", "-b", "-c", "passwords", USER, PASSWORD], cwd=folder, check=True)
            lines += ["allow_anonymous false", f"password_file {folder / 'passwords'}"]
            lines += [f"certfile {folder / 'broker.crt'}", f"keyfile {folder / 'broker.key'}"]
        else:
            lines.append("allow_anonymous true")
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def secure(self) -> bool:
        return self.uri.startswith("mqtts")

    def start(self) -> None:
        command = ["mosquitto", "-c", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: answers(self.port))

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            self._process.wait(PATIENCE_S)
        self._process = None


class Subscriber:
    """Gets whatever is published, and again after the broker was away."""

    def __init__(self, broker: Mosquitto) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self._messages: list[Any] = []
        subscribed = threading.Event()
        self.client = client = Client(CallbackAPIVersion.VERSION2)
        if broker.secure:
            client.username_pw_set(USER, PASSWORD)
            client.tls_set(str(broker.ca))
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda *_: client.subscribe("#", qos=1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = lambda _client, _data, message: self._messages.append(message)
        client.connect("localhost", broker.port)
        client.loop_start()
        assert subscribed.wait(PATIENCE_S)

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def of(self, ending: str, count: int = 0) -> list[Any]:
        """The messages whose topic ends so, in order; waits until there are `count`."""
        until(lambda: len(self.of(ending)) >= count) if count else None
        return [message for message in list(self._messages) if message.topic.endswith(ending)]

    def texts(self, ending: str, count: int = 0) -> list[str]:
        return [message.payload.decode() for message in self.of(ending, count)]

    def json(self, ending: str) -> dict[str, Any]:
        """The first message whose topic ends so."""
        found: dict[str, Any] = json.loads(self.texts(ending, 1)[0])
        return found


def until(happened: Callable[[], object]) -> None:
    """Wait for what happens in another thread or process."""
    began_at = time.monotonic()
    while not happened():
        assert time.monotonic() - began_at < PATIENCE_S
        time.sleep(0.02)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def make_certificates(folder: Path) -> None:
    """ca.crt, and broker.crt with broker.key, which that CA signed for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    authority = "-subj /CN=robots -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.crt"
    names = "-subj /CN=broker -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:false"
    signed = "-CA ca.crt -CAkey ca.key -keyout broker.key -out broker.crt"
    for line in (f"{new} {authority}", f"{new} {names} {signed}"):
        subprocess.run(line.split(), cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker that takes everybody; a test that stops or freezes it takes one of its own."""
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def secure_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secure-broker")


@pytest.fixture(scope="module")
def secure(secure_folder: Path) -> Iterator[Mosquitto]:
    """A broker with TLS and a password."""
    broker = Mosquitto(secure_folder, secure=True)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that the test may stop, not started."""
    broker = Mosquitto(tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def client_id(request: pytest.FixtureRequest) -> str:
    """Tests with one broker side by side are devices of their own."""
    return f"t{abs(hash(request.node.nodeid))}"


def write(sink: Sink, count: int = 1, **changes: Any) -> None:
    for number in range(count):
        frame = example_frame(number, time.monotonic() - 0.02)
        observation = dataclasses.replace(example_observation(frame, Box(1, 2, 3.5, 4)), **changes)
        sink.write(observation, lambda frame=frame: frame.pixels)  # type: ignore[misc]


def unwanted() -> Pixels:
    raise AssertionError("drawn for nothing")


class TestContract(SinkSuite):
    @pytest.fixture
    def sink(self, broker: Mosquitto) -> Sink:
        return open_sink(f"{broker.uri}/contract?id=contract")


def test_results_a_summary_and_a_status_are_published(broker: Mosquitto, client_id: str) -> None:
    with Subscriber(broker) as heard:
        sink = open_sink(f"{broker.uri}/lab/one?id={client_id}")
        assert not sink.pictures
        sink.open(live=True)
        sink.write(example_observation(example_frame(7, time.monotonic() - 1), Box(1, 2, 3.5, 4)), unwanted)
        result, summary = heard.json("lab/one/result"), heard.json("lab/one/summary")
        assert heard.texts("lab/one/status") == ["online"]
        sink.close()
        assert heard.texts("lab/one/status", 2) == ["online", "offline"]
        assert not heard.of("/picture")
    assert (result["sequence"], result["present"], result["box"], result["label"]) == (7, True, [1, 2, 3.5, 4], "nut")
    # The age when it was sent, and not only when it was computed.
    assert result["age_ms"] == 12.5 and result["delivered_ms"] >= 1000
    assert summary == {"present": True, "label": "nut", "presence": 0.9, "age_ms": 12.5, "rate": None}
    with Subscriber(broker) as late:
        assert late.texts("lab/one/status", 1) == ["offline"] and late.of("lab/one/status")[0].retain
        assert not late.of("lab/one/result") and not late.of("lab/one/summary")


def test_a_summary_has_the_best_of_its_second(
    broker: Mosquitto, client_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object that is seen in one frame of thirty must not be missed."""
    monkeypatch.setattr("edgeloc.sinks.mqtt.sink._SUMMARY_S", 0.3)
    with Subscriber(broker) as heard:
        sink = open_sink(f"{broker.uri}/lab/best?id={client_id}")
        sink.open(live=True)
        write(sink, result=Result())
        write(sink, result=Result((Detection(Box(0, 0, 1, 1), 0.8, "bolt"),)))
        write(sink, 3, result=Result())
        time.sleep(0.3)
        write(sink, result=Result(rejected=Detection(None, 0.1)))
        first, second = (json.loads(text) for text in heard.texts("lab/best/summary", 2))
        sink.close()
    assert (first["present"], second["present"]) == (False, True)
    assert (second["label"], second["presence"]) == ("bolt", 0.8)
    assert 0 < second["rate"] <= 5 / 0.3


def test_a_picture_is_sent_once_a_second_and_only_where_asked_for(broker: Mosquitto, client_id: str) -> None:
    with Subscriber(broker) as heard:
        sink = open_sink(f"{broker.uri}/lab/seen?id={client_id}&picture=1")
        assert sink.pictures
        sink.open(live=True)
        write(sink, 20)
        (message,) = heard.of("lab/seen/picture", 1)
        sink.close()
        assert len(heard.of("lab/seen/result", 20)) == 20 and len(heard.of("lab/seen/picture")) == 1
    assert not message.retain
    picture = cv2.imdecode(np.frombuffer(message.payload, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape == (48, 64, 3)


def test_home_assistant_hears_of_the_device_when_it_starts(broker: Mosquitto, client_id: str) -> None:
    topic = f"homeassistant/device/{client_id}/config"
    with Subscriber(broker) as heard:
        sink = open_sink(f"{broker.uri}/lab/home?id={client_id}")
        sink.open(live=True)
        (first,) = heard.of(topic, 1)
        heard.client.publish("homeassistant/status", "offline")
        heard.client.publish("homeassistant/status", "online")
        again = heard.of(topic, 2)[1]
        sink.close()
    assert first.payload == again.payload
    assert json.loads(first.payload)["state_topic"] == "lab/home/summary"
    with Subscriber(broker) as late:
        assert late.of(topic, 1)[0].retain


def test_home_assistant_hears_nothing_where_that_is_not_wanted(broker: Mosquitto, client_id: str) -> None:
    with Subscriber(broker) as heard:
        sink = open_sink(f"{broker.uri}/lab/shy?id={client_id}&discovery=0")
        sink.open(live=True)
        write(sink)
        assert heard.of("lab/shy/result", 1) and not heard.of(f"{client_id}/config")
        sink.close()


def found(frame: Frame) -> Result:
    return Result((Detection(Box(5, 5, 20, 20), 0.9, "nut"),))


def test_results_come_again_after_the_broker_was_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS and a password, in the middle of a run, which no one touches."""
    broker = Mosquitto(tmp_path, secure=True)
    broker.start()
    monkeypatch.setenv("EDGELOC_MQTT_PASSWORD", PASSWORD)
    sink = open_sink(f"{broker.uri}/flight?ca={broker.ca}&id=flight")
    summaries: list[RunSummary] = []
    stop = threading.Event()

    def runs() -> None:
        with SyntheticCamera(size=(64, 48), fps=30) as camera:
            ended = Ender(stop)
            summaries.append(run(camera, found, sink, ended))

    thread = threading.Thread(target=runs)
    with Subscriber(broker) as heard:
        thread.start()
        try:
            heard.of("flight/result", 10)
            broker.stop()
            time.sleep(0.5)
            before = len(heard.of("flight/result"))
            broker.start()
            heard.of("flight/result", before + 10)
        finally:
            stop.set()
            thread.join(PATIENCE_S)
        until(lambda: heard.texts("flight/status")[-2:] == ["online", "offline"])
        statuses = heard.texts("flight/status")
    broker.stop()
    (summary,) = summaries
    assert statuses[0] == "online"
    codes = [finding.code for finding in summary.findings]
    assert codes.count("sink-down") == codes.count("sink-back") == 1
    down = next(finding for finding in summary.findings if finding.code == "sink-down")
    assert "the connection to the broker broke" in down.message and PASSWORD not in down.message
    (mqtt, _) = summary.sinks
    assert mqtt.state == "open" and mqtt.delivered > 20 and mqtt.skipped > 0


class Ender(Sink):
    """Ends the run when an event is set."""

    auxiliary = True
    name = "ender"

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        pass

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        self.ended = self._event.is_set()

    def close(self) -> None:
        pass


def test_a_broker_that_is_not_there_yet_is_waited_for(own: Mosquitto) -> None:
    sink = open_sink(f"{own.uri}/early")
    sink.open(live=True)
    with pytest.raises(OutputError, match="the broker cannot be reached: Connection refused"):
        write(sink)
    own.start()
    with Subscriber(own) as heard:
        until(lambda: accepted(sink))
        assert heard.of("early/result", 1)
        sink.close()


def accepted(sink: Sink) -> bool:
    try:
        write(sink)
    except OutputError:
        return False
    return True


def test_a_file_is_not_begun_without_a_broker(own: Mosquitto) -> None:
    with pytest.raises(OutputError, match="the broker cannot be reached: Connection refused"):
        open_sink(own.uri).open()


def test_a_file_waits_while_the_broker_restarts(own: Mosquitto) -> None:
    own.start()
    sink = open_sink(f"{own.uri}/file")
    sink.open()
    write(sink)
    own.stop()
    own.start()
    with Subscriber(own) as heard:
        until(lambda: accepted(sink))
        assert heard.of("file/result", 1)
        sink.close()


CHILD = """
import sys, time
from edgeloc.sinks import open_sink
from edgeloc.testing import example_frame, example_observation
sink = open_sink(sys.argv[1])
sink.open(live=True)
while True:
    frame = example_frame(0, time.monotonic())
    sink.write(example_observation(frame), lambda: frame.pixels)
    time.sleep(0.02)
"""


def test_the_broker_says_offline_for_a_run_that_was_killed(broker: Mosquitto, client_id: str) -> None:
    with Subscriber(broker) as heard:
        child = subprocess.Popen([sys.executable, "-c", CHILD, f"{broker.uri}/killed?id={client_id}"])
        try:
            assert heard.of("killed/result", 3)
        finally:
            child.kill()
            child.wait()
        assert heard.texts("killed/status", 2) == ["online", "offline"]


def test_a_broker_that_hangs_holds_no_end_of_a_run(own: Mosquitto) -> None:
    own.start()
    with Subscriber(own) as heard:
        sink = open_sink(f"{own.uri}/hung")
        sink.open(live=True)
        write(sink)
        assert heard.of("hung/result", 1)
        own.send(signal.SIGSTOP)
        began_at = time.monotonic()
        sink.close()
        assert time.monotonic() - began_at < PATIENCE_S / 2
        own.send(signal.SIGCONT)
        assert heard.texts("hung/status", 2)[-1] == "offline"


def test_what_a_hung_broker_does_not_take_is_not_piled_up(own: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.sinks.mqtt.connection._SEND_S", 0.3)
    own.start()
    sink = open_sink(f"{own.uri}/full")
    sink.open(live=True)
    own.send(signal.SIGSTOP)
    many = Result(tuple(Detection(Box(0, 0, 1, 1), 0.9, "x" * 1000) for _ in range(1000)))
    with pytest.raises(
        OutputError, match=r"the broker has taken nothing for 0\.3 s|the connection to the broker broke"
    ):
        write(sink, 100, result=many)
    own.send(signal.SIGCONT)
    until(lambda: accepted(sink))
    sink.close()


def refused(uri: str) -> str:
    """The sentence of a run that does not start."""
    sink = open_sink(uri)
    with pytest.raises(OutputError) as caught:
        sink.open(live=True)
    sink.close()
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_a_wrong_password_is_refused_before_the_run(secure: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELOC_MQTT_PASSWORD", "wr0ng")
    sentence = refused(f"{secure.uri}?ca={secure.ca}")
    assert sentence == (
        f"mqtts://localhost:{secure.port}: the broker does not accept this user and password; give the password in "
        "the environment's EDGELOC_MQTT_PASSWORD or by ?password_file="
    )
    monkeypatch.delenv("EDGELOC_MQTT_PASSWORD")
    assert "does not accept this user" in refused(f"{secure.uri}?ca={secure.ca}")
    assert "the broker wants a user" in refused(f"mqtts://localhost:{secure.port}?ca={secure.ca}")


def test_the_password_comes_from_a_file_or_the_uri(secure: Mosquitto, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    uri = f"{secure.uri}/lab/file?ca={secure.ca}&id=password-file&password_file={tmp_path / 'password'}"
    with Subscriber(secure) as heard:
        for one in (uri, uri.replace(f"{USER}@", f"{USER}:{PASSWORD}@").partition("&password_file")[0]):
            sink = open_sink(one)
            assert PASSWORD not in f"{sink.name} {vars(sink)}"
            sink.open(live=True)
            write(sink)
            sink.close()
        assert len(heard.of("lab/file/result", 2)) == 2


@left_to_the_collector
def test_an_untrusted_broker_is_refused_before_the_run(secure: Mosquitto, tmp_path: Path) -> None:
    sentence = refused(secure.uri)
    assert "the broker's certificate is not trusted: " in sentence and "?ca=" in sentence
    make_certificates(tmp_path)
    assert "is not trusted" in refused(f"{secure.uri}?ca={tmp_path / 'ca.crt'}")
    # Its certificate is for localhost alone.
    other = secure.uri.replace("localhost", "127.0.0.1")
    assert "127.0.0.1" in refused(f"{other}?ca={secure.ca}").partition("is not trusted")[2]


@left_to_the_collector
def test_a_port_with_tls_and_one_without_are_told_apart(secure: Mosquitto, broker: Mosquitto) -> None:
    for uri, sentence in (
        (f"mqtt://localhost:{secure.port}", r"hung up before it answered.*mqtts://"),
        (f"mqtts://localhost:{broker.port}?ca={secure.ca}", "no TLS connection|cannot be reached|hung up"),
    ):
        sink = open_sink(uri)
        sink.open(live=True)
        with pytest.raises(OutputError, match=sentence):
            write(sink)
        sink.close()


def test_the_example_of_another_machine_flies_by_what_it_hears(broker: Mosquitto, client_id: str) -> None:
    example = GUIDE.parents[1] / "examples" / "fly_by_mqtt.py"
    sink = open_sink(f"{broker.uri}/robots/one?id={client_id}")
    sink.open(live=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(example), "localhost", str(broker.port), "robots/one"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout is not None
        lines = iter(child.stdout)
        assert next(lines).startswith("hover")
        stop = threading.Event()
        threading.Thread(target=lambda: until(lambda: stop.wait(0.05) or not accepted(sink)), daemon=True).start()
        assert any(line.startswith("steer") for line in lines)
        stop.set()
        assert any(line.startswith("hover") for line in lines)
    finally:
        child.kill()
        child.communicate()
        sink.close()


def test_the_guide_shows_every_field(broker: Mosquitto, client_id: str) -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    frame = example_frame(0, time.monotonic())
    observation = example_observation(frame, Box(1, 2, 3, 4))
    with Subscriber(broker) as heard:
        sink = open_sink(f"{broker.uri}/lab/guide?id={client_id}")
        sink.open(live=True)
        sink.write(observation, unwanted)
        result, summary = heard.json("lab/guide/result"), heard.json("lab/guide/summary")
        sink.close()
    assert list(json.loads(guide.partition("```json\n")[2].partition("```")[0])) == list(summary)
    more = set(result) - set(as_record(observation))
    assert [field for field in (*summary, *more) if f"| `{field}` |" not in guide] == []
