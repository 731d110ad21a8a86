"""Repairs a model's outputs on its float flatbuffer: each quantity leaves alone, as logits; it does not quantize."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import Contract
from edgeloc.converters.heads.parts import Part
from edgeloc.converters.heads.splitting import Split, answers, split_head
from edgeloc.errors import ModelError
from edgeloc.heads import head_reader

__all__ = ["repair_head"]

_MOST_DIFFERENT = 1e-5
_IMAGES = 8


def repair_head(
    flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]
) -> tuple[bytes, Contract, tuple[str, ...]]:
    """Give each quantity an output and a scale of its own, and leave the last activation to the host.

    Weights are sliced, never changed: on `images` (normalized, float32 (n, height, width, channels);
    up to 8 are used) presence, class scores and box corners are those of the original within 1e-5
    (corners as fractions of the input). Returns the flatbuffer, the contract that describes it, and
    a sentence for each output that was changed; a head without fault comes back as it is.

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
    """Raise ModelError when the split model does not say what the original said."""
    unit = max(contract.input.width, contract.input.height) if contract.box.units == "pixels" else 1
    pairs = ((flatbuffer, contract), (split.flatbuffer, split.contract))
    before, after = (_decoded(model, meaning, images, unit) for model, meaning in pairs)
    off = float(np.abs(before - after).max())
    if not off <= _MOST_DIFFERENT:
        raise ModelError(
            f"splitting the outputs changed the answers by {off:.2g}: convert without --fix-head, and report the model"
        )


def _decoded(flatbuffer: bytes, contract: Contract, images: NDArray[np.float32], unit: int) -> NDArray[np.float64]:
    reader, rows = head_reader(contract), []
    outputs = answers(flatbuffer, images)
    for index in range(len(images)):
        presence, scores, corners = reader({name: values[index : index + 1] for name, values in outputs.items()})
        box = np.zeros(0) if corners is None else corners.reshape(-1) / unit
        rows.append(np.concatenate([np.asarray(presence, np.float64), scores.reshape(-1), box]))
    return np.stack(rows)
