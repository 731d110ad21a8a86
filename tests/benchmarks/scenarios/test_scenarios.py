"""Every scenario of `edgeloc bench`, from the command line, and what it refuses."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from edgeloc.benchmarks.latency import SceneSource
from edgeloc.benchmarks.options import BenchOptions
from edgeloc.benchmarks.result import START_STAGES, BenchResult, read_result
from edgeloc.benchmarks.scenarios.stream import PacedCamera, stream_camera
from edgeloc.cli import main
from edgeloc.errors import UsageError


def bench(model: Path, *words: object) -> BenchResult:
    out = model.with_name("result.json")
    assert main(["bench", str(model), "--out", str(out), "--power", "none", *map(str, words)]) == 0
    return read_result(out)


def test_single_stream_lasts_until_it_has_enough(model: Path) -> None:
    result = bench(model, "--min-frames", 80, "--min-seconds", 0.3, "--max-seconds", 5)
    scenario = result.scenario
    assert scenario is not None and scenario.name == "single-stream"
    assert scenario.samples == result.latency["total"].count >= 80
    assert scenario.seconds >= 0.3
    assert scenario.stopped_by == "known" or (scenario.stopped_by == "time" and not scenario.p90_known)
    assert scenario.p90_ms == result.latency["total"].p90_ms
    assert scenario.p90_bound_ms is not None and scenario.p90_bound_ms >= scenario.p90_ms


def test_a_count_is_taken_at_its_word(model: Path) -> None:
    scenario = bench(model, "--frames", 7, "--warmup", 0).scenario
    assert scenario is not None
    assert (scenario.samples, scenario.stopped_by, scenario.p90_known) == (7, "count", False)


def test_the_course_has_each_frame_and_the_board(model: Path) -> None:
    result = bench(model, "--frames", 30, "--warmup", 3)
    course = result.course
    assert course is not None and len(course.began_s) == 30
    assert course.began_s[0] == 0 and list(course.began_s) == sorted(course.began_s)
    spent_s = np.asarray(result.latency["total"].samples_ms) / 1000
    assert (np.asarray(course.began_s)[:-1] + spent_s[:-1] <= np.asarray(course.began_s)[1:] + 2e-4).all()
    assert course.readings[0].t_s < 0 < course.readings[-1].t_s
    assert result.memory is None or result.memory.peak_mib > 10


def test_sustained_lasts_for_its_minutes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(model, "--scenario", "sustained", "--minutes", 0.03)
    assert result.scenario is not None and result.scenario.stopped_by == "time"
    assert 1.7 < result.scenario.seconds < 10
    assert result.course is not None and result.course.drift is not None
    assert result.course.drift.window_s * len(result.course.drift.p50_ms) == pytest.approx(
        result.scenario.seconds, rel=0.1
    )
    assert "drift" in capsys.readouterr().out


def test_a_stream_that_is_too_fast_drops_frames(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(model, "--scenario", "stream", "--fps", 20000, "--frames", 40, "--warmup", 5)
    assert result.scenario is not None and result.scenario.fps == 20000
    assert result.scenario.dropped is not None and result.scenario.dropped > 0
    assert set(result.latency) == {"capture", "preprocess", "invoke", "decode", "localize", "total"}
    for number, age in enumerate(result.latency["total"].samples_ms):
        stages = [result.latency[stage].samples_ms[number] for stage in ("capture", "preprocess", "invoke", "decode")]
        assert 0 < sum(stages) <= age + 0.01
    assert result.latency_run is not None and "20000 frames a second" in result.latency_run.source
    assert "frame age" in capsys.readouterr().out


def test_a_stream_that_is_slow_enough_drops_none(model: Path) -> None:
    result = bench(model, "--scenario", "stream", "--fps", 4, "--frames", 4, "--warmup", 1)
    assert result.scenario is not None and result.scenario.dropped == 0
    assert result.scenario.seconds >= 0.7


def test_a_live_camera_has_its_own_rate(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    camera = "synthetic://?seed=1&size=64x48&fps=50"
    result = bench(model, "--scenario", "stream", "--camera", camera, "--frames", 4, "--warmup", 1)
    assert result.scenario is not None and result.scenario.fps == 50
    words = ["--camera", camera, "--fps", "20", "--out", str(model.with_name("r.json"))]
    assert main(["bench", str(model), "--scenario", "stream", *words]) == 2
    assert "leave --fps out" in capsys.readouterr().err


def test_a_paced_camera_exposes_on_time_and_counts_what_nobody_read() -> None:
    camera = stream_camera(SceneSource((64, 48)), 100)
    assert isinstance(camera, PacedCamera)
    with camera:
        first, second = camera.read(), camera.read()
        time.sleep(0.1)
        late = camera.read()
    assert first is not None and second is not None and late is not None
    assert (first.sequence, second.sequence) == (0, 1)
    assert second.captured_at - first.captured_at == pytest.approx(0.01)
    assert late.sequence >= 9
    assert late.captured_at - first.captured_at == pytest.approx(late.sequence / 100)
    assert first.pixels is not camera.frames[0]


@pytest.mark.slow
def test_cold_start_times_fresh_processes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(model, "--scenario", "cold-start", "--frames", 2)
    assert tuple(result.latency) == START_STAGES
    assert result.latency["total"].count == 2 and len(result.latency["total"].warmup_ms) == 1
    for number, total in enumerate(result.latency["total"].samples_ms):
        assert sum(result.latency[stage].samples_ms[number] for stage in START_STAGES[:-1]) == pytest.approx(
            total, 1e-3
        )
    assert result.latency["import"].p50_ms > 10
    assert result.memory is not None and len(result.memory.samples_mib) == 2
    assert "to the first result" in capsys.readouterr().out


@pytest.mark.slow
def test_a_process_that_fails_to_start_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeloc.benchmarks.scenarios.start._PROGRAM", "raise OSError('no such board')")
    words = ["--scenario", "cold-start", "--out", str(model.with_name("r.json")), "--power", "none"]
    assert main(["bench", str(model), *words]) == 3
    assert "before its first result: OSError: no such board" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"minutes": 1.0}, "no minutes, only sustained: leave minutes out"),
        ({"scenario": "sustained", "fps": 30.0}, "no fps, only stream"),
        ({"scenario": "cold-start", "min_frames": 100}, "no min frames, only single-stream and stream"),
        ({"min_seconds": 5.0, "max_seconds": 4.0}, "max_seconds is 4: it must be at least 5"),
        ({"scenario": "offline"}, "single-stream, stream, sustained, cold-start"),
        ({"scenario": "stream", "fps": 0.0}, "above 0"),
    ],
)
def test_what_means_nothing_is_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        BenchOptions("model.tflite", "result.json", **given)  # type: ignore[arg-type]


def test_the_command_that_measures_the_same() -> None:
    options = BenchOptions(
        "my model.tflite", "r.json", scenario="stream", fps=15.0, negatives=False, camera="rtsp://user:secret@host/1"
    )
    assert options.command == (
        "edgeloc bench 'my model.tflite' --camera rtsp://user:***@host/1 --scenario stream --fps 15.0 --no-negatives"
    )
