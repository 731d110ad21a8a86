"""What a run tells systemd: ready with the first result, alive with later ones, nothing of its own accord."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeloc.device.service.notify import ProgressSink, watchdog_s
from edgeloc.errors import OutputError
from edgeloc.models import SHIPPED_INT8
from edgeloc.observation import Observation
from edgeloc.types import Frame, Pixels, Result

OBSERVATION = Observation(Frame(np.zeros((4, 4, 3), np.uint8), captured_at=0.0, sequence=0), Result())
UNDRAWN: Callable[[], Pixels] = lambda: OBSERVATION.frame.pixels  # noqa: E731


class Listener:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listening = Listener(str(tmp_path / "notify"))
    yield listening
    listening.socket.close()


def write(sink: ProgressSink) -> None:
    sink.write(OBSERVATION, UNDRAWN)


def test_it_is_ready_with_the_first_result_and_not_before(tmp_path: Path, listener: Listener) -> None:
    sink = ProgressSink(str(tmp_path / "notify"), interval_s=60)
    sink.open()
    assert listener.heard() == []
    write(sink)
    assert listener.heard()[0].startswith("READY=1\n")
    sink.close()
    assert listener.heard() == ["STOPPING=1"]


def test_only_progress_feeds_the_watchdog(tmp_path: Path, listener: Listener) -> None:
    sink = ProgressSink(str(tmp_path / "notify"), interval_s=0.1)
    sink.open()
    write(sink)
    time.sleep(0.2)
    assert len(listener.heard()) == 1
    write(sink)
    assert listener.heard() == ["WATCHDOG=1"]
    sink.close()


def test_systemd_is_not_flooded(tmp_path: Path, listener: Listener) -> None:
    sink = ProgressSink(str(tmp_path / "notify"), interval_s=60)
    sink.open()
    for _ in range(100):
        write(sink)
    assert len(listener.heard()) == 1
    sink.close()


def test_without_a_watchdog_it_says_ready_and_no_more(tmp_path: Path, listener: Listener) -> None:
    sink = ProgressSink(str(tmp_path / "notify"))
    sink.open()
    write(sink)
    write(sink)
    assert len(listener.heard()) == 1
    sink.close()


def test_an_abstract_address_begins_with_an_at_sign() -> None:
    name = f"edgeloc-test-{os.getpid()}"
    listening = Listener(f"\0{name}")
    sink = ProgressSink(f"@{name}")
    sink.open()
    write(sink)
    assert listening.heard()[0].startswith("READY=1")
    sink.close()
    listening.socket.close()


def test_a_socket_that_nobody_hears_is_an_error_before_the_first_frame(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not answer"):
        ProgressSink(str(tmp_path / "nobody")).open()


def test_systemd_going_away_does_not_end_the_run(tmp_path: Path) -> None:
    listening = Listener(str(tmp_path / "notify"))
    sink = ProgressSink(str(tmp_path / "notify"), interval_s=1e-6)
    sink.open()
    listening.socket.close()
    write(sink)
    write(sink)
    sink.close()
    sink.close()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_interval_is_systemds(environment: dict[str, str], seconds: float | None) -> None:
    assert watchdog_s(environment) == seconds


def test_edgeloc_run_tells_the_manager_that_started_it(tmp_path: Path, listener: Listener) -> None:
    if not SHIPPED_INT8.is_file():
        pytest.skip("the shipped model is not there")
    done = subprocess.run(
        [sys.executable, "-m", "edgeloc", "run", str(SHIPPED_INT8), "--camera", "synthetic://?seed=1&frames=3&live=0"],
        env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [text.partition("\n")[0] for text in listener.heard()] == [
        "READY=1",
        "WATCHDOG=1",
        "WATCHDOG=1",
        "STOPPING=1",
    ]
