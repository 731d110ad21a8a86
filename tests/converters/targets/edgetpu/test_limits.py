"""Each limit of the operator table, on a graph of one operator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.targets.edgetpu.operators import Judgement, Settings, judge_operator
from edgeloc.model.flatbuffer import Graph, Operator, Tensor


def image(*shape: int, dtype: str = "int8") -> Tensor:
    """A computed, quantized tensor."""
    return Tensor("x", shape, dtype, scales=(0.5,), zero_points=(3,))


def weights(*shape: int, fill: int = 1) -> Tensor:
    data = np.full(int(np.prod(shape)), fill, np.int8).view(np.uint8)
    return Tensor("w", shape, "int8", scales=(0.1,), zero_points=(3,), data=data)


def numbers(*values: int, shape: tuple[int, ...] | None = None) -> Tensor:
    data = np.array(values, np.int32).view(np.uint8)
    return Tensor("n", shape or (len(values),), "int32", data=data)


def judge(name: str, inputs: list[Tensor], output: Tensor, version: int = 1, **options: Any) -> Judgement:
    tensors = (*inputs, output)
    operator = Operator(name, tuple(range(len(inputs))), (len(inputs),))
    graph = Graph("main", tensors, (operator,), (0,), (len(inputs),))
    return judge_operator(graph, operator, Settings(version, SimpleNamespace(**options)))


PICTURE = image(1, 8, 8, 4)
CONV = [PICTURE, weights(4, 3, 3, 4), numbers(0, 0, 0, 0)]
SQUARE = image(1, 8, 8, 4)


@pytest.mark.parametrize(
    ("name", "inputs", "output", "options"),
    [
        ("CONV_2D", CONV, SQUARE, {"dilationHFactor": 2, "dilationWFactor": 2, "fusedActivationFunction": 3}),
        ("QUANTIZE", [image(1, 8, 8, 3, dtype="uint8")], image(1, 8, 8, 3), {}),
        ("CONCATENATION", [PICTURE, PICTURE], image(1, 8, 8, 8), {}),
        ("CONCATENATION", [PICTURE, weights(1, 8, 8, 4, fill=3)], image(1, 8, 8, 8), {}),
        ("FULLY_CONNECTED", [image(1, 64), weights(4, 64)], image(1, 4), {}),
        ("MEAN", [PICTURE, numbers(1, 2)], image(1, 4), {}),
        ("MEAN", [PICTURE, numbers(-1)], image(1, 8, 8, 1), {}),
        ("PAD", [PICTURE, numbers(0, 0, 1, 1, 1, 1, 0, 0, shape=(4, 2))], image(1, 10, 10, 4), {}),
        ("PRELU", [PICTURE, weights(1, 1, 4)], SQUARE, {}),
        ("RESIZE_BILINEAR", [PICTURE, numbers(128, 128)], image(1, 128, 128, 4), {"halfPixelCenters": True}),
        ("SOFTMAX", [image(1, 16_000)], image(1, 16_000), {}),
        ("SPLIT", [numbers(3), PICTURE], image(1, 8, 8, 2), {}),
        ("STRIDED_SLICE", [PICTURE, numbers(0), numbers(4), numbers(1, 1, 1, 1)], image(1, 4, 8, 4), {}),
        ("LOGISTIC", [image(1, 1, 8, 8, 4)], image(1, 1, 8, 8, 4), {}),
    ],
)
def test_within_the_limits_an_operator_maps(
    name: str, inputs: list[Tensor], output: Tensor, options: dict[str, Any]
) -> None:
    assert judge(name, inputs, output, **options) == Judgement()


@pytest.mark.parametrize(
    ("name", "inputs", "output", "options", "told"),
    [
        ("HARD_SWISH", [PICTURE], SQUARE, {}, "not an operator of the Edge TPU"),
        ("ADD", [Tensor("x", (1, 4), "float32"), PICTURE], SQUARE, {}, "float32"),
        ("ADD", [image(1, 8, 8, 4, dtype="int16")], SQUARE, {}, "int16"),
        ("ADD", [Tensor("x", (1, 4), "int32")], SQUARE, {}, "int32"),
        ("ADD", [image(2, 8, 8, 4)], image(2, 8, 8, 4), {}, "2x8x8x4 has more than 3 dimensions above 1"),
        ("ADD", [image(1, -1, 8, 4)], SQUARE, {}, "1x?x8x4 is open"),
        ("AVERAGE_POOL_2D", [PICTURE], SQUARE, {"fusedActivationFunction": 1}, "fused activation"),
        ("MAX_POOL_2D", [PICTURE], SQUARE, {"fusedActivationFunction": 3}, "fused activation"),
        ("CONV_2D", CONV, SQUARE, {"dilationHFactor": 2, "dilationWFactor": 1}, "different dilations"),
        ("CONV_2D", [PICTURE, image(4, 3, 3, 4)], SQUARE, {}, "dimensions above 1"),
        ("FULLY_CONNECTED", [image(1, 64), image(4, 64)], image(1, 4), {}, "input 1 is computed"),
        ("CONCATENATION", [PICTURE, weights(1, 8, 8, 4)], image(1, 8, 8, 8), {}, "padding by zeros"),
        ("CONCATENATION", [PICTURE, PICTURE, weights(1, 8, 8, 4, fill=3)], image(1, 8, 8, 12), {}, "padding"),
        ("FULLY_CONNECTED", [image(1, 64), weights(4, 64)], image(1, 4), {"weightsFormat": 1}, "shuffled"),
        ("FULLY_CONNECTED", [image(1, 8, 64), weights(4, 64)], image(1, 8, 4), {}, "more than one dimension"),
        ("MEAN", [image(1, 8, 8, 6), numbers(3)], image(1, 8, 8, 1), {}, "6 channels, not a multiple of 4"),
        ("MEAN", [PICTURE, numbers(0, 1)], image(1, 8, 4), {}, "across the batch"),
        ("REDUCE_MAX", [PICTURE, numbers(-4)], image(1, 8, 4), {}, "across the batch"),
        ("SPLIT", [numbers(0), PICTURE], SQUARE, {}, "across the batch"),
        ("PACK", [image(8, 4)], image(1, 8, 4), {"axis": 0}, "packs along the batch"),
        ("PAD", [PICTURE, numbers(1, 0, 0, 0, 0, 0, 0, 0, shape=(4, 2))], SQUARE, {}, "pads the batch"),
        ("PRELU", [PICTURE, weights(8, 8, 4)], SQUARE, {}, "only by channel"),
        ("SOFTMAX", [image(1, 16_001)], image(1, 16_001), {}, "at most 16000"),
        ("SOFTMAX", [image(1, 10, 4)], image(1, 10, 4), {}, "more than one dimension"),
        ("RESIZE_BILINEAR", [PICTURE, numbers(513, 513)], image(1, 513, 513, 4), {}, "513 pixels"),
        ("STRIDED_SLICE", [PICTURE, numbers(0), numbers(4), numbers(1, 2)], SQUARE, {}, "strides"),
        (
            "STRIDED_SLICE",
            [PICTURE, numbers(0), numbers(4), numbers(1, 1)],
            SQUARE,
            {"newAxisMask": 1},
            "a new axis",
        ),
    ],
)
def test_beyond_a_limit_the_reason_is_told(
    name: str, inputs: list[Tensor], output: Tensor, options: dict[str, Any], told: str
) -> None:
    assert told in judge(name, inputs, output, **options).fault


@pytest.mark.parametrize(
    ("name", "inputs", "output", "told"),
    [
        ("RESIZE_NEAREST_NEIGHBOR", [PICTURE, numbers(256, 256)], image(1, 256, 256, 4), "256 pixels"),
        ("TRANSPOSE", [PICTURE, numbers(0, 3, 1, 2)], image(1, 4, 8, 8), "transpositions"),
        ("ADD", [image(-1, 8, 8, 4)], image(-1, 8, 8, 4), "batch of ?x8x8x4 is open"),
    ],
)
def test_what_only_the_compiler_knows_is_uncertain(name: str, inputs: list[Tensor], output: Tensor, told: str) -> None:
    judged = judge(name, inputs, output)
    assert judged.fault == ""
    assert told in judged.uncertainty
