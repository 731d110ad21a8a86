"""The script that counts false alarms: it really slows the engine, worsens boxes by what it says, and adds up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeloc.benchmarks import bench, false_alarms, read_result
from edgeloc.benchmarks.false_alarms import Outcome, with_less_iou
from edgeloc.benchmarks.measurement import BenchOptions
from edgeloc.engines import open_engine
from edgeloc.engines.base import blank_input
from edgeloc.evaluation.statistics import mean
from edgeloc.models import SHIPPED_INT8


def test_a_slowed_engine_answers_the_same_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = 0

    def clock() -> int:
        nonlocal ticks
        ticks += 1
        return ticks

    engine = open_engine("auto", SHIPPED_INT8)
    image = blank_input(next(iter(engine.inputs.values())))
    plain, invoke = engine.invoke(image), engine.invoke

    def take_a_thousand(tensor: Any) -> Any:
        nonlocal ticks
        ticks += 1000
        return invoke(tensor)

    monkeypatch.setattr(engine, "invoke", take_a_thousand)
    monkeypatch.setattr(false_alarms, "time", SimpleNamespace(perf_counter=clock))
    later = false_alarms._Slowed(engine, 1.1).invoke(image)
    assert all((plain[name] == later[name]).all() for name in plain)
    assert ticks == pytest.approx(1100, abs=5)


def test_boxes_are_worse_by_what_is_asked(tmp_path: Path) -> None:
    options = BenchOptions(SHIPPED_INT8, tmp_path / "r.json", validation="synthetic?count=20&size=160x160", frames=5)
    result = bench(options)
    worse = with_less_iou(result, 0.01)
    assert result.accuracy is not None and worse.accuracy is not None
    means = [
        mean([row.iou or 0.0 for row in one.rows if row.kind == "object"]) for one in (result.accuracy, worse.accuracy)
    ]
    assert means[0] is not None and means[1] is not None
    assert means[0] - means[1] == pytest.approx(0.01)
    assert read_result(tmp_path / "r.json").accuracy == result.accuracy


@pytest.mark.parametrize(
    ("again", "slowed", "status"),
    [
        (["ok"] * 20, ["regression"] * 20, 0),
        (["regression"] + ["undecided"] * 19, ["regression"] * 19 + ["undecided"], 0),
        (["regression"] * 2 + ["ok"] * 18, ["regression"] * 20, 1),
        (["refused"] * 20, ["refused"] * 20, 1),
    ],
)
def test_more_than_one_in_twenty_fails(
    again: list[str],
    slowed: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcomes = iter([Outcome(*both, "regression") for both in zip(again, slowed, strict=True)])
    monkeypatch.setattr(false_alarms, "repeat", lambda *_, **__: next(outcomes))
    assert false_alarms.main([str(SHIPPED_INT8)]) == status
    shown = capsys.readouterr().out
    assert f"{again.count('regression')} false alarms in {20 - again.count('refused')} comparable of 20" in shown
    assert f"slower by 10 %: found {slowed.count('regression')} of 20" in shown


@pytest.mark.slow
@pytest.mark.long
def test_real_runs_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """On a busy machine nothing is promised of times; the boxes that are worse are found on any."""
    false_alarms.main([str(SHIPPED_INT8), "--repeats", "1", "--frames", "30", "--anyway"])
    shown = capsys.readouterr().out
    assert "IoU lower by 0.01: found 1 of 1" in shown and "false alarms in 1 comparable of 1" in shown


def test_a_bad_count_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert false_alarms.main([str(SHIPPED_INT8), "--repeats", "0"]) == 2
    assert capsys.readouterr().err == "false_alarms: error: repeats is 0: it must be at least 1\n"
