"""Puts the channels of a flatbuffer's four-dimensional outputs last, where a converter left them first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeloc.editing import add_operator_code, constant, operator_name, schema

__all__ = ["put_channels_last"]

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def put_channels_last(model: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Change those outputs of the unpacked model whose shape is the channels-first form of the one in `shapes`."""
    graph = model.subgraphs[0]
    graph.outputs = [int(index) for index in graph.outputs]
    for place, (index, wanted) in enumerate(zip(graph.outputs, shapes, strict=False)):
        shape = tuple(int(size) for size in graph.tensors[index].shape)
        if len(wanted) == 4 and shape != wanted and shape == tuple(wanted[axis] for axis in _TO_FIRST):
            graph.outputs[place] = _before_transpose(model, index) or _transposed(model, index, wanted)


def _before_transpose(model: Any, index: int) -> int | None:
    """The tensor that a transposition to channels first was made of, where it is what writes the output."""
    writer = next((operator for operator in model.subgraphs[0].operators if index in operator.outputs), None)
    if writer is None or operator_name(model, writer) != "TRANSPOSE":
        return None
    order = constant(model, int(writer.inputs[1]))
    return int(writer.inputs[0]) if order is not None and tuple(order.reshape(-1)) == _TO_FIRST else None


def _transposed(model: Any, index: int, shape: tuple[int, ...]) -> int:
    graph = model.subgraphs[0]
    buffer = schema().BufferT()
    buffer.data = np.frombuffer(np.array(_TO_LAST, np.int32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    order = _tensor(model, b"channels_last_order", (4,), schema().TensorType.INT32, len(model.buffers) - 1)
    name = bytes(graph.tensors[index].name) + b"_channels_last"
    result = _tensor(model, name, shape, graph.tensors[index].type, 0)
    operator = schema().OperatorT()
    operator.opcodeIndex = add_operator_code(model, schema().BuiltinOperator.TRANSPOSE)
    operator.inputs, operator.outputs = [index, order], [result]
    operator.builtinOptionsType = schema().BuiltinOptions.TransposeOptions
    operator.builtinOptions = schema().TransposeOptionsT()
    graph.operators.append(operator)
    return result


def _tensor(model: Any, name: bytes, shape: tuple[int, ...], kind: int, buffer: int) -> int:
    tensor = schema().TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, buffer
    tensors = model.subgraphs[0].tensors
    tensors.append(tensor)
    return len(tensors) - 1
