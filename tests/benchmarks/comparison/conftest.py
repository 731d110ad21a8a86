"""Results with as many frames and images as a comparison needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edgeloc.benchmarks.result import STAGES, BenchResult, StageLatency
from edgeloc.evaluation.figures import Row, regression_figures
from edgeloc.evaluation.statistics import summarize
from edgeloc.types import Box

Timed = Callable[..., BenchResult]


def _stage(samples: Sequence[float]) -> StageLatency:
    values = [float(value) for value in samples]
    return StageLatency(**dataclasses.asdict(summarize(values)), samples_ms=tuple(values), warmup_ms=())


@pytest.fixture
def make_stage() -> Callable[[Sequence[float]], StageLatency]:
    """A stage's figures of samples in ms."""
    return _stage


@pytest.fixture
def timed(bench_result: BenchResult, make_row: Callable[..., Row]) -> Timed:
    """A result of 300 frames on a quiet machine and 60 images in 20 clips; `slower` and `shift` make it worse."""

    def make(seed: int = 0, slower: float = 1.0, shift: float = 0.0, **changes: object) -> BenchResult:
        rng = np.random.default_rng(seed)
        means = dict(zip(STAGES, (3.0, 1.0, 8.0, 1.0, 0.5), strict=False))
        times = {name: mean * slower * rng.lognormal(0, 0.02, 300) for name, mean in means.items()}
        times["total"] = np.sum(list(times.values()), axis=0)
        times["localize"] = np.sum([times[name] for name in ("preprocess", "invoke", "decode")], axis=0)
        rows = [_row(make_row, number, shift) for number in range(60)]
        figures = regression_figures(rows, threshold_float=0.5, threshold_quantized=0.5, labels=("bolt", "nut"))
        latency = {name: _stage(samples) for name, samples in times.items()}
        result = dataclasses.replace(bench_result, latency=latency, regression=figures, findings=())
        return dataclasses.replace(result, **changes)  # type: ignore[arg-type]

    return make


def _row(make_row: Callable[..., Row], number: int, shift: float) -> Row:
    """An image whose box is off by some pixels of 50, the quantized one's by `shift` more, so that IoU falls alike."""
    truth, off = Box(40, 20, 90, 70), 1 + number % 5
    found, moved = (Box(40 + by, 20, 90 + by, 70) for by in (off, off + shift))
    return make_row(f"{number:02}.jpg", truth, found, moved, group=f"clip{number // 3}")
