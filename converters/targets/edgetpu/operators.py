"""What the Edge TPU compiler 16.0 accepts: operators, versions and limits as data, and a check of one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeloc.model.flatbuffer import Graph, Operator, Tensor, unpack

__all__ = [
    "COMPILER_VERSION",
    "LARGEST_RESIZE_SEEN_MAPPED",
    "LONGEST_SOFTMAX",
    "MOST_INNER_DIMENSIONS",
    "NEWEST_VERSION",
    "OPERATORS",
    "SMALLEST_RESIZE_SEEN_LEFT_OUT",
    "Judgement",
    "Limits",
    "Settings",
    "judge_operator",
    "read_settings",
]

COMPILER_VERSION = "16.0"
MOST_INNER_DIMENSIONS = 3
LONGEST_SOFTMAX = 16_000
LARGEST_RESIZE_SEEN_MAPPED = 128
SMALLEST_RESIZE_SEEN_LEFT_OUT = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """What one operator must keep to, beyond what all must: 8-bit tensors of fixed size, three inner dimensions.

    `axis_input` is the operator's input that names axes, of which the batch must not be one;
    `channel_multiple` what the channels must be a multiple of where they are reduced; `uncertainty` why only the
    compiler knows.
    """

    fused_activation: bool = True
    equal_dilation: bool = False
    constant_inputs: tuple[int, ...] = ()
    vector_output: bool = False
    axis_input: int | None = None
    channel_multiple: int = 1
    uncertainty: str = ""


_ANY = Limits()
_NOT_FUSED = Limits(fused_activation=False)
_REDUCTION = Limits(axis_input=1)

OPERATORS = {
    "ADD": _ANY,
    "AVERAGE_POOL_2D": _NOT_FUSED,
    "CONCATENATION": _NOT_FUSED,
    "CONV_2D": Limits(equal_dilation=True, constant_inputs=(1, 2)),
    "DEPTHWISE_CONV_2D": Limits(equal_dilation=True, constant_inputs=(1, 2)),
    "EXPAND_DIMS": _ANY,
    "FULLY_CONNECTED": Limits(constant_inputs=(1, 2), vector_output=True),
    "L2_NORMALIZATION": _ANY,
    "LOGISTIC": _ANY,
    "MAXIMUM": _ANY,
    "MAX_POOL_2D": _NOT_FUSED,
    "MEAN": Limits(axis_input=1, channel_multiple=4),
    "MINIMUM": _ANY,
    "MUL": _ANY,
    "PACK": _ANY,
    "PAD": _ANY,
    "PRELU": _ANY,
    "QUANTIZE": _ANY,
    "REDUCE_MAX": _REDUCTION,
    "REDUCE_MIN": _REDUCTION,
    "RELU": _ANY,
    "RELU6": _ANY,
    "RELU_N1_TO_1": _ANY,
    "RESHAPE": _ANY,
    "RESIZE_BILINEAR": _ANY,
    "RESIZE_NEAREST_NEIGHBOR": _ANY,
    "RSQRT": _ANY,
    "SLICE": _ANY,
    "SOFTMAX": Limits(vector_output=True),
    "SPACE_TO_DEPTH": _ANY,
    "SPLIT": Limits(axis_input=0),
    "SQUARED_DIFFERENCE": _ANY,
    "SQUEEZE": _ANY,
    "STRIDED_SLICE": Limits(constant_inputs=(1, 2, 3)),
    "SUB": _ANY,
    "SUM": _REDUCTION,
    "TANH": _ANY,
    "TRANSPOSE": Limits(uncertainty="the compiler leaves out some transpositions without saying why"),
    "TRANSPOSE_CONV": Limits(constant_inputs=(1,)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _ANY,
}

# The compiler of July 2021 holds the TensorFlow Lite of that time (2.6): it refuses a whole file for one operator whose
# version it has never heard of, also where that operator would run on the CPU. 0: the operator itself is newer.
NEWEST_VERSION = {
    "ADD": 4, "ARG_MAX": 2, "ARG_MIN": 2, "AVERAGE_POOL_2D": 3, "BATCH_MATMUL": 4, "BITCAST": 0, "CAST": 1,
    "CONCATENATION": 3, "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "DEQUANTIZE": 4, "DILATE": 0, "DIV": 2,
    "DYNAMIC_UPDATE_SLICE": 0, "EXP": 1, "EXPAND_DIMS": 1, "FULLY_CONNECTED": 9, "GATHER": 5, "GATHER_ND": 3,
    "GELU": 0, "HARD_SWISH": 1, "L2_NORMALIZATION": 2, "LEAKY_RELU": 2, "LOGISTIC": 3, "LOG": 1, "MAXIMUM": 4,
    "MAX_POOL_2D": 3, "MEAN": 3, "MINIMUM": 4, "MUL": 5, "PACK": 3, "PAD": 4, "PADV2": 4, "PRELU": 1,
    "QUANTIZE": 2, "REDUCE_MAX": 3, "REDUCE_MIN": 3, "REDUCE_WINDOW": 0, "RELU": 3, "RELU6": 3, "RELU_0_TO_1": 0,
    "RELU_N1_TO_1": 1, "RESHAPE": 1, "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4, "RIGHT_SHIFT": 0,
    "RSQRT": 2, "SIGN": 0, "SIN": 1, "SLICE": 5, "SOFTMAX": 3, "SPACE_TO_DEPTH": 2, "SPLIT": 4, "SPLIT_V": 2,
    "SQRT": 1, "SQUARED_DIFFERENCE": 2, "SQUEEZE": 2, "STRIDED_SLICE": 6, "SUB": 5, "SUM": 2, "TANH": 3, "TILE": 2,
    "TOPK_V2": 2, "TRANSPOSE": 5, "TRANSPOSE_CONV": 3, "UNIDIRECTIONAL_SEQUENCE_LSTM": 3, "UNPACK": 4,
}  # fmt: skip
_NUMBERS = {"int32": np.int32, "int64": np.int64}
_EIGHT_BITS = ("int8", "uint8")


@dataclass(frozen=True, slots=True)
class Settings:
    """What `Graph` leaves out of an operator: the version it needs, and its options (None without)."""

    version: int
    options: Any

    def get(self, name: str, default: int = 0) -> int:
        """The option `name`, or the default where the operator has none of this name."""
        return int(getattr(self.options, name, default))


@dataclass(frozen=True, slots=True)
class Judgement:
    """Why an operator does not map, or why only the compiler knows; both "" where it maps."""

    fault: str = ""
    uncertainty: str = ""


def read_settings(flatbuffer: bytes) -> tuple[Settings, ...]:
    """The settings of the main graph's operators, in its order."""
    model = unpack(flatbuffer)
    return tuple(
        Settings(int(model.operatorCodes[operator.opcodeIndex].version), operator.builtinOptions)
        for operator in model.subgraphs[0].operators or ()
    )


def judge_operator(graph: Graph, operator: Operator, settings: Settings) -> Judgement:
    """Whether the Edge TPU takes this operator, whatever surrounds it."""
    limits = OPERATORS.get(operator.name)
    if limits is None or operator.is_custom:
        return Judgement("not an operator of the Edge TPU")
    inputs = [graph.tensors[index] if index >= 0 else None for index in operator.inputs]
    outputs = [graph.tensors[index] for index in operator.outputs if index >= 0]
    computed = [tensor for tensor in inputs if tensor is not None and not tensor.is_constant] + outputs
    fault = (
        next((text for tensor in computed if (text := _tensor_fault(tensor))), "")
        or _limit_fault(limits, inputs, outputs, settings)
        or _own_fault(operator.name, inputs, outputs, settings)
    )
    if fault:
        return Judgement(fault)
    return Judgement(uncertainty=limits.uncertainty or _size_uncertainty(operator.name, computed))


def _tensor_fault(tensor: Tensor) -> str:
    """What is wrong by the limits of every tensor."""
    if tensor.dtype not in _EIGHT_BITS or not tensor.is_quantized:
        return f"works on {tensor.dtype}: the Edge TPU computes only in int8 and uint8"
    if any(size < 0 for size in tensor.shape[1:]):
        return f"the size {_sizes(tensor)} is open until the model runs"
    if any(abs(size) != 1 for size in tensor.shape[:-MOST_INNER_DIMENSIONS]):
        return f"the tensor {_sizes(tensor)} has more than {MOST_INNER_DIMENSIONS} dimensions above 1"
    return ""


def _limit_fault(limits: Limits, inputs: list[Tensor | None], outputs: list[Tensor], settings: Settings) -> str:
    """What is wrong by the limits that several operators share."""
    if not limits.fused_activation and settings.get("fusedActivationFunction"):
        return "has a fused activation"
    if limits.equal_dilation and settings.get("dilationHFactor", 1) != settings.get("dilationWFactor", 1):
        return "has different dilations in height and width"
    for position in limits.constant_inputs:
        tensor = inputs[position] if position < len(inputs) else None
        if tensor is not None and not tensor.is_constant:
            return f"its input {position} is computed: weights and settings must be constants"
    if limits.vector_output and sum(size > 1 for size in outputs[0].shape) > 1:
        return f"its output {_sizes(outputs[0])} has more than one dimension above 1"
    return _axis_fault(limits, inputs)


def _axis_fault(limits: Limits, inputs: list[Tensor | None]) -> str:
    if limits.axis_input is None:
        return ""
    data = next((tensor for tensor in inputs if tensor is not None and not tensor.is_constant), None)
    axes = _numbers(inputs[limits.axis_input])
    if data is None or axes is None:
        return "its axes are computed: they must be constants"
    rank = len(data.shape)
    axes = [axis % rank for axis in axes]
    if rank > 1 and 0 in axes:
        return "works across the batch"
    if rank - 1 in axes and data.shape[-1] % limits.channel_multiple:
        return f"reduces {data.shape[-1]} channels, not a multiple of {limits.channel_multiple}"
    return ""


def _own_fault(name: str, inputs: list[Tensor | None], outputs: list[Tensor], settings: Settings) -> str:
    """What is wrong by the limits of one kind of operator."""
    fault = ""
    match name:
        case "CONCATENATION":
            fault = _concatenation_fault([tensor for tensor in inputs if tensor is not None])
        case "FULLY_CONNECTED" if settings.get("weightsFormat"):
            fault = "its weights are shuffled: only the default format is taken"
        case "PACK" if len(outputs[0].shape) > 1 and settings.get("axis") % len(outputs[0].shape) == 0:
            fault = "packs along the batch"
        case "PAD" if any((_numbers(inputs[1]) or [1])[:2]):
            fault = "pads the batch, or by amounts that are no constants"
        case "PRELU" if inputs[1] is not None and any(size != 1 for size in inputs[1].shape[:-1]):
            fault = f"its slopes are {_sizes(inputs[1])}: they may differ only by channel"
        case "SOFTMAX" if max(outputs[0].shape, default=1) > LONGEST_SOFTMAX:
            fault = f"is over {max(outputs[0].shape)} numbers: at most {LONGEST_SOFTMAX}"
        case "STRIDED_SLICE" if any(stride != 1 for stride in _numbers(inputs[3]) or ()):
            fault = "has strides other than 1"
        case "STRIDED_SLICE" if settings.get("ellipsisMask") or settings.get("newAxisMask"):
            fault = "uses an ellipsis or a new axis"
        case "RESIZE_BILINEAR" | "RESIZE_NEAREST_NEIGHBOR":
            side = max(outputs[0].shape[1:3], default=1)
            if side >= SMALLEST_RESIZE_SEEN_LEFT_OUT:
                fault = f"resizes to {side} pixels: too large to keep its precision"
    return fault


def _concatenation_fault(inputs: list[Tensor]) -> str:
    constants = [tensor for tensor in inputs if tensor.is_constant]
    if not constants:
        return ""
    zeros = all(np.all(t.data == np.uint8(t.zero_points[0] % 256)) for t in constants if t.zero_points)
    return "" if len(inputs) == 2 and zeros else "joins a constant that is more than padding by zeros"


def _size_uncertainty(name: str, computed: list[Tensor]) -> str:
    open_batch = next((tensor for tensor in computed if -1 in tensor.shape), None)
    if open_batch is not None:
        return f"the batch of {_sizes(open_batch)} is open: export the model for a batch of one"
    side = max(computed[-1].shape[1:3], default=1)
    if name.startswith("RESIZE") and side > LARGEST_RESIZE_SEEN_MAPPED:
        return f"resizes to {side} pixels: seen to map up to {LARGEST_RESIZE_SEEN_MAPPED}"
    return ""


def _numbers(tensor: Tensor | None) -> list[int] | None:
    """A constant's whole numbers; None where they are computed."""
    if tensor is None or tensor.data is None or tensor.dtype not in _NUMBERS:
        return None
    return [int(number) for number in np.frombuffer(tensor.data.tobytes(), _NUMBERS[tensor.dtype])]


def _sizes(tensor: Tensor) -> str:
    return "x".join("?" if size < 0 else str(size) for size in tensor.shape) or "scalar"
