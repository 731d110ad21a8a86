"""Neighbour processes at a socket: the newest line at once, whole lines, and nobody waits for anybody."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeloc.errors import OutputError, UsageError
from edgeloc.models import SHIPPED_INT8
from edgeloc.sinks import Sink, open_sink
from edgeloc.testing import SinkSuite, example_frame, example_observation
from edgeloc.types import Box

PATIENCE_S = 30


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short one, since the system takes about a hundred characters."""
    monkeypatch.chdir(tmp_path)
    return Path("edgeloc.sock")


class TestUnixSink(SinkSuite):
    @pytest.fixture
    def sink(self, path: Path) -> Sink:
        return open_sink(f"unix://{path}")


@pytest.fixture
def sink(path: Path) -> Iterator[Sink]:
    """Open, as with a live camera."""
    sink = open_sink(f"unix://{path}")
    sink.open(live=True)
    yield sink
    sink.close()


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(path))
    client.settimeout(PATIENCE_S)
    return client


def write(sink: Sink, *numbers: int, boxes: int = 1) -> None:
    for number in numbers:
        found = [Box(1, 2, 3, 4)] * boxes
        sink.write(example_observation(example_frame(number), *found), lambda: pytest.fail("drawn"))


def test_who_connects_gets_the_newest_line_at_once_and_all_that_follow(sink: Sink, path: Path) -> None:
    write(sink, 0, 1)
    with connect(path) as client, client.makefile("rb") as lines:
        assert json.loads(lines.readline())["sequence"] == 1
        with connect(path) as other, other.makefile("rb") as others:
            assert json.loads(others.readline())["sequence"] == 1
            write(sink, 2, 3)
            assert [json.loads(lines.readline())["sequence"] for _ in range(2)] == [2, 3]
            assert [json.loads(others.readline())["sequence"] for _ in range(2)] == [2, 3]
        sink.close()
        assert lines.read() == b""


def test_before_the_first_result_a_client_waits(sink: Sink, path: Path) -> None:
    with connect(path) as client, client.makefile("rb") as lines:
        threading.Timer(0.1, write, (sink, 0)).start()
        assert json.loads(lines.readline())["sequence"] == 0


def test_a_client_that_stops_reading_skips_whole_lines_and_holds_up_nobody(sink: Sink, path: Path) -> None:
    write(sink, 0)
    with connect(path) as slow, connect(path) as quick, slow.makefile("rb") as lines, quick.makefile("rb") as others:
        assert json.loads(lines.readline())["sequence"] == json.loads(others.readline())["sequence"] == 0
        for number in range(1, 500):
            write(sink, number, boxes=20)
            assert json.loads(others.readline())["sequence"] == number
        held = [json.loads(lines.readline())["sequence"]]
        while held[-1] < 1000:
            write(sink, 1000)
            held.append(json.loads(lines.readline())["sequence"])
    assert held == sorted(held)
    old = [number for number in held if number < 1000]
    # What the system holds for it is no more than about a second of results.
    assert old == list(range(1, len(old) + 1)) and len(old) < 40


def test_the_frames_of_a_file_wait_for_a_client_but_not_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = open_sink(f"unix://{path}")
    sink.open(live=False)
    with connect(path) as client, client.makefile("rb") as lines:
        write(sink, 0)
        assert json.loads(lines.readline())["sequence"] == 0
        writing = threading.Thread(target=write, args=(sink, *range(1, 1000)))
        writing.start()
        assert [json.loads(lines.readline())["sequence"] for _ in range(1, 1000)] == list(range(1, 1000))
        writing.join()
    sink.close()
    monkeypatch.setattr("edgeloc.sinks.unix.FILE_SEND_S", 0.05)
    sink.open(live=False)
    with connect(path) as client, client.makefile("rb") as lines:
        write(sink, 0)
        assert lines.readline()
        write(sink, *range(1, 1000))
        *whole, _ = lines.read().split(b"\n")
    sink.close()
    numbers = [json.loads(line)["sequence"] for line in whole]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) < 999


def test_clients_that_hang_up_are_forgotten_and_make_room(sink: Sink, path: Path) -> None:
    for round_ in range(40):
        with connect(path) as client:
            client.sendall(b"hello")
        if round_ % 10 == 9:
            write(sink, round_)
    with connect(path) as client, client.makefile("rb") as lines:
        assert json.loads(lines.readline())["sequence"] == 39


def test_a_client_that_only_ends_what_it_sends_goes_on_reading(sink: Sink, path: Path) -> None:
    write(sink, 0)
    with connect(path) as client, client.makefile("rb") as lines:
        client.shutdown(socket.SHUT_WR)
        assert json.loads(lines.readline())["sequence"] == 0
        with connect(path) as other, other.makefile("rb") as beside:
            assert beside.readline()
            write(sink, 1)
            assert json.loads(lines.readline())["sequence"] == 1


def test_more_than_it_takes_are_turned_away(sink: Sink, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.sinks.unix.MOST_CLIENTS", 2)
    write(sink, 0)
    clients = [connect(path) for _ in range(4)]
    assert sorted(bool(client.recv(65_536)) for client in clients) == [False, False, True, True]
    for client in clients:
        client.close()


def test_its_owner_and_its_group_may_connect(path: Path) -> None:
    mask = os.umask(0o077)
    try:
        sink = open_sink(f"unix://{path}")
        sink.open()
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        sink.close()
    finally:
        os.umask(mask)
    assert not path.exists()


@pytest.fixture
def run(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own, listening."""
    line = [sys.executable, "-m", "edgeloc", "run", str(SHIPPED_INT8), "--camera", "synthetic://?size=64x48"]
    process = subprocess.Popen([*line, "--sink", f"unix://{path}"], stderr=subprocess.PIPE)
    until = time.monotonic() + PATIENCE_S
    while process.poll() is None and not path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    yield process
    process.kill()
    process.communicate()


def test_a_living_process_keeps_its_socket_and_a_killed_one_loses_it(run: subprocess.Popen[bytes], path: Path) -> None:
    with connect(path) as client, client.makefile("rb") as lines:
        assert json.loads(lines.readline())["engine"]
        with pytest.raises(UsageError, match=r"another process listens at edgeloc\.sock"):
            open_sink(f"unix://{path}").open()
        assert lines.readline()
        run.kill()
        run.wait()
        *whole, rest = lines.read().split(b"\n")
    assert rest == b"" and all(map(json.loads, whole))
    assert path.exists()
    sink = open_sink(f"unix://{path}")
    sink.open(live=True)
    write(sink, 5)
    with connect(path) as client, client.makefile("rb") as lines:
        assert json.loads(lines.readline())["sequence"] == 5
    sink.close()
    assert not path.exists()


def test_a_signal_ends_it_as_a_client_expects(run: subprocess.Popen[bytes], path: Path) -> None:
    with connect(path) as client, client.makefile("rb") as lines:
        assert lines.readline()
        run.send_signal(signal.SIGTERM)
        assert lines.read().endswith(b"\n")
    assert run.wait(PATIENCE_S) == 0
    assert not path.exists()


def test_what_is_no_socket_is_kept(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(UsageError, match="is there already, and is no socket"):
        open_sink(f"unix://{path}").open()
    assert path.read_text() == "mine"


def test_a_socket_that_took_its_name_is_kept(sink: Sink, path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        sink.close()
        assert path.exists()


@pytest.mark.parametrize("place", ["absent/edgeloc.sock", "f" * 120, "/proc/edgeloc.sock"])
def test_a_place_where_no_socket_can_be_shows_in_open(path: Path, place: str) -> None:
    with pytest.raises(OutputError, match=rf"no socket can be made at {place}: \w"):
        open_sink(f"unix://{place}").open()


@pytest.mark.parametrize("uri", ["unix://", "unix://edgeloc.sock?mode=666"])
def test_a_uri_that_names_no_socket_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=r"write unix:///run/edgeloc\.sock|no option 'mode'"):
        open_sink(uri)
