"""A made-up result with every part filled."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgeloc.benchmarks.environment import Environment
from edgeloc.benchmarks.report.plots import with_previews
from edgeloc.benchmarks.result import STAGES, BenchResult, DataInfo, LatencyRun, ModelInfo, StageLatency
from edgeloc.data import Sample
from edgeloc.evaluation.figures import Row, regression_figures
from edgeloc.evaluation.statistics import summarize
from edgeloc.findings import Finding
from edgeloc.types import LabelledBox


@pytest.fixture
def bench_result(rows: list[Row]) -> BenchResult:
    rng = np.random.default_rng(0)
    regression = regression_figures(rows, threshold_float=0.5, threshold_quantized=0.5, labels=("bolt", "nut"))
    samples = [
        Sample(row.name, (LabelledBox(row.truth, row.label),), row.group, read=_picture) for row in rows if row.truth
    ]
    regression = type(regression)(
        **{name: getattr(regression, name) for name in regression.__slots__ if name != "worst"},
        worst=with_previews(regression.worst, samples),
    )
    latency = {stage: _stage(rng) for stage in STAGES}
    return BenchResult(
        created_at="2025-01-01T00:00:00+00:00",
        complete=True,
        environment=Environment("Board X", "CPU Y", 4, "aarch64", "Linux", "performance", 0.1, "3.11", "2", "5", "0.1"),
        model=ModelInfo("m.tflite", "ab" * 32, 700_000, "int8", "litert", "2.3.0"),
        against=ModelInfo("f.tflite", "cd" * 32, 2_500_000, "float32", "litert", "2.3.0"),
        size_ratio=3.571,
        data=DataInfo("data", "data", "val", ("bolt", "nut"), ("one row left out",), 12, 12, 0),
        latency=latency,
        latency_run=LatencyRun("scenes", "copying a frame", 30, 3, ((640, 480),), "litert", "2.3.0", None),
        regression=regression,
        findings=(Finding("machine-busy", "warning", "the machine was busy"),),
    )


def _stage(rng: np.random.Generator) -> StageLatency:
    samples = [float(value) for value in rng.uniform(1, 2, 30)]
    summary = summarize(samples)
    return StageLatency(
        **{name: getattr(summary, name) for name in summary.__slots__},
        samples_ms=tuple(samples),
        warmup_ms=(9.0, 8.0, 7.0),
    )


def _picture() -> np.ndarray:
    pixels = np.full((100, 200, 3), 90, np.uint8)
    cv2.rectangle(pixels, (40, 20), (90, 70), (0, 0, 200), -1)
    return pixels
