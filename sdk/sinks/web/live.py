"""What the live page's server answers: the page, pictures, results, figures."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

from tornado import iostream, web
from tornado.gen import with_timeout

from edgeloc.sinks.web.board import Board
from edgeloc.sinks.web.server import STUCK_S, Handler, PageHandler, Routes

__all__ = ["ROUTES"]

_BOUNDARY = "frame"
_LINE = f"--{_BOUNDARY}\r\n".encode()
_JPEG = b"Content-Type: image/jpeg\r\n"


class _Page(PageHandler):
    file = Path(__file__).with_name("page.html")


class _BoardHandler(Handler):
    content: Board


class _Result(_BoardHandler):
    def get(self) -> None:
        result = self.content.result()
        if result is None:
            self.write_json({"why": "there is no result yet"}, 503)
        else:
            self.write_json(result)


class _Status(_BoardHandler):
    def get(self) -> None:
        self.write_json(self.content.status())


class _Health(_BoardHandler):
    def get(self) -> None:
        healthy, why = self.content.health()
        self.write_json({"healthy": healthy, "why": why}, 200 if healthy else 503)


class _Metrics(_BoardHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(self.content.metrics())


class _Picture(_BoardHandler):
    def get(self) -> None:
        if self.content.picture is None:
            raise web.HTTPError(503, reason="No Picture Yet")
        self.set_header("Content-Type", "image/jpeg")
        self.finish(self.content.picture)


class _Live(_BoardHandler):
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
                await with_timeout(timedelta(seconds=STUCK_S), self.flush())
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
            self.content.watchers += 1
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
            self.content.watchers -= 1

    def _number(self) -> int:
        return self.content.picture_number

    def _part(self) -> bytes:
        picture = self.content.picture
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
        return self.content.number

    def _part(self) -> bytes:
        result = self.content.result()
        return b": waiting for the first result\n\n" if result is None else f"data: {json.dumps(result)}\n\n".encode()


ROUTES: Routes = (
    ("/", _Page),
    ("/stream", _Stream),
    ("/picture.jpg", _Picture),
    ("/result", _Result),
    ("/events", _Events),
    ("/status", _Status),
    ("/metrics", _Metrics),
    ("/healthz", _Health),
)
