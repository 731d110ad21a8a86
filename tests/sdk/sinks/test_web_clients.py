"""The live page's clients: those that leave, that take nothing, or that lose their connection."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from edgeloc import Frame, Observation, Result, RunSummary
from edgeloc.loop.summary import SinkSummary
from edgeloc.sinks.web import HttpSink

pytest.importorskip("tornado", reason="tornado is not installed (extra web)")

ROUTES = ["/", "/stream", "/picture.jpg", "/result", "/events", "/status", "/metrics", "/healthz"]
# The newest picture's brightness, as the browser shows it.
SHOWN = """
const picture = document.getElementById("picture"), pen = document.createElement("canvas").getContext("2d");
if (!picture.naturalWidth) return null;
pen.drawImage(picture, 0, 0, 4, 4);
return pen.getImageData(1, 1, 1, 1).data[0];
"""


@pytest.fixture
def sink() -> Iterator[HttpSink]:
    """A page that has one result and gets no other by itself, as while a camera is away."""
    sink = HttpSink("127.0.0.1", 0)
    sink.open()
    show(sink)
    yield sink
    sink.close()


def show(sink: HttpSink, brightness: int = 50, **fields: Any) -> None:
    """A result with a picture of one grey."""
    frame = Frame(np.zeros((48, 64, 3), np.uint8), time.monotonic(), 0)
    observation = dataclasses.replace(Observation(frame, Result(()), age_ms=1.0), **fields)
    sink.write(observation, lambda: np.full((48, 64, 3), brightness, np.uint8))


def wait_for(ready: Callable[[], bool], seconds: float = 15.0) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def connect(sink: HttpSink, data: bytes, room: int = 65536) -> socket.socket:
    """A client with so much room for what it does not take."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    client.settimeout(5)
    client.connect(("127.0.0.1", sink.port))
    client.sendall(data)
    return client


def asked(route: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {route} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def connections(sink: HttpSink) -> list[Any]:
    assert sink._server is not None
    return list(sink._server._server._connections)


def health(chromium: Any) -> str:
    return str(chromium.find_element("id", "health").text)


@pytest.mark.parametrize("route", ROUTES)
def test_a_head_has_no_body_and_is_no_fault(sink: HttpSink, route: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        with connect(sink, asked(route, "Connection: close", method="HEAD")) as client:
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        # What went wrong is logged behind the answer.
        sink.close()
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n") and answer.count(b"\r\n\r\n") == 1
    assert not caplog.records


@pytest.mark.parametrize("route", ["/events", "/stream"])
def test_clients_that_leave_while_no_result_comes_leave_nothing(sink: HttpSink, route: str) -> None:
    assert sink._server is not None
    loop = sink._server._loop
    for _ in range(20):
        with connect(sink, asked(route)) as client:
            assert client.recv(10)
    wait_for(lambda: not asyncio.all_tasks(loop) and not sink._board.watchers)


@pytest.mark.parametrize("token", ["", "a-token-of-more-than-sixteen"], ids=["page", "refusal"])
def test_a_client_that_takes_nothing_of_an_answer_is_closed(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    for module in ("server", "live"):
        monkeypatch.setattr(f"edgeloc.sinks.web.{module}.STUCK_S", 1)
    sink = HttpSink("127.0.0.1", 0, token=token)
    sink.open()
    try:
        # Answers of more bytes than the system keeps at both ends.
        with connect(sink, asked("/") * 3000, 2304) as client:
            assert client.recv(1)
            wait_for(lambda: not connections(sink))
    finally:
        sink.close()


def test_clients_that_take_nothing_do_not_keep_the_page_from_closing() -> None:
    sink = HttpSink("127.0.0.1", 0, token="a-token-of-more-than-sixteen")
    sink.open()
    assert sink._server is not None
    loop = sink._server._loop
    with ExitStack() as stack:
        for _ in range(12):
            assert stack.enter_context(connect(sink, asked("/") * 3000, 2304)).recv(1)
        wait_for(lambda: all(one.stream._write_buffer for one in connections(sink)))
        # An error of the server's thread would fail this test.
        sink.close()
    assert loop.is_closed()


def test_a_program_gets_each_picture_at_once_with_its_length(sink: HttpSink) -> None:
    request = urllib.request.Request(sink.name + "/stream", headers={"Accept": "*/*"})
    with urllib.request.urlopen(request, timeout=5) as stream:
        for _ in range(3):
            assert stream.readline() == b"--frame\r\n"
            assert stream.readline() == b"Content-Type: image/jpeg\r\n"
            length = int(stream.readline().removeprefix(b"Content-Length: "))
            assert stream.readline() == b"\r\n"
            picture = stream.read(length + 2)
            assert picture.startswith(b"\xff\xd8") and picture.endswith(b"\xff\xd9\r\n")
            show(sink)


def test_a_browser_shows_the_newest_picture_though_none_follows(chromium: Any, sink: HttpSink) -> None:
    chromium.get(sink.name)
    for brightness in (200, 100):
        wait_for(lambda: sink._board.watchers == 1)
        show(sink, brightness)
        wait_for(lambda wanted=brightness: chromium.execute_script(SHOWN) == wanted)  # type: ignore[misc]
    chromium.get("about:blank")


def test_a_browser_connects_again_and_shows_no_old_picture(chromium: Any, sink: HttpSink) -> None:
    chromium.get(sink.name)
    wait_for(lambda: chromium.execute_script(SHOWN) == 50)
    # The stream alone breaks off, of which no event says anything.
    for connection in connections(sink):
        sink._server._loop.call_soon_threadsafe(connection.stream.close)  # type: ignore[union-attr]
    wait_for(lambda: sink._board.watchers == 0)
    wait_for(lambda: sink._board.watchers == 1)
    show(sink, 160)
    wait_for(lambda: chromium.execute_script(SHOWN) == 160)
    sink.close()
    wait_for(lambda: "lost its connection" in health(chromium))
    assert chromium.execute_script("return document.getElementById('picture').getAttribute('src')") is None
    sink.open()
    show(sink, 240)
    wait_for(lambda: chromium.execute_script(SHOWN) == 240 and health(chromium) == "results come")
    chromium.get("about:blank")


def test_a_browser_reports_a_connection_that_hangs(chromium: Any, sink: HttpSink) -> None:
    chromium.get(sink.name)
    wait_for(lambda: health(chromium) == "results come")
    sink._server._loop.call_soon_threadsafe(time.sleep, 6)  # type: ignore[union-attr]
    wait_for(lambda: "lost its connection" in health(chromium))
    chromium.get("about:blank")


def test_seconds_without_results_are_zeros_and_not_left_out(sink: HttpSink) -> None:
    board = sink._board
    board._began_at -= 10
    board._seconds[0].at -= 8
    history = board.status()["history"]
    assert [one["ago_s"] for one in history] == list(range(history[0]["ago_s"], 0, -1)) and len(history) >= 10
    assert sum(one["results"] for one in history) == 1
    assert {(one["results"], one["age_ms"] is None) for one in history} == {(1, False), (0, True)}


def test_a_result_that_grew_stale_on_its_way_is_named_by_its_age_here(sink: HttpSink) -> None:
    late = Frame(np.zeros((48, 64, 3), np.uint8), time.monotonic() - 0.5, 1)
    show(sink, frame=late, age_ms=20.0, stale=True)
    healthy, why = sink._board.health()
    assert not healthy and 500 <= int(why.split(" was ")[1].split(" ms ")[0]) < 5000


def test_sinks_of_one_name_and_of_an_unprintable_one_have_rows_of_their_own() -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    sinks = tuple(SinkSummary(name) for name in ("<lambda>", os.fsdecode(b"\xff.jsonl"), "<lambda>"))
    summary = RunSummary(1, 0, 0, 0, 1.0, 1.0, 1.0, 1.0, 1.0, live=True, ended_by=None, sinks=sinks)
    sink = HttpSink("127.0.0.1", 0)
    sink.status = lambda: summary
    sink.open()
    try:
        with urllib.request.urlopen(sink.name + "/metrics", timeout=5) as answer:
            families = {one.name: one for one in parser.text_string_to_metric_families(answer.read().decode())}
        with urllib.request.urlopen(sink.name + "/status", timeout=5) as answer:
            assert len(json.load(answer)["run"]["sinks"]) == 3
    finally:
        sink.close()
    rows = [one.labels["sink"] for one in families["edgeloc_sink_delivered"].samples]
    assert rows == ["<lambda>", "?.jsonl", "<lambda> 2"]
