"""A contract held against the tensors of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import ceil, prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeloc.errors import ContractError
from edgeloc.findings import Finding
from edgeloc.model.contract import Contract, InputSpec, OutputSpec

if TYPE_CHECKING:
    from edgeloc.model.detector import DetectorSpec

__all__ = ["Shaped", "channels_of", "check_contract", "check_input_range", "columns_of", "part_sizes", "width_of"]

# Of the input tensor's range that pixels fill, and of the pixels' range that it holds. Calibration on dark images takes
# a part of either; 0..1 for -1..1 leaves half.
_LEAST_SHARE = 0.6


class Shaped(Protocol):
    """Anything with a tensor's shape: an engine's tensor, or one read out of the file; -1 where a size is open."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, the batch first."""


def check_contract(contract: Contract, inputs: Mapping[str, Shaped], outputs: Mapping[str, Shaped]) -> None:
    """Make sure that every tensor of the contract is there and has room for what the contract describes.

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
    if contract.detector is not None:
        _check_locations(contract, contract.detector, outputs)


def check_input_range(spec: InputSpec, dtype: np.dtype[Any], scale: float | None, zero_point: int) -> Finding | None:
    """Whether normalized pixels fill the range of a quantized input; None where they do, and for a float input."""
    if scale is None or dtype.kind not in "iu":
        return None
    limits = np.iinfo(dtype)
    low, high = (limits.min - zero_point) * scale, (limits.max - zero_point) * scale
    pairs = list(zip(spec.mean * len(spec.std), spec.std * len(spec.mean), strict=True))
    first, last = min((0 - mean) / std for mean, std in pairs), max((255 - mean) / std for mean, std in pairs)
    shared = min(high, last) - max(low, first)
    if shared >= _LEAST_SHARE * max(high - low, last - first):
        return None
    message = (
        f"pixels become {first:.3g} to {last:.3g}, and the input {spec.tensor!r} was quantized for {low:.3g} to "
        f"{high:.3g}"
    )
    return Finding("input-range", "warning", message, "correct input.mean and input.std of the contract")


def part_sizes(spec: DetectorSpec, labels: int) -> dict[str, int]:
    """How many numbers of one location each part of a detector's outputs is; `unused:N` are N besides."""
    classes = labels + (spec.scores.background != "none")
    return {"box": spec.box.numbers, "objectness": 1, "class": classes, "score": 1, "class-number": 1, "count": 1}


def channels_of(output: OutputSpec, sizes: Mapping[str, int]) -> int:
    """How many numbers of one location an output of detections holds."""
    return width_of(output.parts, sizes)


def width_of(parts: Iterable[str], sizes: Mapping[str, int]) -> int:
    """How many numbers these parts of one location are; `unused:N` are N."""
    return sum(sizes[part] if part in sizes else int(part.partition(":")[2]) for part in parts)


def columns_of(output: OutputSpec, sizes: Mapping[str, int]) -> Iterator[tuple[str, slice]]:
    """Where each part of an output of detections lies among the numbers of a location; what is unused is left out."""
    start = 0
    for part in output.parts:
        size = width_of([part], sizes)
        if part in sizes:
            yield part, slice(start, start + size)
        start += size


def _check_input(spec: InputSpec, inputs: Mapping[str, Shaped]) -> None:
    info = inputs.get(spec.tensor)
    if info is None:
        raise ContractError(f"the contract's input {spec.tensor!r} is not in the model, which has {_names(inputs)}")
    if len(inputs) > 1:
        raise ContractError(
            f"the model has {len(inputs)} inputs, {_names(inputs)}: it must have one, the image",
            hint="a model that takes its own state or further numbers runs in a function of your own: "
            "`edgeloc run module:function`",
        )
    channels = 1 if spec.color == "gray" else 3
    if spec.layout == "channels-last":
        wanted, axes = (1, spec.height, spec.width, channels), "batch, height, width, channels"
    else:
        wanted, axes = (1, channels, spec.height, spec.width), "batch, channels, height, width"
    fits = [have in (size, -1) for have, size in zip(info.shape, wanted, strict=False)]
    if len(info.shape) != len(wanted) or not all(fits):
        raise ContractError(
            f"the model's input {spec.tensor!r} is {info.shape}, but the contract's size, colour and layout ask for "
            f"{wanted} ({axes})"
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


def _check_grid(contract: Contract, outputs: Mapping[str, Shaped]) -> None:
    weights, distances = contract.output("grid-weights"), contract.output("grid-distances")
    if weights is None or distances is None:
        return
    cells, edges = outputs[weights.tensor].shape, outputs[distances.tensor].shape
    if min((*cells, *edges), default=1) < 1:
        return
    objects = contract.box.objects
    if len(edges) != 4 or edges[-1] != 4 * objects:
        raise _misfit(distances, edges, f"(1, height, width, {4 * objects})")
    if prod(cells) != edges[1] * edges[2] * objects:
        numbers = "one number" if objects == 1 else f"{objects} numbers"
        raise _misfit(
            weights, cells, f"{numbers} for each of the {edges[1]} x {edges[2]} cells of {distances.tensor!r}"
        )


def _check_locations(contract: Contract, spec: DetectorSpec, outputs: Mapping[str, Shaped]) -> None:
    """Whether each output has the numbers of as many locations as the contract describes, in its layout."""
    sizes = part_sizes(spec, len(contract.labels))
    counts = spec.locations.counts(contract.input.width, contract.input.height)
    rows: dict[int | None, tuple[int, str]] = {}
    for output in contract.outputs:
        shape = outputs[output.tensor].shape
        if output.parts == ("count",) or not shape or min(shape) < 1:
            continue  # a file may leave a shape out, as TFLite_Detection_PostProcess does
        channels = channels_of(output, sizes)
        found = _locations_in(output, shape, channels, spec, contract.input)
        wanted = sum(counts) if output.level is None else counts[output.level]
        first, name = rows.setdefault(output.level, (found, output.tensor))
        if counts and found != wanted:
            raise _misfit(
                output,
                shape,
                f"{channels} number(s) for each of {wanted:,} locations ({_described(spec, output.level)}), and there "
                f"are {found:,}",
            )
        if found != first:
            raise _misfit(output, shape, f"as many rows as {name!r}, which has {first:,}")


def _locations_in(
    output: OutputSpec, shape: tuple[int, ...], channels: int, spec: DetectorSpec, input: InputSpec
) -> int:
    """How many locations an output holds; ContractError where the axis of its numbers is another or too short."""
    if channels == 1:
        return prod(shape)
    anchors = spec.locations.per_cell(output.level or 0) if spec.locations.anchors else 1
    first = output.layout == "channels-first"
    axis = shape[1] if first and len(shape) > 2 else shape[-1]
    if len(shape) < 2 or axis not in (channels, channels * anchors):
        where = "the axis behind the batch" if first else "the last axis"
        numbers = f"{channels}" if anchors == 1 else f"{channels} or {channels * anchors}"
        raise _misfit(output, shape, f"{numbers} numbers ({' '.join(output.parts)}) in {where}, {output.layout}")
    strides = spec.locations.strides
    if len(shape) == 4 and (output.level is not None or len(strides) == 1):
        stride = strides[output.level or 0]
        cells = ceil(input.height / stride), ceil(input.width / stride)
        found = shape[2:] if first else shape[1:3]
        if found != cells:
            raise _misfit(output, shape, f"a grid of {cells[0]} x {cells[1]} cells at stride {stride}")
    return prod(shape) // channels


def _described(spec: DetectorSpec, level: int | None) -> str:
    places = spec.locations
    if places.table:
        return f"a table of {len(places.table):,}"
    strides = places.strides if level is None else places.strides[level : level + 1]
    return f"stride(s) {', '.join(map(str, strides))}, {places.per_cell(level or 0)} in a cell"


def _misfit(output: OutputSpec, shape: tuple[int, ...], needed: str) -> ContractError:
    return ContractError(f"the output {output.tensor!r} is {shape}: {_named(output)} needs {needed}")


def _named(output: OutputSpec) -> str:
    return " ".join(output.parts) if output.parts else f"the role {output.role}"


def _names(tensors: Mapping[str, Shaped]) -> str:
    return ", ".join(f"{name!r} {info.shape}" for name, info in tensors.items()) or "none"
