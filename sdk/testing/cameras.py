"""Fake cameras with known truth: synthetic scenes, and a live camera that fails by a script."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edgeloc._support.uri import Uri
from edgeloc.cameras.base import Camera, flag, integer, positive, rate, seconds, sensor_time
from edgeloc.cameras.base import size as parse_size
from edgeloc.errors import CameraError, CameraTimeout, DataError, UsageError
from edgeloc.scenes import Clip, SceneGenerator
from edgeloc.types import Frame

__all__ = ["ScriptedCamera", "SyntheticCamera"]


class SyntheticCamera(Camera):
    """`synthetic://?seed=1&size=640x480&fps=30&frames=300&live=1`: a clip of passing objects, with its truth.

    Frames carry `truth` and `truth_label`; the same seed and size show the same clip. Live (the
    default), frame n is exposed n / fps seconds after `open()`, whoever reads: what is not read in
    time is lost, as with a sensor. With `live=0` it waits for its reader, like a file, and
    `captured_at` is when the frame was made. Without `frames` it does not end.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        size: tuple[int, int] = (640, 480),
        fps: float = 30.0,
        frames: int | None = None,
        live: bool = True,
    ) -> None:
        self._scenes = SceneGenerator(seed, size)
        self._frames = frames
        self._clip: Clip | None = None
        self._next = 0
        self._began_at = 0.0
        self.size, self.fps, self.live = size, fps, live

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> SyntheticCamera:
        """The camera with the URI's options; it has no scaler, so what the model takes makes no difference."""
        uri.require_no_path()
        parsers = {"seed": integer, "size": parse_size, "fps": rate, "frames": positive, "live": flag}
        return cls(**uri.options(parsers))

    @property
    def name(self) -> str:
        """The URI's beginning."""
        return f"synthetic://?seed={self._scenes.seed}"

    def _open(self) -> None:
        self._clip = self._scenes.clip(0, self._frames)
        # The first frame costs more than those that follow: made now, it does not delay a live camera's start.
        self._clip.frame(0)
        self._next, self._began_at = 0, time.monotonic()

    def _read(self, timeout_s: float) -> Frame | None:
        assert self._clip is not None
        number = self._wait(timeout_s) if self.live else self._next
        if self._frames is not None and number >= self._frames:
            return None
        scene = self._clip.frame(number)
        self._next = number + 1
        captured_at = self._exposed_at(number) if self.live else time.monotonic()
        return Frame(scene.pixels, captured_at, number, has_truth=True, truth=scene.box, truth_label=scene.label)

    def _wait(self, timeout_s: float) -> int:
        """The number of the newest frame whose exposure has begun, after waiting for one that was not read yet."""
        left = self._exposed_at(self._next) - time.monotonic()
        ended = self._frames is not None and self._next >= self._frames
        if left > 0 and not ended:
            time.sleep(min(left, timeout_s))
            if left > timeout_s:
                raise CameraTimeout(f"camera {self.name} made no frame in {timeout_s:g} s at {self.fps:g} fps")
        elapsed = time.monotonic() - self._began_at
        return max(self._next, int(elapsed * (self.fps or 1.0) + 1e-6))

    def _exposed_at(self, number: int) -> float:
        return self._began_at + number / (self.fps or 1.0)

    def _close(self) -> None:
        self._clip = None


Value = TypeVar("Value", int, float)
REFUSALS = {
    "absent": "camera {name} is not there: plug it in, or take `refuse` out of its script",
    "busy": "camera {name} is busy: another program holds it, as its script says",
    "forbidden": "camera {name}: permission denied, as its script says",
    "format": "camera {name} does not send the format that was asked for, as its script says",
}


class ScriptedCamera(Camera):
    """`scripted://?frames=300&stall=40:0.5&disconnect=60:2&corrupt=90:3&clock=120:-5&slow_start=1`.

    Frame n is exposed n / fps seconds after the first `open()`, as with `synthetic://`, and the script
    runs on by the clock when the camera is closed and opened again; after its end it starts anew.
    What happens, each as FRAME:VALUE and any number of them with commas between:

    - `stall`: no frame for so many seconds.
    - `disconnect`: `read` raises CameraError, and so does `open` for so many seconds; without a
      value, for ever.
    - `corrupt`: so many frames (1 without a value) cannot be decoded, and are not handed out.
    - `clock`: the driver's clock jumps by so many seconds; `captured_at` does not follow it.

    `slow_start` is the seconds from opening to the first exposure. `refuse` makes each `open` fail:
    absent, busy, forbidden or format. `seed`, `size`, `fps` and `frames` are those of `synthetic://`.
    `scripted://FILE.json` reads the same names and values from a JSON object.
    """

    live = True

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
        clock: dict[int, float] | None = None,
        slow_start: float = 0.0,
        refuse: str | None = None,
    ) -> None:
        if refuse is not None and refuse not in REFUSALS:
            raise UsageError(f"camera scripted://: refuse is {refuse!r}: it must be one of {', '.join(REFUSALS)}")
        self._scenes = SceneGenerator(seed, size)
        self._rate, self._frames, self._slow_start, self._refuse = fps, frames, slow_start, refuse
        self._stalls, self._disconnects = stall or {}, disconnect or {}
        self._corrupt, self._jumps = corrupt or {}, clock or {}
        self.size, self.fps = size, fps
        self._clip: Clip | None = None
        self._began_at = self._last_at = 0.0
        self._next = self._first = 0

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> ScriptedCamera:
        """The camera of a query, or of a JSON file with the same names; what the model takes makes no difference."""
        parsers: dict[str, Callable[[str], Any]] = {
            "seed": integer, "size": parse_size, "fps": rate, "frames": positive,
            "stall": lambda text: _events(text, seconds, None),
            "disconnect": lambda text: _events(text, seconds, float("inf")),
            "corrupt": lambda text: _events(text, positive, 1),
            "clock": lambda text: _events(text, _jump, None),
            "slow_start": seconds, "refuse": str,
        }  # fmt: skip
        if uri.path:
            uri = Uri(uri.text, uri.scheme, "", (*_script(uri.path), *uri.query))
        return cls(**uri.options(parsers))

    @property
    def name(self) -> str:
        """The URI's beginning."""
        return f"scripted://?seed={self._scenes.seed}"

    def _open(self) -> None:
        if self._refuse:
            raise CameraError(REFUSALS[self._refuse].format(name=self.name))
        if self._clip is None:
            self._clip = self._scenes.clip(0, self._frames)
            self._clip.frame(0)
            self._began_at = time.monotonic() + self._slow_start
            self._next, self._last_at = 0, 0.0
        elif any(0 <= time.monotonic() - self._exposed_at(at) < away for at, away in self._disconnects.items()):
            raise CameraError(f"camera {self.name} is not there: it was unplugged, as its script says")
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
        """The newest number exposed that was not read yet, after waiting for it; None at the script's end."""
        if self._clip is None or (self._frames is not None and self._next >= self._frames):
            return None
        exposed_at = self._exposed_at(self._next)
        time.sleep(max(0.0, min(exposed_at, deadline) - time.monotonic()))
        if exposed_at > time.monotonic() and undecodable:
            raise CameraError(f"camera {self.name} sent {undecodable} frames that cannot be decoded")
        if exposed_at > time.monotonic():
            raise CameraTimeout(f"camera {self.name} sent no frame in time, as its script says")
        number = max(self._next, self._newest())
        return None if self._frames is not None and number >= self._frames else number

    def _unplug(self, number: int) -> None:
        """Go away if the script says so at a frame up to this one."""
        at = min((at for at in self._disconnects if self._next <= at <= number), default=None)
        if at is not None:
            self._next = at + 1
            raise CameraError(f"camera {self.name} is gone: it was unplugged, as its script says")

    def _frame(self, number: int) -> Frame:
        assert self._clip is not None
        scene = self._clip.frame(number)
        driver_s = self._exposed_at(number) + sum(jump for at, jump in self._jumps.items() if at <= number)
        self._last_at = sensor_time(driver_s, time.monotonic(), self._last_at)
        number -= self._first
        return Frame(scene.pixels, self._last_at, number, has_truth=True, truth=scene.box, truth_label=scene.label)

    def _newest(self) -> int:
        return int((time.monotonic() - self._began_at) * self._rate + 1e-6)

    def _exposed_at(self, number: int) -> float:
        return self._began_at + number / self._rate

    def _close(self) -> None:
        """Nothing is held, and the script goes on."""


def _events(text: str, value: Callable[[str], Value], default: Value | None) -> dict[int, Value]:
    """FRAME:VALUE, with commas between, as a dictionary."""
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
    """Seconds forward, or back with a minus."""
    return -seconds(text[1:]) if text.startswith("-") else seconds(text)


def _script(path: str) -> tuple[tuple[str, str], ...]:
    """The names and values of a JSON file."""
    try:
        script = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"camera script {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"camera script {path} is not JSON: {error}") from error
    if not isinstance(script, dict):
        raise DataError(f'camera script {path} must hold one object, such as {{"fps": 30, "stall": "40:0.5"}}')
    return tuple((str(name), str(value)) for name, value in script.items())
