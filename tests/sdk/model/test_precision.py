"""The verdict on a graph's precision, on models converted here in every way, and on those that others made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeloc.model.flatbuffer import parse_flatbuffer
from edgeloc.model.precision import Verdict, constant_outputs, judge


def verdict(path: Path) -> Verdict:
    return judge(parse_flatbuffer(path.read_bytes(), path.name))


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("float32", "float32"),
        ("float16", "float16 weights"),
        ("dynamic", "dynamic range"),
        ("int8", "int8 (full integer)"),
        ("int8-float-io", "int8 inside, float I/O"),
        ("int16", "int8 with 16-bit activations, float I/O"),
        ("island", "mixed: float island"),
    ],
)
def test_each_way_to_convert_has_its_own_word(tiny_models: Path, name: str, precision: str) -> None:
    found = verdict(tiny_models / f"{name}.tflite")
    assert found.precision == precision
    assert bool(found.reasons) == (name != "int8")


def test_a_float_island_is_named_once_and_with_its_place(tiny_models: Path) -> None:
    found = verdict(tiny_models / "island.tflite")
    assert [island.operator for island in found.islands] == ["SIN"]
    assert found.islands[0].tensor
    assert "SIN" in found.reasons[0]


def test_dynamic_range_says_which_operators_take_float(tiny_models: Path) -> None:
    assert "CONV_2D" in verdict(tiny_models / "dynamic.tflite").reasons[0]


def test_an_output_that_ignores_the_image_is_found(tiny_models: Path) -> None:
    for name, expected in [("constant", 1), ("int8", 0), ("float32", 0), ("island", 0)]:
        model = parse_flatbuffer((tiny_models / f"{name}.tflite").read_bytes(), name)
        found = constant_outputs(model)
        assert len(found) == expected, name
        if found:
            assert model.signature is not None
            assert found == (model.signature.outputs["presence"],)


Edit = Callable[[Any, Any], None]


def edited(path: Path, change: Edit) -> Any:
    """The model at `path` after a change to its unpacked form, as the parser reads it."""
    flatbuffers = pytest.importorskip("flatbuffers")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    change(schema, model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return parse_flatbuffer(bytes(builder.Output()), path.name)


def add_ssd_tail(schema: Any, model: Any) -> None:
    """Let the host's SSD operator read the two float outputs, as detection models do."""
    graph = model.subgraphs[0]
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = b"boxes", [1, 10, 4], 0, 0
    graph.tensors.append(tensor)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"TFLite_Detection_PostProcess"
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = list(graph.outputs), [len(graph.tensors) - 1]
    graph.operators.append(operator)
    graph.outputs, model.signatureDefs = operator.outputs, []


def test_the_hosts_ssd_operator_is_a_float_tail_not_an_island(tiny_models: Path) -> None:
    found = judge(edited(tiny_models / "int8-float-io.tflite", add_ssd_tail))
    assert found.precision == "int8 with float tail"
    assert found.tail == ("TFLite_Detection_PostProcess",)
    assert found.islands == ()
    assert found.reasons


def clear_head(schema: Any, model: Any) -> None:
    """Set the weights of every fully connected operator to zero, as a collapsed training leaves them."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.FULLY_CONNECTED:
            buffer = model.buffers[graph.tensors[operator.inputs[1]].buffer]
            buffer.data = [0] * len(buffer.data)


@pytest.mark.parametrize("name", ["int8", "float32"])
def test_weights_of_zero_make_an_output_constant(tiny_models: Path, name: str) -> None:
    assert len(constant_outputs(edited(tiny_models / f"{name}.tflite", clear_head))) == 2


@pytest.mark.parametrize(
    ("file", "precision"),
    [
        ("coral/mobilenet_v1_0.25_128_quant.tflite", "uint8 (legacy)"),
        ("coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite", "uint8 (legacy)"),
        ("coral/deeplabv3_mnv2_dm05_pascal_quant.tflite", "uint8 (legacy)"),
        ("coral/tf2_mobilenet_v2_1.0_224_ptq.tflite", "int8 (full integer)"),
        ("coral/movenet_single_pose_lightning_ptq.tflite", "mixed: float island"),
        ("mlperf_tiny/vww_96_int8.tflite", "int8 (full integer)"),
        ("mlperf_tiny/vww_96_float.tflite", "float32"),
        ("mlperf_tiny/pretrainedResnet_quant.tflite", "int8 (full integer)"),
        ("teachable/model_unquant.tflite", "float32"),
    ],
)
def test_models_that_others_made(conformance: Path, file: str, precision: str) -> None:
    assert verdict(conformance / file).precision == precision
    model = parse_flatbuffer((conformance / file).read_bytes(), file)
    assert constant_outputs(model) == ()
