"""The benchmark of methods: each row holds a model against its float network, and the table says what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeloc.converters.methods import Method, main, measure_network, table
from edgeloc.converters.quantization.quantize import RECIPES, quantize
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.data import Dataset
from edgeloc.model.contract import Contract


def test_each_method_is_held_against_the_float_network(
    make_network: Callable[..., Any], save_keras: Callable[..., Path], contract: Contract, dataset: Dataset
) -> None:
    flatbuffer = KerasSource(save_keras(make_network())).to_tflite(contract.input)
    half = quantize(flatbuffer, RECIPES["float16"], contract.input)
    methods = [Method("itself", flatbuffer, contract), Method("float16", half, contract)]
    rows = list(measure_network("small", flatbuffer, contract, methods, list(dataset)))
    itself, float16 = (row.to_dict() for row in rows)
    assert itself["mean_iou_drop"] == 0
    assert itself["mean_iou_float_to_quantized"] == 1
    assert itself["images"] == sum(sample.box is not None for sample in dataset)
    assert 0.9 < float16["mean_iou_float_to_quantized"] <= 1
    assert float16["megabytes"] < itself["megabytes"]
    assert all(row["latency_ratio"] > 0 for row in (itself, float16))
    lines = table(rows).splitlines()
    assert [line.count("|") for line in lines] == [12] * 4
    assert "by group" in lines[2]


def test_a_model_with_and_without_each_step(
    make_network: Callable[..., Any], save_keras: Callable[..., Path], contract: Contract, tmp_path: Path
) -> None:
    certain = replace(contract, thresholds=replace(contract.thresholds, presence=0.01))
    path = save_keras(make_network(), changed=certain)
    data = ["--data", "synthetic://?count=60&size=96x64", "--calibration-images", "20", "--max-images", "8"]
    assert main([*data, "--model", str(path), "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "methods.json").read_text())
    steps = ["int8", "int8, box correction", "int8, equalization", "int8, equalization, box correction"]
    assert [row["method"] for row in rows] == steps
    assert all(row["seconds"] > 0 and row["network"] == "model, draw 0" for row in rows)


def test_a_model_without_a_contract(
    make_network: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_network().save(tmp_path / "bare.keras")
    data = ["--data", "synthetic://?count=60&size=96x64", "--out", str(tmp_path)]
    assert main([*data, "--model", str(tmp_path / "bare.keras")]) == 2
    assert "carries no contract" in capsys.readouterr().err


def test_data_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "methods.md").exists()
