"""The page's server: tornado in a thread of its own, with limits on what an untrusted client can ask of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import re
import socket
import threading
from datetime import timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tornado import httpserver, iostream, web
from tornado.gen import with_timeout

from edgeloc.sinks.web.board import Board

__all__ = ["Server"]

_BOUNDARY = "frame"
_LINE = f"--{_BOUNDARY}\r\n".encode()
_JPEG = b"Content-Type: image/jpeg\r\n"
# A reader that is this far behind gets newer pictures, and older ones are not kept for it.
_SEND_BUFFER = 65536
# A client that takes nothing of an answer for so long is given up.
_STUCK_S = 10
_MOST_CONNECTIONS = 512
_LIMITS: dict[str, Any] = {
    "idle_connection_timeout": 5,
    "body_timeout": 5,
    "max_header_size": 16384,
    "max_body_size": 65536,
    "max_buffer_size": 1 << 20,
}
_CLOSE_S = 3.0


class Server:
    """Listens from construction to `close()`; OSError where it cannot. `port` is the one it has."""

    def __init__(self, board: Board, address: str, port: int, token: str, host: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, port), family=family)
        self._socket.setblocking(False)
        # Connections inherit it.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK_S * 1000)
        self.port: int = self._socket.getsockname()[1]
        self._site = _Site(board, token, {address, host}, f"edgeloc-{self.port}")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="edgeloc-web", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        # Requests of unknown clients are no news.
        logging.getLogger("tornado.general").setLevel(logging.ERROR)
        self._server = _Server(self._site.application, **_LIMITS)
        self._server.add_socket(self._socket)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _end(self) -> None:
        self._server.stop()
        self._site.end()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        _, left = await asyncio.wait(tasks, timeout=_CLOSE_S / 3) if tasks else (tasks, tasks)
        # They wait for their clients, or serve what these sent ahead, which closing does not end.
        for connection in list(self._server._connections):
            connection.stream.close()
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def notify(self) -> None:
        """There is something new on the board."""
        self._loop.call_soon_threadsafe(self._site.wake)

    def close(self) -> None:
        """End the server, and what its clients still receive."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)


class _Server(httpserver.HTTPServer):
    """Refuses more connections than it could serve."""

    def handle_stream(self, stream: iostream.IOStream, address: tuple[str, int]) -> None:
        if len(self._connections) >= _MOST_CONNECTIONS:
            stream.close()
        else:
            super().handle_stream(stream, address)


class _Site:
    """What all requests share: the board, who may ask, and the wait for something new."""

    def __init__(self, board: Board, token: str, hosts: set[str], cookie: str) -> None:
        self.board, self.ended = board, False
        # Browsers send a host's cookies to all of its ports: each page has a name of its own.
        self.cookie = cookie
        self._token = token
        # What a cookie holds in place of the token.
        self._proof = hashlib.sha256(f"edgeloc {token}".encode()).hexdigest()
        own = socket.gethostname().lower()
        self._hosts = {"localhost", own, f"{own}.local", *map(str.lower, hosts)} - {""}
        self._changed: asyncio.Event | None = None

    @property
    def application(self) -> web.Application:
        routes = [
            (route, handler, {"site": self})
            for route, handler in (
                ("/", _Page),
                ("/stream", _Stream),
                ("/picture.jpg", _Picture),
                ("/result", _Result),
                ("/events", _Events),
                ("/status", _Status),
                ("/metrics", _Metrics),
                ("/healthz", _Health),
            )
        ]
        return web.Application(
            routes,
            log_function=lambda handler: None,
            default_handler_class=_Nothing,
            default_handler_args={"site": self},
        )

    def knows_host(self, text: str) -> bool:
        """Whether the address that the client asked for is ours: else a page elsewhere has its own name lead here."""
        name = text.rpartition(":")[0] if re.search(r":\d+$", text) else text
        name = name.strip("[]").lower()
        try:
            ip_address(name)
        except ValueError:
            return name in self._hosts
        return True

    def admits(self, token: str, cookie: str) -> bool:
        """Whether a request may be answered."""
        if not self._token:
            return True
        return _same(token, self._token) or _same(cookie, self._proof)

    def cookie_for(self, token: str) -> str | None:
        """What the cookie of a browser that gave the right token holds."""
        return self._proof if self._token and _same(token, self._token) else None

    def wake(self) -> None:
        """Something is new."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def end(self) -> None:
        """No more is to come."""
        self.ended = True
        self.wake()

    async def new(self) -> None:
        """Wait for something new."""
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()


class _Handler(web.RequestHandler):
    """Admits the request, or refuses it in one sentence."""

    SUPPORTED_METHODS = ("GET", "HEAD")

    def initialize(self, site: _Site) -> None:
        self.site, self.board = site, site.board

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in (
            ("Cache-Control", "no-store"),
            # A page elsewhere shows no picture, and does not learn whether there is one.
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.set_header(name, value)

    def prepare(self) -> None:
        if not self.site.knows_host(self.request.host):
            raise web.HTTPError(421, reason="Unknown Host")
        scheme, _, bearer = self.request.headers.get("Authorization", "").partition(" ")
        token = bearer.strip() if scheme.lower() == "bearer" else ""
        if not self.site.admits(token, self.get_cookie(self.site.cookie) or "") and not self._enters():
            raise web.HTTPError(401)

    def _enters(self) -> bool:
        """Whether the request brings the token to be kept as a cookie; only the page takes it."""
        return False

    def write_error(self, status_code: int, **_: Any) -> None:
        sentence = {
            401: "A token is needed: open /?token=..., or send it as Authorization: Bearer ...",
            404: "There is nothing here.",
            405: "Only GET and HEAD are answered.",
            421: "This server does not know itself by that name; add it with ?host=NAME.",
        }.get(status_code, "The request was not understood.")
        if status_code == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(sentence + "\n")

    def _json(self, value: object, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value) + "\n")

    def head(self) -> Any:
        return self.get()


class _Nothing(_Handler):
    def get(self) -> None:
        raise web.HTTPError(404)


class _Page(_Handler):
    """The live page; with `?token=` it leaves a cookie, so that pictures and events are admitted too."""

    @cached_property
    def _text(self) -> str:
        return Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    def _enters(self) -> bool:
        return self.site.cookie_for(self.get_query_argument("token", "")) is not None

    def get(self) -> None:
        cookie = self.site.cookie_for(self.get_query_argument("token", ""))
        if cookie is not None:
            self.set_cookie(self.site.cookie, cookie, httponly=True, samesite="Strict")
            # Away from what the browser's history and its address line show.
            return self.redirect("/", status=303)
        text = self._text
        script, style = (_digest(re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)[0]) for tag in ("script", "style"))
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header(
            "Content-Security-Policy",
            "default-src 'none'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            f"frame-ancestors 'none'; script-src '{script}'; style-src '{style}'",
        )
        self.finish(text)


class _Result(_Handler):
    def get(self) -> None:
        result = self.board.result()
        if result is None:
            self._json({"why": "there is no result yet"}, 503)
        else:
            self._json(result)


class _Status(_Handler):
    def get(self) -> None:
        self._json(self.board.status())


class _Health(_Handler):
    def get(self) -> None:
        healthy, why = self.board.health()
        self._json({"healthy": healthy, "why": why}, 200 if healthy else 503)


class _Metrics(_Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(self.board.metrics())


class _Picture(_Handler):
    def get(self) -> None:
        if self.board.picture is None:
            raise web.HTTPError(503, reason="No Picture Yet")
        self.set_header("Content-Type", "image/jpeg")
        self.finish(self.board.picture)


class _Live(_Handler):
    """An answer without end: the newest of something, as often as there is one and the client takes it."""

    _left = False

    async def get(self) -> None:
        self._begin()
        if self.request.method == "HEAD":
            return
        number = -1
        try:
            while not (self.site.ended or self._left):
                if self._number() == number:
                    await self.site.new()
                    continue
                number = self._number()
                self.write(self._part())
                await with_timeout(timedelta(seconds=_STUCK_S), self.flush())
        except (iostream.StreamClosedError, asyncio.TimeoutError, TimeoutError):
            self.request.connection.stream.close()  # type: ignore[union-attr]

    def on_connection_close(self) -> None:
        # What waits for something new would wait on for as long as the camera is away.
        self._left = True
        self.site.wake()

    def _begin(self) -> None:
        raise NotImplementedError

    def _number(self) -> int:
        raise NotImplementedError

    def _part(self) -> bytes:
        raise NotImplementedError


class _Stream(_Live):
    """MJPEG: every browser and most programs play it, each picture as soon as it is here.

    FFmpeg shows a picture once the length in its head is reached; browsers do once the head of the next is there, whose
    length nobody knows yet.
    """

    _watching = _browser = False

    def _begin(self) -> None:
        self.set_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        if self.request.method != "HEAD":
            self._watching = True
            self.board.watchers += 1
            self._browser = "image/" in self.request.headers.get("Accept", "")
            self.write(_LINE + _JPEG + b"\r\n" if self._browser else _LINE)

    def on_finish(self) -> None:
        self._leave()

    def on_connection_close(self) -> None:
        self._leave()
        super().on_connection_close()

    def _leave(self) -> None:
        if self._watching:
            self._watching = False
            self.board.watchers -= 1

    def _number(self) -> int:
        return self.board.picture_number

    def _part(self) -> bytes:
        picture = self.board.picture
        if picture is None:
            return b""
        if self._browser:
            return picture + b"\r\n" + _LINE + _JPEG + b"\r\n"
        return _JPEG + f"Content-Length: {len(picture)}\r\n\r\n".encode() + picture + b"\r\n" + _LINE


class _Events(_Live):
    """Server-sent events, one for each result."""

    def _begin(self) -> None:
        self.set_header("Content-Type", "text/event-stream")

    def _number(self) -> int:
        return self.board.number

    def _part(self) -> bytes:
        result = self.board.result()
        return b": waiting for the first result\n\n" if result is None else f"data: {json.dumps(result)}\n\n".encode()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
