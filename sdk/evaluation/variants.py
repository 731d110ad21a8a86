"""The mistakes that contracts have: for a contract, the others that it may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from edgeloc.model.contract import BoxForm, Contract, InputSpec, Resize
from edgeloc.model.detector import DetectorForm, DetectorSpec
from edgeloc.types import Pixels

__all__ = ["Variant", "variants_of"]

_NORMALIZATIONS = (("-1..1", 127.5, 127.5), ("0..1", 0.0, 255.0), ("0..255", 0.0, 1.0))
_IMAGENET_MEAN: tuple[float, ...] = (123.675, 116.28, 103.53)
_IMAGENET_STD: tuple[float, ...] = (58.395, 57.12, 57.375)
_RESIZES: tuple[Resize, ...] = ("letterbox", "letterbox-top-left", "stretch", "center-crop")
_FORMS: tuple[BoxForm, ...] = ("cxcywh", "xyxy", "yxyx", "xywh", "cxcyhw")
# A box that starts from a location, and one that does not.
_PLACED_FORMS: tuple[DetectorForm, ...] = ("cxcywh", "cycxhw", "distances")
_READY_FORMS: tuple[DetectorForm, ...] = ("cxcywh", "xyxy", "yxyx", "xywh")
_SLOT_ORDERS = (
    ("cx", "cy", "w", "h"), ("cx", "cy", "h", "w"), ("cy", "cx", "h", "w"), ("x1", "y1", "x2", "y2"),
    ("y1", "x1", "y2", "x2"), ("x1", "y1", "w", "h"), ("x1", "y1", "h", "w"),
)  # fmt: skip
_BOX_SLOTS = {slot for order in _SLOT_ORDERS for slot in order}
_SWAPPED_SIDES = {"w": "h", "h": "w"}


@dataclass(frozen=True, slots=True)
class Variant:
    """Another contract, how it differs, and the field in question."""

    contract: Contract
    change: str
    field: str


def variants_of(contract: Contract, pixels: Sequence[Pixels]) -> Iterator[Variant]:
    """Contracts that differ from this one in one thing that people get wrong.

    `pixels` are the images to be tried: where all have the input's shape, ways to resize make no difference.
    """
    yield from _inputs(contract, pixels)
    yield from _labels(contract)
    yield from _detector(contract, contract.detector) if contract.detector is not None else _box(contract)


def _inputs(contract: Contract, pixels: Sequence[Pixels]) -> Iterator[Variant]:
    spec = contract.input
    inputs = [*_colors(spec), *_normalizations(spec)]
    # All ways to resize do the same to images that are of the input's shape.
    if any(image.shape[0] * spec.width != image.shape[1] * spec.height for image in pixels):
        inputs += [(replace(spec, resize=resize), f"resized by {resize}", "input.resize") for resize in _RESIZES]
    for other, change, name in inputs:
        if other != spec:
            yield Variant(replace(contract, input=other), change, name)


def _labels(contract: Contract) -> Iterator[Variant]:
    labels = contract.labels
    if len(labels) > 2:
        for by, words in ((1, "one further"), (-1, "one back")):
            shifted = (*labels[by:], *labels[:by])
            yield Variant(replace(contract, labels=shifted), f"with each label moved {words}", "labels")
    elif len(labels) == 2:
        yield Variant(replace(contract, labels=labels[::-1]), "with the two labels exchanged", "labels")


def _box(contract: Contract) -> Iterator[Variant]:
    if contract.box.form in _FORMS and contract.output("box") is not None:
        for form in (form for form in _FORMS if form != contract.box.form):
            box = replace(contract.box, form=form)
            yield Variant(replace(contract, box=box), f"with its box read as {form}", "box.form")
    yield from _slot_orders(contract)


def _detector(contract: Contract, spec: DetectorSpec) -> Iterator[Variant]:
    def changed(part: str, change: str, **values: Any) -> Variant:
        described = replace(spec, **{part: replace(getattr(spec, part), **values)})
        field = ", ".join(f"detector.{part}.{name}" for name in values)
        return Variant(replace(contract, detector=described), change, field)

    placed = bool(spec.locations.strides or spec.locations.table)
    forms = _PLACED_FORMS if placed else _READY_FORMS
    if spec.box.form in forms and not spec.box.bins:
        for form in (form for form in forms if form != spec.box.form):
            yield changed("box", f"with its boxes read as {form}", form=form)
    if not placed:
        units = "fraction" if spec.box.units == "pixels" else "pixels"
        yield changed("box", f"with its boxes in {units}", units=units)
    if spec.locations.strides:
        offset = 0.5 if spec.locations.offset == 0 else 0.0
        yield changed("locations", f"with locations at {offset:g} of their cells", offset=offset)
    for one in ("activation", "objectness"):
        other = "none" if getattr(spec.scores, one) != "none" else "sigmoid"
        if one == "activation" or any("objectness" in output.parts for output in contract.outputs):
            yield changed("scores", f"with {other} as the scores' {one}", **{one: other})
    if spec.scores.background != "none":
        background = "last" if spec.scores.background == "first" else "first"
        yield changed("scores", f"with the background as the {background} class", background=background)
    if any("class-number" in output.parts for output in contract.outputs):
        first = 0 if spec.scores.first_class else 1
        yield changed("scores", f"with {first} as the number of the first class", first_class=first)
    yield from _exchanged(contract)


def _exchanged(contract: Contract) -> Iterator[Variant]:
    """Two outputs that have each other's parts."""
    for one, other in combinations(range(len(contract.outputs)), 2):
        outputs = list(contract.outputs)
        first, second = outputs[one], outputs[other]
        if first.parts == second.parts or first.level != second.level:
            continue
        outputs[one] = replace(first, parts=second.parts)
        outputs[other] = replace(second, parts=first.parts)
        change = f"with the outputs {first.tensor} and {second.tensor} exchanged"
        yield Variant(replace(contract, outputs=tuple(outputs)), change, "outputs")


def _slot_orders(contract: Contract) -> Iterator[Variant]:
    """The other orders of a box's four numbers among the slots of a vector."""
    vector = contract.output("vector")
    if vector is None:
        return
    places = [index for index, slot in enumerate(vector.slots) if slot in _BOX_SLOTS]
    given = tuple(vector.slots[index] for index in places)
    swapped = tuple(_SWAPPED_SIDES.get(slot, slot) for slot in given)
    for order in dict.fromkeys((swapped, *_SLOT_ORDERS)):
        if order == given or len(order) != len(places):
            continue
        slots = list(vector.slots)
        for index, slot in zip(places, order, strict=True):
            slots[index] = slot
        outputs = tuple(
            replace(output, slots=tuple(slots)) if output is vector else output for output in contract.outputs
        )
        change = f"with its box's slots read as {', '.join(order)}"
        yield Variant(replace(contract, outputs=outputs), change, f"outputs[{vector.tensor}].slots")


def _colors(spec: InputSpec) -> Iterator[tuple[InputSpec, str, str]]:
    if spec.color != "gray":
        swapped = replace(spec, color="bgr" if spec.color == "rgb" else "rgb")
        yield swapped, "with red and blue swapped", "input.color"


def _normalizations(spec: InputSpec) -> Iterator[tuple[InputSpec, str, str]]:
    fields = "input.mean and input.std"
    for name, mean, std in _NORMALIZATIONS:
        yield replace(spec, mean=(mean,), std=(std,)), f"with pixels normalized to {name}", fields
    if spec.color != "gray":
        order = slice(None) if spec.color == "rgb" else slice(None, None, -1)
        imagenet = replace(spec, mean=_IMAGENET_MEAN[order], std=_IMAGENET_STD[order])
        yield imagenet, "with ImageNet's mean and deviation", fields
