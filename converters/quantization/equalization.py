"""Equalization before quantization: tensors whose channels have unlike ranges, in a network that answers the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.quantization.bias_correction import WEIGHTED
from edgeloc.evaluation.layers.graph import TensorRunner
from edgeloc.model.flatbuffer import add_constant, constant, operator_name, pack, tensor_name, unpack

__all__ = ["bound_ranges", "equalize"]

Numbers = NDArray[np.int64]
Scales = NDArray[np.float32]

_LINEAR = (0, 1)  # the schema's numbers of no fused activation and of ReLU, which s * x commutes with for s > 0
_RELUS = (1, 3)  # ReLU and ReLU6
_MADE = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Operators whose channels are made of the same channel of their input.
_PASSING = ("AVERAGE_POOL_2D", "LEAKY_RELU", "MAX_POOL_2D", "MEAN", "PAD", "RELU", "RESIZE_BILINEAR",
            "RESIZE_NEAREST_NEIGHBOR")  # fmt: skip
# Number of the channels whose scale is not free.
_FIXED = 0
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
        if self.kind(product) != "MUL" or product.builtinOptions.fusedActivationFunction != 0:
            return None
        makers: list[Any] = [self.makers.get(int(index)) for index in product.inputs]
        for layer, gate in (makers, makers[::-1]):
            of_weights = self.kind(layer) in ("CONV_2D", "DEPTHWISE_CONV_2D")
            if of_weights and self.kind(gate) == "LOGISTIC" and int(gate.inputs[0]) == int(layer.outputs[0]):
                return layer
        return None

    def constant(self, operator: Any, position: int) -> NDArray[Any] | None:
        """What an operator reads at this position, where it is the same for every image."""
        return constant(self.model, int(operator.inputs[position])) if position < len(operator.inputs) else None

    def shape(self, tensor: int) -> tuple[int, ...]:
        shape = self.main.tensors[tensor].shape
        return () if shape is None else tuple(map(int, shape))


class _Channels:
    """Of each number in a graph, which channel of which layer it comes from.

    A channel is a number; sums make two of them one, and `_FIXED` are all whose scale must stay as it is.

    Attributes:
        makers: layers with the channels of their outputs.
        readers: layers with the channels of their inputs.
    """

    def __init__(self, graph: _Graph) -> None:
        self.graph, self._same = graph, _Sets(1)
        self._of: dict[int, Numbers] = {}
        self.makers: list[tuple[Any, Numbers]] = []
        self.readers: list[tuple[Any, Numbers]] = []
        for tensor in map(int, graph.main.inputs):
            self._of[tensor] = np.broadcast_to(_FIXED, graph.shape(tensor))
        for operator in graph.main.operators:
            inputs = [self._of[index] for index in map(int, operator.inputs) if index in self._of]
            found = self._traced(operator, inputs)
            if found is None:
                for numbers in inputs:
                    self._fix(numbers)
                found = [np.broadcast_to(_FIXED, graph.shape(int(index))) for index in operator.outputs]
            self._of.update(zip(map(int, operator.outputs), found, strict=True))
        for tensor in graph.outputs & set(self._of):
            self._fix(self._of[tensor])
        self._sets = self._same.roots()
        self.makers = [(layer, self._sets[numbers]) for layer, numbers in self.makers]
        self.readers = [(layer, self._sets[numbers]) for layer, numbers in self.readers]

    @property
    def count(self) -> int:
        """How many there are at most; each is less."""
        return len(self._sets)

    @property
    def tensors(self) -> Iterator[tuple[int, Numbers, bool]]:
        """Each tensor with its channels: in the order of its last axis where the flag says so, else each once."""
        for tensor, numbers in self._of.items():
            columns = _columns(numbers)
            yield tensor, self._sets[np.unique(numbers) if columns is None else columns], columns is not None

    def _traced(self, operator: Any, inputs: list[Numbers]) -> list[Numbers] | None:
        """The channels of an operator's outputs; None where they are fixed, and those of its inputs too."""
        kind, graph = self.graph.kind(operator), self.graph
        shape = graph.shape(int(operator.outputs[0]))
        if kind in _MADE:
            columns, weights = _columns(inputs[0]) if len(inputs) == 1 else None, graph.constant(operator, 1)
            if columns is None or weights is None or weights.shape[-1] != len(columns):
                return None
            self.readers.append((operator, columns))
            return [self._new(operator, shape)] if _is_linear(operator) else [np.broadcast_to(_FIXED, shape)]
        if graph.gate(operator) is not None:
            return [self._new(operator, shape)]
        if not _is_linear(operator):
            return None
        if kind == "ADD":
            if len(inputs) != 2 or inputs[0].shape != inputs[1].shape:
                return None
            self._same.join(*inputs)
            return [inputs[0]]
        if kind in _PASSING:
            columns = _columns(inputs[0])
            if columns is None or columns.shape != shape[-1:] or self._reduces_channels(operator):
                return None
            return [np.broadcast_to(columns, shape)]
        return _moved(graph, operator, inputs)

    def _reduces_channels(self, operator: Any) -> bool:
        if self.graph.kind(operator) != "MEAN":
            return False
        axes, rank = self.graph.constant(operator, 1), len(self.graph.shape(int(operator.inputs[0])))
        return axes is None or rank - 1 in np.asarray(axes).ravel() % rank

    def _new(self, operator: Any, shape: tuple[int, ...]) -> Numbers:
        numbers = self._same.more(shape[-1])
        self.makers.append((operator, numbers))
        return np.broadcast_to(numbers, shape)

    def _fix(self, numbers: Numbers) -> None:
        self._same.join(numbers, np.broadcast_to(_FIXED, numbers.shape))


class _Sets:
    """Whole numbers in sets that can be joined; a set goes by its least number."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def __len__(self) -> int:
        return len(self._parents)

    def more(self, count: int) -> Numbers:
        """So many new numbers, each a set of its own."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def join(self, these: Numbers, those: Numbers) -> None:
        """Join the sets of the numbers that stand at the same place in two arrays of one shape."""
        pairs = zip(*(numbers.ravel().tolist() for numbers in _distinct(these, those)), strict=True)
        for one, other in set(pairs):
            one, other = sorted((self._root(one), self._root(other)))
            self._parents[other] = one

    def roots(self) -> Numbers:
        """Of each number its set's."""
        return np.array([self._root(number) for number in range(len(self._parents))])

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number


def _columns(numbers: Numbers) -> Numbers | None:
    """The channel of each place on the last axis, where it is the same throughout."""
    if not numbers.ndim or not numbers.size:
        return None
    first: Numbers = numbers[(0,) * (numbers.ndim - 1)]
    spread = not any(numbers.strides[:-1])  # over the other axes, by broadcasting
    return first if spread or bool((numbers == first).all()) else None


def _distinct(these: Numbers, those: Numbers) -> tuple[Numbers, Numbers]:
    """Two arrays, or their first rows where all rows are alike."""
    columns = _columns(these), _columns(those)
    return (these, those) if columns[0] is None or columns[1] is None else (columns[0], columns[1])


def _moved(graph: _Graph, operator: Any, inputs: list[Numbers]) -> list[Numbers] | None:
    """The channels where an operator only moves numbers about; None where it does more."""
    kind, options = graph.kind(operator), operator.builtinOptions
    shape = graph.shape(int(operator.outputs[0]))
    if kind == "CONCATENATION" and len(inputs) == len(operator.inputs):
        return [np.concatenate(inputs, axis=options.axis)]
    if kind == "SPLIT" and len(inputs) == 1:
        axis = graph.constant(operator, 0)
        return None if axis is None else np.split(inputs[0], len(operator.outputs), axis=int(axis.ravel()[0]))
    if len(inputs) != 1 or int(operator.inputs[0]) not in graph.makers:
        return None
    (numbers,) = inputs
    if kind == "RESHAPE" and numbers.size == np.prod(shape):
        return [numbers.reshape(shape)]
    how = graph.constant(operator, 1)
    if how is not None and kind == "TRANSPOSE":
        return [numbers.transpose(how.ravel())]
    if how is not None and kind == "GATHER" and not options.batchDims:
        return [np.take(numbers, how, axis=options.axis)]
    return None


def _is_linear(operator: Any) -> bool:
    return getattr(operator.builtinOptions, "fusedActivationFunction", 0) in _LINEAR


def equalize(flatbuffer: bytes, images: NDArray[np.float32]) -> bytes:
    """The float model with channels of one tensor scaled alike, so that none is left a few of int8's levels.

    A layer's channels are divided by what the weights of those that read them are multiplied with: half of the way to
    the range of the largest, and by up to 8 (after Nagel et al. 2019, Data-Free Quantization Through Weight
    Equalization); channels that a sum ties together by the same, wherever concatenations and shuffles take them. Where
    many channels would have a few levels, by up to 256, and all of the way where the next layers are depthwise, whose
    weights have a scale for each channel. Of x * sigmoid(x) there, the layer that makes x is doubled: the sigmoid keeps
    its x, and the other is scaled. The answers stay those of the model.

    Parameters:
        flatbuffer: the float model.
        images: normalized, float32 (n, height, width, channels), of which up to 16 are used.
    """
    graph = _Graph(flatbuffer)
    channels = _Channels(graph)
    scales = _scales(graph, channels, *_ranges(flatbuffer, channels, images[:_IMAGES]))
    if scales is None:
        return flatbuffer
    for reader, numbers in channels.readers:
        if (scales[numbers] != 1).any():
            _scale_inputs(graph, reader, scales[numbers])
    doubled: dict[int, Any] = {}
    for maker, numbers in channels.makers:
        if (scales[numbers] == 1).all():
            continue
        if graph.kind(maker) == "MUL":
            doubled[int(maker.outputs[0])] = _doubled(graph, maker, scales[numbers])
        else:
            _scale_outputs(graph, maker, scales[numbers])
    operators = []
    for operator in graph.main.operators:
        layer = doubled.get(int(operator.outputs[0]))
        operators += [operator] if layer is None else [layer, operator]
    graph.main.operators = operators
    return pack(graph.model)


def _ranges(flatbuffer: bytes, channels: _Channels, images: NDArray[np.float32]) -> tuple[Scales, Numbers, Scales]:
    """The largest absolute number of each channel, which others it shares tensors with, and the largest of those."""
    together = _Sets(channels.count)
    measured = {}
    for tensor, numbers, in_order in channels.tensors:
        free = np.unique(numbers[numbers != _FIXED])
        together.join(free, np.broadcast_to(free[:1], free.shape))
        if in_order and len(free):
            measured[tensor] = numbers, free[0]
    teams = together.roots()
    largest, of_team = np.zeros((2, channels.count), np.float32)
    runner, image_tensor = TensorRunner(flatbuffer), int(channels.graph.main.inputs[0])
    for image in images if measured else ():
        runner.set(image_tensor, image[np.newaxis])
        runner.run()
        for tensor, (columns, one) in measured.items():
            values = runner.real(tensor)
            values = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            np.maximum.at(largest, columns, values)
            of_team[teams[one]] = max(of_team[teams[one]], values.max())
    return largest, teams, of_team[teams]


def _scales(graph: _Graph, channels: _Channels, largest: Scales, teams: Numbers, of_team: Scales) -> Scales | None:
    """What each channel is divided by; None where all stay as they are."""
    scales = np.ones(channels.count, np.float32)
    numbered = np.concatenate([numbers for _, numbers in channels.makers]) if channels.makers else np.zeros(0, int)
    for team in np.unique(teams[numbered[numbered != _FIXED]]):
        members = np.unique(numbered[(teams[numbered] == team) & (numbered != _FIXED)])
        ranges = largest[members]
        poor = np.quantile(ranges, 0.25) <= _POOR * of_team[team]
        if not poor and any(graph.kind(maker) == "MUL" for maker in _of(channels.makers, members)):
            continue  # not worth a second layer
        deep = poor and all(graph.kind(reader) == "DEPTHWISE_CONV_2D" for reader in _of(channels.readers, members))
        shares = np.maximum(ranges / max(float(of_team[team]), _TINY), _LEAST if poor else _POOR)
        scales[members] = shares if deep else np.sqrt(shares)
    return scales if (scales != 1).any() else None


def _of(layers: Sequence[tuple[Any, Numbers]], members: Numbers) -> list[Any]:
    """The layers that make, or read, any of these channels."""
    return [layer for layer, numbers in layers if np.isin(numbers, members).any()]


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
    values, inputs = graph.constant(layer, position), [int(index) for index in layer.inputs]
    if values is None:
        return
    name = tensor_name(graph.main.tensors[inputs[position]])
    inputs[position] = add_constant(graph.model, f"{name}/equalized", np.asarray(change(values), np.float32))
    layer.inputs = inputs


def bound_ranges(calibrated: bytes) -> bytes:
    """A calibrated model in which no tensor has levels for numbers that the next operator makes all one of.

    That is what goes into a sigmoid beyond -8 to 8, into x * sigmoid(x) below -8, into a hard swish below -3, and into
    a sum under a ReLU below what the other summand can make up for.
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
    if kinds == ["ADD"] and readers[0].builtinOptions.fusedActivationFunction in _RELUS:
        (other,) = {int(index) for index in readers[0].inputs} - {tensor} or {tensor}
        range_ = graph.main.tensors[other].quantization
        if other != tensor and range_ is not None and range_.max is not None and len(range_.max) == 1:
            return -float(range_.max[0]), np.inf
    return (-_HARD_SWISH_ZERO, np.inf) if kinds and set(kinds) == {"HARD_SWISH"} else (-np.inf, np.inf)
