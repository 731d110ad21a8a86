"""The textbook's networks from PyTorch and ONNX through `edgeloc convert` to int8, held by the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeloc.cli import main
from edgeloc.model.file import read_model
from edgeloc.model.inspection import inspect_model

pytest.importorskip("litert_torch", reason="litert-torch is not installed: pip install 'edgeloc[torch]'")

pytestmark = pytest.mark.slow

# Mean IoU that int8 may lose here: the networks have seen a few hundred scenes, and their boxes are rough.
LIMIT = "0.02"
# One image is 0.02 of the others' shares, and such networks are undecided about several.
SHARES = [word for flag in ("recall-drop", "false-alarm-rise", "accuracy-drop") for word in (f"--max-{flag}", "0.05")]


def _convert(model: list[str], book: Any, scenes: Path, out: Path, *flags: str) -> int:
    calibration = ["--calibration", str(scenes), "--calibration-split", "train", "--calibration-images", "60"]
    gate = ["--validation", str(scenes), "--validation-split", "val", "--max-iou-drop", LIMIT, *SHARES]
    contract = ["--contract", str(book.contract_file)]
    return main(["convert", *model, *contract, *calibration, *gate, *flags, "--out", str(out)])


def _check(out: Path) -> None:
    report, model = inspect_model(out), read_model(out)
    assert report.precision == "int8 (full integer)"
    assert model.contract is not None
    assert model.contract.recipe == "int8"
    # What int8 cost stands in the file itself.
    assert model.contract.measured


@pytest.mark.parametrize("name", ["box", "vector"])
def test_a_pytorch_network_becomes_int8_within_the_gate(
    name: str, beside: dict[str, Any], scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book, out = beside[name], tmp_path / "out.tflite"
    flags = ["--fix-head"] if name == "vector" else []
    status = _convert([book.factory, "--weights", str(book.weights)], book, scenes, out, *flags)
    told = capsys.readouterr()
    assert status == 0, told.out + told.err
    print(told.out)
    _check(out)


@pytest.mark.parametrize("name", ["box", pytest.param("vector", marks=pytest.mark.long)])
def test_an_onnx_file_becomes_int8_within_the_gate(
    name: str,
    trained: dict[str, Any],
    onnx_files: dict[str, Path],
    onnx2tf: None,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    book, out = trained[name], tmp_path / "out.tflite"
    flags = ["--fix-head"] if name == "vector" else []
    status = _convert([str(onnx_files[name])], book, scenes, out, *flags)
    told = capsys.readouterr()
    assert status == 0, told.out + told.err
    print(told.out)
    _check(out)
