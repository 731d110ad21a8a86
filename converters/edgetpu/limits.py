"""Holds one operator against the Edge TPU's table; what becomes of the operators behind it is told elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeloc.converters.edgetpu import table
from edgeloc.editing import unpack
from edgeloc.flatbuffer import Graph, Operator, Tensor

__all__ = ["Judged", "Settings", "judge_operator", "read_settings"]

_NUMBERS = {"int32": np.int32, "int64": np.int64}
_EIGHT_BITS = ("int8", "uint8")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the graph alone does not say of an operator: the version it needs, and its options (None without)."""

    version: int
    options: Any

    def get(self, name: str, default: int = 0) -> int:
        """The option `name`, or the default where the operator has none of this name."""
        return int(getattr(self.options, name, default))


@dataclass(frozen=True, slots=True)
class Judged:
    """Why the operator does not map ("" where it does), or why only the compiler can tell."""

    fault: str = ""
    doubt: str = ""


def read_settings(flatbuffer: bytes) -> tuple[Settings, ...]:
    """The settings of the main graph's operators, in its order."""
    model = unpack(flatbuffer)
    return tuple(
        Settings(int(model.operatorCodes[operator.opcodeIndex].version), operator.builtinOptions)
        for operator in model.subgraphs[0].operators or ()
    )


def judge_operator(graph: Graph, operator: Operator, settings: Settings) -> Judged:
    """Whether the Edge TPU takes this operator, were it alone."""
    limits = table.OPERATORS.get(operator.name)
    if limits is None or operator.is_custom:
        return Judged("not an operator of the Edge TPU")
    inputs = [graph.tensors[index] if index >= 0 else None for index in operator.inputs]
    outputs = [graph.tensors[index] for index in operator.outputs if index >= 0]
    computed = [tensor for tensor in inputs if tensor is not None and not tensor.is_constant] + outputs
    fault = (
        next((text for tensor in computed if (text := _tensor_fault(tensor))), "")
        or _limit_fault(limits, inputs, outputs, settings)
        or _own_fault(operator.name, inputs, outputs, settings)
    )
    return Judged(fault) if fault else Judged(doubt=limits.doubt or _size_doubt(operator.name, computed))


def _tensor_fault(tensor: Tensor) -> str:
    """What every tensor must keep to."""
    if tensor.dtype not in _EIGHT_BITS or not tensor.is_quantized:
        return f"works on {tensor.dtype}: the Edge TPU computes in int8 and uint8 alone"
    if any(size < 0 for size in tensor.shape[1:]):
        return f"the size {_sizes(tensor)} is open until the model runs"
    if any(abs(size) != 1 for size in tensor.shape[: -table.MOST_INNER_DIMENSIONS]):
        return f"the tensor {_sizes(tensor)} has more than {table.MOST_INNER_DIMENSIONS} dimensions above 1"
    return ""


def _limit_fault(limits: table.Limits, inputs: list[Tensor | None], outputs: list[Tensor], settings: Settings) -> str:
    """What the table asks of several operators in the same words."""
    if not limits.fused_activation and settings.get("fusedActivationFunction"):
        return "has a fused activation"
    if limits.equal_dilation and settings.get("dilationHFactor", 1) != settings.get("dilationWFactor", 1):
        return "has unlike dilations in height and width"
    for position in limits.constant_inputs:
        tensor = inputs[position] if position < len(inputs) else None
        if tensor is not None and not tensor.is_constant:
            return f"its input {position} is computed: weights and settings must be constants"
    if limits.vector_output and sum(size > 1 for size in outputs[0].shape) > 1:
        return f"its output {_sizes(outputs[0])} has more than one dimension above 1"
    return _axis_fault(limits, inputs)


def _axis_fault(limits: table.Limits, inputs: list[Tensor | None]) -> str:
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
    """What the table asks of one operator alone."""
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
            fault = f"its slopes are {_sizes(inputs[1])}: they may differ by channel alone"
        case "SOFTMAX" if max(outputs[0].shape, default=1) > table.LONGEST_SOFTMAX:
            fault = f"is over {outputs[0].elements} numbers: at most {table.LONGEST_SOFTMAX}"
        case "STRIDED_SLICE" if any(stride != 1 for stride in _numbers(inputs[3]) or ()):
            fault = "has strides other than 1"
        case "STRIDED_SLICE" if settings.get("ellipsisMask") or settings.get("newAxisMask"):
            fault = "uses an ellipsis or a new axis"
        case "RESIZE_BILINEAR" | "RESIZE_NEAREST_NEIGHBOR":
            side = max(outputs[0].shape[1:3], default=1)
            if side >= table.SMALLEST_RESIZE_SEEN_LEFT_OUT:
                fault = f"resizes to {side} pixels: too large to keep its precision"
    return fault


def _concatenation_fault(inputs: list[Tensor]) -> str:
    constants = [tensor for tensor in inputs if tensor.is_constant]
    if not constants:
        return ""
    zeros = all(np.all(t.data == np.uint8(t.zero_points[0] % 256)) for t in constants if t.zero_points)
    return "" if len(inputs) == 2 and zeros else "joins a constant that is more than padding by zeros"


def _size_doubt(name: str, computed: list[Tensor]) -> str:
    open_batch = next((tensor for tensor in computed if -1 in tensor.shape), None)
    if open_batch is not None:
        return f"the batch of {_sizes(open_batch)} is open: export the model for a batch of one"
    side = max(computed[-1].shape[1:3], default=1)
    if name.startswith("RESIZE") and side > table.LARGEST_RESIZE_SEEN_MAPPED:
        return f"resizes to {side} pixels: seen to map up to {table.LARGEST_RESIZE_SEEN_MAPPED}"
    return ""


def _numbers(tensor: Tensor | None) -> list[int] | None:
    """A constant's whole numbers; None where they are computed."""
    if tensor is None or tensor.data is None or tensor.dtype not in _NUMBERS:
        return None
    return [int(number) for number in np.frombuffer(tensor.data.tobytes(), _NUMBERS[tensor.dtype])]


def _sizes(tensor: Tensor) -> str:
    return "x".join("?" if size < 0 else str(size) for size in tensor.shape) or "scalar"
