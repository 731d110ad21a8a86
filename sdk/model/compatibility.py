"""Holds a contract against the tensors that a loaded model really has; decodes and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Protocol

from edgeloc.errors import ContractError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec

__all__ = ["Shaped", "check_contract"]


class Shaped(Protocol):
    """Anything with a tensor's shape: an engine's tensor, or one read out of the file; -1 where a size is open."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, the batch first."""


def check_contract(contract: Contract, inputs: Mapping[str, Shaped], outputs: Mapping[str, Shaped]) -> None:
    """Make sure that every tensor of the contract is there and has room for what the contract says of it.

    Raises ContractError naming the tensor, what it is and what there is. A size that is open until
    the model runs is taken on trust.
    """
    _check_input(contract.input, inputs)
    for output in contract.outputs:
        info = outputs.get(output.tensor)
        if info is None:
            raise ContractError(
                f"the contract's output {output.tensor!r} (role {output.role}) is not in the model, "
                f"which has {_names(outputs)}"
            )
        if all(size > 0 for size in info.shape):
            _check_output(contract, output, info.shape)
    _check_grid(contract, outputs)


def _check_input(spec: InputSpec, inputs: Mapping[str, Shaped]) -> None:
    info = inputs.get(spec.tensor)
    if info is None:
        raise ContractError(f"the contract's input {spec.tensor!r} is not in the model, which has {_names(inputs)}")
    wanted = (1, spec.height, spec.width, 1 if spec.color == "gray" else 3)
    fits = [have in (size, -1) for have, size in zip(info.shape, wanted, strict=False)]
    if len(info.shape) != len(wanted) or not all(fits):
        raise ContractError(
            f"the model's input {spec.tensor!r} is {info.shape}, but the contract's size and colour ask for {wanted} "
            "(batch, height, width, channels)"
        )


def _check_output(contract: Contract, output: OutputSpec, shape: tuple[int, ...]) -> None:
    objects, labels, numbers = contract.box.objects, len(contract.labels), prod(shape)
    needed = {
        "presence": (objects, f"one number for each of {objects} object(s)"),
        "class": (objects * labels, f"one number for each of {labels} label(s) and {objects} object(s)"),
        "box": (objects * 4, f"4 numbers for each of {objects} object(s)"),
        "vector": (objects * len(output.slots), f"the {len(output.slots)} slots of {objects} object(s)"),
    }
    if output.role in needed and numbers != needed[output.role][0]:
        raise _misfit(output, shape, needed[output.role][1])
    if output.role == "box-bins" and (numbers % (objects * 4) or numbers < objects * 8):
        raise _misfit(output, shape, f"4 groups of at least 2 bins for each of {objects} object(s)")
    if output.role == "yolo" and (len(shape) < 2 or shape[-2] != 4 + labels):
        raise _misfit(output, shape, f"(1, {4 + labels}, anchors) for {labels} label(s)")
    if output.role == "ssd-boxes" and shape and shape[-1] != 4:
        raise _misfit(output, shape, "(1, boxes, 4)")


def _check_grid(contract: Contract, outputs: Mapping[str, Shaped]) -> None:
    weights, distances = contract.output("grid-weights"), contract.output("grid-distances")
    if weights is None or distances is None:
        return
    cells, edges = outputs[weights.tensor].shape, outputs[distances.tensor].shape
    if min((*cells, *edges), default=1) < 1:
        return
    if len(edges) != 4 or edges[-1] != 4:
        raise _misfit(distances, edges, "(1, height, width, 4)")
    if prod(cells) != edges[1] * edges[2]:
        raise _misfit(
            weights, cells, f"one number for each of the {edges[1]} x {edges[2]} cells of {distances.tensor!r}"
        )


def _misfit(output: OutputSpec, shape: tuple[int, ...], needed: str) -> ContractError:
    return ContractError(f"the output {output.tensor!r} is {shape}: the role {output.role} needs {needed}")


def _names(tensors: Mapping[str, Shaped]) -> str:
    return ", ".join(f"{name!r} {info.shape}" for name, info in tensors.items()) or "none"
