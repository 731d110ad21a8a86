"""Lines through a pipe, in datagrams and over a connection: whole ones, whatever their readers do."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import edgeloc
from edgeloc.errors import OutputError, UsageError
from edgeloc.models import SHIPPED_INT8
from edgeloc.observation import Observation
from edgeloc.sinks import Sink, open_sink
from edgeloc.testing import SinkSuite, example_frame, example_observation
from edgeloc.types import Box, Frame, Pixels, Result

EDGELOC = [sys.executable, "-m", "edgeloc", "run", str(SHIPPED_INT8)]
FILE = ["--camera", "synthetic://?size=64x48&live=0"]
LIVE = "synthetic://?size=64x48&fps=60"


def localizer(_: Frame) -> Result:
    return Result()


def write(sink: Sink, *numbers: int, boxes: int = 1) -> None:
    for number in numbers:
        sink.write(observed(number, boxes), not_drawn)


def observed(number: int, boxes: int = 1) -> Observation:
    return example_observation(example_frame(number), *[Box(1, 2, 3, 4)] * boxes)


def not_drawn() -> Pixels:
    pytest.fail("drawn")


def taken(sink: Sink, observation: Observation) -> bool:
    try:
        sink.write(observation, not_drawn)
    except OutputError:
        return False
    return True


def numbers_in(data: bytes) -> list[int]:
    """The frames' numbers in lines that must be whole."""
    assert data.endswith(b"\n") or not data
    return [json.loads(line)["sequence"] for line in data.splitlines()]


class TestStdoutSink(SinkSuite):
    @pytest.fixture
    def sink(self) -> Sink:
        return open_sink("-")


def test_a_pipe_gets_the_results_alone_and_the_summary_is_on_stderr() -> None:
    for options in ([], ["--json"]):
        done = subprocess.run([*EDGELOC, *FILE, "--sink", "-", "--frames", "5", *options], capture_output=True)
        assert done.returncode == 0, done.stderr
        assert numbers_in(done.stdout) == [0, 1, 2, 3, 4]
        summary = done.stderr.decode()
        assert json.loads(summary)["frames"] == 5 if options else summary.startswith("5 results")


@pytest.mark.parametrize("camera", [FILE, ["--camera", LIVE]], ids=["file", "live"])
def test_a_closed_pipe_ends_the_run_quietly_as_it_does_any_program(camera: list[str], tmp_path: Path) -> None:
    line = [*EDGELOC, *camera, "--sink", "-", "--sink", str(tmp_path / "out.jsonl")]
    script = '"$@" | head -n 3; exit ${PIPESTATUS[0]}'
    done = subprocess.run(["bash", "-c", script, "bash", *line], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (141, b"")
    assert len(numbers_in(done.stdout)) == 3
    assert len(numbers_in((tmp_path / "out.jsonl").read_bytes())) >= 3


def opened_on_a_pipe(*, live: bool) -> tuple[Sink, int]:
    """The sink on a standard output that is a pipe, and the pipe's reading end."""
    reader, writer = os.pipe()
    sink = open_sink("-")
    with os.fdopen(writer, "w") as stdout, redirect_stdout(stdout):
        sink.open(live=live)
    return sink, reader


def test_a_reader_that_stops_gets_whole_lines_when_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.sinks.lines.SEND_S", 0.05)
    sink, pipe = opened_on_a_pipe(live=True)
    with pytest.raises(OutputError, match=r"sink -: nobody has read from the standard output for 0\.05 s"):
        write(sink, *range(10_000))
    held = os.read(pipe, 1 << 20)
    write(sink, 20_000)
    sink.close()
    numbers = numbers_in(held + os.read(pipe, 1 << 20))
    os.close(pipe)
    assert numbers == [*range(len(numbers) - 1), 20_000]


def test_a_line_longer_than_a_pipe_has_room_for_is_sent_on_and_not_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.sinks.lines.SEND_S", 0.05)
    sink, pipe = opened_on_a_pipe(live=True)
    long = observed(7, boxes=2000)
    with pytest.raises(OutputError, match="nobody has read"):
        sink.write(long, not_drawn)
    received, reading = bytearray(), threading.Event()

    def read() -> None:
        reading.set()
        while data := os.read(pipe, 4096):
            received.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    reading.wait()
    sink.write(long, not_drawn)
    write(sink, 8)
    sink.close()
    reader.join()
    os.close(pipe)
    assert numbers_in(bytes(received)) == [7, 8]


def test_a_disk_that_was_full_holds_whole_lines_once_there_is_room(tmp_path: Path) -> None:
    """The largest size of a file stands for the full disk."""
    sink, before = open_sink("-"), resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "out.jsonl").open("w") as stdout, redirect_stdout(stdout):
        sink.open(live=True)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        offered = next(one for one in map(observed, range(100)) if not taken(sink, one))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    sink.write(offered, not_drawn)
    write(sink, 200)
    sink.close()
    numbers = numbers_in((tmp_path / "out.jsonl").read_bytes())
    assert numbers == [*range(offered.frame.sequence + 1), 200]


def test_the_frames_of_a_file_wait_for_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.sinks.lines.SEND_S", 0.001)
    sink, pipe = opened_on_a_pipe(live=False)
    writing = threading.Thread(target=write, args=(sink, *range(1000)))
    writing.start()
    data = b""
    while data.count(b"\n") < 1000:
        data += os.read(pipe, 4096)
    writing.join()
    sink.close()
    os.close(pipe)
    assert numbers_in(data) == list(range(1000))


def test_a_full_disk_behind_the_standard_output_is_an_error() -> None:
    sink = open_sink("-")
    with open("/dev/full", "w") as full, redirect_stdout(full):
        sink.open()
    with pytest.raises(OutputError, match="standard output cannot be written to: No space left"):
        write(sink, 0)
    sink.close()


@pytest.mark.parametrize("stdout", [None, io.StringIO()])
def test_without_a_standard_output_it_says_so(monkeypatch: pytest.MonkeyPatch, stdout: object) -> None:
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(OutputError, match="no standard output to write to; name a file"):
        open_sink("-").open()


@pytest.fixture
def datagrams() -> Iterator[socket.socket]:
    """A socket that receives them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 0))
        receiver.settimeout(10)
        yield receiver


class TestUdpSink(SinkSuite):
    @pytest.fixture
    def sink(self, datagrams: socket.socket) -> Sink:
        return open_sink(f"udp://localhost:{datagrams.getsockname()[1]}")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.255.255.255"])
def test_each_result_is_one_datagram(datagrams: socket.socket, host: str) -> None:
    """The last one is the broadcast address of the loopback network."""
    sink = open_sink(f"udp://{host}:{datagrams.getsockname()[1]}")
    sink.open()
    write(sink, 0, 1, 2)
    assert [numbers_in(datagrams.recv(65_536)) for _ in range(3)] == [[0], [1], [2]]
    sink.close()


def test_an_ipv6_address_stands_in_brackets() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        try:
            receiver.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"this machine has no IPv6: {error}")
        receiver.settimeout(10)
        sink = open_sink(f"udp://[::1]:{receiver.getsockname()[1]}")
        assert sink.name == f"udp://[::1]:{receiver.getsockname()[1]}"
        sink.open()
        write(sink, 7)
        assert numbers_in(receiver.recv(65_536)) == [7]
        sink.close()


def test_a_result_longer_than_a_datagram_is_refused_and_the_next_goes_out(datagrams: socket.socket) -> None:
    sink = open_sink(f"udp://127.0.0.1:{datagrams.getsockname()[1]}")
    sink.open()
    with pytest.raises(OutputError, match=r"a result of \d\d,\d{3} bytes does not fit into a datagram.*use tcp://"):
        write(sink, 0, boxes=1000)
    write(sink, 1)
    assert numbers_in(datagrams.recv(65_536)) == [1]
    sink.close()


def test_datagrams_that_nobody_waits_for_are_lost_without_a_word() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    sink = open_sink(f"udp://127.0.0.1:{port}")
    sink.open(live=True)
    write(sink, *range(10))
    sink.close()


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_name_that_nobody_knows_shows_before_a_file_and_later_with_a_camera(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    sink = open_sink(f"{scheme}://drone.example:9")
    match = rf"{scheme}://drone\.example:9 cannot be reached: Name or service not known"
    with pytest.raises(OutputError, match=match):
        sink.open(live=False)
    sink.open(live=True)
    with pytest.raises(OutputError, match=match):
        write(sink, 0)
    sink.close()


@pytest.mark.parametrize(
    "uri", ["udp://", "udp://robot", "tcp://:5000", "tcp://robot:0", "tcp://robot:99999", "udp://::1:9", "udp://a:9/b"]
)
def test_a_uri_that_names_no_receiver_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=rf"{re.escape(uri)} names no receiver: write {uri[:3]}://HOST:PORT"):
        open_sink(uri)


class Receiver:
    """A TCP server on a port of its own, which can go away and come back on it."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=5)
        self._server.settimeout(20)
        self.port = self._server.getsockname()[1]

    def accept(self) -> socket.socket:
        connection = self._server.accept()[0]
        connection.settimeout(20)
        return connection

    def stop(self) -> None:
        self._server.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


class TestTcpSink(SinkSuite):
    @pytest.fixture
    def sink(self, receiver: Receiver) -> Sink:
        return open_sink(f"tcp://127.0.0.1:{receiver.port}")


def received(connection: socket.socket, count: int = 0) -> list[int]:
    """The numbers of `count` lines, or of all until the end; what may follow them stays."""
    with connection.makefile("rb") as file:
        return numbers_in(b"".join(file.readline() for _ in range(count)) if count else file.read())


def test_each_result_of_a_file_is_a_line(receiver: Receiver) -> None:
    edgeloc.run("synthetic://?size=64x48&frames=50&live=0", localizer, f"tcp://127.0.0.1:{receiver.port}")
    with receiver.accept() as connection:
        assert received(connection) == list(range(50))


def test_a_file_needs_its_receiver_from_the_beginning(receiver: Receiver) -> None:
    receiver.stop()
    with pytest.raises(OutputError, match="cannot be reached: Connection refused") as caught:
        edgeloc.run("synthetic://?size=64x48&live=0", localizer, f"tcp://127.0.0.1:{receiver.port}")
    assert caught.value.exit_status == 2


def test_a_receiver_may_come_later_and_restart_in_the_middle(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeloc.loop.outlets.LONGEST_PAUSE_S", 0.2)
    receiver.stop()
    states: list[str] = []
    observations = edgeloc.stream(LIVE, localizer, f"tcp://127.0.0.1:{receiver.port}")
    got: list[int] = []

    def serve() -> None:
        for _ in range(2):
            receiver.start()
            with receiver.accept() as connection:
                got.extend(received(connection, 3))
            receiver.stop()

    serving: threading.Thread | None = None
    for observation in observations:
        states += [finding.code for finding in observation.findings]
        if serving is None and "sink-down" in states:
            serving = threading.Thread(target=serve)
            serving.start()
        if len(got) == 6:
            break
    observations.close()  # type: ignore[attr-defined]
    assert serving is not None
    serving.join()
    assert got == sorted(got) and len(set(got)) == 6
    assert "sink-back" in states


def test_a_receiver_that_hung_up_misses_no_line_if_it_is_back(receiver: Receiver) -> None:
    sink = open_sink(f"tcp://127.0.0.1:{receiver.port}")
    sink.open(live=True)
    write(sink, 0)
    with receiver.accept() as connection:
        connection.sendall(b"thank you")
        assert received(connection, 1) == [0]
    write(sink, 1)
    with receiver.accept() as connection:
        assert received(connection, 1) == [1]
        write(sink, 2)
        sink.close()
        assert received(connection) == [2]


def test_a_receiver_that_stops_reading_is_left_and_the_next_gets_whole_lines(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeloc.sinks.lines.SEND_S", 0.05)
    sink = open_sink(f"tcp://127.0.0.1:{receiver.port}")
    sink.open(live=True)
    with pytest.raises(OutputError, match="cannot be reached: nothing comes through"):
        write(sink, *range(100_000), boxes=50)
    write(sink, 200_000)
    sink.close()
    with receiver.accept(), receiver.accept() as connection:
        assert received(connection) == [200_000]


def test_a_port_that_connects_to_itself_is_no_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    """It happens to those who try again and again for a port of this machine's that nobody listens on."""

    def itself(*_: Any, **__: Any) -> socket.socket:
        own = socket.socket()
        own.bind(("127.0.0.1", 0))
        own.connect(own.getsockname())
        return own

    monkeypatch.setattr(socket, "create_connection", itself)
    sink = open_sink("tcp://127.0.0.1:9")
    sink.open(live=True)
    with pytest.raises(OutputError, match="Connection refused"):
        write(sink, 0)
    sink.close()
