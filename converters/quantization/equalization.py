"""Equalization before quantization: tensors whose channels have unlike ranges, in a network that answers the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.quantization.bias_correction import WEIGHTED
from edgeloc.evaluation.layers.graph import TensorRunner
from edgeloc.model.flatbuffer import add_constant, constant, operator_name, pack, tensor_name, unpack

__all__ = ["bound_ranges", "equalize"]

Scales = NDArray[np.float32]

_LINEAR = (0, 1)  # the schema's numbers of no fused activation and of ReLU, which s * x commutes with for s > 0
_IMAGES = 16
# Where a quarter of the channels has no more than this share of the tensor's range, they have 5 bits or less.
_POOR = 1 / 8
_LEAST = 1 / 256
# sigmoid(8) is 1 within a tenth of what int8 can hold, and x * sigmoid(x) is -0.003 at -8, and 0 from there on down.
_SATURATED = 8.0
_HARD_SWISH_ZERO = 3.0


class _Graph:
    """The main graph of a model, with who makes and reads a tensor."""

    def __init__(self, flatbuffer: bytes) -> None:
        self.model = unpack(flatbuffer)
        self.main = self.model.subgraphs[0]
        self.outputs = set(map(int, self.main.outputs))
        self.makers = {int(index): operator for operator in self.main.operators for index in operator.outputs}
        self._readers: dict[int, list[Any]] = {}
        for operator in self.main.operators:
            for index in set(map(int, operator.inputs)):
                self._readers.setdefault(index, []).append(operator)

    def kind(self, operator: Any) -> str:
        return "" if operator is None else operator_name(self.model, operator)

    def readers(self, tensor: int) -> list[Any]:
        """Those that read a tensor; none for an output, which the host reads."""
        return [] if tensor in self.outputs else self._readers.get(tensor, [])

    def layers(self, tensor: int) -> list[Any]:
        """The convolutions that read a tensor, behind a padding too; none where anything else does."""
        readers = self.readers(tensor)
        if len(readers) == 1 and self.kind(readers[0]) == "PAD":
            readers = self.readers(int(readers[0].outputs[0]))
        return readers if all(self._reads_channels(reader) for reader in readers) else []

    def gate(self, product: Any) -> Any:
        """The layer x of a product x * sigmoid(x), None where it is none."""
        makers: list[Any] = [self.makers.get(int(index)) for index in product.inputs]
        for layer, gate in (makers, makers[::-1]):
            of_weights = self.kind(layer) in ("CONV_2D", "DEPTHWISE_CONV_2D")
            if of_weights and self.kind(gate) == "LOGISTIC" and int(gate.inputs[0]) == int(layer.outputs[0]):
                return layer
        return None

    def _reads_channels(self, operator: Any) -> bool:
        """Whether it is a convolution with a weight for each channel of its input."""
        if self.kind(operator) not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return False
        weights, shape = (self.main.tensors[int(index)].shape for index in (operator.inputs[1], operator.inputs[0]))
        return constant(self.model, int(operator.inputs[1])) is not None and int(weights[3]) == int(shape[3])


def equalize(flatbuffer: bytes, images: NDArray[np.float32]) -> bytes:
    """The float model with channels of one tensor scaled alike where int8 would leave many of them a few levels.

    A layer's channels are divided by what the next one's weights are multiplied with: to the range of the largest where
    the next is depthwise, whose weights have a scale for each channel, else half of the way (after Nagel et al. 2019,
    Data-Free Quantization Through Weight Equalization). Of x * sigmoid(x), the layer that makes x is doubled: the
    sigmoid keeps its x, and the other is scaled. The answers stay those of the model.

    Parameters:
        flatbuffer: the float model.
        images: normalized, float32 (n, height, width, channels), of which up to 16 are used.
    """
    graph = _Graph(flatbuffer)
    found = {int(op.outputs[0]): op for op in graph.main.operators if _equalizable(graph, op)}
    if not found:
        return flatbuffer
    largest = _largest(flatbuffer, list(found), images[:_IMAGES])
    operators = []
    for operator in graph.main.operators:
        tensor = int(operator.outputs[0])
        if tensor in found and np.quantile(largest[tensor], 0.25) <= _POOR * largest[tensor].max():
            readers = graph.layers(tensor)
            deep = all(graph.kind(reader) == "DEPTHWISE_CONV_2D" for reader in readers)
            scales = np.maximum(largest[tensor] / largest[tensor].max(), _LEAST) ** (1.0 if deep else 0.5)
            if graph.kind(operator) == "MUL":
                operators.append(_doubled(graph, operator, scales))
            else:
                _scale_outputs(graph, operator, scales)
            for reader in readers:
                _scale_inputs(graph, reader, scales)
        operators.append(operator)
    graph.main.operators = operators
    return pack(graph.model)


def _equalizable(graph: _Graph, operator: Any) -> bool:
    tensor = int(operator.outputs[0])
    if getattr(operator.builtinOptions, "fusedActivationFunction", None) not in _LINEAR or not graph.layers(tensor):
        return False
    if graph.kind(operator) == "MUL":
        return operator.builtinOptions.fusedActivationFunction == 0 and graph.gate(operator) is not None
    return graph.kind(operator) in ("CONV_2D", "DEPTHWISE_CONV_2D")


def _largest(flatbuffer: bytes, tensors: Sequence[int], images: NDArray[np.float32]) -> dict[int, Scales]:
    """The largest absolute number of each channel of these tensors."""
    runner, largest = TensorRunner(flatbuffer), dict[int, Scales]()
    image_tensor = int(unpack(flatbuffer).subgraphs[0].inputs[0])
    for image in images:
        runner.set(image_tensor, image[np.newaxis])
        runner.run()
        for tensor in tensors:
            values = runner.real(tensor)
            channels = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            largest[tensor] = np.maximum(largest.get(tensor, channels), channels)
    return largest


def _doubled(graph: _Graph, product: Any, scales: Scales) -> Any:
    """The layer x of x * sigmoid(x) again, scaled, which the product reads from now on."""
    layer = graph.gate(product)
    made, tensor = copy.copy(layer), copy.copy(graph.main.tensors[int(layer.outputs[0])])
    tensor.name = f"{tensor_name(tensor)}/value"
    graph.main.tensors.append(tensor)
    made.outputs = [len(graph.main.tensors) - 1]
    product.inputs = [
        made.outputs[0] if int(index) == int(layer.outputs[0]) else int(index) for index in product.inputs
    ]
    _scale_outputs(graph, made, scales)
    return made


def _scale_outputs(graph: _Graph, layer: Any, scales: Scales) -> None:
    weights, bias, axis = WEIGHTED[graph.kind(layer)]
    shape = [-1 if place == axis else 1 for place in range(4)]
    _replace(graph, layer, weights, lambda values: values / scales.reshape(shape))
    _replace(graph, layer, bias, lambda values: values / scales)


def _scale_inputs(graph: _Graph, layer: Any, scales: Scales) -> None:
    _replace(graph, layer, WEIGHTED[graph.kind(layer)][0], lambda values: values * scales)


def _replace(graph: _Graph, layer: Any, position: int, change: Callable[[Any], Any]) -> None:
    """Other weights, in a tensor of this layer's own: two layers may share theirs."""
    inputs = [int(index) for index in layer.inputs]
    values = constant(graph.model, inputs[position]) if position < len(inputs) else None
    if values is None:
        return
    name = tensor_name(graph.main.tensors[inputs[position]])
    inputs[position] = add_constant(graph.model, f"{name}/equalized", np.asarray(change(values), np.float32))
    layer.inputs = inputs


def bound_ranges(calibrated: bytes) -> bytes:
    """A calibrated model in which no tensor has levels for numbers that the next operator makes all one of.

    That is what goes into a sigmoid beyond -8 to 8, into x * sigmoid(x) below -8, and into a hard swish below -3.
    """
    graph = _Graph(calibrated)
    for tensor, holder in enumerate(graph.main.tensors):
        range_ = holder.quantization
        low, high = _needed(graph, tensor)
        if range_ is None or range_.min is None or len(range_.min) != 1:
            continue
        range_.min = [np.float32(max(float(range_.min[0]), low))]
        range_.max = [np.float32(min(float(range_.max[0]), high))]
    return pack(graph.model)


def _needed(graph: _Graph, tensor: int) -> tuple[float, float]:
    readers = graph.readers(tensor)
    kinds = sorted(map(graph.kind, readers))
    if kinds and set(kinds) == {"LOGISTIC"}:
        return -_SATURATED, _SATURATED
    if kinds == ["LOGISTIC", "MUL"]:
        gate, product = sorted(readers, key=graph.kind)
        own = int(gate.outputs[0]) in map(int, product.inputs)
        return (-_SATURATED, np.inf) if own else (-np.inf, np.inf)
    return (-_HARD_SWISH_ZERO, np.inf) if kinds and set(kinds) == {"HARD_SWISH"} else (-np.inf, np.inf)
