"""Q/DQ pairs: symmetric, where TensorRT wants them, with the ranges of the images."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloc.converters.targets.tensorrt.onnx import count_pairs, quantize_onnx, to_onnx
from edgeloc.engines.onnxruntime import OnnxRuntimeEngine
from edgeloc.model.contract import Contract

for package in ("tf2onnx", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"the extra tensorrt is not installed: {package} is missing")

Images = NDArray[np.float32]
WEIGHTED = ("Conv", "Gemm", "MatMul")


@pytest.fixture(scope="module")
def graphs() -> dict[str, Any]:
    """The float model and the quantized one, made once."""
    return {}


@pytest.fixture
def quantized(graphs: dict[str, Any], flatbuffer: bytes, contract: Contract, images: Images) -> Any:
    if not graphs:
        graphs["float"] = to_onnx(flatbuffer, contract, images[:1])
        graphs["int8"] = quantize_onnx(graphs["float"], contract.input, images)
    return graphs["int8"]


def makers(model: Any) -> dict[str, Any]:
    return {name: node for node in model.graph.node for name in node.output}


def constants(model: Any) -> dict[str, NDArray[Any]]:
    from onnx import numpy_helper

    return {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}


def test_every_zero_point_is_zero_and_int8(quantized: Any) -> None:
    values = constants(quantized)
    pairs = [node for node in quantized.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero_point = values[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()


def test_every_weighted_operator_computes_in_int8(quantized: Any) -> None:
    made = makers(quantized)
    weighted = [node for node in quantized.graph.node if node.op_type in WEIGHTED]
    for node in weighted:
        assert [made[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2, node.name
    assert count_pairs(quantized.SerializeToString()) == (len(weighted), len(weighted))


def test_weights_have_a_scale_for_each_output_channel(quantized: Any) -> None:
    made, values = makers(quantized), constants(quantized)
    for node in quantized.graph.node:
        if node.op_type != "Conv":
            continue
        quantize = made[made[node.input[1]].input[0]]
        weights, scales = values[quantize.input[0]], values[quantize.input[1]]
        assert next(a.i for a in quantize.attribute if a.name == "axis") == 0
        assert scales == pytest.approx(np.abs(weights).max(axis=(1, 2, 3)) / 127, rel=1e-4)


def test_biases_stay_float(quantized: Any) -> None:
    values = constants(quantized)
    biases = [node.input[2] for node in quantized.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    assert biases
    assert {values[name].dtype for name in biases} == {np.dtype(np.float32)}


def test_outputs_leave_in_float_without_a_pair(quantized: Any) -> None:
    made = makers(quantized)
    for output in quantized.graph.output:
        node = made[output.name]
        while node.op_type in ("Reshape", "Squeeze", "Add"):
            node = made[next(name for name in node.input if name in made)]
        assert node.op_type in WEIGHTED


def test_a_residual_sum_is_computed_within_one_branchs_convolution(quantized: Any) -> None:
    made = makers(quantized)
    sums = [
        sorted(made[name].op_type for name in node.input)
        for node in quantized.graph.node
        if node.op_type == "Add" and all(name in made for name in node.input)
    ]
    # The network's third sum has no convolution right before it, so both its branches must be int8.
    assert sorted(sums) == [["Conv", "DequantizeLinear"]] * 2 + [["DequantizeLinear"] * 2]


def test_nothing_is_left_over(quantized: Any) -> None:
    used = {name for node in quantized.graph.node for name in node.input}
    assert {entry.name for entry in quantized.graph.initializer} <= used
    outputs = {output.name for output in quantized.graph.output}
    assert all(name in used | outputs for node in quantized.graph.node for name in node.output)


def test_the_inputs_range_is_black_to_white_even_if_the_images_are_grey(
    quantized: Any, graphs: dict[str, Any], contract: Contract, images: Images
) -> None:
    dark = quantize_onnx(graphs["float"], contract.input, images * 0.1)
    assert _input_scale(dark) == pytest.approx(1 / 127, rel=1e-5)
    wide = dataclasses.replace(contract.input, mean=(0.0,), std=(63.75,))
    assert _input_scale(quantize_onnx(graphs["float"], wide, images * 0.1)) == pytest.approx(4 / 127, rel=1e-5)


def test_rounding_is_small_beside_the_answers(quantized: Any, graphs: dict[str, Any], images: Images) -> None:
    before = OnnxRuntimeEngine(graphs["float"].SerializeToString())
    after = OnnxRuntimeEngine(quantized.SerializeToString())
    wanted = np.stack([before.invoke(image[np.newaxis])["box"] for image in images])
    found = np.stack([after.invoke(image[np.newaxis])["box"] for image in images])
    assert 0 < np.abs(found - wanted).mean() < 0.1 * wanted.std()


def test_the_same_images_give_the_same_model(
    quantized: Any, graphs: dict[str, Any], contract: Contract, images: Images
) -> None:
    assert quantize_onnx(graphs["float"], contract.input, images).SerializeToString() == quantized.SerializeToString()


def _input_scale(model: Any) -> float:
    """The scale of the first pair behind the input."""
    reached = {model.graph.input[0].name}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in reached:
            return float(constants(model)[node.input[1]])
        if node.op_type == "Transpose" and node.input[0] in reached:
            reached.update(node.output)
    raise AssertionError("the input is not quantized")
