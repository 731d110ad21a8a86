"""Repairing a model's outputs on its float flatbuffer: each quantity leaves alone, as logits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.output_heads.detectors import repair_detector
from edgeloc.converters.output_heads.graph import HeadGraph, Part, parts_of, split_contract
from edgeloc.converters.output_heads.surgery import Surgeon, answers
from edgeloc.decode.heads import head_reader
from edgeloc.errors import ModelError
from edgeloc.model.contract import Contract, Role

__all__ = ["Split", "repair_head", "split_head"]

_MOST_DIFFERENT = 1e-5
_IMAGES = 8


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
    if contract.detector is not None:
        return repair_detector(flatbuffer, contract, images)
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
