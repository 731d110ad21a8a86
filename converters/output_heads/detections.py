"""What a detector will lose to int8: its objects with outputs rounded on shared scales, and on scales of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.output_heads.cost import PROBABILITIES, Cost, Diagnosis, Levels, worth_repair
from edgeloc.converters.output_heads.detectors import DetectorPart, DetectorSplit, split_detector
from edgeloc.converters.output_heads.surgery import Answers, answers
from edgeloc.decode import Decoder
from edgeloc.decode.numbers import activate
from edgeloc.errors import ModelError
from edgeloc.evaluation.detection import match
from edgeloc.findings import Finding
from edgeloc.model.contract import Contract
from edgeloc.preprocess import Placement
from edgeloc.types import Detection

__all__ = ["diagnose_detector"]

# Their outputs are held in memory, up to 5 MB an image.
_MOST_IMAGES = 32
_AS_IT_IS = Placement(1.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Losses:
    """How many objects there were, how many of them are lost, how many are new, the mean IoU of those that remain."""

    objects: int
    lost: int
    added: int
    iou: float

    @property
    def cost(self) -> Cost:
        """The same as for a localizer: presence is the share of objects lost and added."""
        return Cost(1 - self.iou, (self.lost + self.added) / max(self.objects, 1), 0.0)

    def __str__(self) -> str:
        kept = f", with a mean IoU of {self.iou:.3f} for the others" if self.lost < self.objects else ""
        added = f", adds {self.added}" if self.added else ""
        return f"loses {self.lost} of {self.objects} objects{added}{kept}"


def diagnose_detector(flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]) -> Iterator[Diagnosis]:
    """Where quantities of a detector share a scale, and what that costs in objects; the arguments are `diagnose`'s.

    An object is kept where the rounded outputs have one of its label with an IoU of at least 0.5.
    """
    images = images[:: max(1, len(images) // _MOST_IMAGES)][:_MOST_IMAGES]
    try:
        split = split_detector(flatbuffer, contract)
    except ModelError as error:
        yield from _unsplit(flatbuffer, contract, images, str(error))
        return
    values = answers(split.flatbuffer, images)
    before = _objects(split.contract, values)
    if not any(before):
        yield _nothing_found(contract, len(images))
        return
    parts = list(split.named.values())
    if not any(part.shares_with(other) for part in parts for other in parts):
        return
    outputs = _as_outputs(split, values)
    now = _losses(before, _objects(split.activated, outputs))
    repaired = split_detector(flatbuffer, contract, images)
    apart = _losses(before, _objects(repaired.contract, _alone(answers(repaired.flatbuffer, images))))
    if worth_repair(now.cost, apart.cost):
        yield _shared_scale(split, outputs, now, apart)


def _alone(values: Answers) -> Answers:
    return {name: Levels.over([rows]).round(rows) for name, rows in values.items()}


def _as_outputs(split: DetectorSplit, values: Answers) -> Answers:
    """What the graph gives with each tensor rounded: before its activations, behind them, and as the joined output."""
    activated, rounded = {}, {}
    for name, part in split.named.items():
        mates = (values[other] for other, mate in split.named.items() if part.scales & mate.scales)
        activated[name] = _activated(part, split.contract, name, Levels.over(mates).round(values[name]))
    for name, part in split.named.items():
        joined = [activated[other] for other, mate in split.named.items() if mate.output is part.output]
        rounded[name] = Levels.over(joined).round(activated[name]) if len(joined) > 1 else activated[name]
    return rounded


def _activated(part: DetectorPart, contract: Contract, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A part's numbers behind the activations of the graph, each rounded as its operator does."""
    layout = next(output.layout for output in contract.outputs if output.tensor == name)
    values = values.copy()
    rows = np.moveaxis(values, 1, -1) if layout == "channels-first" else values  # a view
    rows = rows if rows.shape[-1] == part.places.shape[1] else rows.reshape(*rows.shape[:-1], -1, part.places.shape[1])
    for move in part.moves:
        numbers = rows[..., move.columns]
        if move.activation in ("exp", "tanh"):
            made = np.exp(numbers) if move.activation == "exp" else np.tanh(numbers)
            rows[..., move.columns] = Levels.over([made]).round(made)
        else:
            made = activate(numbers, "softmax" if move.activation == "softmax" else "sigmoid")
            rows[..., move.columns] = PROBABILITIES.round(made)
    return values


def _objects(contract: Contract, values: Answers) -> list[tuple[Detection, ...]]:
    """The objects on each image, in pixels of the input."""
    decode, size = Decoder(contract), (contract.input.width, contract.input.height)
    count = len(next(iter(values.values())))
    return [
        decode({name: rows[index : index + 1] for name, rows in values.items()}, _AS_IT_IS, size).objects
        for index in range(count)
    ]


def _losses(before: Sequence[Sequence[Detection]], after: Sequence[Sequence[Detection]]) -> _Losses:
    objects, found = sum(map(len, before)), sum(map(len, after))
    overlaps = [iou for first, second in zip(before, after, strict=True) for iou in _overlaps(first, second)]
    kept = len(overlaps)
    return _Losses(objects, objects - kept, found - kept, float(np.mean(overlaps)) if overlaps else 0.0)


def _overlaps(first: Sequence[Detection], second: Sequence[Detection]) -> Iterator[float]:
    """The IoU of those objects of `first` that are among those of `second`, with their label."""
    for label in {one.label for one in first}:
        boxes, others = (
            [one.box for one in found if one.label == label and one.box is not None] for found in (first, second)
        )
        yield from (pair[1] for pair in match(boxes, others) if pair is not None)


def _unsplit(flatbuffer: bytes, contract: Contract, images: NDArray[np.float32], why: str) -> Iterator[Diagnosis]:
    """The outputs of a detector that cannot be taken apart."""
    values = answers(flatbuffer, images)
    before = _objects(contract, values)
    now = _losses(before, _objects(contract, _alone(values)))
    if not any(before) or not worth_repair(now.cost, Cost(0, 0, 0)):
        return
    output = next(output for output in contract.outputs if len(output.parts) > 1)
    message = f"the output {output.tensor} holds all its parts on one scale: rounding it to int8 {now}"
    finding = Finding("head-shares-scale", "warning", message, f"{{fix_head}} cannot repair it: {why}")
    yield Diagnosis(finding, output.tensor, output.parts, now.cost)


def _shared_scale(split: DetectorSplit, outputs: Answers, now: _Losses, apart: _Losses) -> Diagnosis:
    parts = list(split.named.values())
    shared = {name: part for name, part in split.named.items() if any(part.shares_with(other) for other in parts)}
    ranges: dict[str, tuple[float, float]] = {}
    for name, part in shared.items():
        low, high = ranges.get(part.name, (np.inf, -np.inf))
        ranges[part.name] = min(low, float(outputs[name].min())), max(high, float(outputs[name].max()))
    output = ", ".join(dict.fromkeys(part.output.tensor for part in shared.values()))
    described = ", ".join(f"{name} ({low:.3g} to {high:.3g})" for name, (low, high) in ranges.items())
    message = (
        f"the output {output} has parts of unlike ranges on one scale, {described}: rounding it to int8 {now}; split, "
        f"it {apart}"
    )
    finding = Finding("head-shares-scale", "warning", message, "split it with {fix_head}")
    return Diagnosis(finding, output, tuple(ranges), now.cost, apart.cost)


def _nothing_found(contract: Contract, images: int) -> Diagnosis:
    message = (
        f"no object reaches the threshold {contract.thresholds.presence:g} on {images} images: what int8 costs cannot "
        "be predicted"
    )
    fix = "calibrate on images with objects, and check the normalization and activations in the contract"
    return Diagnosis(Finding("presence-never-reached", "warning", message, fix), contract.outputs[0].tensor, ())
