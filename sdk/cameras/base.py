"""The interface of every camera, and the parsing of a camera's URI and its options."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeloc._support.backend import Openable, Uri, split_uri
from edgeloc._support.numbers import number, whole
from edgeloc.errors import CameraError, CameraTimeout, UsageError
from edgeloc.findings import Finding, Reporting
from edgeloc.types import Frame

__all__ = [
    "READ_TIMEOUT_S",
    "Camera",
    "Gap",
    "PathCamera",
    "Setting",
    "cover",
    "exposure",
    "flag",
    "focus",
    "gain",
    "integer",
    "parse_uri",
    "positive",
    "rate",
    "require_within_frame",
    "seconds",
    "sensor_time",
    "size",
]

READ_TIMEOUT_S = 2.0

# After how many of its own frame intervals a slower camera counts as stalled.
_INTERVALS = 3
_LARGEST = 16384
# A driver's time further back than this is not of the monotonic clock.
_OLDEST_S = 10.0
# Schemes whose text belongs to another program (a pipeline, an address with its own query), and our options in it.
_LIVE = ("reconnect", "frozen", "dark", "region", "hflip", "vflip", "rotate")
_FOREIGN = {
    **dict.fromkeys(("gst", "http", "https", "udp"), _LIVE),
    **dict.fromkeys(("rtsp", "rtsps"), (*_LIVE, "transport")),
}

# Parsers of options.
integer = whole(0)
positive = whole(1)
rate = number(0, 1000, above=True, what="a number of frames a second")
seconds = number(0, 86400, what="a number of seconds")
gain = number(0, what="a gain")
Setting = float | Literal["auto"]


@dataclass(frozen=True)
class Gap:
    """A time without frames, because the camera was away.

    `began_at` is when the last frame before it was captured, seconds of `time.monotonic()`.
    `ended_at` is when the first frame after it was captured.
    `reason` is the error that the camera failed with.
    """

    began_at: float
    ended_at: float
    reason: str

    @property
    def seconds(self) -> float:
        """How long the gap was, in seconds."""
        return self.ended_at - self.began_at


class Camera(Reporting, Openable):
    """A source of frames: `open()`, `read()` again and again, `close()`; or `with` and `for`.

    `live` is whether frames come by themselves and are lost when nobody takes them; else the source waits.
    `fps` is the camera's frame rate, None where there is none.
    `size` is (width, height) in pixels, None before `open()` and where frames differ in size.
    `findings` are what a user should know of how the source did: cut short, away for a while.
    `reconnects` is whether it can go away and come back, so that `open_camera` opens it again for a while.
    `still_s` is for how many seconds a picture may stay exactly the same; then the camera counts as frozen.
    `notify` takes each fault when it is noticed; a run sets it, and without one they are logged.
    `gaps` are the last hundred times it was away; only a camera that reconnects (edgeloc.cameras.reconnect) has any.

    Every camera keeps these promises, and one test suite checks them:

    - Pixels are uint8, (height, width, 3), BGR, and belong to the caller: no later frame is written
      into the same memory.
    - `sequence` starts at 0 with `open()` and grows with every frame, those included that the
      camera knows it dropped. `captured_at` never goes back, and is never in the future.
    - `read()` returns None once a finite source has ended, and then always. It raises
      CameraTimeout when no new frame came in `timeout_s` seconds, CameraError when the camera is
      closed or gone. No frame is ever handed out twice, repeated or made up.
    - `open()` cleans up after a failure; `close()` may be called at any time, and more than once.
      An opened camera is read from one thread at a time, and is not closed while it is read.

    A camera of your own implements `from_uri`, `name`, `_open` (which sets `fps` and `size`), `_read` and `_close`.
    """

    live: bool = False
    fps: float | None = None
    size: tuple[int, int] | None = None
    findings: tuple[Finding, ...] = ()
    gaps: tuple[Gap, ...] = ()
    reconnects: bool = False
    still_s: float = 2.0
    # The number of the frame that was handed out last.
    _given: int = -1

    @classmethod
    @abstractmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> Camera:
        """The camera that a URI names, not opened; `size` is the (width, height) in pixels that the model takes."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The camera's name in messages: its path, device or URI."""

    @property
    def reconnecting(self) -> bool:
        """Whether the camera is away and being opened again, so that a CameraTimeout is no reason to give up."""
        return False

    @property
    def stall_s(self) -> float:
        """The seconds without a frame after which it counts as stalled: 2, or 3 of its frame intervals if longer."""
        return max(READ_TIMEOUT_S, _INTERVALS / self.fps if self.fps else 0.0)

    @abstractmethod
    def _read(self, timeout_s: float) -> Frame | None:
        """The next frame, None at the end."""

    def open(self) -> None:
        """Get the camera ready to read; an opened camera stays as it is.

        Raises CameraError when the camera is absent, busy, forbidden or refuses the format,
        UsageError when a path is not there, DataError when a file cannot be read.
        """
        if not self._opened:
            self._given = -1
        super().open()

    def read(self, timeout_s: float | None = None) -> Frame | None:
        """The next frame, or None when a finite source has ended.

        `timeout_s` is how long to wait for it, in seconds; None for `stall_s`.

        Raises CameraTimeout when no new frame came in that time, CameraError when the camera is closed or gone,
        DataError for a damaged image.
        """
        if not self._opened:
            raise CameraError(f"camera {self.name} is not open", hint="call open() first, or use it in a `with`")
        frame = self._read(self.stall_s if timeout_s is None else timeout_s)
        if frame is not None:
            self._given = frame.sequence
        return frame

    def __iter__(self) -> Iterator[Frame]:
        while True:
            try:
                frame = self.read()
            except CameraTimeout:
                if not self.reconnecting:
                    raise
                continue
            if frame is None:
                return
            yield frame


class PathCamera(Camera):
    """A file or folder as a camera, without options."""

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
    """When a frame was captured: the driver's time where it is plausible, else the time of the grab.

    `driver_s` is the driver's time of the frame, `grabbed_at` when the frame was grabbed, and `last_at` when the last
    frame was captured, all in seconds of `time.monotonic()`. A driver's time in the future, before the last frame or
    more than 10 s back comes from another clock, or from a clock that jumped.
    """
    return driver_s if max(grabbed_at - _OLDEST_S, last_at) < driver_s <= grabbed_at else grabbed_at


def cover(wanted: tuple[int, int], sensor: tuple[int, int]) -> tuple[int, int]:
    """The smallest even (width, height) in pixels that covers `wanted`, at most the sensor's own.

    It has the sensor's aspect ratio, so that the whole view is kept: the contract's own resize (letterbox, stretch or
    crop) then works on all that the sensor saw.
    """
    scale = min(1.0, max(wanted[0] / sensor[0], wanted[1] / sensor[1]))
    width, height = (2 * math.ceil(side * scale / 2 - 1e-9) for side in sensor)
    return width, height


def parse_uri(text: str) -> Uri:
    """Parse a camera's URI; without "://" all of it is a path.

    Of `gst://` and of network cameras, `path` is everything behind the scheme except the options that are ours.
    """
    if not text:
        raise UsageError("the camera is empty", hint="give a URI, a video file or a folder of images")
    if "://" not in text:
        return Uri(text, "", text)
    scheme, _, rest = text.partition("://")
    if scheme.lower() in _FOREIGN:
        return _foreign(text, scheme.lower(), rest)
    return split_uri(text, "camera")


def size(text: str) -> tuple[int, int]:
    """A size in pixels such as 640x480, as (width, height)."""
    width, cross, height = text.partition("x")
    numbers = cross and width.isdecimal() and height.isdecimal()
    if not (numbers and 0 < int(width) <= _LARGEST and 0 < int(height) <= _LARGEST):
        raise ValueError(f"a width and a height in pixels such as 640x480, at most {_LARGEST} each")
    return int(width), int(height)


def exposure(text: str) -> Setting:
    """Microseconds, or auto."""
    return _setting(text, number(1, 60_000_000, what="a number of microseconds"))


def focus(text: str) -> Setting:
    """A position of the lens, or auto."""
    return _setting(text, number(0))


def require_within_frame(name: str, exposure: Setting | None, fps: float) -> None:
    """UsageError where an exposure, in microseconds, takes longer than a frame at `fps`: the sensor would cut it.

    `name` is the camera's, for the error.
    """
    if isinstance(exposure, (int, float)) and exposure > 1e6 / fps:
        raise UsageError(
            f"camera {name}: exposure={exposure:g} is longer than a frame at {fps:g} a second, {1e6 / fps:.0f} us",
            hint="give a shorter exposure, or a lower fps",
        )


def _setting(text: str, parse: Callable[[str], float]) -> Setting:
    if text == "auto":
        return "auto"
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"auto, or {error}") from None


def flag(text: str) -> bool:
    """1 or 0."""
    if text not in ("0", "1"):
        raise ValueError("1 or 0")
    return text == "1"


def _foreign(text: str, scheme: str, rest: str) -> Uri:
    path, mark, query = rest.rpartition("?")
    if not mark:
        path, query = rest, ""
    pairs = [pair.partition("=")[::2] for pair in query.split("&")]
    ours = tuple((name, value) for name, value in pairs if name in _FOREIGN[scheme])
    if not ours:
        return Uri(text, scheme, rest)
    theirs = "&".join("=".join(pair) for pair in pairs if pair[0] not in _FOREIGN[scheme])
    return Uri(text, scheme, f"{path}?{theirs}" if theirs else path, ours)
