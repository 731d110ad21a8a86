"""What back ends have in common: a URI that names one, and that it is opened, used and closed."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from edgeloc.errors import UsageError, mask_credentials

__all__ = ["Openable", "Uri", "split_uri", "uri_of"]

_ALLOWED: dict[Callable[[str], Any], str] = {int: "a whole number", float: "a number"}

_Own = TypeVar("_Own", bound="Openable")


@dataclass(frozen=True)
class Uri:
    """A URI: the text to show (without credentials), its scheme ("" for a path), what it names, its options.

    `kind` is what messages call the thing: camera or power meter.
    """

    text: str
    scheme: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    kind: str = "camera"

    def __post_init__(self) -> None:
        # A pipeline is many words, of which one may be a URI.
        masked = mask_credentials(self.text, one_uri=self.scheme not in ("", "gst"))
        object.__setattr__(self, "text", masked)

    def options(self, parsers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
        """The options read by `parsers`, one for each known name; UsageError names what does not fit.

        A parser is `int`, `float`, `str` or a function of the text that raises ValueError with what it must be.
        """
        known = ", ".join(parsers) or "none"
        values: dict[str, Any] = {}
        for name, value in self.query:
            if name not in parsers:
                raise UsageError(f"{self.kind} {self.text}: there is no option {name!r}; known are: {known}")
            if name in values:
                raise UsageError(f"{self.kind} {self.text}: the option {name} is given twice")
            try:
                values[name] = parsers[name](value)
            except ValueError as error:
                allowed = _ALLOWED.get(parsers[name], error)
                raise UsageError(f"{self.kind} {self.text}: {name}={value} must be {allowed}") from None
        return values

    def require_no_path(self) -> None:
        """UsageError where something is named though there is nothing to name: most often an option without its ?."""
        if self.path.strip("/"):
            shown = self.text.partition("://")[2].partition("?")[0]
            raise UsageError(
                f"{self.kind} {self.text}: {shown!r} means nothing here: write {self.scheme}://, "
                "and options, if any, behind a ?"
            )

    def host_and_port(self, default: int | None = None, lowest: int = 1) -> tuple[str, int] | None:
        """HOST:PORT, whose host may be empty; None where it is no such thing.

        Parameters:
            default: the port where none is given.
            lowest: what a port may be at least.

        An IPv6 address stands in brackets, and is returned without.
        """
        found = re.fullmatch(r"(?:\[([\w:.%]+)\]|([^\[\]:/@?&]*))(?::(\d{1,5}))?", self.path.rstrip("/"), re.ASCII)
        if found is None:
            return None
        port = default if found[3] is None else int(found[3])
        return (found[1] or found[2], port) if port is not None and lowest <= port < 65536 else None

    def without(self, *names: str) -> Uri:
        """The same URI less these options."""
        return replace(self, query=tuple(pair for pair in self.query if pair[0] not in names))


def split_uri(text: str, kind: str) -> Uri:
    """Take SCHEME://PATH?OPTIONS apart; UsageError where it is no URI. A # is one of the path's own."""
    try:
        parts = urlsplit(text, allow_fragments=False)
        query = tuple(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        # What it quotes may be a password.
        reason = str(error).partition("'")[0].rstrip(": ")
        raise UsageError(f"{kind} {mask_credentials(text, one_uri=True)}: this is no URI: {reason}") from None
    return Uri(text, parts.scheme.lower(), unquote(parts.netloc + parts.path), query, kind)


def uri_of(text: str) -> str:
    """A URI as it is given, or of `@FILE` that file's first line, so that no process list shows what it holds.

    Raises UsageError where the file cannot be read or its first line is empty.
    """
    if not text.startswith("@"):
        return text
    try:
        with open(text[1:], encoding="utf-8") as file:
            line = file.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"the file {text[1:]}, which holds a URI, cannot be read: {reason}") from None
    if not line:
        raise UsageError(f"the first line of {text[1:]} is empty", hint="write the URI there")
    return line


class Openable(ABC):
    """`open()` cleans up behind a failure, `close()` may be called at any time; or use it in a `with`."""

    _opened: bool = False

    @abstractmethod
    def _open(self) -> None:
        """Get ready; what was begun before a failure goes in `_close`."""

    @abstractmethod
    def _close(self) -> None:
        """Give everything back; called also when `_open` failed half-way."""

    def open(self) -> None:
        """Get ready to read; what is open stays as it is."""
        if self._opened:
            return
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        self._opened = True

    def close(self) -> None:
        """Give everything back; it may be opened again, from its beginning."""
        if self._opened:
            self._opened = False
            self._close()

    def __enter__(self: _Own) -> _Own:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
