"""The overhead script: it compares like with like, prints the ratios and says what it cannot measure."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgeloc.models
from edgeloc import Contract, InputSpec, Localizer, OutputSpec
from edgeloc.benchmarks import overhead
from edgeloc.errors import UsageError
from edgeloc.model.file import ModelFile
from edgeloc.testing import FakeEngine


@pytest.fixture(scope="module")
def grid_model() -> Path:
    """The model that ships: it is what the figures are promised for."""
    path = Path(edgeloc.models.__file__).parent / "localizer-int8.tflite"
    if not path.is_file():
        pytest.skip("the package holds no trained model yet")
    return path


def test_it_measures_all_loops(grid_model: Path) -> None:
    measured = overhead.measure(Localizer(grid_model), 20)
    assert 0 < measured.beyond_us < measured.whole_us
    assert 0 < measured.without_object_us < measured.whole_us
    assert 0 < measured.beyond_by_hand_us < measured.whole_by_hand_us


def test_the_script_prints_the_ratios_and_judges_them(grid_model: Path, repository: Path) -> None:
    script = repository / "benchmarks" / "overhead.py"
    done = subprocess.run(
        [sys.executable, str(script), str(grid_model), "--frames", "50", "--processes", "2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    for row, most in (("beyond invoke", "0.7"), ("whole frame", "0.97"), ("without object", "0.5")):
        assert re.search(rf"{row} +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ to [\d.]+ +{most}\n", done.stdout)


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        ((70.0, 100.0, 970.0, 1000.0, 50.0), 0),
        ((71.0, 100.0, 970.0, 1000.0, 50.0), 1),
        ((70.0, 100.0, 980.0, 1000.0, 50.0), 1),
        ((70.0, 100.0, 970.0, 1000.0, 51.0), 1),
    ],
)
def test_a_ratio_over_its_limit_is_a_failed_gate(
    grid_model: Path, monkeypatch: pytest.MonkeyPatch, figures: tuple[float, ...], status: int
) -> None:
    others = [overhead.Overhead(*(share * figure for figure in figures)) for share in (0.5, 2)]
    processes = [overhead.Overhead(*figures), *others]
    monkeypatch.setattr(overhead, "measure_in_processes", lambda *arguments, **options: processes)
    assert overhead.main([str(grid_model)]) == status


def test_one_process_that_is_slow_throughout_decides_nothing() -> None:
    usual, unlucky = overhead.Overhead(60, 100, 900, 1000, 40), overhead.Overhead(80, 100, 990, 1000, 55)
    beyond, *_ = found = overhead.rows([usual, unlucky, usual])
    assert not any(row.over for row in found)
    assert (beyond.ratio, beyond.lowest, beyond.highest) == (0.6, 0.6, 0.8)
    assert all(row.over for row in overhead.rows([usual, unlucky, unlucky]))


@pytest.mark.parametrize("arguments", [["absent.tflite"], ["absent.tflite", "--frames", "0"]])
def test_bad_input_is_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["frames", "processes"])
def test_a_run_of_nothing_is_refused(grid_model: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main([str(grid_model), f"--{name}", "0"]) == 2
    assert capsys.readouterr().err == f"overhead: error: {name} is 0: it must be at least 1\n"


def test_a_model_of_another_kind_is_refused(grid_model: Path) -> None:
    contract = Contract(InputSpec("image", 8, 8), (OutputSpec("box", "box"),))
    fake = Localizer(ModelFile(Path("m"), b"", "tflite", contract=contract), engine=FakeEngine(contract))
    with pytest.raises(UsageError, match="has no interpreter"):
        overhead.measure(fake, 1)
    localizer = Localizer(grid_model)
    stretched = dataclasses.replace(localizer.contract.input, resize="stretch")
    localizer.contract = dataclasses.replace(localizer.contract, input=stretched)
    with pytest.raises(UsageError, match="the loop by hand knows"):
        overhead.measure(localizer, 1)
