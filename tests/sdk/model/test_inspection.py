"""The report on a model file and the command that prints it; the precision verdict has tests of its own."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.cli import main
from edgeloc.errors import ModelError
from edgeloc.model import sandbox
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model
from edgeloc.model.golden import Golden
from edgeloc.model.inspection import check_golden, inspect_model
from edgeloc.types import Box

CONTRACT = Contract(
    input=InputSpec(tensor="image", width=32, height=32),
    outputs=(OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box")),
    box=BoxEncoding("cxcywh"),
    recipe="int8",
)


@pytest.fixture
def complete(tiny_models: Path, tmp_path: Path) -> Path:
    """A model file with everything behind it; its golden answer is wrong on purpose."""
    path = tmp_path / "complete.tflite"
    golden = Golden(np.full((48, 64, 3), 90, np.uint8), 0.0, Box(1, 2, 3, 4), None, 0.001, 1e-9)
    manifest = {"images": ["a.jpg", "b.jpg"], "seed": 7, "sha256": "abc"}
    flatbuffer, extra = (tiny_models / "int8.tflite").read_bytes(), {"labels.txt": b"bolt\nnut\n"}
    write_model(path, flatbuffer, CONTRACT, calibration=manifest, golden=golden, extra=extra)
    return path


def test_an_int8_file_from_end_to_end(tiny_models: Path) -> None:
    report = inspect_model(tiny_models / "int8.tflite")
    assert report.precision == "int8 (full integer)"
    assert report.is_full_integer
    assert [(port.name, port.dtype, port.shape) for port in report.inputs] == [("image", "uint8", (1, 32, 32, 3))]
    assert {port.name: port.shape for port in report.outputs} == {"presence": (1, 1), "box": (1, 4)}
    assert all(port.scale and port.zero_point is not None for port in (*report.inputs, *report.outputs))
    assert {weights.dtype for weights in report.weights} == {"int8", "int32"}
    assert next(weights for weights in report.weights if weights.dtype == "int8").per_channel >= 3
    assert report.activations["int8"] >= 7
    assert report.operators["CONV_2D"] == 2
    assert report.contract is None
    assert not report.has_golden


def test_macs_and_parameters_by_hand(tiny_models: Path) -> None:
    """Stem 16x16x16 outputs of 3x3x3, depthwise 16x16x16 of 3x3, point 16x16x80 of 16, heads 80 x 1 and 80 x 4."""
    report = inspect_model(tiny_models / "float32.tflite")
    assert report.macs == 16 * 16 * 16 * 27 + 16 * 16 * 16 * 9 + 16 * 16 * 80 * 16 + 80 * 5
    weights = 27 * 16 + 9 * 16 + 16 * 80 + 80 * 5
    assert weights <= report.parameters <= weights + 16 + 16 + 80 + 5


@pytest.mark.parametrize("name", ["float32", "float16", "dynamic", "int8-float-io", "int16", "island"])
def test_whatever_is_not_integer_throughout_says_why(tiny_models: Path, name: str) -> None:
    report = inspect_model(tiny_models / f"{name}.tflite")
    assert not report.is_full_integer
    assert report.reasons


def test_a_constant_output_is_named_by_its_signature(tiny_models: Path) -> None:
    assert inspect_model(tiny_models / "constant.tflite").constant_outputs == ("presence",)


def test_what_the_file_carries_is_reported(complete: Path) -> None:
    report = inspect_model(complete)
    assert report.file_bytes == complete.stat().st_size > report.payload_bytes
    assert report.contract is not None
    assert report.contract["input"]["width"] == 32
    assert report.labels == ("bolt", "nut")
    assert report.calibration == {"images": ["a.jpg", "b.jpg"], "seed": 7, "sha256": "abc"}
    assert report.has_golden


def test_the_json_is_the_whole_report(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(complete), "--json", "--no-self-test"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["precision"] == "int8 (full integer)"
    assert printed["is_full_integer"] is True
    assert printed["self_test"]["status"] == "not run"
    assert printed["inputs"][0]["shape"] == [1, 32, 32, 3]


def test_the_text_names_what_matters(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(complete), "--no-self-test"]) == 0
    shown = capsys.readouterr().out
    for words in ("int8 (full integer)", "image", "uint8", "CONV_2D 2", "letterbox", "2 images, seed 7", "bolt, nut"):
        assert words in shown


def test_the_text_of_a_plain_file(tiny_models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_models / "dynamic.tflite")]) == 0
    shown = capsys.readouterr().out
    assert "dynamic range" in shown
    assert "contract      none" in shown
    assert "self-test     not present" in shown


RAISE = "import edgeloc.errors; raise edgeloc.errors."


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("answer(['passed'])", "passed", ""),
        (RAISE + "ModelError('the box is 9 pixels off')", "failed", "the box is 9 pixels off"),
        (RAISE + "ContractError('no output has the role class')", "failed", "no output has the role class"),
        (RAISE + "EngineError('no engine is installed')", "not run", "no engine is installed"),
        ("import no_such_package", "not run", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("answer(['loaded']); " + RAISE + "EngineError('presence is 0.5')", "failed", "presence is 0.5"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "failed", "SIGABRT"),
        ("import time; time.sleep(60)", "failed", "did not end within 2 s"),
    ],
)
def test_the_self_test_in_its_own_process(
    complete: Path, monkeypatch: pytest.MonkeyPatch, script: str, status: str, words: str
) -> None:
    monkeypatch.setattr(sandbox, "_SELF_TEST", script)
    check = check_golden(complete, timeout_s=2.0 if "sleep" in script else 60.0)
    assert check.status == status
    assert words in check.detail


def test_a_wrong_golden_answer_fails_the_command(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(complete)]) == 1
    assert "self-test     failed" in capsys.readouterr().out


def cut(path: Path) -> Any:
    path.write_bytes(path.read_bytes()[:4000])


def as_zip(path: Path) -> Any:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "no model")


@pytest.mark.parametrize("damage", [cut, as_zip, Path.unlink])
def test_a_bad_file_is_one_sentence_and_status_2(
    complete: Path, capsys: pytest.CaptureFixture[str], damage: Any
) -> None:
    damage(complete)
    with pytest.raises(ModelError):
        inspect_model(complete)
    assert main(["inspect", str(complete)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(complete) in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "macs"),
    [
        ("coral/mobilenet_v1_0.75_192_quant.tflite", 239e6),
        ("coral/mobilenet_v2_1.0_224_quant.tflite", 300e6),
        ("mlperf_tiny/vww_96_float.tflite", 7.5e6),
    ],
)
def test_macs_agree_with_what_the_networks_authors_published(conformance: Path, file: str, macs: float) -> None:
    assert inspect_model(conformance / file).macs == pytest.approx(macs, rel=0.01)


def test_an_edge_tpu_file_names_its_custom_operator(conformance: Path) -> None:
    report = inspect_model(conformance / "coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    assert report.custom_operators == ("edgetpu-custom-op",)
    assert report.macs_uncounted == ("edgetpu-custom-op",)


def test_a_contract_that_does_not_fit_its_model_is_shown_and_refused(
    grid_flatbuffer: bytes, grid_contract: Contract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = grid_contract.outputs
    contract = dataclasses.replace(grid_contract, outputs=(dataclasses.replace(first, tensor="absent"), *others))
    path = tmp_path / "misfit.tflite"
    write_model(path, grid_flatbuffer, contract)
    (finding,) = inspect_model(path).findings
    assert (finding.code, finding.severity) == ("contract-misfit", "problem")
    assert "'absent'" in finding.message
    assert main(["inspect", str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.out.startswith("file ")
    assert "misfit.tflite and its contract do not fit" in shown.err and "'presence' (1, 1)" in shown.err
