"""The time that each stage of one frame takes, sample by sample, and where the frames come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeloc.benchmarks.result import LOCALIZE, STAGES, LatencyRun, StageLatency, stages_in
from edgeloc.cameras.base import parse_uri
from edgeloc.data.sample import spread
from edgeloc.errors import CameraError, DataError
from edgeloc.loop.draw import draw
from edgeloc.types import Pixels

if TYPE_CHECKING:
    from edgeloc.cameras import Camera
    from edgeloc.data import Sample
    from edgeloc.localizer import Localizer

__all__ = ["CameraSource", "FrameSource", "ImageSource", "LatencyRecorder", "SceneSource", "TwiceSource", "time_frame"]

_IMAGES = 64
_SCENES = 32


class FrameSource(ABC):
    """Gives frames without end.

    Attributes:
        name: what the frames come from.
        capture: what `grab` spends its time on, in words.
        skipped: the names of what could not be read and was left out.
    """

    name: str
    capture: str
    skipped: Sequence[str] = ()

    @abstractmethod
    def grab(self) -> Pixels:
        """The next frame, BGR uint8 (height, width, 3)."""

    def close(self) -> None:  # noqa: B027 - most sources have nothing to close
        """Close the source; harmless when called again."""


class CameraSource(FrameSource):
    """A camera by URI; a finite one (a video, a folder) starts again at its end.

    Parameters:
        size: the model's input (width, height), for cameras that scale by themselves.
    """

    def __init__(self, uri: str, size: tuple[int, int] | None = None) -> None:
        self.name, self._uri, self._size = parse_uri(uri).text, uri, size
        self.camera = self._open()
        self.capture = (
            "waiting for the camera's next frame" if self.camera.live else "reading and decoding the next frame"
        )

    def _open(self) -> Camera:
        from edgeloc.cameras import open_camera

        return open_camera(self._uri, size=self._size)

    def grab(self) -> Pixels:
        frame = self.camera.read()
        if frame is None:
            self.close()
            self.camera = self._open()
            frame = self.camera.read()
        if frame is None:
            raise CameraError(f"{self.name} gave no frame")
        return frame.pixels

    def close(self) -> None:
        self.camera.close()


class ImageSource(FrameSource):
    """Up to 64 images spread over a data set, in turn; each is read once before, so that none comes from a cold disk.

    A corrupt image raises DataError; with `skip_bad` it is left out and listed in `skipped`.
    """

    def __init__(self, name: str, samples: Sequence[Sample], *, skip_bad: bool = False) -> None:
        self.name = name
        self.capture = "drawing a synthetic scene"
        if any(sample.path is not None for sample in samples):
            self.capture = "reading and decoding an image file that the system holds in memory"
        self.skipped: list[str] = []
        self._samples = [sample for sample in spread(samples, _IMAGES) if self._loads(sample, skip_bad)]
        if not self._samples:
            raise DataError(f"{name} holds no image that can be read")
        self._next = 0

    def _loads(self, sample: Sample, skip_bad: bool) -> bool:
        try:
            sample.load()
        except DataError:
            if not skip_bad:
                raise
            self.skipped.append(sample.name)
            return False
        return True

    def grab(self) -> Pixels:
        sample = self._samples[self._next % len(self._samples)]
        self._next += 1
        return sample.load()


class SceneSource(FrameSource):
    """Synthetic scenes, drawn before the measurement and held in memory."""

    capture = "copying a ready frame out of memory"

    def __init__(self, size: tuple[int, int] = (640, 480), seed: int = 0) -> None:
        from edgeloc.scenes import SceneGenerator

        self.name = f"synthetic scenes {size[0]}x{size[1]}"
        scenes = SceneGenerator(seed, size)
        self._frames: list[Pixels] = [scenes.scene(index).pixels for index in range(_SCENES)]
        self._next = 0

    def grab(self) -> Pixels:
        frame = self._frames[self._next % len(self._frames)]
        self._next += 1
        return np.array(frame, copy=True)


class TwiceSource(FrameSource):
    """Each frame of another source twice, for two models in turn."""

    def __init__(self, source: FrameSource) -> None:
        self.name, self.capture, self._source = source.name, "copying a frame that is at hand", source
        self._frame: Pixels | None = None

    def grab(self) -> Pixels:
        frame, self._frame = self._frame, None
        if frame is None:
            frame = self._frame = self._source.grab()
        return np.array(frame, copy=True)


class LatencyRecorder:
    """Times frames one by one and keeps every sample, so that an interrupted run has what it measured.

    Of a model that is run in stages, each of these is timed too, within `invoke`.

    Attributes:
        samples: by stage, in ms, those of the warm-up first.
        began: when each frame began, in seconds of the monotonic clock.
        timed: called as soon as a frame is, before anything is kept of it.
        ended: whether turns that are still to come pass without a frame.
    """

    def __init__(self, localizer: Localizer, source: FrameSource, warmup: int, threads: int | None = None) -> None:
        self.localizer, self.source, self.warmup, self.threads = localizer, source, warmup, threads
        self.samples: dict[str, list[float]] = {}
        self.began: list[float] = []
        self.timed: Callable[[], object] = _nothing
        self.ended = False
        self._sizes: dict[tuple[int, int], None] = {}

    @property
    def reached(self) -> dict[str, Any]:
        """Fields of the scenario that it alone knows."""
        return {}

    @property
    def totals(self) -> list[float]:
        """The total of each frame so far, in ms, those of the warm-up first."""
        return self.samples.setdefault("total", [])

    @property
    def frames(self) -> int:
        """Frames timed so far, without the warm-up."""
        return max(0, len(self.totals) - self.warmup)

    def record(self, turns: Iterable[object]) -> None:
        """Time one frame for each of `turns`; the first `warmup` ones are kept apart."""
        for _ in self.each(turns):
            pass

    def each(self, turns: Iterable[object]) -> Iterator[None]:
        """The same, halting before each frame: what is done between two of them is over then."""
        for _ in turns:
            yield
            if self.ended:
                continue
            began = perf_counter()
            times, size = time_frame(self.localizer, self.source)
            self.timed()
            self.keep(began, {**dict(zip(STAGES, times, strict=True)), **self.localizer.engine.spent_ms}, size)

    def beside(self, other: LatencyRecorder, turns: Iterable[object]) -> None:
        """Time one frame of both for each of `turns`; which is first changes from one to the next."""
        for number, turn in enumerate(turns):
            for recorder in (self, other) if number % 2 else (other, self):
                recorder.record((turn,))

    def keep(self, began: float, times: Mapping[str, float], size: tuple[int, int]) -> None:
        """Keep a sample of each stage, in ms, of a frame that began then, in seconds of the monotonic clock."""
        self.began.append(began)
        self._sizes[size] = None
        for stage, spent in times.items():
            self.samples.setdefault(stage, []).append(spent)
        if "decode" in times:
            answer = times["preprocess"] + times["invoke"] + times["decode"]
            self.samples.setdefault(LOCALIZE, []).append(answer)

    def inference(self) -> Callable[[], object]:
        """One frame through the engine alone, as often as it is called."""
        tensor, _ = self.localizer.preprocess(self.source.grab())
        return lambda: self.localizer.invoke(tensor)

    def stages(self) -> dict[str, StageLatency]:
        """Each stage's figures; empty while only the warm-up has run."""
        if not self.frames:
            return {}
        return {stage: StageLatency.of(self.samples[stage], self.warmup) for stage in stages_in(self.samples)}

    def run(self) -> LatencyRun:
        """How the samples came about."""
        engine = self.localizer.engine
        return LatencyRun(
            source=self.source.name,
            capture=self.source.capture,
            frames=self.frames,
            warmup_frames=min(self.warmup, len(self.totals)),
            frame_sizes=tuple(self._sizes),
            engine=engine.name,
            engine_version=engine.version,
            threads=self.threads,
        )


def _nothing() -> None:
    pass


def time_frame(localizer: Localizer, source: FrameSource) -> tuple[tuple[float, ...], tuple[int, int]]:
    """The ms that one frame spends in each of STAGES, and its (width, height).

    The stages are the ones that `Localizer.__call__` runs, one after the other; `total` is the
    time from before capture to after drawing, so it holds the clock's own cost too.
    """
    began = perf_counter_ns()
    pixels = source.grab()
    captured = perf_counter_ns()
    tensor, placement = localizer.preprocess(pixels)
    preprocessed = perf_counter_ns()
    raw = localizer.invoke(tensor)
    invoked = perf_counter_ns()
    size = (pixels.shape[1], pixels.shape[0])
    result = localizer.decode(raw, placement, size)
    decoded = perf_counter_ns()
    draw(pixels, result)
    drawn = perf_counter_ns()
    marks = (began, captured, preprocessed, invoked, decoded, drawn)
    stages = [(after - before) / 1e6 for before, after in pairwise(marks)]
    return (*stages, (drawn - began) / 1e6), size
