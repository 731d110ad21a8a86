"""Recipes that store weights smaller and compute in float: float16, and int8 with activations quantized on the fly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.quantization.bias_correction import weight_steps
from edgeloc.editing import (
    add_operator_code,
    constant,
    operator_name,
    pack,
    schema,
    set_constant,
    tensor_name,
    unpack,
)

__all__ = ["float16_weights", "int8_weights"]

_FLOAT32, _FLOAT16, _INT8 = 0, 1, 9
_DEQUANTIZE = 6
# Operators whose kernels take float activations with int8 weights, and along which axis those may have a scale each.
_HYBRID = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": None}
# Below this many numbers a tensor is not worth it.
_SMALLEST = 1024


def float16_weights(flatbuffer: bytes) -> bytes:
    """Every float32 constant as float16, with a DEQUANTIZE that the runtime runs once."""
    model = unpack(flatbuffer)
    graph = model.subgraphs[0]
    code = add_operator_code(model, _DEQUANTIZE)
    widened = []
    for index in range(len(graph.tensors)):
        # Asked by its type first: constants of kinds that cannot be read here stay as they are.
        values = constant(model, index) if graph.tensors[index].type == _FLOAT32 else None
        if values is None or values.size < 2:
            continue
        stored = copy.copy(graph.tensors[index])
        graph.tensors.append(stored)
        stored.name, stored.type = f"{tensor_name(stored)}/float16", _FLOAT16
        set_constant(model, len(graph.tensors) - 1, values.astype(np.float16))
        graph.tensors[index].buffer = 0
        operator = copy.copy(graph.operators[0])
        operator.opcodeIndex, operator.inputs, operator.outputs = code, [len(graph.tensors) - 1], [index]
        operator.builtinOptionsType, operator.builtinOptions = 0, None
        widened.append(operator)
    graph.operators = [*widened, *graph.operators]
    return pack(model)


def int8_weights(flatbuffer: bytes) -> bytes:
    """The weights of convolutions and dense layers as int8, symmetric; their activations are quantized on the fly."""
    model = unpack(flatbuffer)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        name = operator_name(model, operator)
        if name not in _HYBRID:
            continue
        index = int(operator.inputs[1])
        weights = constant(model, index)
        alike = all(operator_name(model, o) == name for o in graph.operators if index in o.inputs)
        if weights is None or weights.dtype != np.float32 or weights.size < _SMALLEST or not alike:
            continue
        steps = weight_steps(weights, _HYBRID[name])
        _store(model, index, np.round(weights / steps).astype(np.int8), steps, _HYBRID[name])
        if name == "FULLY_CONNECTED":
            operator.builtinOptions.asymmetricQuantizeInputs = True
    return pack(model)


def _store(model: Any, index: int, values: NDArray[np.int8], steps: NDArray[np.float32], axis: int | None) -> None:
    tensor = model.subgraphs[0].tensors[index]
    tensor.type = _INT8
    tensor.quantization = schema().QuantizationParametersT()
    tensor.quantization.scale = steps.ravel()
    tensor.quantization.zeroPoint = np.zeros(steps.size, np.int64)
    tensor.quantization.quantizedDimension = axis or 0
    set_constant(model, index, values)
