"""Lines for other programs: a pipe, datagrams, a server, readers of a socket; shared memory with the picture."""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc import Box, Detection, Frame, OutputError, Result, Sink, UsageError, open_sink, run
from edgeloc.models import SHIPPED_INT8
from edgeloc.sinks.lines import StdoutSink, TcpSink, UdpSink, UnixSink
from edgeloc.sinks.shm import ShmSink
from edgeloc.testing import SinkSuite, example_frame, example_observation

CLIP = "synthetic://?seed=1&size=64x48&frames=20&live=0"
LIVE = "synthetic://?seed=1&size=64x48&fps=100"


def found(frame: Frame) -> Result:
    return Result((Detection(Box(5, 5, 20, 20), 0.9),))


def no_picture() -> Any:
    raise AssertionError("lines need no picture")


def write(sink: Sink, number: int, boxes: int = 1) -> None:
    boxed = [Box(1, 2, 3, 4)] * boxes
    sink.write(example_observation(example_frame(number, time.monotonic()), *boxed), no_picture)


def numbers(data: bytes) -> list[int]:
    return [json.loads(line)["sequence"] for line in data.splitlines()]


def eventually(ready: Callable[[], object]) -> None:
    for _ in range(200):
        if ready():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)
        yield listening


def port_of(one: socket.socket) -> int:
    port: int = one.getsockname()[1]
    return port


class TestUdpSink(SinkSuite):
    @pytest.fixture
    def sink(self) -> Sink:
        return open_sink("udp://127.0.0.1:9")


class TestTcpSink(SinkSuite):
    @pytest.fixture
    def sink(self, server: socket.socket) -> Sink:
        return TcpSink("127.0.0.1", port_of(server))


class TestUnixSink(SinkSuite):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> Sink:
        return open_sink(f"unix://{tmp_path}/edgeloc.sock")


class TestShmSink(SinkSuite):
    @pytest.fixture
    def sink(self) -> Iterator[Sink]:
        sink = open_sink(f"shm://edgeloc-test-{os.getpid()}")
        yield sink
        sink.close()


class TestStdoutSink(SinkSuite):
    @pytest.fixture
    def sink(self, capfd: pytest.CaptureFixture[str]) -> Sink:
        return open_sink("-")


def edgeloc(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "edgeloc", "run", str(SHIPPED_INT8), "--camera", *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_a_pipe_gets_every_line_and_nothing_else() -> None:
    out, err = edgeloc("synthetic://?seed=1&frames=12&live=0", "--sink", "-").communicate(timeout=60)
    assert numbers(out) == list(range(12))
    assert b"12 results" in err


def test_a_reader_that_has_enough_ends_the_run_quietly() -> None:
    process = edgeloc("synthetic://?seed=1", "--sink", "-")
    assert process.stdout is not None and process.stderr is not None
    assert numbers(process.stdout.readline())
    process.stdout.close()
    assert process.wait(20) == 0
    err = process.stderr.read().decode()
    process.stderr.close()
    assert "Ended: the window or the pipe was closed" in err and "Traceback" not in err


def test_datagrams_hold_a_line_each() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        run(CLIP, found, f"udp://127.0.0.1:{port_of(receiver)}")
        assert [numbers(receiver.recv(65536)) for _ in range(20)] == [[number] for number in range(20)]


def test_datagrams_go_out_by_ipv6_and_whether_anybody_listens_or_not() -> None:
    assert open_sink("udp://[::1]:9").name == "udp://[::1]:9"
    summary = run(CLIP, found, "udp://127.0.0.1:9")
    assert summary.sinks[0].delivered == 20


def test_a_result_that_fits_into_no_datagram_says_so() -> None:
    sink = UdpSink("127.0.0.1", 9)
    sink.open()
    with pytest.raises(OutputError, match="does not fit into a datagram; use tcp://"):
        write(sink, 0, boxes=1500)
    sink.close()


def test_a_name_that_nobody_knows_shows_before_the_run() -> None:
    with pytest.raises(OutputError, match=r"udp://nobody\.invalid:5005 cannot be sent to"):
        UdpSink("nobody.invalid", 5005).open()


def test_a_server_gets_every_line_of_a_file(server: socket.socket) -> None:
    got = bytearray()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(65536):
                got.extend(data)

    thread = threading.Thread(target=serve)
    thread.start()
    run(CLIP, found, f"tcp://127.0.0.1:{port_of(server)}")
    thread.join()
    assert numbers(got) == list(range(20))


def test_a_server_that_comes_later_and_goes_gets_whole_lines_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = port_of(reserved)
    sink = TcpSink("127.0.0.1", port)
    sink.open(live=True)
    with pytest.raises(OutputError, match="does not answer: Connection refused"):
        write(sink, 0)
    for start in (1, 11):
        with socket.create_server(("127.0.0.1", port)) as server:
            write(sink, start)
            connection, _ = server.accept()
            with connection:
                assert numbers(connection.recv(65536)) == [start]
        with pytest.raises(OutputError, match="takes no results"):
            for number in range(start + 1, start + 9):
                write(sink, number)
                time.sleep(0.01)
    sink.close()


def test_a_server_that_is_not_there_ends_a_run_over_a_file() -> None:
    with pytest.raises(OutputError, match="does not answer"):
        run(CLIP, found, "tcp://127.0.0.1:9")


def test_a_server_that_reads_nothing_holds_only_its_sink(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeloc.sinks.lines._SEND_S", 0.2)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sink = TcpSink("127.0.0.1", port_of(server))
    sink.open()
    with pytest.raises(OutputError, match="takes no results: timed out"):
        for number in range(200_000):
            write(sink, number, boxes=50)
    sink.close()


def test_neighbours_connect_at_any_time_and_get_the_newest_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "edgeloc.sock"
    sink = UnixSink(str(path))
    sink.open(live=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    write(sink, 7)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for reader in (first, second):
            reader.settimeout(5)
            reader.connect(str(path))
            assert numbers(reader.recv(65536)) == [7]
        write(sink, 8)
        assert numbers(first.recv(65536)) == numbers(second.recv(65536)) == [8]
        first.close()
        write(sink, 9)
        write(sink, 10)
        assert numbers(second.makefile("rb").readline()) == [9]
        sink.close()
    assert not path.exists()


def test_a_neighbour_that_reads_nothing_skips_whole_lines(tmp_path: Path) -> None:
    sink = UnixSink(str(tmp_path / "edgeloc.sock"))
    sink.open(live=True)
    with socket.socket(socket.AF_UNIX) as slow, socket.socket(socket.AF_UNIX) as quick:
        for reader in (slow, quick):
            reader.settimeout(5)
            reader.connect(sink.path)
        eventually(lambda: len(sink._readers) == 2)
        lines = quick.makefile("rb")
        for number in range(2000):
            write(sink, number)
            assert numbers(lines.readline()) == [number]
        sink.close()
        data = b"".join(iter(lambda: slow.recv(65536), b""))
    whole = numbers(data[: data.rfind(b"\n") + 1])
    assert whole == sorted(set(whole)) and 10 < len(whole) < 2000


def test_only_the_socket_of_a_dead_run_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "edgeloc.sock"
    process = edgeloc("synthetic://?seed=1", "--sink", f"unix://{path}")
    eventually(path.exists)
    with pytest.raises(OutputError, match="is in use by another program: give another name"):
        UnixSink(str(path)).open()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.exists()
    sink = UnixSink(str(path))
    sink.open()
    sink.close()
    path.write_text("mine")
    with pytest.raises(OutputError, match="there is another file of that name"):
        UnixSink(str(path)).open()
    assert path.read_text() == "mine"


HEAD = struct.Struct("<8sQIII")


def read_shared(path: str) -> tuple[dict[str, Any], Any] | None:
    """A reader as the documentation describes it; None while nothing whole is there."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as shared:
        magic, number, length, height, width = HEAD.unpack_from(shared)
        line = shared[64 : 64 + length]
        pixels = np.frombuffer(shared[65536 : 65536 + 3 * height * width], np.uint8).reshape(height, width, 3)
        if magic != b"EDGELOC1" or number % 2 or not length or HEAD.unpack_from(shared)[1] != number:
            return None
        return json.loads(line), pixels


def test_shared_memory_is_never_torn_while_sizes_change() -> None:
    sink = ShmSink(f"edgeloc-torn-{os.getpid()}")
    sink.open()
    stop = threading.Event()

    def fill() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            size = (64 + number % 3 * 32, 48)
            sink.write(example_observation(example_frame(number, time.monotonic(), size)), no_picture)

    thread = threading.Thread(target=fill)
    thread.start()
    seen = set()
    try:
        for _ in range(400):
            if read := read_shared(sink.path):
                record, pixels = read
                seen.add(record["sequence"])
                assert set(np.unique(pixels)) == {(20 + 10 * record["sequence"]) % 256}
    finally:
        stop.set()
        thread.join()
        sink.close()
    assert len(seen) > 5 and not os.path.exists(sink.path)


def test_a_reader_sees_that_a_run_is_over_and_the_next_one_takes_its_place() -> None:
    name = f"edgeloc-killed-{os.getpid()}"
    path = f"/dev/shm/{name}"
    process = edgeloc("synthetic://?seed=1", "--sink", f"shm://{name}")
    eventually(lambda: os.path.exists(path) and read_shared(path))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert os.path.exists(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        run(CLIP, found, f"shm://{name}")
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    "uri", ["udp://", "udp://host", "tcp://host:0", "tcp://host:99999", "udp://::1:80", "tcp://a/b:80"]
)
def test_what_is_no_host_and_port_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="this is no host and port; give"):
        open_sink(uri)


@pytest.mark.parametrize("uri", ["unix://edgeloc.sock", "shm://", "shm://../etc/passwd", "shm://.hidden"])
def test_wrong_names_are_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=r"give (unix:///run/edgeloc\.sock|shm://edgeloc)"):
        open_sink(uri)


def test_lines_need_no_pictures() -> None:
    assert not any(kind.pictures for kind in (StdoutSink, UdpSink, TcpSink, UnixSink))
