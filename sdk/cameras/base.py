"""The contract of every camera, and how a camera's URI and options are parsed."""

from __future__ import annotations

import math
import os
import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeloc._support.backend import Openable, Uri, split_uri
from edgeloc.errors import CameraError, UsageError
from edgeloc.findings import Finding
from edgeloc.types import Frame

__all__ = [
    "READ_TIMEOUT_S",
    "Camera",
    "Gap",
    "PathCamera",
    "cover",
    "flag",
    "integer",
    "parse_uri",
    "positive",
    "rate",
    "seconds",
    "sensor_time",
    "size",
]

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


READ_TIMEOUT_S = 2.0
# A driver's time further back than this is no time of the monotonic clock.
OLDEST_S = 10.0


@dataclass(frozen=True)
class Gap:
    """A time in which a camera was away: from the last frame before to the first after, and why.

    Both are capture times, seconds of `time.monotonic()`.
    """

    began_at: float
    ended_at: float
    reason: str

    @property
    def seconds(self) -> float:
        """How long there was no frame."""
        return self.ended_at - self.began_at


class Camera(Openable):
    """A source of frames: `open()`, `read()` again and again, `close()`; or `with` and `for`.

    The contract, which one test suite holds every camera to:

    - Pixels are uint8, (height, width, 3), BGR, and belong to the caller: no later frame is written
      into the same memory.
    - `sequence` starts at 0 with `open()` and grows with every frame, those included that the
      camera knows it dropped. `captured_at` never goes back, and is never in the future.
    - `read()` returns None once a finite source has ended, and then always. It raises
      CameraTimeout when no new frame came in `timeout_s` seconds, CameraError when the camera is
      closed or gone. No frame is ever handed out twice, repeated or made up.
    - `open()` cleans up behind a failure; `close()` may be called at any time, and more than once.
      An opened camera is read from one thread at a time, and is not closed while it is read.
      `_open()` sets `fps` and `size`.
    - `live`: frames come by themselves and are lost when nobody takes them. Else the source waits.
    - `fps` is the camera's frame rate, None where there is none. `size` is (width, height) in
      pixels, None before `open()` and where frames differ in size.
    - `findings` are what a user should know of how the source did: cut short, away for a while.
    - `gaps` are the times it was away and came back, `reconnecting` is True while it is being tried
      again: only a camera that reconnects (edgeloc.cameras.reconnect) has any.
    - `reconnects`: it can go away and come back, so that `open_camera` opens it again for a while.
    """

    live: bool = False
    fps: float | None = None
    size: tuple[int, int] | None = None
    findings: tuple[Finding, ...] = ()
    gaps: tuple[Gap, ...] = ()
    reconnects: bool = False

    @classmethod
    @abstractmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> Camera:
        """The camera a URI asks for, not opened; `size` is what the model would like to get."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call the camera: its path, device or URI."""

    @property
    def reconnecting(self) -> bool:
        """Whether the camera is away and being tried again, so that a CameraTimeout is no reason to give up."""
        return False

    @abstractmethod
    def _read(self, timeout_s: float) -> Frame | None:
        """The next frame, None at the end."""

    def open(self) -> None:
        """Get the camera ready to read; an opened camera stays as it is.

        Raises CameraError when the camera is absent, busy, forbidden or refuses the format,
        UsageError when a path is not there, DataError when a file cannot be read.
        """
        super().open()

    def read(self, timeout_s: float = READ_TIMEOUT_S) -> Frame | None:
        """The next frame, or None when a finite source has ended; see the class for the promises."""
        if not self._opened:
            raise CameraError(f"camera {self.name} is not open: call open() first, or use it in a `with`")
        return self._read(timeout_s)

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame


class PathCamera(Camera):
    """A file or folder as a camera: it goes by its path and has no options."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> PathCamera:
        """A path, or a scheme and a path."""
        uri.options({})
        return cls(uri.path)

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)


def sensor_time(driver_s: float, grabbed_at: float, last_at: float = float("-inf")) -> float:
    """When a frame was captured: the driver's time where that can be believed, else the time of the grab; seconds.

    A time in the future, from before the last frame (`last_at`) or more than 10 s back is one of
    another clock, or of a clock that jumped.
    """
    return driver_s if max(grabbed_at - OLDEST_S, last_at) < driver_s <= grabbed_at else grabbed_at


def cover(wanted: tuple[int, int], sensor: tuple[int, int]) -> tuple[int, int]:
    """The smallest even (width, height) in the sensor's shape that covers `wanted`, at most the sensor's own; pixels.

    In the sensor's shape, so that the whole view is kept: the contract's own resize (letterbox,
    stretch or crop) then works on what the sensor saw.
    """
    scale = min(1.0, max(wanted[0] / sensor[0], wanted[1] / sensor[1]))
    width, height = (2 * math.ceil(side * scale / 2 - 1e-9) for side in sensor)
    return width, height
