"""The benchmark of methods: each row holds a model against its float network, and the table says what was measured."""

from __future__ import annotations

from collections.abc import Callable
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
    assert [line.count("|") for line in lines] == [11] * 4
    assert "by group" in lines[2]


def test_data_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "methods.md").exists()
