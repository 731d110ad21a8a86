"""A float model whose every part is an output of its own, without its last activation; whether it pays is elsewhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import Contract, Role
from edgeloc.converters.heads.graph import HeadGraph
from edgeloc.converters.heads.parts import Part, parts_of, split_contract
from edgeloc.converters.heads.surgery import Surgeon
from edgeloc.converters.sources.common import answer_each
from edgeloc.engines import open_engine

__all__ = ["Answers", "Split", "answers", "split_head"]

Answers = dict[str, NDArray[np.float32]]


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
    """What a float model says of normalized images (n, height, width, channels): outputs (n, ...) by name."""
    return answer_each(images, open_engine("auto", flatbuffer).invoke)
