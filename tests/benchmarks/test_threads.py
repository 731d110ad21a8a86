"""The threads script: it prints auto's choices beside a sweep, here and on simulated boards, and judges them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edgeloc.benchmarks import BenchOptions, bench, read_result, threads
from edgeloc.models import SHIPPED_INT8


def test_it_prints_the_boards_and_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    before = os.environ.get("XDG_CACHE_HOME")
    assert threads.main(["--simulations", "5", "--repeats", "1", "--rounds", "3"]) in (0, 1)
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\S.{23}) +(\d+) +(\d+) +([\d.]+) % +([\d.]+) s$", printed, re.M)
    assert [name.strip() for name, *_ in rows] == [*threads.BOARDS, "this machine"]
    assert all(over == "0" for _, _, over, _, _ in rows[:-1])
    assert "its sweep, ms:" in printed
    assert os.environ.get("XDG_CACHE_HOME") == before


def test_choices_on_a_board_are_the_same_each_time_and_lose_little() -> None:
    board = threads.BOARDS["2 fast + 4 slow"]
    assert threads.simulate(board, 10, seed=3) == threads.simulate(board, 10, seed=3)
    assert max(threads.simulate(board, 10, seed=3).losses) <= threads.MOST_LOSS


def test_a_choice_that_loses_more_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for loss, status in ((0.03, 0), (0.031, 1)):
        here = threads.Choice("this machine", 1, [loss], 0.5), [1.0, 1.0 + loss]
        monkeypatch.setattr(threads, "_on_this_machine", lambda *_, here=here: here)
        assert threads.main(["--simulations", "1"]) == status
    assert "this machine: a choice was 3.1% slower than the best" in capsys.readouterr().err


def test_a_benchmark_reports_the_number_of_threads_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("edgeloc.engines.choice.usable_cores", lambda: (0, 1))
    out, engine = tmp_path / "r.json", "fake://?delay_ms=9,3"
    bench(BenchOptions(SHIPPED_INT8, out, frames=2, warmup=0, engine=engine, threads="auto", power="none"))
    run = read_result(out).latency_run
    assert run is not None and (run.engine, run.threads) == ("fake", 2)


def test_bad_input_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["absent.tflite"], [str(SHIPPED_INT8), "--engine", "edge"]):
        assert threads.main([*arguments, "--simulations", "1"]) == 2
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and printed.out == ""
    for flag in ("--repeats", "--rounds", "--simulations"):
        with pytest.raises(SystemExit, match="2"):
            threads.main([flag, "0"])
