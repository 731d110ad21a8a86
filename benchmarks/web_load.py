"""Measures what bad clients do to the live page: the loop's rate and a fast client's, with and without 400 bad clients.

    python -m edgeloc.benchmarks.web_load

200 clients send half a request, 200 watch the live picture and take nothing of it. One client takes every picture. All
run in one process, which the figures with bad clients pay for.
"""

from __future__ import annotations

import argparse
import http.client
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from edgeloc import GateFailed, Localizer, open_camera, run
from edgeloc.errors import EdgelocError
from edgeloc.models import SHIPPED_INT8
from edgeloc.sinks.web import HttpSink

__all__ = ["Load", "main", "measure"]

FPS, HALF_OPEN, SLOW = 30.0, 200, 200
LEAST = 0.9
_BOUNDARY = b"--frame\r\n"


class Load(NamedTuple):
    """Rates a second with and without bad clients: the loop's results, and the pictures of a fast client."""

    results_alone: float
    results: float
    pictures_alone: float
    pictures: float

    def __str__(self) -> str:
        """The table."""
        rows = (
            ("results of the loop", self.results_alone, self.results, self.results / self.results_alone),
            ("pictures of a fast client", self.pictures_alone, self.pictures, self.pictures / FPS),
        )
        head = f"{'a second':<28}{'alone':>8}{'attacked':>10}{'ratio':>8}"
        return "\n".join([head, *(f"{name:<28}{a:>8.2f}{b:>10.2f}{ratio:>8.3f}" for name, a, b, ratio in rows)])

    def check(self) -> None:
        """GateFailed where the loop lost 10 % of its rate, or the fast client is over 10 % behind the camera."""
        if self.results < LEAST * self.results_alone:
            raise GateFailed(f"bad clients took more than 10 % of the loop's rate: {self.results:.1f} results a second")
        if self.pictures < LEAST * FPS:
            raise GateFailed(f"the fast client got {self.pictures:.1f} pictures a second, of {FPS:g}")


def _phase(seconds: float, *, bad_clients: bool) -> tuple[float, float]:
    sink = HttpSink("127.0.0.1", 0)
    pictures: list[float] = []
    watcher = threading.Thread(target=_watch, args=(sink, seconds, bad_clients, pictures))
    with open_camera(f"synthetic://?seed=1&fps={FPS:g}") as camera:
        watcher.start()
        summary = run(camera, Localizer(SHIPPED_INT8), sink, frames=round((seconds + 3) * FPS))
    watcher.join()
    return summary.fps, pictures[0]


def _watch(sink: HttpSink, seconds: float, bad_clients: bool, pictures: list[float]) -> None:
    while not sink.port:
        time.sleep(0.05)
    time.sleep(0.5)
    with ExitStack() as stack:
        if bad_clients:
            stack.enter_context(_bad_clients(sink.port))
        connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=10)
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        began_at, count = time.monotonic(), 0
        while (elapsed := time.monotonic() - began_at) < seconds:
            count += answer.read1(65536).count(_BOUNDARY)
        pictures.append(count / elapsed)
        connection.close()


@contextmanager
def _bad_clients(port: int) -> Iterator[None]:
    """The bad clients, all there when it begins."""
    stop, there = threading.Event(), threading.Event()
    thread = threading.Thread(target=_attack, args=(port, stop, there))
    thread.start()
    there.wait(30)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _attack(port: int, stop: threading.Event, there: threading.Event) -> None:
    """The server closes half of a request after 5 s, and who takes nothing after 10 s: all come again."""
    while not stop.is_set():
        with ExitStack() as stack:
            for _ in range(SLOW):
                stack.enter_context(_connect(port, b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            for _ in range(HALF_OPEN):
                stack.enter_context(_connect(port, b"GET /result HTTP/1.1\r\nHost: local"))
            there.set()
            stop.wait(5.5)


def _connect(port: int, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(data)
    return connection


def measure(seconds: float) -> Load:
    """Both phases, `seconds` each."""
    results_alone, pictures_alone = _phase(seconds, bad_clients=False)
    results, pictures = _phase(seconds, bad_clients=True)
    return Load(results_alone, results, pictures_alone, pictures)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m edgeloc.benchmarks.web_load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each phase lasts (default: 20)")
    load = measure(parser.parse_args(argv).seconds)
    print(load)
    try:
        load.check()
    except EdgelocError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
