"""Which output of a network is what: what the user says of a model, and what the shapes of its outputs show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import Any, Literal

from edgeloc.errors import ContractError
from edgeloc.model.contract import Layout, OutputSpec
from edgeloc.model.detector import DetectorSpec
from edgeloc.model.fit import part_sizes, width_of
from edgeloc.model.network import Network

__all__ = ["Asked", "arranged", "grid_strides", "locations_total"]

Anchors = Mapping[int, Sequence[tuple[float, float]]]
Table = Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user knows of a model besides its family.

    Parameters:
        labels: the names of the classes, in the model's order, without one for the background.
        outputs: for output tensors whose part their shapes do not show, the parts, by name.
        anchors: by stride the (width, height) of each anchor in input pixels; or a table of (cx, cy, width, height) in
            fractions of the input; "none" where the model decodes its boxes itself; None where nothing was said.
        changes: values of the contract, by path: `{"input.color": "bgr"}`.
        normalization: mean and standard deviation of a float input, where not the family's.
    """

    labels: tuple[str, ...] = ()
    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    anchors: Anchors | Table | Literal["none"] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None


LAYOUTS: tuple[Layout, Layout] = ("channels-last", "channels-first")


def arranged(
    network: Network, asked: Asked, spec: DetectorSpec, *templates: tuple[str, ...], anchors: int = 1
) -> tuple[OutputSpec, ...]:
    """Each output with its parts, layout and level.

    Parameters:
        network: the model.
        asked: what the user says of its outputs, where shapes leave it open.
        spec: the family's description.
        templates: the parts that outputs of this family have.
        anchors: how many times an output may repeat them, one after the other.

    Raises ContractError naming the output that is none of these, or may be several.
    """
    sizes = part_sizes(spec, len(asked.labels))
    found: dict[tuple[str, ...], list[OutputSpec]] = {}
    for name in network.outputs:
        parts, layout = _recognized(network, asked, name, templates, sizes, anchors)
        found.setdefault(parts, []).append(OutputSpec(name, "detections", parts=parts, layout=layout))
    if len({len(outputs) for outputs in found.values()}) > 1 or len(found) < len(templates):
        described = ", ".join(f"{len(outputs)} of {' '.join(parts)}" for parts, outputs in found.items())
        raise ContractError(f"its outputs do not go together: {described}")
    return tuple(_leveled(found, network))


def _recognized(
    network: Network,
    asked: Asked,
    name: str,
    templates: Sequence[tuple[str, ...]],
    sizes: Mapping[str, int],
    anchors: int,
) -> tuple[tuple[str, ...], Layout]:
    """The parts and the layout of one output: those that its shape allows, if they are the only ones."""
    choice = [asked.outputs[name]] if name in asked.outputs else templates
    shape = network.outputs[name].shape
    fits = [
        (parts, layout)
        for parts in choice
        for layout in LAYOUTS
        if _has_axis(shape, width_of(parts, sizes), anchors, layout)
    ]
    if not fits:
        words = " or ".join(f"{width_of(parts, sizes)} ({' '.join(parts)})" for parts in choice)
        raise ContractError(
            f"the output {name!r} is {shape}, and with {len(asked.labels)} label(s) a location would have {words} "
            "numbers"
        )
    if len(fits) > 1:
        words = " or ".join(f"{' '.join(parts)} ({layout})" for parts, layout in fits)
        raise ContractError(
            f"the output {name!r} is {shape}, which may be {words}",
            hint=f"say which with {{output}}, as in {name}={','.join(fits[0][0])}",
        )
    return fits[0]


def _leveled(found: Mapping[tuple[str, ...], list[OutputSpec]], network: Network) -> Iterator[OutputSpec]:
    """With levels, those of the smallest stride first: they have the most locations."""
    for outputs in found.values():
        ordered = sorted(outputs, key=lambda output: -prod(network.outputs[output.tensor].shape))
        for level, output in enumerate(ordered):
            yield replace(output, level=level) if len(ordered) > 1 else output


def _has_axis(shape: tuple[int, ...], channels: int, anchors: int, layout: Layout) -> bool:
    if channels == 1 and layout == "channels-last":
        return len(shape) <= 2 or shape[-1] == 1
    if layout == "channels-last":
        return len(shape) >= 2 and shape[-1] in (channels, channels * anchors)
    return len(shape) >= 3 and channels > 1 and shape[1] in (channels, channels * anchors)


def grid_strides(network: Network, default: tuple[int, ...]) -> tuple[int, ...]:
    """The strides that outputs of the form of a picture have, the smallest first; `default` where they are rows."""
    strides = set()
    for info in network.outputs.values():
        pairs = [info.shape[i : i + 2] for i in (1, 2)] if len(info.shape) in (4, 5) else []
        for rows, columns in pairs:
            stride = round(network.height / rows) if rows > 0 else 0
            if stride and (ceil(network.height / stride), ceil(network.width / stride)) == (rows, columns):
                strides.add(stride)
                break
    return tuple(sorted(strides)) or default


def locations_total(network: Network, strides: Sequence[int], anchors: int = 1) -> int:
    """How many locations grids of these strides have over the network's input."""
    return sum(ceil(network.height / stride) * ceil(network.width / stride) for stride in strides) * anchors
