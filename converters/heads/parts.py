"""What a model's outputs consist of: presence, class and box, each with the layer that computes it; changes nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from edgeloc.contract import Activation, BoxForm, Contract, OutputSpec, Role
from edgeloc.converters.heads.graph import HeadGraph, Places, indices_of, tensors_of
from edgeloc.errors import ContractError
from edgeloc.heads import BOX_PARTS, vector_columns

__all__ = ["Part", "parts_of", "split_contract"]

_ACTIVATIONS: dict[str, Activation] = {"LOGISTIC": "sigmoid", "SOFTMAX": "softmax"}
# Which activation the decoder can apply to each role.
_ON_HOST = {"presence": ("sigmoid",), "box": ("sigmoid",), "class": ("sigmoid", "softmax")}


@dataclass(frozen=True, eq=False)
class Part:
    """One quantity of an output: what it is, and where its numbers are computed.

    `slots` names the numbers of one object. `activation` is what the host applies to `places`;
    `in_graph` what the graph applies to them today, which is then part of `activation` ("none"
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
        """Whether it is an output of its own already, of a layer of its own and without an activation to take off."""
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
    in_graph = _last_activation(graph, places)
    if in_graph == "none" or activation != "none" or in_graph not in _ON_HOST.get(role, ()):
        return Part(role, output.tensor, slots, activation, "none", places, scales, alone)
    inputs = {t: graph.everything(int(graph.producer(t).inputs[0])) for t in np.unique(tensors_of(places)).tolist()}
    before = [inputs[t].reshape(-1)[i] for t, i in zip(tensors_of(places), indices_of(places), strict=True)]
    places, scales = graph.trail(np.array(before, np.int64))
    return Part(role, output.tensor, slots, in_graph, in_graph, places, scales, alone)


def _last_activation(graph: HeadGraph, places: Places) -> Activation:
    """The activation that made all of these numbers, and that can be applied to them alone."""
    tensors = np.unique(tensors_of(places)).tolist()
    kinds = {graph.made_by(tensor) for tensor in tensors}
    if kinds == {"SOFTMAX"} and not (len(tensors) == 1 and graph.producer(tensors[0]).builtinOptions.beta == 1):
        return "none"
    if kinds == {"SOFTMAX"} and not _whole_rows(indices_of(places), graph.shape(tensors[0])):
        return "none"
    return _ACTIVATIONS.get(kinds.pop(), "none") if len(kinds) == 1 else "none"


def _whole_rows(indices: Places, shape: tuple[int, ...]) -> bool:
    """A softmax can be moved only with all that it runs over; the order within a row is free."""
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
