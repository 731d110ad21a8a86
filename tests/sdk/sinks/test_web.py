"""The live page: in a real browser, for Prometheus' own parser, and against strangers."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgeloc import Detection, Frame, OutputError, Result, RunSummary, Sink, UsageError, open_camera, open_sink, run
from edgeloc.sinks.web import TOKEN_VARIABLE, HttpSink
from edgeloc.testing import SinkSuite

pytest.importorskip("tornado", reason="tornado is not installed (extra web)")

TOKEN = "a-token-of-more-than-sixteen"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def ask(url: str, path: str = "/", *, method: str = "GET", **headers: str) -> Answer:
    """One request; underscores in the names of headers are hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url + path, method=method, headers=named)
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def truth(frame: Frame) -> Result:
    """A localizer that is always right."""
    return Result(tuple(Detection(box, 0.9, label) for box, label in frame.truth or ()))


class Running:
    """A run in a thread, until it is stopped."""

    def __init__(self, sink: HttpSink, camera: str, **options: Any) -> None:
        self.sink = sink
        self._stop = threading.Event()
        self.summary: RunSummary | None = None
        self._thread = threading.Thread(target=self._run, args=(camera, options))
        self._thread.start()
        self.wait_for(lambda: ask(sink.name, "/result", Authorization=f"Bearer {TOKEN}").status == 200)

    def _run(self, camera: str, options: dict[str, Any]) -> None:
        with open_camera(camera) as opened:
            self.summary = run(opened, self._localize, self.sink, **options)

    def _localize(self, frame: Frame) -> Result:
        # A run ends with its sinks.
        self.sink.ended = self._stop.is_set()
        return truth(frame)

    @staticmethod
    def wait_for(ready: Callable[[], bool], tries: int = 200) -> None:
        for _ in range(tries):
            try:
                if ready():
                    return
            except OSError:
                pass
            threading.Event().wait(0.05)
        raise AssertionError("it did not come")

    def stop(self) -> RunSummary:
        self._stop.set()
        self._thread.join(20)
        assert self.summary is not None
        return self.summary


@pytest.fixture
def page() -> Iterator[Running]:
    """A page on a free port of this machine alone."""
    running = Running(HttpSink("127.0.0.1", 0), "synthetic://?seed=2&fps=30&size=320x240")
    yield running
    running.stop()


@pytest.fixture
def guarded() -> Iterator[Running]:
    """A page that demands a token."""
    running = Running(HttpSink("127.0.0.1", 0, token=TOKEN), "synthetic://?seed=2&fps=30&size=320x240")
    yield running
    running.stop()


class TestHttpSink(SinkSuite):
    @pytest.fixture
    def sink(self) -> Iterator[Sink]:
        sink = HttpSink("127.0.0.1", 0)
        yield sink
        sink.close()


def errors_and_requests(browser: Any) -> tuple[list[str], list[str]]:
    """What went wrong in the page, and the addresses that it asked for, since the last call."""
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    # Chromium's own pages, such as the one of an empty tab.
    return errors, [one for one in asked if not one.startswith("chrome")]


def test_a_browser_shows_the_run_on_a_phone_without_errors_or_outside_requests(chromium: Any, page: Running) -> None:
    errors_and_requests(chromium)
    chromium.get(page.sink.name)
    script = "return document.getElementById('result').innerText"
    Running.wait_for(lambda: "presence" in chromium.execute_script(script))
    Running.wait_for(lambda: page.sink.name in chromium.find_element("id", "sinks").text)
    Running.wait_for(lambda: "top" in chromium.find_element("id", "rate-top").text)
    assert chromium.find_element("id", "health").text == "results come"
    inside, wide = chromium.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
    assert (inside, wide <= inside) == (390, True)
    # The stream's pictures have their size, and change.
    assert chromium.execute_script("return document.getElementById('picture').naturalWidth") == 320
    first = chromium.get_screenshot_as_png()
    Running.wait_for(lambda: chromium.get_screenshot_as_png() != first)
    errors, asked = errors_and_requests(chromium)
    assert errors == []
    assert asked and all(one.startswith((page.sink.name, "data:")) for one in asked)
    chromium.get("about:blank")
    Running.wait_for(lambda: page.sink._board.watchers == 0)


def test_a_browser_enters_with_the_token_and_keeps_it_out_of_its_address(chromium: Any, guarded: Running) -> None:
    errors_and_requests(chromium)
    chromium.get(f"{guarded.sink.name}/?token={TOKEN}")
    Running.wait_for(lambda: chromium.execute_script("return document.getElementById('picture').naturalWidth") == 320)
    assert chromium.current_url == f"{guarded.sink.name}/"
    assert chromium.execute_script("return document.cookie") == ""
    assert errors_and_requests(chromium)[0] == []
    chromium.get("about:blank")


def test_a_browser_plays_the_video_of_a_run(chromium: Any, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed (extra video)")
    run("synthetic://?seed=1&size=320x240&frames=60&live=0", truth, str(tmp_path / "run.mp4"))
    html = tmp_path / "video.html"
    html.write_text("<!doctype html><meta charset=utf-8><video src=run.mp4 muted autoplay></video>", encoding="utf-8")
    errors_and_requests(chromium)
    chromium.get(html.as_uri())
    video = "document.querySelector('video')"
    Running.wait_for(lambda: chromium.execute_script(f"return {video}.currentTime > 0.5"))
    assert chromium.execute_script(f"return [{video}.videoWidth, {video}.videoHeight, {video}.error]") == [
        320,
        240,
        None,
    ]
    assert errors_and_requests(chromium)[0] == []
    chromium.get("about:blank")


def test_programs_get_the_newest_result_and_its_age_now(page: Running) -> None:
    answer = ask(page.sink.name, "/result")
    result = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/json"
    assert {"sequence", "box", "objects", "age_ms"} <= set(result)
    assert result["age_now_ms"] >= result["age_ms"]
    picture = ask(page.sink.name, "/picture.jpg")
    assert picture.body.startswith(b"\xff\xd8") and picture.headers["content-type"] == "image/jpeg"
    state = json.loads(ask(page.sink.name, "/status").body)
    assert state["run"]["camera"].startswith("synthetic") and state["run"]["sinks"][0]["name"] == page.sink.name
    head = ask(page.sink.name, "/status", method="HEAD")
    assert (head.status, head.body) == (200, b"")


def test_events_come_one_a_result(page: Running) -> None:
    with urllib.request.urlopen(page.sink.name + "/events", timeout=5) as events:
        lines = [line for line in (events.readline() for _ in range(12)) if line.startswith(b"data: ")]
    numbers = [json.loads(line[6:])["sequence"] for line in lines]
    assert len(numbers) >= 5 and numbers == sorted(set(numbers))


def test_prometheus_reads_the_metrics(page: Running) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    answer = ask(page.sink.name, "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {one.name: one for one in parser.text_string_to_metric_families(answer.body.decode())}
    assert families["edgeloc_results"].type == "counter" and families["edgeloc_results"].samples[0].value > 0
    ages = families["edgeloc_result_age_seconds"]
    assert ages.type == "histogram"
    buckets = [one.value for one in ages.samples if one.name.endswith("_bucket")]
    (count,) = [one.value for one in ages.samples if one.name.endswith("_count")]
    assert buckets == sorted(buckets) and buckets[-1] == count > 0
    (delivered,) = families["edgeloc_sink_delivered"].samples
    assert delivered.labels == {"sink": page.sink.name}


def test_health_follows_the_results(page: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(page.sink.name, "/healthz").status == 200
    monkeypatch.setattr("edgeloc.sinks.web.board._SILENT_S", -1.0)
    answer = ask(page.sink.name, "/healthz")
    assert answer.status == 503 and "no result for" in json.loads(answer.body)["why"]


def test_pictures_are_made_for_watchers_and_else_once_a_second(page: Running) -> None:
    board = page.sink._board
    results, pictures = board.number, board.picture_number
    time.sleep(1)
    assert board.picture_number - pictures <= 3 < board.number - results
    with urllib.request.urlopen(page.sink.name + "/stream", timeout=5) as stream:
        assert "multipart/x-mixed-replace" in stream.headers["Content-Type"]
        while board.picture_number < pictures + 15:
            assert stream.read(4096)
    Running.wait_for(lambda: board.watchers == 0)


@pytest.mark.parametrize(
    "route", ["/", "/stream", "/picture.jpg", "/result", "/events", "/status", "/metrics", "/healthz"]
)
def test_without_the_token_nothing_is_answered(guarded: Running, route: str) -> None:
    cookie = f"edgeloc-{guarded.sink.port}"
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Cookie": f"{cookie}=wrong"},
        {"Cookie": f"{cookie}={TOKEN}"},
    ):
        answer = ask(guarded.sink.name, route, **headers)
        assert answer.status == 401 and b"token is needed" in answer.body
    assert ask(guarded.sink.name, f"{route}?token=wrong").status == 401


def test_the_token_is_taken_as_bearer_and_as_a_cookie(guarded: Running) -> None:
    assert ask(guarded.sink.name, "/result", Authorization=f"Bearer {TOKEN}").status == 200
    entered = ask(guarded.sink.name, f"/?token={TOKEN}")
    assert (entered.status, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    # Another page of the same machine has another cookie.
    assert cookie.startswith(f"edgeloc-{guarded.sink.port}=")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    assert ask(guarded.sink.name, "/result", Cookie=cookie.partition(";")[0]).status == 200
    # Programs' routes take no token that the address line would show.
    assert ask(guarded.sink.name, f"/result?token={TOKEN}").status == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", ""])
def test_a_foreign_name_is_refused(page: Running, host: str) -> None:
    assert ask(page.sink.name, "/result", Host=host or "x").status == 421


def test_our_own_names_are_known(page: Running) -> None:
    for host in ("localhost", "127.0.0.1:1", "[::1]:80", "192.168.1.7", socket.gethostname()):
        assert ask(page.sink.name, "/result", Host=host).status == 200


def raw(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """What is answered to these bytes, up to the first 4 KB or the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            connection.sendall(data)
            return connection.recv(4096)
        except (ConnectionError, TimeoutError):
            return b""


@pytest.mark.parametrize(
    "path",
    [
        "/../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2fetc/passwd",
        "/page.html",
        "//etc/passwd",
        "/stream/../..",
        "/%00",
    ],
)
def test_paths_lead_nowhere_else(page: Running, path: str) -> None:
    answer = raw(page.sink.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert re.match(rb"HTTP/1.1 4\d\d ", answer) and b"root:" not in answer


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n" + b"b" * 70_000,
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
        b"DELETE /result HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_small_get_is_refused_or_closed(page: Running, data: bytes) -> None:
    answer = raw(page.sink.port, data)
    assert answer == b"" or re.match(rb"HTTP/1.1 4\d\d ", answer)
    assert ask(page.sink.name, "/result").status == 200


def test_the_answers_forbid_what_a_page_does_not_need(page: Running) -> None:
    answer = ask(page.sink.name, "/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "server" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"


def test_two_hundred_half_open_and_two_hundred_slow_clients_do_no_harm(page: Running) -> None:
    strangers = [socket.create_connection(("127.0.0.1", page.sink.port)) for _ in range(400)]
    try:
        for number, stranger in enumerate(strangers):
            text = b"GET /stream HTTP/1.1\r\nHost: localhost\r\n"
            stranger.sendall(text + b"\r\n" if number % 2 else text)
        with urllib.request.urlopen(page.sink.name + "/events", timeout=5) as events:
            numbers = [json.loads(line[6:])["sequence"] for line in (events.readline() for _ in range(60)) if line[5:]]
        assert numbers == sorted(set(numbers)) and len(numbers) >= 20
        # Half of a request is closed after five seconds.
        time.sleep(6)
        closed = 0
        for stranger in strangers[::2]:
            stranger.settimeout(1)
            closed += not stranger.recv(1)
        assert closed == 200
    finally:
        for stranger in strangers:
            stranger.close()
    Running.wait_for(lambda: page.sink._board.watchers == 0)


def test_more_connections_than_it_serves_are_refused(page: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.sinks.web.server._MOST_CONNECTIONS", 5)
    strangers = [socket.create_connection(("127.0.0.1", page.sink.port)) for _ in range(20)]
    try:
        closed = 0
        for stranger in strangers:
            stranger.settimeout(1)
            with suppress(TimeoutError):
                closed += not stranger.recv(1)
        assert 15 <= closed <= 16
    finally:
        for stranger in strangers:
            stranger.close()
    Running.wait_for(lambda: ask(page.sink.name, "/result").status == 200)


def test_other_machines_need_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    for uri in ("http://0.0.0.0:8080", "http://192.168.1.7", "http://[::]:80", "http://robot.local"):
        with pytest.raises(UsageError, match=f"can be reached from other machines.*{TOKEN_VARIABLE}.*token_urlsafe"):
            open_sink(uri)
    for uri in ("http://127.0.0.1", "http://localhost:9000/", "http://[::1]:80", "http://127.3.2.1:80"):
        assert open_sink(uri).name.startswith("http://")
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert open_sink("http://0.0.0.0:8080").name == "http://0.0.0.0:8080"
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(UsageError, match="shorter than 16 characters"):
        open_sink("http://0.0.0.0:8080")
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert TOKEN not in open_sink(f"http://0.0.0.0:8080?token_file={file}").name
    file.write_text("")
    with pytest.raises(UsageError, match="is empty"):
        open_sink(f"http://0.0.0.0:8080?token_file={file}")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        open_sink(f"http://0.0.0.0:8080?token_file={file}x")


@pytest.mark.parametrize(
    "uri",
    [
        "http://",
        "http://127.0.0.1:port",
        "http://127.0.0.1:70000",
        "http://127.0.0.1/page",
        "http://[::1]80",
        "http://[::1]x:80",
    ],
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=r"give http://127\.0\.0\.1:8080"):
        open_sink(uri)


def test_a_port_that_is_taken_shows_before_the_run(page: Running) -> None:
    with pytest.raises(OutputError, match="cannot be listened on: Address already in use; give another port"):
        HttpSink("127.0.0.1", page.sink.port).open()


def test_the_end_of_a_run_ends_its_clients_and_frees_the_port() -> None:
    running = Running(HttpSink("127.0.0.1", 0), "synthetic://?seed=2&fps=30&size=64x48")
    with urllib.request.urlopen(running.sink.name + "/events", timeout=10) as events:
        assert events.readline()
        summary = running.stop()
        while events.readline():
            pass
    assert summary.ended_by == "sink" and summary.sinks[0].state == "open"
    assert not [thread for thread in threading.enumerate() if thread.name == "edgeloc-web"]
    again = HttpSink("127.0.0.1", running.sink.port)
    again.open()
    again.close()
