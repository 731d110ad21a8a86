"""`edgeloc sweep` from the command line, on tiny models and scenes with known boxes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeloc.benchmarks import SweepOptions, energy, sweep
from edgeloc.benchmarks.comparison.comparability import read_side
from edgeloc.benchmarks.measurement import Measurement
from edgeloc.benchmarks.result import read_result
from edgeloc.cli import main
from edgeloc.device.power import PowerMeter
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model
from edgeloc.testing.power import FakeMeter

DATA = "synthetic?count=6&size=64x48"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> list[str]:
    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    contract = Contract(InputSpec("image", 32, 32, resize="stretch"), outputs)
    folder = tmp_path_factory.mktemp("models")
    for name in ("int8", "float32"):
        write_model(folder / f"{name}.tflite", (tiny_models / f"{name}.tflite").read_bytes(), contract)
    return [str(folder / "int8.tflite"), str(folder / "float32.tflite")]


def run(models: list[str], out: Path, *words: str) -> int:
    return main(["sweep", *models, "--out", str(out), "--frames", "20", "--threads", "1,2", *words])


def test_every_configuration_is_measured_and_one_recommended(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(models, tmp_path, "--validation", DATA, "--power", "none") == 0
    printed = capsys.readouterr().out
    assert len(read_side(tmp_path)) == 4
    found: dict[str, Any] = json.loads((tmp_path / "sweep.json").read_text())
    assert found["complete"] and found["quality"] == "mean IoU" and len(found["rows"]) == 4
    assert found["recommendation"] in printed and found["recommendation"].startswith("Take ")
    assert found["command"].startswith("edgeloc sweep ") and "--threads 1,2" in found["command"]
    for row in found["rows"]:
        result = read_result(tmp_path / row["result"])
        assert result.complete and result.latency["total"].count == 20
        assert result.latency["localize"].p50_ms == row["p50_ms"]
        assert result.accuracy is not None and result.accuracy.mean_iou == row["quality"]
    assert {(Path(row["model"]).name, row["threads"]) for row in found["rows"]} == {
        (name, threads) for name in ("int8.tflite", "float32.tflite") for threads in (1, 2)
    }


def test_the_plot_names_each_configuration(models: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run(models, tmp_path, "--validation", DATA, "--power", "none") == 0
    drawing = (tmp_path / "pareto.svg").read_text()
    assert all(f"{stem}, litert x{threads}" in drawing for stem in ("int8", "float32") for threads in (1, 2))
    assert "recommended" in drawing and "median latency" in drawing


def test_results_of_before_in_the_folder_are_named(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "before.json").write_text("{}")
    assert run(models[:1], tmp_path, "--power", "none") == 0
    said = capsys.readouterr().err
    assert "holds other results, too (1, as before.json)" in said and "[older-results]" in said


def test_an_engine_that_does_not_run_a_model_is_named(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    assert run(models[:1], tmp_path, "--engines", "litert,onnxruntime", "--power", "none", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["engine"] for row in found["rows"]] == ["litert", "litert"] and found["quality"] is None
    assert len(found["missing"]) == 2 and "onnxruntime" in next(iter(found["missing"]))
    assert "quality was not measured" in found["recommendation"]


def test_energy_is_measured_of_each_by_itself(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(energy, "IDLE_S", 0.3)
    monkeypatch.setattr(energy, "MIN_READINGS", 2)  # a busy machine reads late
    monkeypatch.setattr(energy, "SETTLE_S", 0.01)

    def opened(uri: str) -> PowerMeter:
        meter = FakeMeter(lambda t: 2.0, rate_hz=20)
        meter.open()
        return meter

    monkeypatch.setattr(energy, "open_meter", opened)
    assert run(models, tmp_path, "--power", "fake://", "--validation", DATA, "--threads", "1") == 0
    for row in json.loads((tmp_path / "sweep.json").read_text())["rows"]:
        measured = read_result(tmp_path / row["result"]).energy
        assert measured.status == "measured", measured.reason
    assert "mJ a frame" in capsys.readouterr().out


def test_what_was_measured_before_an_error_stays(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Measurement) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Measurement, "take_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(SweepOptions(tuple(models), tmp_path, threads=(1,), validation=DATA, frames=5, power="none"))
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert not found["complete"] and [row["p50_ms"] > 0 for row in found["rows"]] == [True, True]


@pytest.mark.slow
def test_killed_it_leaves_results_that_can_be_read(models: list[str], tmp_path: Path) -> None:
    line = [sys.executable, "-m", "edgeloc", "sweep", *models, "--out", str(tmp_path), "--threads", "1"]
    process = subprocess.Popen([*line, "--frames", "1000000", "--power", "none"], stderr=subprocess.DEVNULL)
    files = [tmp_path / "int8-auto-1.json", tmp_path / "float32-auto-1.json"]
    deadline = time.monotonic() + 60
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    time.sleep(1.2)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    for file in files:
        result = read_result(file)
        assert not result.complete and result.latency["total"].count > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--threads", "1,x"], "such as 1,2,4"),
        (["--threads", "0"], "such as 1,2,4"),
        (["--max-drop", "2"], "from 0 to 1"),
        (["--engines", "litert,nosuch"], "nosuch"),
        (["--power", "csv://power.csv"], "a recording holds the power of one measurement"),
        (["--power", "nosuch://"], "nosuch"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(
    words: list[str], sentence: str, models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["sweep", models[0], "--out", str(tmp_path), *words])
    except SystemExit as stopped:  # argparse
        status = int(stopped.code or 0)
    assert status == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "sweep.json").exists()


def test_two_models_of_one_name_are_refused(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([models[0], models[0]], tmp_path) == 2
    assert "two models are called int8" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["absent.tflite"], tmp_path) == 2
    assert "absent.tflite" in capsys.readouterr().err


def test_one_wrong_name_of_several_stops_it_at_once_and_leaves_nothing(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([models[0], "absent.tflite"], tmp_path / "new") == 2
    assert "absent.tflite: no such file" in capsys.readouterr().err
    (tmp_path / "bad.tflite").write_bytes(b"no model")
    assert run([str(tmp_path / "bad.tflite")], tmp_path / "new") == 2
    assert not (tmp_path / "new").exists()
