"""A made-up result with every part filled."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from edgeloc.benchmarks.energy import Energy
from edgeloc.benchmarks.environment import Environment, Memory
from edgeloc.benchmarks.report.pictures import with_previews
from edgeloc.benchmarks.result import (
    LOCALIZE,
    STAGES,
    BenchResult,
    DataInfo,
    LatencyRun,
    ModelInfo,
    StageLatency,
)
from edgeloc.benchmarks.scenarios.course import Course, Reading
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


@pytest.fixture
def measured(bench_result: BenchResult) -> BenchResult:
    """The same with the float model's latency, energy over time, temperatures and clocks."""
    rng = np.random.default_rng(1)
    timed = [{stage: _stage(rng, least) for stage in (*STAGES, LOCALIZE)} for least in (1.0, 2.0, 1.0)]
    readings = tuple(Reading(float(second), 50.0 + second, {"0-3": 2400}) for second in range(-1, 4))
    moments = tuple(second / 4 for second in range(16))
    energy = Energy(
        "measured", source="a meter", blind_to="the screen", rate_hz=4.0, per_frame_mj=12.3,
        per_frame_uncertainty_mj=0.4, per_inference_mj=9.8, per_inference_uncertainty_mj=0.3, frames=30, inferences=30,
        power_w=4.1, power_uncertainty_w=0.1, idle_before_w=2.2, idle_after_w=2.3, readings=16, longest_gap_s=0.25,
        spans_s={"frames": (1.0, 3.0)}, t_s=moments, watts=(4.0,) * len(moments),
    )  # fmt: skip
    return dataclasses.replace(
        bench_result,
        latency=timed[0],
        latency_against=timed[1],
        latency_beside=timed[2],
        energy=energy,
        course=Course(readings=readings, energy_from_s=-1.0, others_busy=0.01),
        memory=Memory(123.4),
        command="edgeloc bench m.tflite --against f.tflite",
        model=dataclasses.replace(bench_result.model, recipe="int8", operators={"CONV_2D": 3, "ADD": 1}),
        findings=(),
    )


@pytest.fixture
def boards(measured: BenchResult) -> list[BenchResult]:
    """Three boards' results of one model, the last of them measured beside other programs."""
    names = ("Raspberry Pi 5 Model B Rev 1.0", "Raspberry Pi Zero 2 W Rev 1.0", "NVIDIA Jetson Orin Nano Developer Kit")
    results = []
    for number, name in enumerate(names):
        environment = dataclasses.replace(measured.environment, board=name)
        assert measured.course is not None
        course = dataclasses.replace(measured.course, others_busy=0.4 if number == 2 else 0.01)
        rng = np.random.default_rng(number)
        latency = {stage: _stage(rng, 1 + 4 * number) for stage in (*STAGES, LOCALIZE)}
        results.append(dataclasses.replace(measured, environment=environment, latency=latency, course=course))
    return results


def _stage(rng: np.random.Generator, least: float = 1.0) -> StageLatency:
    samples = [float(value) for value in rng.uniform(least, 2 * least, 30)]
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
