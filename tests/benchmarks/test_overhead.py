"""The overhead script: it compares like with like, prints both ratios and says what it cannot measure."""

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


def test_it_measures_both_loops(grid_model: Path) -> None:
    measured = overhead.measure(Localizer(grid_model), 20)
    assert 0 < measured.beyond_us < measured.whole_us
    assert 0 < measured.beyond_by_hand_us < measured.whole_by_hand_us
    assert measured.beyond_ratio == measured.beyond_us / measured.beyond_by_hand_us
    assert measured.whole_ratio == measured.whole_us / measured.whole_by_hand_us


def test_the_script_prints_the_ratios_and_judges_them(grid_model: Path, repository: Path) -> None:
    script = repository / "benchmarks" / "overhead.py"
    done = subprocess.run(
        [sys.executable, str(script), str(grid_model), "--frames", "50"], capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    assert re.search(r"beyond invoke +[\d.]+ +[\d.]+ +[\d.]+ +1\.25", done.stdout)
    assert re.search(r"whole frame +[\d.]+ +[\d.]+ +[\d.]+ +1\.05", done.stdout)


def test_a_ratio_over_its_limit_is_a_failed_gate(
    grid_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for whole, status in ((1050.0, 0), (1060.0, 1)):
        figures = overhead.Overhead(125.0, 100.0, whole, 1000.0)
        monkeypatch.setattr(overhead, "measure", lambda localizer, frames, figures=figures: figures)
        assert overhead.main([str(grid_model)]) == status
    assert "1.060" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["absent.tflite"], ["absent.tflite", "--frames", "0"]])
def test_bad_input_is_one_line_and_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert overhead.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


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
