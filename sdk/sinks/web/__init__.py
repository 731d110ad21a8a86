"""The sink `http://`: a live page of a run for browsers; its results, metrics and health for programs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc._support.backend import Uri
from edgeloc.errors import MissingExtra, OutputError, UsageError
from edgeloc.loop.draw import as_jpeg
from edgeloc.observation import Observation
from edgeloc.sinks.base import Sink
from edgeloc.sinks.web.board import Board
from edgeloc.types import Pixels

if TYPE_CHECKING:
    from edgeloc.sinks.web.server import Server

__all__ = ["TOKEN_VARIABLE", "HttpSink"]

TOKEN_VARIABLE = "EDGELOC_WEB_TOKEN"
_PORT = 8080
# A shorter one can be tried out.
_LEAST_TOKEN = 16
_MAKE_ONE = "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
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

    def __init__(self, address: str = "127.0.0.1", port: int = _PORT, *, token: str = "", host: str = "") -> None:
        if not token and not _is_loopback(address):
            raise UsageError(
                f"the page at {address} can be reached from other machines, and so demands a token",
                hint=f"put one in {TOKEN_VARIABLE}, or in a file that ?token_file= names: {_MAKE_ONE}",
            )
        if token and len(token) < _LEAST_TOKEN:
            raise UsageError(f"the page's token is shorter than {_LEAST_TOKEN} characters", hint=_MAKE_ONE)
        self.address, self.port = address, port
        self._token, self._host = token, host
        self._board = Board()
        self._server: Server | None = None
        self._pictured_at = float("-inf")

    @classmethod
    def from_uri(cls, uri: Uri) -> HttpSink:
        """An address and a port."""
        options = uri.options({"token_file": str, "host": str})
        address, port = _split(uri)
        return cls(address, port, token=_token(options.get("token_file", "")), host=options.get("host", ""))

    @property
    def name(self) -> str:
        """The page's address."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{address}:{self.port}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Listen; MissingExtra without tornado, OutputError where the port is taken."""
        try:
            from edgeloc.sinks.web.server import Server
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "tornado":
                raise
            raise MissingExtra("tornado", "web", "the sink http://") from error
        self._board.begin(self.status, live=live)
        try:
            self._server = Server(self._board, self.address, self.port, self._token, self._host)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
            fault = f"{self.name} cannot be listened on: {reason}"
            raise OutputError(fault, hint="give another port, or end what has it") from error
        self.port = self._server.port

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


def _split(uri: Uri) -> tuple[str, int]:
    """The address and the port."""
    address, port = uri.host_and_port(_PORT, lowest=0) or ("", 0)
    if not address:
        raise UsageError(f"sink {uri.text}: this is no address and port", hint=f"give http://127.0.0.1:{_PORT}")
    return address, port


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


def _token(path: str) -> str:
    """The token, out of a file or of the environment; "" for none."""
    if not path:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"the page's token file {path} cannot be read: {reason}") from error
    if not token:
        raise UsageError(f"the page's token file {path} is empty", hint=_MAKE_ONE)
    return token
