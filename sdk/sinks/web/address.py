"""Where a page is served, and who may ask for it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeloc._support.backend import Uri
from edgeloc.errors import OutputError, UsageError

if TYPE_CHECKING:
    from edgeloc.sinks.web.server import Routes, Server

__all__ = ["PORT", "TOKEN_VARIABLE", "WebAddress"]

TOKEN_VARIABLE = "EDGELOC_WEB_TOKEN"
PORT = 8080
# A shorter one can be tried out.
_LEAST_TOKEN = 16
_MAKE_ONE = "python3 -c 'import secrets; print(secrets.token_urlsafe())'"


@dataclass(frozen=True)
class WebAddress:
    """An address of this machine, a port, and what is asked of clients.

    Parameters:
        address: a number or name; `0.0.0.0` for all.
        port: 0 for a free one.
        token: what each request must bring; "" for nothing, which only a loopback address may have.
        host: one more name that the page's address may have.

    Raises UsageError for an address that needs a token and has none, and for a short token.
    """

    address: str
    port: int
    token: str = field(default="", repr=False)
    host: str = ""

    def __post_init__(self) -> None:
        if not self.token and not _is_loopback(self.address):
            raise UsageError(
                f"the page at {self.address} can be reached from other machines, and so demands a token",
                hint=f"put one in {TOKEN_VARIABLE}, or in a file that ?token_file= names: {_MAKE_ONE}",
            )
        if self.token and len(self.token) < _LEAST_TOKEN:
            raise UsageError(f"the page's token is shorter than {_LEAST_TOKEN} characters", hint=_MAKE_ONE)

    @classmethod
    def from_uri(cls, uri: Uri) -> WebAddress:
        """http://ADDRESS:PORT?token_file=FILE&host=NAME"""
        options = uri.options({"token_file": str, "host": str})
        address, port = _split(uri)
        return cls(address, port, _token(options.get("token_file", "")), options.get("host", ""))

    @property
    def url(self) -> str:
        """The page's address, without its token."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{address}:{self.port}"

    def listen(self, routes: Routes, content: Any) -> Server:
        """A server that has begun; OutputError where the port is taken. See `Server`."""
        from edgeloc.sinks.web.server import Server

        try:
            return Server(routes, content, self.address, self.port, self.token, self.host)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
            fault = f"{self.url} cannot be listened on: {reason}"
            raise OutputError(fault, hint="give another port, or end what has it") from error


def _split(uri: Uri) -> tuple[str, int]:
    """The address and the port."""
    address, port = uri.host_and_port(PORT, lowest=0) or ("", 0)
    if not address or uri.scheme != "http":
        raise UsageError(f"{uri.kind} {uri.text}: this is no address and port", hint=f"give http://127.0.0.1:{PORT}")
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
