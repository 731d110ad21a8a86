"""Cameras without hardware: synthetic scenes with known truth, a live camera that fails on demand, a fake picamera2."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import numpy as np

from edgeloc._support.backend import Uri
from edgeloc._support.json import parse_json
from edgeloc.cameras.base import Camera, flag, integer, positive, rate, seconds, sensor_time
from edgeloc.cameras.base import size as parse_size
from edgeloc.errors import CameraError, CameraTimeout, DataError, UsageError
from edgeloc.scenes import Clip, Scene, SceneGenerator
from edgeloc.types import Frame, Pixels

__all__ = ["FakeCamera", "FakePicamera2", "SyntheticCamera", "parse_events"]

Value = TypeVar("Value", int, float)
REFUSALS = {
    "absent": "camera {name} is not there: plug it in, or take `refuse` out of its URI",
    "busy": "camera {name} is busy: another program holds it (refuse=busy)",
    "forbidden": "camera {name}: permission denied (refuse=forbidden)",
    "format": "camera {name} does not send the format that was requested (refuse=format)",
}


class SyntheticCamera(Camera):
    """`synthetic://?seed=1&objects=1&size=640x480&fps=30&frames=300&live=1`: a clip of passing objects, with its truth.

    Frames carry `truth`; the same seed, size and number of objects show the same clip.

    `seed`: a whole number of 0 or more.
    `objects`: how many pass at a time, 1 to 16; they may cross.
    `size`: (width, height) in pixels, at least 32 each.
    `fps`: frames a second.
    `frames`: how many there are; None for a source without end.
    `live`: frame n is exposed n / fps seconds after `open()`, and what is not read in time is lost, as with a sensor.
    It is made while its reader waits for that, so that one who keeps up has it at once. Where False, it waits for its
    reader, like a file, and `captured_at` is when the frame was made.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        size: tuple[int, int] = (640, 480),
        fps: float = 30.0,
        frames: int | None = None,
        live: bool = True,
        objects: int = 1,
    ) -> None:
        self._scenes = SceneGenerator(seed, size, objects)
        self._frames = frames
        self._clip: _Ahead | None = None
        self._next = 0
        self._began_at = 0.0
        self.size, self.fps, self.live = size, fps, live

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> SyntheticCamera:
        """The camera with the URI's options; `size` makes no difference, since it has no scaler."""
        uri.require_no_path()
        parsers: dict[str, Callable[[str], Any]] = {
            "seed": integer, "size": parse_size, "fps": rate, "frames": positive, "live": flag, "objects": positive,
        }  # fmt: skip
        return cls(**uri.options(parsers))

    @property
    def name(self) -> str:
        """Its URI without most options."""
        return f"synthetic://?seed={self._scenes.seed}"

    def _open(self) -> None:
        # The first frame costs more than those that follow: made now, it does not delay a live camera's start.
        self._clip = _Ahead(self._scenes.clip(0, self._frames))
        self._next, self._began_at = 0, time.monotonic()

    def _read(self, timeout_s: float) -> Frame | None:
        assert self._clip is not None
        number = self._wait(self._clip, timeout_s) if self.live else self._next
        if self._frames is not None and number >= self._frames:
            return None
        scene = self._clip.frame(number)
        self._next = number + 1
        captured_at = self._exposed_at(number) if self.live else time.monotonic()
        return Frame(scene.pixels, captured_at, number, truth=scene.objects)

    def _wait(self, clip: _Ahead, timeout_s: float) -> int:
        """The number of the newest frame whose exposure has begun, after waiting for one that was not read yet."""
        due_at, deadline = self._exposed_at(self._next), time.monotonic() + timeout_s
        ended = self._frames is not None and self._next >= self._frames
        if due_at > time.monotonic() and not ended:
            clip.make(self._next)
            time.sleep(max(0.0, min(due_at, deadline) - time.monotonic()))
            if due_at > deadline:
                raise CameraTimeout(f"camera {self.name} made no frame in {timeout_s:g} s at {self.fps:g} fps")
        elapsed = time.monotonic() - self._began_at
        return max(self._next, int(elapsed * (self.fps or 1.0) + 1e-6))

    def _exposed_at(self, number: int) -> float:
        return self._began_at + number / (self.fps or 1.0)

    def _close(self) -> None:
        self._clip = None


class FakeCamera(Camera):
    """`fake://?frames=300&stall=40:0.5&disconnect=60:2&corrupt=90:3&clock=120:-5&slow_start=1`.

    A live camera that shows the scenes of `synthetic://` and fails on demand. Frame n is exposed n / fps
    seconds after the first `open()`. Time runs on while the camera is closed; once its frames have ended, the next
    `open()` starts again from frame 0.

    Events, each FRAME:VALUE in a URI, several with commas between, or a dict of frame to value in Python:

    - `stall`: no frame for VALUE seconds.
    - `disconnect`: `read` raises CameraError, and `open` does for VALUE seconds; without a value, for ever.
    - `corrupt`: VALUE frames (1 without a value) cannot be decoded and are left out.
    - `freeze`: for VALUE seconds every frame shows the same picture.
    - `black`: VALUE frames are black.
    - `clock`: the driver's clock jumps by VALUE seconds; `captured_at` does not follow it.

    Other options:

    - `slow_start`: seconds from opening to the first exposure.
    - `refuse`: each `open` fails: absent, busy, forbidden or format.
    - `seed`, `objects`, `size`, `fps`, `frames`: as for `synthetic://`.

    `fake://FILE.json` reads the same names and values from a JSON object.
    """

    live = True
    reconnects = True

    def __init__(
        self,
        *,
        seed: int = 0,
        size: tuple[int, int] = (640, 480),
        fps: float = 30.0,
        frames: int | None = None,
        stall: dict[int, float] | None = None,
        disconnect: dict[int, float] | None = None,
        corrupt: dict[int, int] | None = None,
        freeze: dict[int, float] | None = None,
        black: dict[int, int] | None = None,
        clock: dict[int, float] | None = None,
        slow_start: float = 0.0,
        refuse: str | None = None,
        objects: int = 1,
    ) -> None:
        if refuse is not None and refuse not in REFUSALS:
            raise UsageError(field="refuse", value=refuse, allowed=f"one of {', '.join(REFUSALS)}")
        self._scenes = SceneGenerator(seed, size, objects)
        self._rate, self._frames, self._slow_start, self._refuse = fps, frames, slow_start, refuse
        self._stalls, self._disconnects = stall or {}, disconnect or {}
        self._corrupt, self._jumps = corrupt or {}, clock or {}
        self._freezes, self._black = freeze or {}, black or {}
        self.size, self.fps = size, fps
        self._clip: _Ahead | None = None
        self._began_at = self._last_at = 0.0
        self._next = self._first = 0

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> FakeCamera:
        """The camera with the URI's options or a JSON file's; `size` makes no difference, since it has no scaler."""
        parsers: dict[str, Callable[[str], Any]] = {
            "seed": integer, "size": parse_size, "fps": rate, "frames": positive,
            "stall": lambda text: parse_events(text, seconds, None),
            "disconnect": lambda text: parse_events(text, seconds, float("inf")),
            "corrupt": lambda text: parse_events(text, positive, 1),
            "freeze": lambda text: parse_events(text, seconds, None),
            "black": lambda text: parse_events(text, positive, 1),
            "clock": lambda text: parse_events(text, _jump, None),
            "slow_start": seconds, "refuse": str, "objects": positive,
        }  # fmt: skip
        if uri.path:
            uri = Uri(uri.text, uri.scheme, "", (*_options_in(uri.path), *uri.query))
        return cls(**uri.options(parsers))

    @property
    def name(self) -> str:
        """Its URI without most options."""
        return f"fake://?seed={self._scenes.seed}"

    def _open(self) -> None:
        if self._refuse:
            raise CameraError(REFUSALS[self._refuse].format(name=self.name))
        if self._clip is None:
            self._clip = _Ahead(self._scenes.clip(0, self._frames))
            self._began_at = time.monotonic() + self._slow_start
            self._next, self._last_at = 0, 0.0
        elif any(0 <= time.monotonic() - self._exposed_at(at) < away for at, away in self._disconnects.items()):
            raise CameraError(f"camera {self.name} is not there: it was unplugged (disconnect in its URI)")
        self._next = self._first = max(self._next, self._newest())

    def _read(self, timeout_s: float) -> Frame | None:
        deadline = time.monotonic() + timeout_s
        undecodable = 0
        while True:
            number = self._wait(deadline, undecodable)
            if number is None:
                self._clip = None
                return None
            self._unplug(number)
            awake = max((at + round(held * self._rate) for at, held in self._stalls.items() if at <= number), default=0)
            self._next = max(number + 1, awake)
            if number < awake:
                continue
            if not any(at <= number < at + count for at, count in self._corrupt.items()):
                return self._frame(number)
            undecodable += 1

    def _wait(self, deadline: float, undecodable: int) -> int | None:
        """The number of the newest frame that was not read yet, after waiting for it; None at the end."""
        if self._clip is None or (self._frames is not None and self._next >= self._frames):
            return None
        exposed_at = self._exposed_at(self._next)
        if exposed_at > time.monotonic():
            self._clip.make(self._next)
        time.sleep(max(0.0, min(exposed_at, deadline) - time.monotonic()))
        if exposed_at > time.monotonic() and undecodable:
            raise CameraError(f"camera {self.name} sent {undecodable} frames that cannot be decoded")
        if exposed_at > time.monotonic():
            raise CameraTimeout(f"camera {self.name} sent no frame in time")
        number = max(self._next, self._newest())
        return None if self._frames is not None and number >= self._frames else number

    def _unplug(self, number: int) -> None:
        """Raise CameraError where a disconnect is due at a frame up to this one."""
        at = min((at for at in self._disconnects if self._next <= at <= number), default=None)
        if at is not None:
            self._next = at + 1
            raise CameraError(f"camera {self.name} is gone: it was unplugged (disconnect in its URI)")

    def _frame(self, number: int) -> Frame:
        assert self._clip is not None
        frozen = [at for at, held in self._freezes.items() if at <= number < at + held * self._rate]
        scene = self._clip.frame(max(frozen, default=number))
        dark = any(at <= number < at + count for at, count in self._black.items())
        pixels = np.zeros_like(scene.pixels) if dark else scene.pixels
        driver_s = self._exposed_at(number) + sum(jump for at, jump in self._jumps.items() if at <= number)
        self._last_at = sensor_time(driver_s, time.monotonic(), self._last_at)
        number -= self._first
        return Frame(pixels, self._last_at, number, truth=scene.objects)

    def _newest(self) -> int:
        return int((time.monotonic() - self._began_at) * self._rate + 1e-6)

    def _exposed_at(self, number: int) -> float:
        return self._began_at + number / self._rate

    def _close(self) -> None:
        """Nothing is held, and time runs on."""


class _Ahead:
    """The frames of a clip, of which one is made before it is due: a sensor needs no time to paint what it sees."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._made: dict[int, Scene] = {0: clip.frame(0)}

    def make(self, number: int) -> None:
        """Have this one ready for `frame`, in place of any other."""
        if number not in self._made:
            self._made = {number: self._clip.frame(number)}

    def frame(self, number: int) -> Scene:
        """This one; whoever gets it may write on it."""
        made = self._made.pop(number, None)
        return self._clip.frame(number) if made is None else made


class FakePicamera2:
    """As much of picamera2.Picamera2 as `picamera://` uses; a subclass's class attributes describe the board.

    `rate`: frames a second. `pipeline_format`: the format that the ISP gives in place of the one asked for.
    `failure`: what the constructor raises. `silent`: no frame ever comes. `modes`, `camera_properties`,
    `camera_controls` and `sensor_resolution` are what picamera2 reports of the sensor.
    `asked` is the configuration that was asked for last, `released` counts the requests given back and
    `open_cameras` the cameras that are open.

    Put it in place as the module `picamera2` with an attribute `Picamera2`.
    """

    rate = 100.0
    pipeline_format: str | None = None
    failure: Exception | None = None
    silent = False
    modes: tuple[dict[str, Any], ...] = (
        {"size": (640, 480), "bit_depth": 10, "fps": 206.65, "crop_limits": (1000, 752, 1280, 960)},
        {"size": (1640, 1232), "bit_depth": 10, "fps": 83.7, "crop_limits": (0, 0, 3280, 2464)},
        {"size": (3280, 2464), "bit_depth": 10, "fps": 21.19, "crop_limits": (0, 0, 3280, 2464)},
    )
    camera_properties: ClassVar[dict[str, Any]] = {"ColorFilterArrangement": 2}
    camera_controls: ClassVar[dict[str, Any]] = {"FrameDurationLimits": (4839, 11767556, 33333)}
    sensor_resolution = (3280, 2464)
    asked: ClassVar[dict[str, Any]] = {}
    released = 0
    open_cameras = 0

    def __init__(self, number: int = 0) -> None:
        if self.failure:
            raise self.failure
        type(self).open_cameras += 1
        self._began_ns = 0

    @property
    def sensor_modes(self) -> list[dict[str, Any]]:
        return list(self.modes)

    def create_video_configuration(self, **asked: Any) -> dict[str, Any]:
        type(self).asked = asked
        return asked

    def configure(self, config: dict[str, Any]) -> None:
        self._main = dict(config["main"])
        self._main["format"] = self.pipeline_format or self._main["format"]
        self._main["stride"] = self._main["size"][0]

    def camera_configuration(self) -> dict[str, Any]:
        return {"main": self._main}

    def start(self) -> None:
        self._began_ns, self._sequence = time.monotonic_ns(), 0

    def capture_request(self, wait: bool) -> Any:
        assert wait is False
        if self.silent:
            return _PicameraJob(Future())
        self._sequence += 1
        due = self._began_ns / 1e9 + self._sequence / self.rate
        time.sleep(max(0.0, due - time.monotonic()))
        job: Future[Any] = Future()
        job.set_result(_PicameraRequest(self._main, self._sequence + 3, type(self)))
        return _PicameraJob(job)

    def close(self) -> None:
        type(self).open_cameras -= 1


class _PicameraJob:
    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def get_result(self, timeout: float) -> Any:
        return self._future.result(timeout)


class _PicameraRequest:
    def __init__(self, stream: dict[str, Any], sequence: int, board: type[FakePicamera2]) -> None:
        self.request = SimpleNamespace(sequence=sequence)
        self._stream, self._board, self._at = stream, board, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 5_000_000

    def make_array(self, name: str) -> Pixels:
        assert name == "main"
        width, height = self._stream["size"]
        if self._stream["format"] in ("NV12", "YUV420"):
            return np.full((height * 3 // 2, width), 128, np.uint8)
        channels = 3 if self._stream["format"].endswith("888") and "X" not in self._stream["format"] else 4
        return np.full((height, width, channels), (10, 20, 30, 255)[:channels], np.uint8)

    def get_metadata(self) -> dict[str, int]:
        return {"SensorTimestamp": self._at}

    def release(self) -> None:
        self._board.released += 1


def parse_events(text: str, value: Callable[[str], Value], default: Value | None) -> dict[int, Value]:
    """Parse FRAME:VALUE,FRAME:VALUE ..."""
    events: dict[int, Value] = {}
    for event in text.split(","):
        at, colon, rest = event.partition(":")
        if not at.isdecimal() or (default is None and not colon):
            raise ValueError("FRAME:VALUE such as 40:0.5, more of them with commas between")
        try:
            events[int(at)] = value(rest) if colon or default is None else default
        except ValueError as error:
            raise ValueError(f"FRAME:VALUE, where the value is {error}") from None
    return events


def _jump(text: str) -> float:
    """Seconds; negative ones go back."""
    return -seconds(text[1:]) if text.startswith("-") else seconds(text)


def _options_in(path: str) -> tuple[tuple[str, str], ...]:
    """The names and values of a JSON file."""
    try:
        options = parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the fake camera's file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"the fake camera's file {path} is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise DataError(
            f'the fake camera\'s file {path} must hold one object, such as {{"fps": 30, "stall": "40:0.5"}}'
        )
    return tuple((str(name), str(value)) for name, value in options.items())
