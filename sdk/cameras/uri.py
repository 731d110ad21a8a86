"""How a camera's URI is taken apart and its options are read; which cameras there are is not decided here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from edgeloc.errors import UsageError

__all__ = ["Uri", "flag", "integer", "parse_uri", "positive", "rate", "seconds", "size"]

_LARGEST = 16384
# Schemes whose text belongs to another program (a pipeline, an address with its own query), and what is ours in it.
_FOREIGN = {"gst": ("reconnect",), "rtsp": ("reconnect", "transport"), "rtsps": ("reconnect", "transport")}
_PASSWORD = re.compile(r"(?<=//)([^/@:]*):[^/@]*@")


@dataclass(frozen=True)
class Uri:
    """A camera's URI: the text as given (without a password), its scheme ("" for a path), what it names, its options.

    Of `gst://` and `rtsp://`, `path` is all that follows the scheme but for the options that are ours.
    """

    text: str
    scheme: str
    path: str
    query: tuple[tuple[str, str], ...] = ()

    def options(self, parsers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
        """The options read by `parsers`, one for each known name; UsageError names what does not fit."""
        known = ", ".join(parsers) or "none"
        values: dict[str, Any] = {}
        for name, value in self.query:
            if name not in parsers:
                raise UsageError(f"camera {self.text}: there is no option {name!r}; known are: {known}")
            if name in values:
                raise UsageError(f"camera {self.text}: the option {name} is given twice")
            try:
                values[name] = parsers[name](value)
            except ValueError as error:
                raise UsageError(f"camera {self.text}: {name}={value} must be {error}") from None
        return values

    def without(self, name: str) -> Uri:
        """The same URI less one option."""
        return replace(self, query=tuple(pair for pair in self.query if pair[0] != name))


def parse_uri(text: str) -> Uri:
    """Take `text` apart; without "://" all of it is a path."""
    if not text:
        raise UsageError("the camera is empty: give a URI, a video file or a folder of images")
    if "://" not in text:
        return Uri(text, "", text)
    scheme, _, rest = text.partition("://")
    if scheme.lower() in _FOREIGN:
        return _foreign(text, scheme.lower(), rest)
    try:
        parts = urlsplit(text)
        query = tuple(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise UsageError(f"camera {text}: this is no URI: {error}") from None
    return Uri(text, parts.scheme.lower(), unquote(parts.netloc + parts.path), query)


def _foreign(text: str, scheme: str, rest: str) -> Uri:
    path, mark, query = rest.rpartition("?")
    if not mark:
        path, query = rest, ""
    pairs = [pair.partition("=")[::2] for pair in query.split("&")]
    ours = tuple((name, value) for name, value in pairs if name in _FOREIGN[scheme])
    if not ours:
        return Uri(_PASSWORD.sub(r"\1:***@", text), scheme, rest)
    theirs = "&".join("=".join(pair) for pair in pairs if pair[0] not in _FOREIGN[scheme])
    return Uri(_PASSWORD.sub(r"\1:***@", text), scheme, f"{path}?{theirs}" if theirs else path, ours)


def integer(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdecimal():
        raise ValueError("a whole number of 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("a whole number of 1 or more")
    return int(text)


def rate(text: str) -> float:
    """Frames a second: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1000:
        raise ValueError("a number of frames a second above 0, and at most 1000")
    return value


def seconds(text: str) -> float:
    """A number of seconds of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 86400:
        raise ValueError("a number of seconds from 0 to 86400")
    return value


def size(text: str) -> tuple[int, int]:
    """A size in pixels such as 640x480, as (width, height)."""
    width, cross, height = text.partition("x")
    numbers = cross and width.isdecimal() and height.isdecimal()
    if not (numbers and 0 < int(width) <= _LARGEST and 0 < int(height) <= _LARGEST):
        raise ValueError(f"a width and a height in pixels such as 640x480, at most {_LARGEST} each")
    return int(width), int(height)


def flag(text: str) -> bool:
    """1 or 0."""
    if text not in ("0", "1"):
        raise ValueError("1 or 0")
    return text == "1"
