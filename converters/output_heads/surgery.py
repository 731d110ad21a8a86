"""Operators taken apart in a float flatbuffer: tensors that hold just the numbers asked for, exactly as they were."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.output_heads.graph import HeadGraph, Places, indices_of, places_of, tensors_of
from edgeloc.converters.sources.base import answer_each
from edgeloc.engines import open_engine
from edgeloc.errors import ModelError
from edgeloc.model.flatbuffer import add_constant, add_operator_code, constant, pack, schema, set_constant, tensor_name

__all__ = ["Answers", "Surgeon", "answers"]

Answers = dict[str, NDArray[np.float32]]

_SLICED = ("FULLY_CONNECTED", "CONV_2D")
_UNARY = (
    "ABS", "ELU", "EXP", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG", "RELU", "RELU6", "RELU_N1_TO_1",
    "RSQRT", "SQRT", "SQUARE", "TANH",
)  # fmt: skip
_BINARY = ("ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "SUB")
_INT32 = 2
# More runs than that are no outputs of layers.
_MOST_RUNS = 64


class Surgeon:
    """Adds operators to a graph, puts other outputs on it and gives the flatbuffer."""

    def __init__(self, graph: HeadGraph) -> None:
        self._graph = graph

    def take(self, places: Places, name: str) -> int:
        """The index of a tensor called `name` that holds just these numbers, in this order; exact.

        The places are roots, (n,) or (rows, columns); what is joined out of several tensors has their shape behind the
        batch. A tensor that holds nothing else is given as it is. Raises ModelError that names the operator which
        cannot be split.
        """
        runs, axis = self._runs(places, name)
        if len(runs) == 1:
            return self._part(int(tensors_of(places).flat[0]), indices_of(places), name)
        return self._join([(self.take(run, name), run.shape) for run in runs], axis, name)

    def finish(self, outputs: dict[str, int]) -> bytes:
        """The flatbuffer whose outputs are these tensors by name; operators that led only to others are left out."""
        graph = self._graph
        signature, main = graph.signature, graph.main
        kind = type(signature.outputs[0])
        signature.outputs = []
        for name, tensor in outputs.items():
            entry = kind()
            entry.name, entry.tensorIndex = name.encode(), tensor
            signature.outputs.append(entry)
        graph.model.signatureDefs = [signature]
        main.outputs = np.array(list(outputs.values()), np.int32)
        self._leave_out_unused()
        return pack(graph.model)

    def _runs(self, places: Places, name: str) -> tuple[list[Places], int]:
        """The places in runs of rows that have the same tensors, else of columns; and the axis."""
        tensors = tensors_of(places)
        for axis in range(places.ndim):
            changes = (np.diff(tensors, axis=axis) != 0).any(axis=tuple({0, 1} - {axis})[: places.ndim - 1])
            cuts = np.flatnonzero(changes) + 1
            if len(cuts) >= _MOST_RUNS:
                raise ModelError(f"the numbers of the output {name} come out of more than {_MOST_RUNS} places")
            if len(cuts):
                return np.split(places, cuts, axis), axis
        return self._rounds(places), 0

    def _rounds(self, places: Places) -> list[Places]:
        """The rows of one convolution by its rounds over the feature map: one for each anchor, where they follow so."""
        graph, tensor = self._graph, int(tensors_of(places).flat[0])
        channels = (graph.shape(tensor) or (1,))[-1]
        positions = graph.everything(tensor).size // channels
        if graph.made_by(tensor) != "CONV_2D" or places.ndim == 1 or positions < 2 or len(places) % positions:
            return [places]
        walked = indices_of(places[:, 0]) // channels
        once = np.array_equal(walked, np.tile(np.arange(positions), len(places) // positions))
        return np.split(places, len(places) // positions) if once else [places]

    def _part(self, tensor: int, indices: NDArray[np.int64], name: str) -> int:
        graph = self._graph
        if np.array_equal(indices.reshape(-1), np.arange(graph.everything(tensor).size)):
            return tensor
        operator, kind = graph.producer(tensor), graph.made_by(tensor)
        if kind in _SLICED:
            return self._slice(operator, tensor, self._channels(tensor, indices.reshape(-1)), name)
        if kind in _UNARY:
            source = self._pick(int(operator.inputs[0]), indices, name)
            return self._copy(operator, [source], tensor, graph.shape(source), name)
        if kind in _BINARY:
            return self._binary(operator, tensor, indices, name)
        raise ModelError(
            f"the numbers of the output {name} come out of {kind or 'no operator'}, which cannot be split: "
            "give each quantity a layer of its own, and train again"
        )

    def _pick(self, tensor: int, indices: NDArray[np.int64], name: str) -> int:
        return self.take(self._graph.roots(places_of(tensor, indices)), name)

    def _channels(self, tensor: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which channels these are, when they are the same ones at every position."""
        channels = self._graph.shape(tensor)[-1]
        positions = self._graph.everything(tensor).size // channels
        chosen = indices[: len(indices) // positions]
        if not np.array_equal(indices, (np.arange(positions)[:, None] * channels + chosen).reshape(-1)):
            raise ModelError(
                f"the parts of the tensor {self._name(tensor)} lie at different positions of a feature map, "
                "which cannot be split: give each quantity a layer of its own, and train again"
            )
        return chosen

    def _slice(self, operator: Any, tensor: int, channels: NDArray[np.int64], name: str) -> int:
        """The same layer with only these output channels; both kinds hold them first in the weights."""
        image, weights, *bias = (int(i) for i in operator.inputs)
        inputs = [image, self._chosen(weights, channels, name)]
        inputs += [self._chosen(i, channels, name) if i >= 0 else i for i in bias]
        return self._copy(operator, inputs, tensor, (*self._graph.shape(tensor)[:-1], len(channels)), name)

    def _binary(self, operator: Any, tensor: int, indices: NDArray[np.int64], name: str) -> int:
        """The operator on just what it reads for these numbers; constants are laid out for each of them."""
        graph = self._graph
        everywhere = [np.broadcast_to(graph.everything(int(i)), graph.shape(tensor)) for i in operator.inputs]
        read = [indices_of(places.reshape(-1)[indices]) for places in everywhere]
        computed = [constant(graph.model, int(i)) is None for i in operator.inputs]
        inputs = [
            self._pick(int(i), chosen, name) if picked else -1
            for i, chosen, picked in zip(operator.inputs, read, computed, strict=True)
        ]
        shapes = {graph.shape(i) for i in inputs if i >= 0}
        shape = shapes.pop() if len(shapes) == 1 else (1, *indices.shape)
        for position, (i, chosen) in enumerate(zip(operator.inputs, read, strict=True)):
            if computed[position]:
                inputs[position] = self._reshaped(inputs[position], shape, name)
            else:
                inputs[position] = self._chosen(int(i), chosen.reshape(shape), name, flat=True)
        return self._copy(operator, inputs, tensor, shape, name)

    def _join(self, parts: list[tuple[int, tuple[int, ...]]], axis: int, name: str) -> int:
        """Tensors one behind the other along an axis, each with the shape of its places."""
        shaped = [self._reshaped(tensor, (1, *shape), name) for tensor, shape in parts]
        shapes = [shape for _, shape in parts]
        shape = [1, *shapes[0]]
        shape[axis + 1] = sum(other[axis] for other in shapes)
        options = schema().ConcatenationOptionsT()
        options.axis = axis + 1
        return self._add_operator("CONCATENATION", "ConcatenationOptions", options, shaped, tuple(shape), name)

    def _reshaped(self, tensor: int, shape: tuple[int, ...], name: str) -> int:
        """The same numbers in another shape."""
        if self._graph.shape(tensor) == shape:
            return tensor
        options = schema().ReshapeOptionsT()
        options.newShape = list(shape)
        target = add_constant(self._graph.model, f"{self._name(tensor)}/shape", np.zeros(len(shape), np.float32))
        self._graph.main.tensors[target].type = _INT32
        set_constant(self._graph.model, target, np.array(shape, np.int32))
        return self._add_operator("RESHAPE", "ReshapeOptions", options, [tensor, target], shape, name)

    def _add_operator(
        self, kind: str, options_kind: str, options: Any, inputs: list[int], shape: tuple[int, ...], name: str
    ) -> int:
        made, graph, kinds = schema().OperatorT(), self._graph, schema()
        made.opcodeIndex = add_operator_code(graph.model, getattr(kinds.BuiltinOperator, kind))
        made.builtinOptionsType, made.builtinOptions = getattr(kinds.BuiltinOptions, options_kind), options
        output = self._add_tensor(inputs[0], shape, name, 0)
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        graph.main.operators.append(made)
        return output

    def _copy(self, operator: Any, inputs: list[int], tensor: int, shape: tuple[int, ...], name: str) -> int:
        """The operator again, with other inputs and an output like `tensor` of another shape."""
        made = copy.copy(operator)
        output = self._add_tensor(tensor, shape, name, 0)
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        self._graph.main.operators.append(made)
        return output

    def _chosen(self, tensor: int, channels: NDArray[np.int64], name: str, flat: bool = False) -> int:
        """Some of the rows, or flat numbers, of a constant as a constant of their own."""
        values = constant(self._graph.model, tensor)
        if values is None:
            raise ModelError(
                f"the weights of the output {name} are computed while the model runs: they cannot be split"
            )
        values = (values.reshape(-1) if flat else values)[channels]
        buffer = type(self._graph.model.buffers[0])()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._graph.model.buffers.append(buffer)
        number = len(self._graph.model.buffers) - 1
        return self._add_tensor(tensor, values.shape, f"{name}/{self._name(tensor)}", number)

    def _add_tensor(self, like: int, shape: tuple[int, ...], name: str, buffer: int) -> int:
        tensors = self._graph.main.tensors
        made = copy.copy(tensors[like])
        made.shape, made.shapeSignature = np.array(shape, np.int32), None
        made.name, made.buffer = self._free_name(name).encode(), buffer
        tensors.append(made)
        return len(tensors) - 1

    def _free_name(self, name: str) -> str:
        taken = {self._name(i) for i in range(len(self._graph.main.tensors))}
        return next(n for n in (name, *(f"{name}_{i}" for i in range(1, len(taken) + 2))) if n not in taken)

    def _name(self, tensor: int) -> str:
        return tensor_name(self._graph.main.tensors[tensor])

    def _leave_out_unused(self) -> None:
        main = self._graph.main
        needed, kept = set(map(int, main.outputs)), []
        for operator in reversed(main.operators):
            if needed & set(map(int, operator.outputs)):
                needed |= {int(i) for i in operator.inputs if i >= 0} | set(map(int, operator.outputs))
                kept.append(operator)
        main.operators = kept[::-1]
        needed |= set(map(int, main.inputs))
        order = sorted(needed)
        places = {-1: -1, **{old: new for new, old in enumerate(order)}}
        main.tensors = [main.tensors[old] for old in order]
        for holder in (main, *main.operators):
            holder.inputs, holder.outputs = (
                np.array([places[int(i)] for i in indices], np.int32) for indices in (holder.inputs, holder.outputs)
            )
        for entry in (*self._graph.signature.inputs, *self._graph.signature.outputs):
            entry.tensorIndex = places[int(entry.tensorIndex)]


def answers(flatbuffer: bytes, images: NDArray[np.float32]) -> Answers:
    """The outputs of a float model on normalized images (n, height, width, channels), (n, ...) by name."""
    return answer_each(images, open_engine("auto", flatbuffer).invoke)
