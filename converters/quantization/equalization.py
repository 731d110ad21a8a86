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
# Operators that give their input's channels back, each as it was or as it is among others.
_PASSING = ("ADD", "AVERAGE_POOL_2D", "LEAKY_RELU", "MAX_POOL_2D", "MEAN", "PAD", "RELU", "RESHAPE",
            "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")  # fmt: skip
_MADE = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_IMAGES = 16
# Where a quarter of the channels has no more than this share of the tensor's range, they have 5 bits or less.
_POOR = 1 / 8
_LEAST = 1 / 256
_TINY = 1e-12
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

    def gate(self, product: Any) -> Any:
        """The layer x of a product x * sigmoid(x), None where it is none."""
        makers: list[Any] = [self.makers.get(int(index)) for index in product.inputs]
        for layer, gate in (makers, makers[::-1]):
            of_weights = self.kind(layer) in ("CONV_2D", "DEPTHWISE_CONV_2D")
            if of_weights and self.kind(gate) == "LOGISTIC" and int(gate.inputs[0]) == int(layer.outputs[0]):
                return layer
        return None

    def reads_channels(self, operator: Any) -> bool:
        """Whether it is a layer with a weight for each channel of its input."""
        if self.kind(operator) not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            return False
        weights, shape = (self.shape(int(index)) for index in (operator.inputs[1], operator.inputs[0]))
        return constant(self.model, int(operator.inputs[1])) is not None and weights[-1] == shape[-1]

    def passes_channels(self, operator: Any) -> bool:
        """Whether channels come out of it in the scale in which they all went in."""
        kind, tensors = self.kind(operator), self._passed(operator)
        if kind not in _PASSING or not _is_linear(operator):
            return False
        if kind == "ADD" and any(index not in self.makers for index in map(int, operator.inputs)):
            return False
        if kind == "MEAN":
            axes, rank = constant(self.model, int(operator.inputs[1])), len(self.shape(tensors[0]))
            if axes is None or rank - 1 in np.asarray(axes).ravel() % rank:
                return False
        return len({self.shape(index)[-1] for index in tensors}) == 1

    def groups(self) -> list[list[int]]:
        """Tensors whose channels must be scaled alike: one that layers make and read, with those tied to it by sums."""
        leader: dict[int, int] = {}

        def root(tensor: int) -> int:
            while leader.setdefault(tensor, tensor) != tensor:
                tensor = leader[tensor]
            return tensor

        for operator in self.main.operators:
            if self.passes_channels(operator):
                first, *others = self._passed(operator)
                for tensor in others:
                    leader[root(tensor)] = root(first)
        found: dict[int, list[int]] = {}
        for tensor in self.makers:
            found.setdefault(root(tensor), []).append(tensor)
        roots = {root(int(index)) for index in self.main.inputs}
        return [group for key, group in found.items() if key not in roots and all(map(self._is_free, group))]

    def _is_free(self, tensor: int) -> bool:
        """Whether the scale of its channels is nobody's but that of the layers that make and read it."""
        maker, readers = self.makers[tensor], self.readers(tensor)
        if not readers or not all(self.reads_channels(r) or self.passes_channels(r) for r in readers):
            return False
        if self.kind(maker) == "MUL":
            return maker.builtinOptions.fusedActivationFunction == 0 and self.gate(maker) is not None
        return self.passes_channels(maker) or (self.kind(maker) in _MADE and _is_linear(maker))

    def _passed(self, operator: Any) -> list[int]:
        """The output of an operator and the tensors that it takes values from."""
        inputs = operator.inputs if self.kind(operator) == "ADD" else operator.inputs[:1]
        return [int(operator.outputs[0]), *map(int, inputs)]

    def shape(self, tensor: int) -> tuple[int, ...]:
        shape = self.main.tensors[tensor].shape
        return (0,) if shape is None or not len(shape) else tuple(map(int, shape))


def _is_linear(operator: Any) -> bool:
    return getattr(operator.builtinOptions, "fusedActivationFunction", 0) in _LINEAR


def equalize(flatbuffer: bytes, images: NDArray[np.float32]) -> bytes:
    """The float model with channels of one tensor scaled alike, so that none is left a few of int8's levels.

    A layer's channels are divided by what the next one's weights are multiplied with: half of the way to the range of
    the largest, and by up to 8 (after Nagel et al. 2019, Data-Free Quantization Through Weight Equalization); tensors
    that a sum, a pooling or a resize ties together by the same. Where many channels would have a few levels, by up to
    256, and all of the way where the next layer is depthwise, whose weights have a scale for each channel. Of
    x * sigmoid(x) there, the layer that makes x is doubled: the sigmoid keeps its x, and the other is scaled. The
    answers stay those of the model.

    Parameters:
        flatbuffer: the float model.
        images: normalized, float32 (n, height, width, channels), of which up to 16 are used.
    """
    graph = _Graph(flatbuffer)
    groups = graph.groups()
    if not groups:
        return flatbuffer
    largest = _largest(flatbuffer, [tensor for group in groups for tensor in group], images[:_IMAGES])
    doubled: dict[int, Any] = {}
    for group in groups:
        doubled.update(_equalize_group(graph, group, np.max([largest[tensor] for tensor in group], axis=0)))
    operators = []
    for operator in graph.main.operators:
        layer = doubled.get(int(operator.outputs[0]))
        operators += [operator] if layer is None else [layer, operator]
    graph.main.operators = operators
    return pack(graph.model)


def _equalize_group(graph: _Graph, group: Sequence[int], ranges: Scales) -> dict[int, Any]:
    """Scale the channels of these tensors, `ranges` their largest numbers; the layers doubled for it, by product."""
    readers = [reader for tensor in group for reader in graph.readers(tensor) if graph.reads_channels(reader)]
    makers = [maker for maker in (graph.makers[tensor] for tensor in group) if not graph.passes_channels(maker)]
    poor = np.quantile(ranges, 0.25) <= _POOR * ranges.max()
    doubled: dict[int, Any] = {}
    if not poor and any(graph.kind(maker) == "MUL" for maker in makers):
        return doubled  # not worth a second layer
    deep = poor and all(graph.kind(reader) == "DEPTHWISE_CONV_2D" for reader in readers)
    shares = np.maximum(ranges / max(float(ranges.max()), _TINY), _LEAST if poor else _POOR)
    scales = np.asarray(shares if deep else np.sqrt(shares), np.float32)
    for maker in makers:
        if graph.kind(maker) == "MUL":
            doubled[int(maker.outputs[0])] = _doubled(graph, maker, scales)
        else:
            _scale_outputs(graph, maker, scales)
    for reader in readers:
        _scale_inputs(graph, reader, scales)
    return doubled


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
    _replace(
        graph, layer, weights,
        lambda values: values / scales.reshape([-1 if place == axis else 1 for place in range(values.ndim)]),
    )  # fmt: skip
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
