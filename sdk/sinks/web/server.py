"""The server of a page: tornado in a thread of its own, with limits on what an untrusted client can ask of it."""

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
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tornado import httpserver, iostream, web

__all__ = ["Handler", "PageHandler", "Routes", "Server", "Site"]

# A reader that is this far behind gets newer pictures, and older ones are not kept for it.
_SEND_BUFFER = 65536
# A client that takes nothing of an answer for so long is given up.
STUCK_S = 10
_MOST_CONNECTIONS = 512
_LIMITS: dict[str, Any] = {
    "idle_connection_timeout": 5,
    "body_timeout": 5,
    "max_header_size": 16384,
    "max_body_size": 65536,
    "max_buffer_size": 1 << 20,
}
_CLOSE_S = 3.0

Routes = Sequence[tuple[str, "type[Handler]"]]


class Server:
    """Listens from construction to `close()`; OSError where it cannot. `port` is the one it has.

    Parameters:
        routes: the paths, each with the handler of its requests; a page is at "/".
        content: what the handlers show.
        address: where to listen, an address of this machine.
        port: which port; 0 for a free one.
        token: what each request must bring; "" for nothing.
        host: one more name that the page's address may have.
    """

    def __init__(self, routes: Routes, content: Any, address: str, port: int, token: str, host: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, port), family=family)
        self._socket.setblocking(False)
        # Connections inherit it.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_S * 1000)
        self.port: int = self._socket.getsockname()[1]
        self._site = Site(routes, content, token, {address, host}, f"edgeloc-{self.port}")
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
        """There is something new to show."""
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


class Site:
    """What all requests share: what is shown, who may ask, and the wait for something new."""

    def __init__(self, routes: Routes, content: Any, token: str, hosts: set[str], cookie: str) -> None:
        self.content, self.ended = content, False
        self._routes = routes
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
        return web.Application(
            [(route, handler, {"site": self}) for route, handler in self._routes],
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


class Handler(web.RequestHandler):
    """Admits the request, or refuses it in one sentence."""

    SUPPORTED_METHODS: Any = ("GET", "HEAD")

    def initialize(self, site: Site) -> None:
        self.site, self.content = site, site.content

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
            405: f"The method must be {' or '.join(self.SUPPORTED_METHODS)}.",
            421: "This server does not know itself by that name; add it with ?host=NAME.",
        }.get(status_code, "The request was not understood.")
        if status_code == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(sentence + "\n")

    def write_json(self, value: object, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value) + "\n")

    def head(self) -> Any:
        return self.get()


class _Nothing(Handler):
    def get(self) -> None:
        raise web.HTTPError(404)


class PageHandler(Handler):
    """The page, a file of HTML; with `?token=` it leaves a cookie, so that the page's own requests are admitted too."""

    file: Path

    def _enters(self) -> bool:
        return self.site.cookie_for(self.get_query_argument("token", "")) is not None

    def get(self) -> None:
        cookie = self.site.cookie_for(self.get_query_argument("token", ""))
        if cookie is not None:
            self.set_cookie(self.site.cookie, cookie, httponly=True, samesite="Strict")
            # Away from what the browser's history and its address line show.
            return self.redirect("/", status=303)
        text = self.file.read_text(encoding="utf-8")
        script, style = (_digest(re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)[0]) for tag in ("script", "style"))
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header(
            "Content-Security-Policy",
            "default-src 'none'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            f"frame-ancestors 'none'; script-src '{script}'; style-src '{style}'",
        )
        self.finish(text)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
