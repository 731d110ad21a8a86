"""Bias correction before quantization: weights at their int8 levels, then each layer's channel means restored."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.terminal import quiet_stderr
from edgeloc.errors import ModelError
from edgeloc.model.flatbuffer import add_constant, constant, operator_name, pack, set_constant, tensor_name, unpack

__all__ = ["WEIGHTED", "Step", "activate", "add_to_bias", "correct_biases", "weight_steps"]

Array = NDArray[Any]

# By operator: which of its inputs are weights and bias, and along which axis the weights have a scale each.
WEIGHTED = {
    "CONV_2D": (1, 2, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 3),
    "FULLY_CONNECTED": (1, 2, 0),
    "TRANSPOSE_CONV": (1, 3, 0),
}
_LEVELS = 127

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
        raise ModelError(f"an operator has the fused activation {kind}, which cannot be computed by itself")
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


def correct_biases(
    flatbuffer: bytes, images: NDArray[np.float32], keep: Callable[[str], bool] = lambda name: False
) -> bytes:
    """The float model with rounded weights, and biases such that each channel's mean stays what it was.

    `images` are normalized inputs, float32 (n, height, width, channels); 64 are enough. A layer
    for whose output tensor's name `keep` is true stays as it is, since it will not be quantized.
    Both networks run side by side, so that every layer is corrected behind those already corrected.
    """
    # Layers may share weights: what a layer computed in float is asked of a copy that is never rounded.
    model, unrounded = unpack(flatbuffer), unpack(flatbuffer)
    graph = model.subgraphs[0]
    computed = {int(index) for op in graph.operators for index in op.outputs} | {int(index) for index in graph.inputs}
    uses = Counter(index for op in graph.operators for index in set(map(int, op.inputs)))
    uses.update(int(index) for index in graph.outputs)
    single = [image[np.newaxis] for image in images]
    # For each computed tensor, by image: what the float network has there, and what the rounded one.
    wanted: dict[int, list[Array]] = {int(graph.inputs[0]): single}
    got: dict[int, list[Array]] = {int(graph.inputs[0]): single}
    for operator, in_float in zip(graph.operators, unrounded.subgraphs[0].operators, strict=True):
        original = Step(unrounded, in_float, computed)
        rounded, bias = original, None
        if not keep(_name(graph, operator)) and _round_weights(model, operator):
            rounded, bias = Step(model, operator, computed), WEIGHTED[operator_name(model, operator)][1]
        before = _run(original, wanted)
        after = before if rounded is original and _same(original.reads, wanted, got) else _run(rounded, got)
        if bias is not None:
            shift = _channel_means(before[0]) - _channel_means(after[0])
            add_to_bias(model, operator, bias, shift)
            after = [[values + shift for values in after[0]]]
        for index, values, other in zip(original.writes, before, after, strict=True):
            wanted[index] = [activate(original.fused, value) for value in values]
            got[index] = wanted[index] if other is values else [activate(original.fused, value) for value in other]
        for index in original.reads:
            uses[index] -= 1
            if uses[index] <= 0:
                wanted.pop(index, None)
                got.pop(index, None)
    return pack(model)


def _name(graph: Any, operator: Any) -> str:
    return tensor_name(graph.tensors[int(operator.outputs[0])])


def _run(step: Step, values: dict[int, list[Array]]) -> list[list[Array]]:
    """Every image through one operator: for each of its outputs, the values by image."""
    images = len(next(iter(values.values())))
    answers = [step.run([values[index][number] for index in step.reads]) for number in range(images)]
    return [list(output) for output in zip(*answers, strict=True)]


def _same(reads: list[int], wanted: dict[int, list[Array]], got: dict[int, list[Array]]) -> bool:
    return all(wanted[index] is got[index] for index in reads)


def _round_weights(model: Any, operator: Any) -> bool:
    """Round constant weights to their int8 levels; whether there were any."""
    name = operator_name(model, operator)
    if name not in WEIGHTED:
        return False
    position, _, axis = WEIGHTED[name]
    index = int(operator.inputs[position])
    weights = constant(model, index)
    if weights is None or weights.dtype != np.float32:
        return False
    steps = weight_steps(weights, axis)
    set_constant(model, index, np.round(weights / steps) * steps)
    return True


def weight_steps(weights: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    """The distance between two int8 values, for each place along `axis` or for the whole; it broadcasts to weights."""
    others = tuple(number for number in range(weights.ndim) if number != axis)
    steps: NDArray[np.float32] = np.abs(weights).max(axis=others, keepdims=True) / np.float32(_LEVELS)
    steps[steps == 0] = 1
    return steps


def _channel_means(values: list[Array]) -> NDArray[np.float32]:
    """The mean over images and positions, by channel (the last axis)."""
    sums = sum(value.reshape(-1, value.shape[-1]).sum(axis=0, dtype=np.float64) for value in values)
    return np.asarray(sums / sum(value.size // value.shape[-1] for value in values), np.float32)


def add_to_bias(model: Any, operator: Any, position: int, shift: NDArray[np.float32]) -> None:
    """Shift the bias in a tensor of this operator's own: there may be none so far, or one that two layers share."""
    graph = model.subgraphs[0]
    inputs = [int(index) for index in operator.inputs]
    inputs += [-1] * (position + 1 - len(inputs))
    bias = constant(model, inputs[position])
    if bias is None and inputs[position] >= 0:
        raise ModelError("a layer's bias is computed, not constant: the recipe int8 cannot correct it")
    if bias is None or sum(inputs[position] in other.inputs for other in graph.operators) > 1:
        inputs[position] = add_constant(
            model, f"{_name(graph, operator)}/bias", shift if bias is None else bias + shift
        )
    else:
        set_constant(model, inputs[position], bias + shift)
    operator.inputs = inputs
