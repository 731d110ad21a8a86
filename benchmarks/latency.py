"""The time each stage of one frame takes, sample by sample; where frames come from is in `sources`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import pairwise
from time import perf_counter_ns
from typing import TYPE_CHECKING

from edgeloc.benchmarks.result import STAGES, LatencyRun, StageLatency
from edgeloc.benchmarks.sources import FrameSource
from edgeloc.benchmarks.statistics import summarize
from edgeloc.draw import draw

if TYPE_CHECKING:
    from edgeloc.localizer import Localizer

__all__ = ["LatencyRecorder", "time_frame"]


class LatencyRecorder:
    """Times frames one by one and keeps every sample, so that an interrupted run still has what it measured."""

    def __init__(self, localizer: Localizer, source: FrameSource, warmup: int, threads: int | None = None) -> None:
        self._localizer, self._source, self._warmup, self._threads = localizer, source, warmup, threads
        self._samples: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self._sizes: dict[tuple[int, int], None] = {}

    @property
    def frames(self) -> int:
        """Frames timed so far, without the warm-up."""
        return max(0, len(self._samples["total"]) - self._warmup)

    def record(self, turns: Iterable[object]) -> None:
        """Time one frame for each of `turns`; the first `warmup` ones are kept apart."""
        for _ in turns:
            times, size = time_frame(self._localizer, self._source)
            self._sizes[size] = None
            for stage, spent in zip(STAGES, times, strict=True):
                self._samples[stage].append(spent)

    def stages(self) -> dict[str, StageLatency]:
        """Each stage's figures; empty while only the warm-up has run."""
        return {stage: _stage(samples, self._warmup) for stage, samples in self._samples.items() if self.frames}

    def run(self) -> LatencyRun:
        """How the samples came about."""
        engine = self._localizer.engine
        return LatencyRun(
            source=self._source.name,
            capture=self._source.capture,
            frames=self.frames,
            warmup_frames=min(self._warmup, len(self._samples["total"])),
            frame_sizes=tuple(self._sizes),
            engine=engine.name,
            engine_version=engine.version,
            threads=self._threads,
        )


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


def _stage(samples: list[float], warmup: int) -> StageLatency:
    measured = samples[warmup:]
    return StageLatency(
        **asdict(summarize(measured)),
        samples_ms=tuple(round(sample, 4) for sample in measured),
        warmup_ms=tuple(round(sample, 4) for sample in samples[:warmup]),
    )
