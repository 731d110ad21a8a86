"""Max pooling with a border, as PyTorch and ONNX have it, in operators that can be quantized; answers stay the same.

Their converters pad with minus infinity. An int8 scale that has to hold that number has no step
left for the others, so the border becomes zeros where nothing below zero comes in, and elsewhere a
mirror image of the edge, which adds no number to any window that is not in it already.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.editing import add_operator_code, constant, operator_name, schema

__all__ = ["mend_pooling"]

_FAR_BELOW = -1e30
_NOT_NEGATIVE = frozenset({"RELU", "RELU6", "RELU_0_TO_1", "LOGISTIC", "SOFTMAX"})
_SAME_SIGN = frozenset({"MAX_POOL_2D", "RESHAPE", "TRANSPOSE", "PAD", "MEAN", "AVERAGE_POOL_2D"})


def mend_pooling(model: Any) -> int:
    """Change each border of minus infinity before a max pooling of the unpacked model; how many there were."""
    graph = model.subgraphs[0]
    writers = {int(index): operator for operator in graph.operators for index in operator.outputs}
    mended = 0
    for operator in graph.operators:
        if operator_name(model, operator) != "PADV2":
            continue
        paddings, value = constant(model, operator.inputs[1]), constant(model, operator.inputs[2])
        if paddings is None or value is None or float(value.reshape(-1)[0]) > _FAR_BELOW:
            continue
        readers = [reader for reader in graph.operators if operator.outputs[0] in reader.inputs]
        if not readers or any(operator_name(model, reader) != "MAX_POOL_2D" for reader in readers):
            continue
        if _never_negative(model, writers, int(operator.inputs[0])):
            _become_pad(model, operator)
        elif all(_fits_mirror(paddings, reader) for reader in readers):
            _become_mirror(model, operator)
        else:
            continue
        mended += 1
    return mended


def _never_negative(model: Any, writers: dict[int, Any], tensor: int) -> bool:
    while tensor in writers:
        operator = writers[tensor]
        name = operator_name(model, operator)
        kinds = schema().ActivationFunctionType
        fused = getattr(operator.builtinOptions, "fusedActivationFunction", kinds.NONE)
        if name in _NOT_NEGATIVE or fused in (kinds.RELU, kinds.RELU6):
            return True
        if name not in _SAME_SIGN:
            return False
        tensor = int(operator.inputs[0])
    return False


def _fits_mirror(paddings: NDArray[Any], pooling: Any) -> bool:
    """Whether every window at the border holds what the mirror adds: it does up to half the window."""
    options = pooling.builtinOptions
    limits = np.array([0, options.filterHeight // 2, options.filterWidth // 2, 0])
    return bool(np.all(paddings <= limits[:, np.newaxis]))


def _become_pad(model: Any, operator: Any) -> None:
    operator.opcodeIndex = add_operator_code(model, schema().BuiltinOperator.PAD)
    operator.inputs = operator.inputs[:2]
    operator.builtinOptionsType, operator.builtinOptions = schema().BuiltinOptions.PadOptions, schema().PadOptionsT()


def _become_mirror(model: Any, operator: Any) -> None:
    operator.opcodeIndex = add_operator_code(model, schema().BuiltinOperator.MIRROR_PAD)
    operator.inputs = operator.inputs[:2]
    options = schema().MirrorPadOptionsT()
    options.mode = schema().MirrorPadMode.SYMMETRIC
    operator.builtinOptionsType, operator.builtinOptions = schema().BuiltinOptions.MirrorPadOptions, options
