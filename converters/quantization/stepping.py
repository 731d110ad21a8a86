"""Runs a float flatbuffer operator by operator, each in an interpreter of its own.

Values can so be changed in between. That works for every operator that the runtime has, whatever
framework the network came from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.editing import pack
from edgeloc.errors import ModelError
from edgeloc.quiet import quiet_stderr

__all__ = ["Step", "activate"]

Array = NDArray[Any]

# The schema's ActivationFunctionType.
_ACTIVATIONS: dict[int, Callable[[Array], Array]] = {
    0: lambda x: x,
    1: lambda x: np.maximum(x, 0),
    2: lambda x: np.clip(x, -1, 1),
    3: lambda x: np.clip(x, 0, 6),
    4: np.tanh,
}


def activate(kind: int, values: Array) -> Array:
    """A fused activation, by its number in the schema, on float values."""
    if kind not in _ACTIVATIONS:
        raise ModelError(f"the model has an operator with the fused activation {kind}, which cannot be computed apart")
    return _ACTIVATIONS[kind](values)


class Step:
    """One operator of a model's main graph, ready to be run by itself, without its fused activation.

    `reads` and `writes` are the indices of the computed tensors that it takes and gives, each once
    (x * x reads one); `fused` is the number of the activation that was left off. It holds the
    constants as they are now.
    """

    def __init__(self, model: Any, operator: Any, computed: set[int]) -> None:
        self.reads = list(dict.fromkeys(int(index) for index in operator.inputs if int(index) in computed))
        self.writes = [int(index) for index in operator.outputs]
        options = operator.builtinOptions
        self.fused = int(getattr(options, "fusedActivationFunction", 0) or 0)
        self._interpreter = _load(_one_operator(model, operator, self.reads))
        self._inputs = [detail["index"] for detail in self._interpreter.get_input_details()]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def run(self, inputs: list[Array]) -> list[Array]:
        """The outputs on one image's inputs, in the order of `reads` and `writes`."""
        for index, values in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _load(flatbuffer: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    with quiet_stderr():
        interpreter = Interpreter(model_content=flatbuffer, num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


def _one_operator(model: Any, operator: Any, reads: list[int]) -> bytes:
    """A model of this operator alone: its computed inputs become the graph's, its constants come along."""
    graph = model.subgraphs[0]
    alone, small = copy.copy(model), copy.copy(graph)
    used = list(dict.fromkeys(int(i) for i in (*operator.inputs, *operator.outputs) if i >= 0))
    place = {index: position for position, index in enumerate(used)}
    moved = copy.copy(operator)
    moved.inputs = [place.get(int(index), -1) for index in operator.inputs]
    moved.outputs = [place[int(index)] for index in operator.outputs]
    moved.opcodeIndex = 0
    if getattr(operator.builtinOptions, "fusedActivationFunction", 0):
        moved.builtinOptions = copy.copy(operator.builtinOptions)
        moved.builtinOptions.fusedActivationFunction = 0
    empty = type(model.buffers[0])()
    alone.buffers, small.tensors = [empty], []
    for index in used:
        tensor = copy.copy(graph.tensors[index])
        data = model.buffers[tensor.buffer]
        tensor.buffer = 0
        if data.data is not None and len(data.data):
            alone.buffers.append(data)
            tensor.buffer = len(alone.buffers) - 1
        small.tensors.append(tensor)
    small.operators = [moved]
    small.inputs, small.outputs = [place[index] for index in reads], list(moved.outputs)
    alone.operatorCodes = [model.operatorCodes[operator.opcodeIndex]]
    alone.subgraphs, alone.signatureDefs, alone.metadata, alone.metadataBuffer = [small], [], [], []
    return pack(alone)
