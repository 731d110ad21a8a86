"""What is predicted of models whose fate on the Edge TPU is known, and of models made to break off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeloc.converters.targets.edgetpu.prediction import MappingPrediction, predict_mapping
from edgeloc.errors import ModelError
from edgeloc.model.flatbuffer import pack, unpack
from edgeloc.models import SHIPPED_INT8


def predicted(folder: Path, name: str) -> MappingPrediction:
    return predict_mapping((folder / f"{name}.tflite").read_bytes(), name)


def edited(folder: Path, change: Callable[[Any], None]) -> bytes:
    """The tiny int8 model with something in its object tree changed."""
    model = unpack((folder / "int8.tflite").read_bytes())
    change(model)
    return pack(model)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v1_0.25_128_quant",
        "mobilenet_v1_0.5_160_quant",
        "mobilenet_v1_0.75_192_quant",
        "mobilenet_v2_1.0_224_quant",
        "tf2_mobilenet_v2_1.0_224_ptq",
    ],
)
def test_models_known_to_compile_wholly_are_predicted_so(conformance: Path, name: str) -> None:
    prediction = predicted(conformance / "coral", name)
    assert prediction.mapped_share == prediction.mac_share == 1
    assert prediction.first_break is None
    assert prediction.uncertain == prediction.on_cpu == ()
    assert "should run on the Edge TPU" in prediction.summary()


def test_deeplab_breaks_off_at_its_last_enlargement(conformance: Path) -> None:
    prediction = predicted(conformance / "coral", "deeplabv3_mnv2_dm05_pascal_quant")
    assert [operator.name for operator in prediction.on_cpu] == ["RESIZE_BILINEAR", "ARG_MAX"]
    assert prediction.first_break == prediction.on_cpu[0]
    assert prediction.mac_share == 1


def test_movenet_keeps_its_decoding_on_the_cpu_and_its_network_on_the_edge_tpu(conformance: Path) -> None:
    prediction = predicted(conformance / "coral", "movenet_single_pose_lightning_ptq")
    assert prediction.operators[0].name == "CAST"
    assert prediction.operators[0].status == prediction.operators[1].status == "unsupported"
    assert prediction.first_break is not None
    assert prediction.first_break.name == "ARG_MAX"
    assert prediction.mac_share > 0.999
    assert 0.5 < prediction.mapped_share < 0.7
    assert {"GATHER_ND", "SQRT", "DIV", "FLOOR_DIV"} <= {op.name for op in prediction.on_cpu}


def test_a_compiled_model_is_told_from_one_to_compile(conformance: Path) -> None:
    with pytest.raises(ModelError, match="compiled for the Edge TPU already"):
        predicted(conformance / "coral", "mobilenet_v1_0.25_128_quant_edgetpu")


def test_an_open_batch_is_uncertain(conformance: Path) -> None:
    prediction = predicted(conformance / "mlperf_tiny", "vww_96_int8")
    assert prediction.mapped_share == 1
    assert len(prediction.uncertain) == len(prediction.operators)
    assert "batch of one" in prediction.summary()


def test_the_shipped_model_maps_wholly() -> None:
    if not SHIPPED_INT8.is_file():
        pytest.skip("the shipped model is not there")
    prediction = predict_mapping(SHIPPED_INT8.read_bytes(), "shipped")
    assert prediction.mapped_share == 1
    assert not prediction.refusal
    # What it caches on the chip must fit there: 8 MB.
    assert 0 < prediction.parameter_bytes < 8 << 20


def test_the_leading_quantize_of_an_int8_model_with_pixels_in_maps(tiny_models: Path) -> None:
    prediction = predicted(tiny_models, "int8")
    assert prediction.operators[0].name == "QUANTIZE"
    assert prediction.mapped_share == 1


def test_float_ends_stay_on_the_cpu_and_all_between_maps(tiny_models: Path) -> None:
    prediction = predicted(tiny_models, "int8-float-io")
    assert {op.name for op in prediction.on_cpu} == {"QUANTIZE", "DEQUANTIZE"}
    assert prediction.operators[0].status == "unsupported"
    assert prediction.operators[1].status == "mapped"
    assert prediction.mac_share == 1


@pytest.mark.parametrize("name", ["float32", "float16", "dynamic", "int16"])
def test_what_is_not_in_8_bits_does_not_map(tiny_models: Path, name: str) -> None:
    prediction = predicted(tiny_models, name)
    assert prediction.mac_share == 0
    assert "only in int8 and uint8" in prediction.summary()


def test_an_unsupported_operator_takes_all_that_needs_it_to_the_cpu(tiny_models: Path) -> None:
    prediction = predicted(tiny_models, "island")
    broken = prediction.first_break
    assert broken is not None
    assert broken.index > 0
    assert all(op.status == "mapped" for op in prediction.operators[: broken.index])
    assert {op.status for op in prediction.operators[broken.index :]} == {"unsupported", "behind"}
    assert any(op.name == "SIN" and "not an operator" in op.reason for op in prediction.on_cpu)
    assert 0 < prediction.mac_share < 1
    assert f"behind operator {broken.index}" in prediction.summary()


def test_an_operator_newer_than_the_compiler_makes_it_refuse_the_file(tiny_models: Path) -> None:
    def newer(model: Any) -> None:
        codes = {model.operatorCodes[op.opcodeIndex].builtinCode: op.opcodeIndex for op in model.subgraphs[0].operators}
        model.operatorCodes[codes[3]].version = 6  # 3 is CONV_2D

    prediction = predict_mapping(edited(tiny_models, newer), "newer")
    assert "CONV_2D up to version 5" in prediction.refusal
    assert prediction.mapped == 0
    assert "should refuse newer" in prediction.summary()


def test_the_prediction_is_json(tiny_models: Path) -> None:
    prediction = predicted(tiny_models, "island")
    values = json.loads(json.dumps(prediction.to_dict()))
    assert values["total"] == len(values["operators"]) == len(prediction.operators)
    assert values["first_break"] == prediction.first_break.index  # type: ignore[union-attr]
    assert values["mapped_share"] == pytest.approx(values["mapped"] / values["total"])


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no TFLite model"):
        predict_mapping(b"nothing at all", "nothing")
