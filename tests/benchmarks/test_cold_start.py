"""The cold start script: both programs find the same, and a ratio over its limit fails."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edgeloc.benchmarks import cold_start
from edgeloc.benchmarks.cold_start import Start
from edgeloc.models import SHIPPED_INT8

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="LiteRT is not installed")


def test_both_programs_are_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cold_start, "_WARM_UP", 0)
    assert cold_start.main([str(SHIPPED_INT8), "--starts", "1"]) in (0, 1)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["time,", "peak"]
    assert all(float(row[-4]) > 0 and float(row[-3]) > 0 for row in rows)


@pytest.mark.parametrize(("ours", "status"), [(Start(119, 114), 0), (Start(121, 114), 1), (Start(119, 116), 1)])
def test_a_ratio_over_its_limit_fails(monkeypatch: pytest.MonkeyPatch, ours: Start, status: int) -> None:
    monkeypatch.setattr(cold_start, "measure", lambda localizer, starts: (ours, Start(100, 100)))
    assert cold_start.main([str(SHIPPED_INT8)]) == status


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cold_start.main([str(tmp_path / "absent.tflite")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
