"""What a model's outputs will lose to int8, predicted from float answers before anything is quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.output_heads.cost import PROBABILITIES, Cost, Diagnosis, Levels, box_iou, worth_repair
from edgeloc.converters.output_heads.detections import diagnose_detector
from edgeloc.converters.output_heads.graph import HeadGraph, Part, parts_of
from edgeloc.converters.output_heads.repair import Split, split_head
from edgeloc.converters.output_heads.surgery import Answers, answers
from edgeloc.decode.heads import head_reader
from edgeloc.decode.numbers import Reading, activate
from edgeloc.errors import ModelError
from edgeloc.evaluation.figures import SIZES
from edgeloc.findings import Finding
from edgeloc.model.contract import Contract

__all__ = [
    "Readings",
    "as_outputs",
    "cost",
    "diagnose",
    "float_readings",
    "round_activations",
    "round_outputs",
    "round_parts",
]

Array = NDArray[np.float32]
# A box of half the frame's side loses 0.008 to steps of 1/256, which is not visible.
_COARSE = 0.01
# A coordinate within half a step of an end on as many images carries nothing there.
_STUCK = 0.5
_HALF_STEP = 1 / 512
_ALIKE = 1e-6
_MOST_IMAGES = 100
_BOXES = {"box", "box-bins", "grid-weights", "grid-distances"}


@dataclass(frozen=True)
class Readings:
    """The answers to n images by role: presence (n, objects), scores (n, objects, K), corners (n, objects, 4)."""

    presence: Array
    scores: Array
    corners: Array | None

    def found(self, threshold: float) -> NDArray[np.bool_]:
        """Where presence reaches the threshold, (n, objects); everywhere, if it does so nowhere."""
        here = self.presence >= threshold
        return here if here.any() else np.ones_like(here)


def float_readings(split: Split, values: Answers) -> Readings:
    """The float model's readings; `values` are the answers of the split head."""
    return _read(split.contract, values)


def round_parts(split: Split, values: Answers) -> Readings:
    """The readings when each part is rounded to the levels of its own tensor."""
    return _read(split.contract, {name: Levels.over([rows]).round(rows) for name, rows in values.items()})


def round_outputs(split: Split, values: Answers) -> Readings:
    """The readings when each output is rounded as the graph gives it.

    An output's parts are rounded together. Where the graph applies an activation, what goes into
    it is rounded, with all that the same layer computes, and what comes out of it again.
    """
    rounded = {}
    for name, part in split.named.items():
        mates = (values[other] for other, mate in split.named.items() if part.scales & mate.scales)
        rows = Levels.over(mates).round(values[name])
        rounded[name] = _leave(split, values, part, _in_graph(split, part, rows))
    return _read(_activated_contract(split), rounded)


def round_activations(split: Split, values: Answers) -> Readings:
    """The readings when only what leaves through an activation in the graph is rounded, to 1/256."""
    rounded = {}
    for name, part in split.named.items():
        rows = _in_graph(split, part, values[name])
        rounded[name] = rows if part.in_graph == "none" else PROBABILITIES.round(rows)
    return _read(_activated_contract(split), rounded)


def as_outputs(contract: Contract, values: Answers) -> tuple[Readings, Readings]:
    """The readings of a model whose outputs stay whole: exact, and with each rounded to levels of its own."""
    return _read(contract, values), _read(contract, {n: Levels.over([rows]).round(rows) for n, rows in values.items()})


def _leave(split: Split, values: Answers, part: Part, rows: Array) -> Array:
    """What an output makes of the numbers of one of its parts."""
    mates = {name: mate for name, mate in split.named.items() if mate.tensor == part.tensor}
    if all(mate.in_graph != "none" for mate in mates.values()):
        return PROBABILITIES.round(rows)
    if all(mate.in_graph == "none" for mate in mates.values()):
        return rows
    return Levels.over(_in_graph(split, mate, values[name]) for name, mate in mates.items()).round(rows)


def _in_graph(split: Split, part: Part, rows: Array) -> Array:
    by_object = rows.reshape(len(rows), split.contract.box.objects, -1)
    return rows if part.in_graph == "none" else activate(by_object, part.in_graph).reshape(rows.shape)


def _activated_contract(split: Split) -> Contract:
    """The contract for values whose activation in the graph has been applied."""
    outputs = tuple(
        dataclasses.replace(output, activation="none") if split.named[output.tensor].in_graph != "none" else output
        for output in split.contract.outputs
    )
    return dataclasses.replace(split.contract, outputs=outputs)


def _read(contract: Contract, values: Answers) -> Readings:
    reader = head_reader(contract)
    count = len(next(iter(values.values())))
    each: list[Reading] = [reader({name: rows[i : i + 1] for name, rows in values.items()}) for i in range(count)]
    found = [one.corners for one in each if one.corners is not None]
    corners = None
    if found:
        first, second = np.stack(found)[..., :2], np.stack(found)[..., 2:]
        corners = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)
    return Readings(np.array([one.presence for one in each]), np.stack([one.scores for one in each]), corners)


def cost(before: Readings, after: Readings, threshold: float) -> Cost:
    """How far `after` is from `before`; boxes and labels count where `before` sees an object (anywhere, if nowhere)."""
    flips = float(np.mean((before.presence >= threshold) != (after.presence >= threshold)))
    here = before.found(threshold)
    labels = 0.0
    if before.scores.shape[-1]:
        labels = float(np.mean((before.scores.argmax(-1) != after.scores.argmax(-1))[here]))
    iou = 1.0
    if before.corners is not None and after.corners is not None:
        iou = float(np.mean(box_iou(before.corners[here], after.corners[here])))
    return Cost(1 - iou, flips, labels)


def diagnose(flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]) -> tuple[Diagnosis, ...]:
    """What is wrong with the outputs of a float model.

    The predicted cost is that of rounding the outputs alone: what the weights lose comes on top.

    Parameters:
        flatbuffer: float32, with a signature that has the contract's names.
        contract: the model's.
        images: normalized, float32 (n, height, width, channels), of which up to 100 are used.

    Raises ModelError when the flatbuffer has no signature, ContractError when the contract's
    outputs contradict each other.
    """
    if contract.detector is not None:
        return tuple(diagnose_detector(flatbuffer, contract, images))
    parts_of(HeadGraph(flatbuffer), contract)  # so that an error behind this is one of splitting
    images = images[:: max(1, len(images) // _MOST_IMAGES)][:_MOST_IMAGES]
    try:
        split = split_head(flatbuffer, contract)
    except ModelError as error:
        values = answers(flatbuffer, images)
        return (*_unsplit(contract, values, str(error)), *_constants(values))
    values = answers(split.flatbuffer, images)
    readings = float_readings(split, values)
    return (
        *_rounded(split, values, readings),
        *_saturated(split, values),
        *_constants(values),
        *_unreached_presence(split, readings),
    )


def _unsplit(contract: Contract, values: Answers, why: str) -> Iterator[Diagnosis]:
    """The outputs of a model that cannot be taken apart."""
    before = cost(*as_outputs(contract, values), contract.thresholds.presence)
    output = next((output for output in contract.outputs if output.role == "vector"), None)
    if output is None or not worth_repair(before, Cost(0, 0, 0)):
        return
    rows = values[output.tensor]
    message = (
        f"the output {output.tensor} holds all its parts on one scale, {rows.min():.3g} to {rows.max():.3g}: rounding "
        f"it to int8 {_describe(before)}"
    )
    finding = Finding("head-shares-scale", "warning", message, f"{{fix_head}} cannot repair it: {why}")
    yield Diagnosis(finding, output.tensor, output.slots or (output.role,), before)


def _rounded(split: Split, values: Answers, readings: Readings) -> Iterator[Diagnosis]:
    threshold = split.contract.thresholds.presence
    now, repaired = (cost(readings, rounded(split, values), threshold) for rounded in (round_outputs, round_parts))
    named: set[str] = set()
    for names in _sharing(split):
        parts = [split.named[name] for name in names]
        before, after = _concerning(now, parts), _concerning(repaired, parts)
        if worth_repair(before, after):
            named.update(part.role for part in parts)
            yield _shared_scale(split, values, names, before, after)
    box = next((part for part in split.parts if part.role == "box" and part.in_graph != "none"), None)
    if box is not None and "box" not in named:
        yield from _coarse_box(box, readings, round_activations(split, values), threshold, now.iou, repaired.iou)


def _sharing(split: Split) -> list[tuple[str, ...]]:
    """The parts that share a scale with another part: of one layer, or of one output that is no probability."""
    groups = dict.fromkeys(
        tuple(name for name, other in split.named.items() if _share(part, other, split.parts)) for part in split.parts
    )
    return [group for group in groups if len(group) > 1]


def _share(part: Part, other: Part, parts: tuple[Part, ...]) -> bool:
    fixed = all(mate.in_graph != "none" for mate in parts if mate.tensor == part.tensor)
    return bool(part.scales & other.scales) or (part.tensor == other.tensor and not fixed)


def _concerning(whole: Cost, parts: list[Part]) -> Cost:
    """The cost of these parts alone."""
    roles = {part.role for part in parts}
    return Cost(
        whole.iou * bool(roles & _BOXES), whole.presence * ("presence" in roles), whole.label * ("class" in roles)
    )


def _shared_scale(split: Split, values: Answers, names: tuple[str, ...], before: Cost, after: Cost) -> Diagnosis:
    parts = [split.named[name] for name in names]
    output = ", ".join(dict.fromkeys(part.tensor for part in parts))
    ranges = ", ".join(
        f"{part.role} ({values[name].min():.3g} to {values[name].max():.3g})"
        for name, part in zip(names, parts, strict=True)
    )
    message = (
        f"the output {output} has parts of unlike ranges on one scale, {ranges}: rounding it to int8 "
        f"{_describe(before)}; split, it {_describe(after)}"
    )
    finding = Finding("head-shares-scale", "warning", message, "split it with {fix_head}")
    return Diagnosis(finding, output, tuple(part.role for part in parts), before, after)


def _describe(price: Cost) -> str:
    parts = [f"costs {price.iou:.3f} IoU against the unrounded boxes"]
    if price.presence:
        parts.append(f"changes presence on {price.presence:.1%} of the images")
    if price.label:
        parts.append(f"changes the class on {price.label:.1%}")
    return " and ".join(parts)


def _coarse_box(
    box: Part, readings: Readings, only: Readings, threshold: float, before: float, after: float
) -> Iterator[Diagnosis]:
    alone = cost(readings, only, threshold).iou
    if alone < _COARSE:
        return
    message = (
        f"the box leaves the output {box.tensor} through a {box.in_graph}, in steps of 1/256: they alone cost "
        f"{alone:.3f} IoU against the unrounded boxes ({_by_size(readings, only, threshold)}), with the rounding "
        f"before the {box.in_graph} {before:.3f}; as logits it is {after:.3f}"
    )
    finding = Finding("head-coarse-box", "warning", message, "drop the final activation with {fix_head}")
    yield Diagnosis(finding, box.tensor, box.slots or ("box",), Cost(before, 0, 0), Cost(after, 0, 0))


def _by_size(readings: Readings, only: Readings, threshold: float) -> str:
    """The loss by the size of the box, in the words of SIZES; what leaves a sigmoid is in fractions of the input."""
    assert readings.corners is not None and only.corners is not None  # there is a box
    here = readings.found(threshold)
    boxes = np.clip(readings.corners[here], 0, 1)
    side = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1))
    loss = 1 - box_iou(readings.corners[here], only.corners[here])
    means = {name: loss[(side >= low) & (side < high)] for name, (low, high) in SIZES.items()}
    return ", ".join(f"{name} ones {lost.mean():.3f}" for name, lost in means.items() if lost.size)


def _saturated(split: Split, values: Answers) -> Iterator[Diagnosis]:
    for name, part in split.named.items():
        if part.role != "box" or part.activation != "sigmoid":
            continue
        four = activate(values[name].reshape(-1, 4), "sigmoid")
        stuck = np.mean((four < _HALF_STEP) | (four > 1 - _HALF_STEP), axis=0)
        names = part.slots or tuple(f"number {i}" for i in range(4))
        slots = tuple(slot for slot, often in zip(names, stuck, strict=True) if often >= _STUCK)
        if slots:
            message = (
                f"{', '.join(slots)} of the output {part.tensor} stick at 0 or 1 on {stuck.max():.0%} of the images, "
                "where a sigmoid hardly moves"
            )
            fix = "train with targets in fractions of the input, and for longer"
            yield Diagnosis(Finding("head-saturated", "warning", message, fix), part.tensor, slots)


def _constants(values: Answers) -> Iterator[Diagnosis]:
    for name, rows in values.items():
        flat = rows.reshape(len(rows), -1)
        still = np.ptp(flat, axis=0) <= _ALIKE * np.maximum(np.abs(flat).max(axis=0), 1)
        if len(rows) < 2 or not still.any():
            continue
        which = f"the output {name} is" if still.all() else f"{still.sum()} of {still.size} numbers of {name} are"
        message = f"{which} the same on all {len(rows)} images"
        finding = Finding("head-constant", "warning", message, "train the head again: a dead unit carries nothing")
        yield Diagnosis(finding, name, tuple(map(str, np.flatnonzero(still))))


def _unreached_presence(split: Split, readings: Readings) -> Iterator[Diagnosis]:
    part = next((part for part in split.parts if part.role == "presence"), None)
    threshold = split.contract.thresholds.presence
    if part is None or (readings.presence >= threshold).any():
        return
    message = (
        f"presence never reaches its threshold {threshold:g} on {len(readings.presence)} images (at most "
        f"{readings.presence.max():.3g})"
    )
    fix = "check these images, and the normalization and activation in the contract"
    yield Diagnosis(Finding("presence-never-reached", "warning", message, fix), part.tensor, ("presence",))
