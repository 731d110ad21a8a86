"""LoadGen issues the frames where it is installed, and its 90th percentile is ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeloc.benchmarks.result import read_result
from edgeloc.benchmarks.scenarios.loadgen import LoadGen, drive
from edgeloc.benchmarks.scenarios.stopping import Scenario
from edgeloc.cli import main


def test_without_loadgen_the_extra_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    assert main(["bench", str(model), "--loadgen", "--out", str(model.with_name("r.json")), "--power", "none"]) == 2
    assert "pip install 'edgeloc[loadgen]'" in capsys.readouterr().err


def test_loadgen_issues_the_frames_that_are_timed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlperf_loadgen")
    out = model.with_name("r.json")
    words = ["--min-frames", "100", "--min-seconds", "0.3", "--max-seconds", "20", "--warmup", "5", "--power", "none"]
    assert main(["bench", str(model), "--loadgen", "--out", str(out), *words]) == 0
    result = read_result(out)
    assert result.loadgen is not None and result.loadgen.valid
    assert result.loadgen.frames == result.latency["total"].count >= 100
    assert len(result.latency["total"].warmup_ms) == 5
    # LoadGen counts from the issue to the completion of a frame, and takes a rank where ours is between two.
    ordered = sorted(result.latency["total"].samples_ms)
    assert result.loadgen.p90_ms >= ordered[int(len(ordered) * 0.9) - 1]
    assert result.scenario is not None and result.scenario.p90_bound_ms is not None
    assert result.loadgen.p90_bound_ms is not None
    assert "LoadGen" in capsys.readouterr().out


def test_a_failure_within_loadgen_leaves_it() -> None:
    pytest.importorskip("mlperf_loadgen")

    def frames() -> Iterator[None]:
        yield
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(SimpleNamespace(), frames(), Scenario("single-stream", 10, 0.05, 1.0), None, 0.1)  # type: ignore[arg-type]


def test_figures_that_are_too_far_apart_are_a_finding() -> None:
    of = LoadGen("6.0.17", True, 1000, 10.0, 10.5)
    assert of.findings(10.1) == ()
    (finding,) = of.findings(10.3)
    assert finding.code == "loadgen-disagrees" and "10.3 ms, and 10 ms" in finding.message
