"""The sink `http://`: a live page of a run for browsers; its results, metrics and health for programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeloc._support.backend import Uri
from edgeloc.errors import MissingExtra
from edgeloc.loop.draw import as_jpeg
from edgeloc.observation import Observation
from edgeloc.sinks.base import Sink
from edgeloc.sinks.web.address import PORT, TOKEN_VARIABLE, WebAddress
from edgeloc.sinks.web.board import Board
from edgeloc.types import Pixels

if TYPE_CHECKING:
    from edgeloc.sinks.web.server import Server

__all__ = ["TOKEN_VARIABLE", "HttpSink"]

# How often a picture is made while nobody watches, for the next who asks for one.
_IDLE_S = 1.0
_QUALITY = 80


class HttpSink(Sink):
    """`http://127.0.0.1:8080?token_file=FILE&host=NAME`: a server in a thread of its own; see docs/guide/web.md.

    Only this machine can reach it at a loopback address. Any other address, `0.0.0.0` for all, demands a token, which
    the file or the environment variable EDGELOC_WEB_TOKEN holds. `host` allows one more name in the address that a
    browser shows; numbers, `localhost` and this machine's own name always are.

    Pictures are the annotated ones, made only while somebody watches, else one a second.
    """

    def __init__(self, address: str = "127.0.0.1", port: int = PORT, *, token: str = "", host: str = "") -> None:
        self._address = WebAddress(address, port, token, host)
        self.address, self.port = address, port
        self._board = Board()
        self._server: Server | None = None
        self._pictured_at = float("-inf")

    @classmethod
    def from_uri(cls, uri: Uri) -> HttpSink:
        """An address and a port."""
        given = WebAddress.from_uri(uri)
        return cls(given.address, given.port, token=given.token, host=given.host)

    @property
    def name(self) -> str:
        """The page's address."""
        return self._address.url

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Listen; MissingExtra without tornado, OutputError where the port is taken."""
        try:
            from edgeloc.sinks.web.live import ROUTES
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "tornado":
                raise
            raise MissingExtra("tornado", "web", "the sink http://") from error
        self._board.begin(self.status, live=live)
        self._server = self._address.listen(ROUTES, self._board)
        self.port = self._server.port
        # Opened again, it has the same one.
        self._address = replace(self._address, port=self.port)

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Show the observation to everybody who watches."""
        now, picture = time.monotonic(), None
        if self._board.watchers or now - self._pictured_at >= _IDLE_S:
            self._pictured_at = now
            picture = as_jpeg(drawn(), _QUALITY)
        self._board.show(observation, picture)
        if self._server is not None:
            self._server.notify()

    def close(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
