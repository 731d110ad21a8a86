"""How a camera's URI and its options are read; which cameras there are is not decided here."""

from __future__ import annotations

import math
import re

from edgeloc.errors import UsageError
from edgeloc.uri import Uri, split_uri

__all__ = ["flag", "integer", "parse_uri", "positive", "rate", "seconds", "size"]

_LARGEST = 16384
# Schemes whose text belongs to another program (a pipeline, an address with its own query), and what is ours in it.
_FOREIGN = {"gst": ("reconnect",), "rtsp": ("reconnect", "transport"), "rtsps": ("reconnect", "transport")}
_PASSWORD = re.compile(r"(?<=//)([^/@:]*):[^/@]*@")


def parse_uri(text: str) -> Uri:
    """Take `text` apart; without "://" all of it is a path.

    Of `gst://` and `rtsp://`, `path` is all that follows the scheme but for the options that are ours.
    """
    if not text:
        raise UsageError("the camera is empty: give a URI, a video file or a folder of images")
    if "://" not in text:
        return Uri(text, "", text)
    scheme, _, rest = text.partition("://")
    if scheme.lower() in _FOREIGN:
        return _foreign(text, scheme.lower(), rest)
    return split_uri(text, "camera")


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
