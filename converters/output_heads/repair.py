"""Repairing a model's outputs on its float flatbuffer: each quantity leaves alone, as logits."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.output_heads.graph import (
    HeadGraph,
    Part,
    Places,
    indices_of,
    parts_of,
    places_of,
    split_contract,
    tensors_of,
)
from edgeloc.converters.sources.base import answer_each
from edgeloc.decode.heads import head_reader
from edgeloc.engines import open_engine
from edgeloc.errors import ModelError
from edgeloc.model.contract import Contract, Role
from edgeloc.model.flatbuffer import constant, operator_name, pack, tensor_name

__all__ = ["Answers", "Split", "Surgeon", "answers", "repair_head", "split_head"]

Answers = dict[str, NDArray[np.float32]]

_SLICED = ("FULLY_CONNECTED", "CONV_2D")
_UNARY = (
    "ABS", "ELU", "EXP", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG", "RELU", "RELU6", "RELU_N1_TO_1",
    "RSQRT", "SQRT", "SQUARE", "TANH",
)  # fmt: skip
_MOST_DIFFERENT = 1e-5
_IMAGES = 8
_BINARY = ("ADD", "DIV", "MAXIMUM", "MINIMUM", "MUL", "SUB")


class Surgeon:
    """Adds operators to a graph, puts other outputs on it and gives the flatbuffer."""

    def __init__(self, graph: HeadGraph) -> None:
        self._graph = graph

    def take(self, places: Places, name: str) -> int:
        """The index of a tensor called `name` that holds just these numbers, in this order; exact.

        The places are roots. A tensor that holds nothing else is given as it is. Raises ModelError
        that names the operator which cannot be split.
        """
        roots = tensors_of(places)
        cuts = np.flatnonzero(np.diff(roots)) + 1
        parts = [self._part(int(tensors_of(run)[0]), indices_of(run), name) for run in np.split(places, cuts)]
        return parts[0] if len(parts) == 1 else self._join(parts, name)

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

    def _part(self, tensor: int, indices: NDArray[np.int64], name: str) -> int:
        graph = self._graph
        if np.array_equal(indices, np.arange(graph.everything(tensor).size)):
            return tensor
        operator, kind = graph.producer(tensor), graph.made_by(tensor)
        if kind in _SLICED:
            return self._slice(operator, tensor, self._channels(tensor, indices), name)
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
        shape = np.broadcast_shapes(*(graph.shape(i) for i in inputs if i >= 0))
        for position, (i, chosen) in enumerate(zip(operator.inputs, read, strict=True)):
            if not computed[position]:
                inputs[position] = self._chosen(int(i), chosen.reshape(shape), name, flat=True)
        return self._copy(operator, inputs, tensor, shape, name)

    def _join(self, parts: list[int], name: str) -> int:
        """One row of all parts, one behind the other."""
        graph = self._graph
        flat = [graph.shape(part) for part in parts]
        if any(shape[:-1] != flat[0][:-1] or np.prod(shape[:-1]) != 1 for shape in flat):
            raise ModelError(f"the parts of the output {name} differ in shape and cannot be joined")
        joint = next((op for op in graph.main.operators if operator_name(graph.model, op) == "CONCATENATION"), None)
        if joint is None:
            raise ModelError(f"the parts of the output {name} come out of different layers and cannot be joined")
        shape = (*flat[0][:-1], sum(size[-1] for size in flat))
        made = self._copy(joint, parts, int(joint.outputs[0]), shape, name)
        operator = graph.main.operators[-1]
        operator.builtinOptions = copy.copy(joint.builtinOptions)
        operator.builtinOptions.axis = len(shape) - 1
        return made

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


class Split(NamedTuple):
    """A model taken apart: its flatbuffer, its contract, and the parts, which are its outputs in order."""

    flatbuffer: bytes
    contract: Contract
    parts: tuple[Part, ...]

    @property
    def named(self) -> dict[str, Part]:
        """The parts by the names of their outputs in the split model."""
        return {output.tensor: part for output, part in zip(self.contract.outputs, self.parts, strict=True)}


def split_head(flatbuffer: bytes, contract: Contract) -> Split:
    """Take every output apart, exactly; each part has the name of its output where that held nothing else.

    Raises ModelError when an operator cannot be split, ContractError when slots make no sense.
    """
    graph = HeadGraph(flatbuffer)
    parts = parts_of(graph, contract)
    names = _names(parts, set(graph.outputs))
    surgeon = Surgeon(graph)
    changed = [part for part in parts if not part.is_apart(parts)]
    outputs = {names[part.role]: graph.outputs[part.tensor] for part in parts if part not in changed}
    outputs |= {names[part.role]: surgeon.take(part.places, names[part.role]) for part in changed}
    return Split(surgeon.finish(outputs), split_contract(contract, parts, names), parts)


def _names(parts: tuple[Part, ...], taken: set[str]) -> dict[Role, str]:
    names: dict[Role, str] = {}
    for part in parts:
        free = part.role not in taken
        names[part.role] = part.tensor if part.alone else part.role if free else f"{part.tensor}_{part.role}"
    return names


def answers(flatbuffer: bytes, images: NDArray[np.float32]) -> Answers:
    """The outputs of a float model on normalized images (n, height, width, channels), (n, ...) by name."""
    return answer_each(images, open_engine("auto", flatbuffer).invoke)


def repair_head(
    flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]
) -> tuple[bytes, Contract, tuple[str, ...]]:
    """Give each quantity an output and a scale of its own, and leave the last activation to the host.

    Weights are sliced, never changed: presence, class scores and box corners are those of the original within 1e-5
    (corners as fractions of the input). Returns the flatbuffer, the contract that describes it, and a sentence for
    each output that was changed; a head without fault comes back as it is.

    Parameters:
        flatbuffer: the float model, with a signature.
        contract: what its outputs mean.
        images: normalized, float32 (n, height, width, channels), of which up to 8 are compared.

    Raises ModelError when an operator cannot be split, ContractError when the contract's outputs
    contradict each other.
    """
    split = split_head(flatbuffer, contract)
    changed = [part for part in split.parts if not part.is_apart(split.parts)]
    if not changed:
        return flatbuffer, contract, ()
    _check(flatbuffer, contract, split, images[:_IMAGES])
    return (
        split.flatbuffer,
        split.contract,
        tuple(_sentence(name, part) for name, part in split.named.items() if part in changed),
    )


def _sentence(name: str, part: Part) -> str:
    what = f"{part.role} leaves as the output {name}"
    if not part.alone:
        what += f", split off {part.tensor}"
    if part.in_graph != "none":
        what += f", before its {part.in_graph}, which the host applies"
    return what


def _check(flatbuffer: bytes, contract: Contract, split: Split, images: NDArray[np.float32]) -> None:
    """Raise ModelError when the split model does not answer as the original does."""
    unit = max(contract.input.width, contract.input.height) if contract.box.units == "pixels" else 1
    pairs = ((flatbuffer, contract), (split.flatbuffer, split.contract))
    before, after = (_decoded(model, meaning, images, unit) for model, meaning in pairs)
    off = float(np.abs(before - after).max())
    if not off <= _MOST_DIFFERENT:
        raise ModelError(
            f"splitting the outputs changed the answers by {off:.2g}",
            hint="convert without {fix_head}, and report the model",
        )


def _decoded(flatbuffer: bytes, contract: Contract, images: NDArray[np.float32], unit: int) -> NDArray[np.float64]:
    reader, rows = head_reader(contract), []
    outputs = answers(flatbuffer, images)
    for index in range(len(images)):
        presence, scores, corners, _ = reader({name: values[index : index + 1] for name, values in outputs.items()})
        box = np.zeros(0) if corners is None else corners.reshape(-1) / unit
        rows.append(np.concatenate([np.asarray(presence, np.float64), scores.reshape(-1), box]))
    return np.stack(rows)
