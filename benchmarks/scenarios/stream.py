"""The scenario stream: frames at a rate, through the capture loop and its clock; how old answers are, what drops."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any, cast

from edgeloc._support.backend import Uri
from edgeloc.benchmarks.latency import CameraSource, FrameSource, LatencyRecorder
from edgeloc.benchmarks.result import LatencyRun
from edgeloc.cameras import Camera
from edgeloc.errors import CameraTimeout, UsageError
from edgeloc.localizer import Localizer
from edgeloc.loop.run import stream
from edgeloc.observation import Observation
from edgeloc.types import Frame, Pixels, Result

__all__ = ["PacedCamera", "StreamRecorder", "stream_camera"]

# Frames are held in memory before, as many as this holds: a camera's driver takes no time of the processor's.
_MOST_BYTES, _MOST_FRAMES = 64 << 20, 64
_FPS = 30.0


class PacedCamera(Camera):
    """A live camera that exposes a frame of `frames` every 1/`fps` seconds, from memory, in turn."""

    live = True

    def __init__(self, frames: list[Pixels], fps: float) -> None:
        self.frames, self.fps = frames, fps
        self._began_at, self._tick = 0.0, -1

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> PacedCamera:
        """It has no URI."""
        raise UsageError("a paced camera has no URI")

    @property
    def name(self) -> str:
        """Its rate."""
        return f"{self.fps:g} frames a second"

    def _open(self) -> None:
        self._began_at, self._tick = time.monotonic(), -1

    def _read(self, timeout_s: float) -> Frame | None:
        """The newest frame that was not read; those of the ticks between are lost, as a driver's are."""
        assert self.fps is not None
        tick = max(self._tick + 1, int((time.monotonic() - self._began_at) * self.fps))
        captured_at = self._began_at + tick / self.fps
        wait_s = captured_at - time.monotonic()
        time.sleep(max(0.0, min(wait_s, timeout_s)))
        if wait_s > timeout_s:
            raise CameraTimeout(f"camera {self.name} gave no frame for {timeout_s:g} s")
        self._tick = tick
        return Frame(self.frames[tick % len(self.frames)].copy(), captured_at, tick)

    def _close(self) -> None:
        pass


def stream_camera(source: FrameSource, fps: float | None) -> Camera:
    """The camera of `source` if it is live, else its frames at `fps`, 30 a second if None."""
    if isinstance(source, CameraSource) and source.camera.live:
        if fps is not None:
            raise UsageError(f"camera {source.name} has its own rate", hint="leave {fps} out")
        return source.camera
    frames = [source.grab()]
    room = min(_MOST_FRAMES, _MOST_BYTES // frames[0].nbytes)
    frames += [source.grab() for _ in range(room - 1)]
    return PacedCamera(frames, fps or _FPS)


class StreamRecorder(LatencyRecorder):
    """Times frames from their exposure on, in a capture loop that drops what the model is too slow for.

    `capture` is from a frame's exposure until the loop takes it, `total` its age when its result is there.
    """

    def __init__(
        self, localizer: Localizer, source: FrameSource, warmup: int, threads: int | None, camera: Camera
    ) -> None:
        super().__init__(localizer, source, warmup, threads)
        self._camera, self._dropped = camera, 0
        self._times: dict[str, float] = {}

    @property
    def reached(self) -> dict[str, Any]:
        """The camera's rate, and how many frames since the warm-up had no result."""
        return {"fps": self._camera.fps, "dropped": self._dropped}

    def run(self) -> LatencyRun:
        """How the samples came about."""
        rate = f", {self._camera.fps:g} frames a second" if self._camera.fps else ""
        capture = "from a frame's exposure until the loop takes it"
        return replace(super().run(), source=f"{self.source.name}{rate}", capture=capture)

    def each(self, turns: Iterable[object]) -> Iterator[None]:
        """One result for each of `turns`, as long as the camera gives frames."""
        observations = stream(self._camera, self._localize)
        try:
            for number, _ in enumerate(turns):
                observation = next(observations, None)
                if observation is None:
                    return
                self._dropped += observation.dropped if number >= self.warmup else 0
                height, width = observation.frame.pixels.shape[:2]
                times = {**self._times, "total": observation.age_ms}
                self.keep(observation.frame.captured_at, times, (width, height))
                yield
        finally:
            cast("Generator[Observation]", observations).close()

    def _localize(self, frame: Frame) -> Result:
        """What `Localizer.__call__` does, with the time of each stage."""
        began = perf_counter()
        self._times = {"capture": (time.monotonic() - frame.captured_at) * 1000}
        tensor, placement = self.localizer.preprocess(frame.pixels)
        preprocessed = perf_counter()
        raw = self.localizer.invoke(tensor)
        invoked = perf_counter()
        result = self.localizer.decode(raw, placement, (frame.pixels.shape[1], frame.pixels.shape[0]))
        self._times |= {
            "preprocess": (preprocessed - began) * 1000,
            "invoke": (invoked - preprocessed) * 1000,
            **self.localizer.engine.spent_ms,
            "decode": (perf_counter() - invoked) * 1000,
        }
        return result
