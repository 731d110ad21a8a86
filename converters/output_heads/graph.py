"""The main graph of a float flatbuffer: which layer computes presence, class and box."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.decode.heads import BOX_PARTS, vector_columns
from edgeloc.errors import ContractError, ModelError
from edgeloc.model.contract import Activation, BoxForm, Contract, OutputSpec, Role
from edgeloc.model.flatbuffer import constant, operator_name, text, unpack

__all__ = ["HeadGraph", "Part", "Places", "indices_of", "parts_of", "places_of", "split_contract", "tensors_of"]

# Where a number is computed: the tensor's index in the upper 32 bits, its position in the flattened tensor below.
Places = NDArray[np.int64]
_TENSOR = 32
_INDEX = (1 << _TENSOR) - 1


def places_of(tensor: int, indices: Any) -> Places:
    """The places of the numbers at flat `indices` of a tensor."""
    return np.asarray((tensor << _TENSOR) + np.asarray(indices, np.int64), np.int64)


def tensors_of(places: Places) -> NDArray[np.int64]:
    """The tensor of each place."""
    return np.asarray(places >> _TENSOR, np.int64)


def indices_of(places: Places) -> NDArray[np.int64]:
    """The flat position of each place within its tensor."""
    return np.asarray(places & _INDEX, np.int64)


class HeadGraph:
    """The object tree of a flatbuffer (`model`) with the questions that head surgery asks of it.

    Raises ModelError when the flatbuffer has no signature to name its outputs.
    """

    def __init__(self, flatbuffer: bytes) -> None:
        self.model: Any = unpack(flatbuffer)
        self.main: Any = self.model.subgraphs[0]
        self._producers = {int(out): op for op in self.main.operators for out in op.outputs}
        signatures = [s for s in self.model.signatureDefs or [] if not s.subgraphIndex]
        if not signatures:
            raise ModelError("the float model has no signature: its outputs have no names")
        self.signature: Any = next((s for s in signatures if text(s.signatureKey) == "serving_default"), signatures[0])

    @property
    def outputs(self) -> dict[str, int]:
        """The tensor of each output by its name in the signature."""
        return {text(entry.name): int(entry.tensorIndex) for entry in self.signature.outputs}

    def producer(self, tensor: int) -> Any:
        """The operator that computes a tensor; None for constants and the graph's input."""
        return self._producers.get(tensor)

    def made_by(self, tensor: int) -> str:
        """The name of the operator that computes a tensor, "" where none does."""
        operator = self.producer(tensor)
        return "" if operator is None else operator_name(self.model, operator)

    def shape(self, tensor: int) -> tuple[int, ...]:
        """The shape of a tensor for a batch of one image."""
        shape = self.main.tensors[tensor].shape
        return () if shape is None else tuple(abs(int(size)) for size in shape)

    def everything(self, tensor: int) -> Places:
        """The places of all numbers of a tensor, in its own shape."""
        shape = self.shape(tensor)
        return places_of(tensor, np.arange(int(np.prod(shape, dtype=np.int64)))).reshape(shape)

    def roots(self, places: Places) -> Places:
        """Follow each place back through operators that only move numbers, to where it was computed."""
        return self.trail(places)[0]

    def trail(self, places: Places) -> tuple[Places, frozenset[int]]:
        """The roots of these places, and every tensor on the way: in int8 they all have one scale."""
        places = places.copy()
        pending = set(np.unique(tensors_of(places)).tolist())
        passed: set[int] = set()
        while pending:
            tensor = pending.pop()
            passed.add(tensor)
            moved = self._moved(tensor)
            if moved is None:
                continue
            here = tensors_of(places) == tensor
            places[here] = moved[indices_of(places[here])]
            pending |= set(np.unique(tensors_of(places[here])).tolist())
        return places, frozenset(passed)

    def activation_of(self, places: Places) -> str:
        """The name of the operator that made all of these numbers, "" where several kinds did.

        A softmax counts where these are whole rows of the one that it runs over, plain.
        """
        tensors = np.unique(tensors_of(places)).tolist()
        kinds = {self.made_by(tensor) for tensor in tensors}
        if len(kinds) > 1:
            return ""
        kind = kinds.pop()
        if kind == "SOFTMAX" and not (len(tensors) == 1 and self.producer(tensors[0]).builtinOptions.beta == 1):
            return ""
        return "" if kind == "SOFTMAX" and not _whole_rows(indices_of(places), self.shape(tensors[0])) else kind

    def before(self, places: Places) -> Places:
        """What operators of one input, number by number, made these numbers of."""
        before = places.copy()
        for tensor in np.unique(tensors_of(places)).tolist():
            inputs = self.everything(int(self.producer(tensor).inputs[0])).reshape(-1)
            here = tensors_of(places) == tensor
            before[here] = inputs[indices_of(places[here])]
        return np.asarray(before, np.int64)

    def _moved(self, tensor: int) -> Places | None:
        """Where each number of a tensor comes from, flat; None when its operator computes."""
        operator = self.producer(tensor)
        if operator is None:
            return None
        move = getattr(self, f"_move_{self.made_by(tensor).lower()}", None)
        try:
            moved = None if move is None else move(operator, list(map(int, operator.outputs)).index(tensor))
        except (TypeError, ValueError, IndexError):  # where and how far is itself computed, or no whole image's worth
            return None
        return None if moved is None else np.asarray(moved, np.int64).reshape(-1)

    def _constant(self, operator: Any, position: int) -> list[int]:
        values = constant(self.model, int(operator.inputs[position]))
        if values is None:
            raise ValueError("a place that is computed while the model runs")
        return [int(value) for value in values.reshape(-1)]

    def _first(self, operator: Any, output: int) -> Places:
        return self.everything(int(operator.inputs[0]))

    _move_reshape = _move_squeeze = _move_expand_dims = _first

    def _move_transpose(self, operator: Any, output: int) -> Places:
        return np.transpose(self._first(operator, output), self._constant(operator, 1))

    def _move_slice(self, operator: Any, output: int) -> Places:
        begin, size = self._constant(operator, 1), self._constant(operator, 2)
        parts = tuple(slice(b, None if s < 0 else b + s) for b, s in zip(begin, size, strict=True))
        return self._first(operator, output)[parts]

    def _move_strided_slice(self, operator: Any, output: int) -> Places | None:
        options = operator.builtinOptions
        if options.ellipsisMask or options.newAxisMask:
            return None
        numbers = zip(*(self._constant(operator, position) for position in (1, 2, 3)), strict=True)
        parts: list[int | slice] = []
        for axis, (begin, end, stride) in enumerate(numbers):
            if options.shrinkAxisMask >> axis & 1:
                parts.append(begin)
                continue
            first = None if options.beginMask >> axis & 1 else begin
            parts.append(slice(first, None if options.endMask >> axis & 1 else end, stride))
        return self._first(operator, output)[tuple(parts)]

    def _move_split(self, operator: Any, output: int) -> Places:
        (axis,) = self._constant(operator, 0)
        return np.split(self.everything(int(operator.inputs[1])), len(operator.outputs), axis)[output]

    def _move_split_v(self, operator: Any, output: int) -> Places:
        sizes, (axis,) = self._constant(operator, 1), self._constant(operator, 2)
        return np.split(self._first(operator, output), np.cumsum(sizes)[:-1], axis)[output]

    def _move_concatenation(self, operator: Any, output: int) -> Places | None:
        if operator.builtinOptions.fusedActivationFunction:
            return None
        return np.concatenate([self.everything(int(i)) for i in operator.inputs], operator.builtinOptions.axis)

    def _move_pack(self, operator: Any, output: int) -> Places:
        return np.stack([self.everything(int(i)) for i in operator.inputs], operator.builtinOptions.axis)

    def _move_unpack(self, operator: Any, output: int) -> Places:
        return np.asarray(np.take(self._first(operator, output), output, operator.builtinOptions.axis), np.int64)

    def _move_gather(self, operator: Any, output: int) -> Places | None:
        options = operator.builtinOptions
        if options is not None and options.batchDims:
            return None
        picked = np.array(self._constant(operator, 1)).reshape(self.shape(int(operator.inputs[1])))
        axis = 0 if options is None else options.axis
        return np.asarray(np.take(self._first(operator, output), picked, axis), np.int64)


_ACTIVATIONS: dict[str, Activation] = {"LOGISTIC": "sigmoid", "SOFTMAX": "softmax"}
# Which activation the decoder can apply to each role.
_ON_HOST = {"presence": ("sigmoid",), "box": ("sigmoid",), "class": ("sigmoid", "softmax")}


@dataclass(frozen=True, eq=False)
class Part:
    """One quantity of an output: what it is, and where its numbers are computed.

    `slots` names the numbers of one object. `activation` is what the host applies to `places`;
    `in_graph` what the graph applies to them itself, which is then part of `activation` ("none"
    where the graph applies nothing that the host could). `tensor` is the output that holds the
    part, by its name, and `alone` whether it holds nothing else. `scales` are the tensors that its
    numbers go through before the activation in the graph: in int8 all of them have one scale, and
    so has everything else that goes through them.
    """

    role: Role
    tensor: str
    slots: tuple[str, ...]
    activation: Activation
    in_graph: Activation
    places: Places = field(repr=False)
    scales: frozenset[int]
    alone: bool

    def is_apart(self, parts: tuple[Part, ...]) -> bool:
        """Whether it is already a separate output, of a separate layer, without an activation to take off."""
        shared = any(self.scales & other.scales for other in parts if other is not self)
        return self.alone and self.in_graph == "none" and not shared


def parts_of(graph: HeadGraph, contract: Contract) -> tuple[Part, ...]:
    """Every part of every output, in the contract's order; the slots of a vector by role.

    Raises ContractError when the model has no such output, or the slots of a vector make no sense.
    """
    parts: list[Part] = []
    for output in contract.outputs:
        if output.tensor not in graph.outputs:
            raise ContractError(
                f"the contract names the output {output.tensor!r}, which the model does not have; "
                f"it has {', '.join(graph.outputs)}"
            )
        everything = graph.everything(graph.outputs[output.tensor])
        if output.role != "vector":
            parts.append(_part(graph, output, output.role, (), everything.reshape(-1), output.activation, True))
            continue
        rows = everything.reshape(contract.box.objects, -1)
        columns = vector_columns(output, contract)
        for role in (role for role in ("presence", "class", "box") if role in columns):
            slots = tuple(output.slots[i] for i in columns[role])
            activation = output.class_activation if role == "class" else output.activation
            places = rows[:, columns[role]].reshape(-1)
            alone = np.array_equal(places, everything.reshape(-1))
            parts.append(_part(graph, output, role, slots, places, activation, alone))
    return tuple(parts)


def _part(
    graph: HeadGraph,
    output: OutputSpec,
    role: Role,
    slots: tuple[str, ...],
    places: Places,
    activation: Activation,
    alone: bool,
) -> Part:
    places, scales = graph.trail(places)
    in_graph = _ACTIVATIONS.get(graph.activation_of(places), "none")
    if in_graph == "none" or activation != "none" or in_graph not in _ON_HOST.get(role, ()):
        return Part(role, output.tensor, slots, activation, "none", places, scales, alone)
    places, scales = graph.trail(graph.before(places))
    return Part(role, output.tensor, slots, in_graph, in_graph, places, scales, alone)


def _whole_rows(indices: Places, shape: tuple[int, ...]) -> bool:
    """Whether the indices are whole rows, in any order: a softmax can be moved only with all that it runs over."""
    rows = indices.reshape(-1, shape[-1]) if indices.size % shape[-1] == 0 else None
    return rows is not None and indices.size == np.prod(shape) and all(len(set(row // shape[-1])) == 1 for row in rows)


def split_contract(contract: Contract, parts: tuple[Part, ...], names: dict[Role, str]) -> Contract:
    """The contract of the same model with each part as an output of its own, called as `names` says."""
    outputs = tuple(OutputSpec(names[part.role], part.role, part.activation) for part in parts)
    box = contract.box
    form: BoxForm | None = next((BOX_PARTS[part.slots] for part in parts if part.role == "box" and part.slots), None)
    if form is not None:
        box = dataclasses.replace(box, form=form)
    return dataclasses.replace(contract, outputs=outputs, box=box)
