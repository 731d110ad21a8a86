"""`edgeloc compare` from the command line, on made-up results and on real ones of the model that ships."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc.benchmarks.result import BenchResult, read_result, write_result
from edgeloc.cli import main
from edgeloc.model.file import read_model, write_model
from edgeloc.models import SHIPPED_INT8

Timed = Callable[..., BenchResult]


@pytest.fixture
def files(timed: Timed, tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """The paths of a result and of a second one with some changes."""

    def write(**changes: object) -> tuple[str, str]:
        paths = tmp_path / "base.json", tmp_path / "new.json"
        write_result(paths[0], timed(0))
        write_result(paths[1], timed(1, **changes))
        return str(paths[0]), str(paths[1])

    return write


def test_alike_is_0_and_slower_is_1_with_the_flag_that_moves_the_limit(
    files: Callable[..., tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *files()]) == 0
    shown = capsys.readouterr()
    assert "mean IoU" in shown.out and "no regression" in shown.out and shown.err == ""
    slower = files(slower=1.1)
    assert main(["compare", *slower]) == 1
    shown = capsys.readouterr()
    assert "regression" in shown.out.splitlines()[-1]
    assert shown.err.startswith("edgeloc: error: worse than allowed: localize p50 grew by ")
    assert "--max-latency-increase" in shown.err and shown.err.count("\n") == 1
    assert main(["compare", *slower, "--max-latency-increase", "20%"]) == 0
    assert main(["compare", *files(shift=0.3)]) == 1
    assert "mean IoU fell by 0.01" in capsys.readouterr().err
    assert main(["compare", *files(shift=0.3), "--max-iou-drop", "0.02"]) == 0


def test_json_has_every_figure_and_its_verdict(
    files: Callable[..., tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *files(slower=1.1), "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert values["verdict"] == "regression" and values["runs"] == [1, 1]
    frame = next(change for change in values["changes"] if change["name"] == "localize p50")
    assert frame["verdict"] == "regression" and frame["unit"] == "ms" and len(frame["ci95"]) == 2
    assert frame["change"] == pytest.approx(frame["after"] / frame["before"] - 1)


def test_markdown_is_a_table_that_a_name_cannot_break(
    timed: Timed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, new = timed(0), timed(1, slower=1.1)
    hostile = dataclasses.replace(new.model, path="a|b<script>@team.tflite\n# x", sha256="ef" * 32)
    write_result(tmp_path / "a.json", base)
    write_result(tmp_path / "b.json", dataclasses.replace(new, model=hostile))
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--markdown"]) == 1
    text = capsys.readouterr().out
    assert text.startswith("### 2 regressions: localize p50 grew by")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace(r"\|", "").count("|") for line in table} == {8}
    assert any("localize p50" in line and "**regression**" in line for line in table)
    assert r"a\|b\<script\>" in text and "@team" not in text and "\n# x" not in text
    assert "<details><summary>Figures without a limit</summary>" in text


def test_a_folder_is_a_side_of_repeats(timed: Timed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side, slower in (("base", 1.0), ("new", 1.03)):
        (tmp_path / side).mkdir()
        for seed in range(3):
            write_result(tmp_path / side / f"{seed}.json", timed(seed + 3 * len(side), slower=slower))
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "new")]) == 0
    shown = capsys.readouterr().out
    assert "3 and 3 runs" in shown and shown.splitlines()[-1] == "no regression"
    limit = ["--max-latency-increase", "1%"]
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "new"), *limit]) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["BASE", "none.json"], "none.json cannot be read"),
        (["BASE", "EMPTY"], "holds no result: give a .json of `edgeloc bench`, or a folder of them"),
        (["BASE", "BUSY"], "the machine was busy when the measurement began"),
        (["BASE", "BASE", "--max-iou-drop", "-1"], "must be a share of at least 0, such as 5% or 0.05"),
        (["BASE", "BASE", "--max-latency-increase", "5 percent"], "such as 5% or 0.05"),
        (["BASE", "BASE", "--json", "--markdown"], "not allowed with"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    timed: Timed, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    base, busy, empty = tmp_path / "base.json", tmp_path / "busy.json", tmp_path / "empty"
    empty.mkdir()
    result = timed(0)
    write_result(base, result)
    environment = dataclasses.replace(result.environment, load_1min=9.0)
    write_result(busy, dataclasses.replace(result, environment=environment))
    paths = {"BASE": str(base), "BUSY": str(busy), "EMPTY": str(empty)}
    assert main(["compare", *(paths.get(word, word) for word in words)]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    if "BUSY" in words:
        assert "--anyway" in shown.err
        assert main(["compare", paths["BASE"], paths["BUSY"], "--anyway"]) == 0
        assert "not comparable: the new result: the machine was busy" in capsys.readouterr().out


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A short benchmark of the model that ships, on generated images."""
    return bench(SHIPPED_INT8, tmp_path / "a.json")


def bench(model: Path, out: Path, *words: str) -> Path:
    data = ["--validation", "synthetic?count=40&size=160x160", "--power", "none"]
    assert main(["bench", str(model), *data, "--frames", "60", "--warmup", "5", "--out", str(out), *words]) == 0
    return out


def test_the_same_model_twice_has_no_regression(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = bench(SHIPPED_INT8, tmp_path / "b.json")
    capsys.readouterr()
    # The machine of a test is busy; its times stay out of the verdict, all else counts.
    assert main(["compare", str(measured), str(again), "--anyway", "--max-latency-increase", "1000%"]) == 0
    table = capsys.readouterr().out
    assert "mean IoU" in table and "+0.0000 to +0.0000" in table


def test_a_model_whose_boxes_got_worse_is_found(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its contract swaps colours and resizes otherwise than in training, as after a wrong conversion."""
    model = read_model(SHIPPED_INT8)
    assert model.contract is not None
    resize = "stretch" if model.contract.input.resize != "stretch" else "center-crop"
    contract = dataclasses.replace(
        model.contract, input=dataclasses.replace(model.contract.input, resize=resize, color="bgr")
    )
    write_model(tmp_path / "worse.tflite", model.payload, contract)
    worse = bench(tmp_path / "worse.tflite", tmp_path / "b.json")
    words = ["--anyway", "--max-latency-increase", "1000%"]
    assert main(["compare", str(measured), str(worse), *words]) == 1
    assert "--max-iou-drop" in capsys.readouterr().err


def test_an_engine_that_takes_longer_is_found(tmp_path: Path) -> None:
    """The engine waits for as long as it is told, so that this holds on any machine."""
    fast = bench(SHIPPED_INT8, tmp_path / "a.json", "--engine", "fake://?delay_ms=10")
    slow = bench(SHIPPED_INT8, tmp_path / "b.json", "--engine", "fake://?delay_ms=40")
    assert main(["compare", str(fast), str(slow), "--anyway"]) == 1
    before, after = (read_result(path).latency["invoke"] for path in (fast, slow))
    assert after.min_ms > before.min_ms
