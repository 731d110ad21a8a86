"""Names what a model's outputs will lose to int8, before anything is quantized; what mends it is in `repair`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeloc.benchmarks.figures import SIZES
from edgeloc.boxes import activate
from edgeloc.contract import Contract
from edgeloc.converters.heads.parts import Part
from edgeloc.converters.heads.rounding import Cost, Readings, apart, box_iou, cost, exact, outputs_only, today
from edgeloc.converters.heads.splitting import Answers, Split, answers, split_head
from edgeloc.errors import ModelError

__all__ = ["Finding", "diagnose"]

# Less than this is lost in what the weights lose, and no reason to touch a model.
_IOU, _SHARE = 0.005, 0.01
# A coordinate within half a step of an end on as many images says nothing there.
_STUCK = 0.5
_HALF_STEP = 1 / 512
_ALIKE = 1e-6
_MOST_IMAGES = 100
Kind = Literal["shared-scale", "coarse-box", "unsplittable", "saturated", "constant", "dead-presence"]


@dataclass(frozen=True)
class Finding:
    """One fault of an output.

    `output` is its name, `parts` the roles or slots concerned. `cost` is what rounding the outputs
    to int8 does as they are, `mended` what it does after `repair_head`, both predicted from float
    answers; None where rounding is not the fault, or nothing mends it. `sentence` says it to a user.
    """

    kind: Kind
    output: str
    parts: tuple[str, ...]
    sentence: str
    cost: Cost | None = None
    mended: Cost | None = None


def diagnose(flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]) -> tuple[Finding, ...]:
    """What is wrong with the outputs of a float model, worst kind first.

    `flatbuffer` is float32 with a signature that has the contract's names; `images` are normalized
    (n, height, width, channels), of which 100 are enough. Models with a detection operator or a
    YOLO output are only looked through for outputs that cannot be told from constants.

    Raises ModelError when the flatbuffer has no signature, ContractError when the contract's
    outputs contradict each other.
    """
    images = images[:: max(1, len(images) // _MOST_IMAGES)][:_MOST_IMAGES]
    try:
        split = split_head(flatbuffer, contract)
    except ModelError as error:
        plain = answers(flatbuffer, images)
        return (_unsplittable(contract, error), *_constants(plain))
    values = answers(split.flatbuffer, images)
    if any(part.role.startswith(("ssd-", "yolo")) for part in split.parts):
        return tuple(_constants(values))
    readings = exact(split, values)
    threshold = contract.thresholds.presence
    return (
        *_rounded(split, values, readings, threshold),
        *_saturated(split, values),
        *_constants(values),
        *_dead_presence(split, readings, threshold),
    )


def _unsplittable(contract: Contract, error: ModelError) -> Finding:
    output = next((output for output in contract.outputs if output.role == "vector"), contract.outputs[0])
    return Finding("unsplittable", output.tensor, output.slots, f"the cost of the outputs cannot be predicted: {error}")


def _rounded(split: Split, values: Answers, readings: Readings, threshold: float) -> Iterator[Finding]:
    now, mended = today(split, values), apart(split, values)
    before, after = cost(readings, now, threshold), cost(readings, mended, threshold)
    for names in _sharing(split):
        parts = [split.named[name] for name in names]
        if _pays(_concerning(before, parts), _concerning(after, parts)):
            yield _shared_scale(split, values, names, _concerning(before, parts), _concerning(after, parts))
    box = next((part for part in split.parts if part.role == "box" and part.in_graph != "none"), None)
    if box is None:
        return
    only = outputs_only(split, values)
    if cost(readings, only, threshold).iou >= _IOU:
        yield _coarse_box(box, readings, only, threshold, before, after)


def _sharing(split: Split) -> list[tuple[str, ...]]:
    """The parts that share a scale with another part: of one layer, or of one output that is no probability."""
    groups = dict.fromkeys(
        tuple(name for name, other in split.named.items() if _share(part, other, split.parts)) for part in split.parts
    )
    return [group for group in groups if len(group) > 1]


def _share(part: Part, other: Part, parts: tuple[Part, ...]) -> bool:
    fixed = all(mate.in_graph != "none" for mate in parts if mate.tensor == part.tensor)
    return bool(part.roots & other.roots) or (part.tensor == other.tensor and not fixed)


def _concerning(whole: Cost, parts: Iterable[Part]) -> Cost:
    """The cost of these parts alone."""
    roles = {part.role for part in parts}
    has_box = bool(roles & {"box", "box-bins", "grid-weights", "grid-distances"})
    return Cost(whole.iou * has_box, whole.presence * ("presence" in roles), whole.label * ("class" in roles))


def _pays(before: Cost, after: Cost) -> bool:
    return (
        before.iou - after.iou >= _IOU
        or before.presence - after.presence >= _SHARE
        or before.label - after.label >= _SHARE
    )


def _shared_scale(split: Split, values: Answers, names: tuple[str, ...], before: Cost, after: Cost) -> Finding:
    parts = [split.named[name] for name in names]
    output = ", ".join(dict.fromkeys(part.tensor for part in parts))
    ranges = ", ".join(
        f"{part.role} ({values[name].min():.3g} to {values[name].max():.3g})"
        for name, part in zip(names, parts, strict=True)
    )
    sentence = (
        f"the output {output} holds parts of unlike ranges on one scale, {ranges}: rounding it to int8 "
        f"{_words(before)} ({_words(after)} once split); --fix-head mends it"
    )
    return Finding("shared-scale", output, tuple(part.role for part in parts), sentence, before, after)


def _words(price: Cost) -> str:
    said = [f"costs {price.iou:.3f} IoU against the unrounded boxes"]
    if price.presence:
        said.append(f"turns presence on {price.presence:.0%} of the images")
    if price.label:
        said.append(f"the class on {price.label:.0%}")
    return ", ".join(said)


def _coarse_box(box: Part, readings: Readings, only: Readings, threshold: float, before: Cost, after: Cost) -> Finding:
    price = cost(readings, only, threshold)
    sentence = (
        f"the box leaves the output {box.tensor} through a {box.in_graph}, in steps of 1/256 of the frame: that alone "
        f"costs {price.iou:.3f} IoU against the unrounded boxes ({_by_size(readings, only, threshold)}); "
        f"as logits, activated on the host, {after.iou:.3f}; --fix-head mends it"
    )
    return Finding("coarse-box", box.tensor, box.slots or ("box",), sentence, _box_only(before), _box_only(after))


def _box_only(price: Cost) -> Cost:
    return Cost(price.iou, 0.0, 0.0)


def _by_size(readings: Readings, only: Readings, threshold: float) -> str:
    """The loss by the size of the box, in the words of SIZES; boxes through a sigmoid are fractions of the frame."""
    assert readings.corners is not None and only.corners is not None  # there is a box
    here = readings.presence >= threshold
    here = here if here.any() else np.ones_like(here)
    boxes = readings.corners[here]
    side = np.sqrt(np.prod(np.clip(boxes[:, 2:], 0, 1) - np.clip(boxes[:, :2], 0, 1), axis=-1))
    loss = 1 - box_iou(boxes, only.corners[here])
    means = {name: loss[(side >= low) & (side < high)] for name, (low, high) in SIZES.items()}
    return ", ".join(f"{name} boxes {lost.mean():.3f}" for name, lost in means.items() if lost.size)


def _saturated(split: Split, values: Answers) -> Iterator[Finding]:
    for name, part in split.named.items():
        if part.role != "box" or part.activation != "sigmoid":
            continue
        four = activate(values[name].reshape(-1, 4), "sigmoid")
        stuck = np.mean((four < _HALF_STEP) | (four > 1 - _HALF_STEP), axis=0)
        slots = part.slots or _slots(split)
        slots = tuple(slot for slot, often in zip(slots, stuck, strict=True) if often >= _STUCK)
        if slots:
            yield Finding("saturated", part.tensor, slots, (
                f"{', '.join(slots)} of the output {part.tensor} stick at 0 or 1 on {stuck.max():.0%} of the images, "
                "where a sigmoid no longer moves: normalize the targets to the frame, and train longer or anew"
            ))  # fmt: skip


def _slots(split: Split) -> tuple[str, ...]:
    return tuple(f"{split.contract.box.form}[{i}]" for i in range(4))


def _constants(values: Answers) -> Iterator[Finding]:
    for name, rows in values.items():
        flat = rows.reshape(len(rows), -1)
        spread = np.ptp(flat, axis=0) <= _ALIKE * np.maximum(np.abs(flat).max(axis=0), 1)
        if len(rows) < 2 or not spread.any():
            continue
        which = "" if spread.all() else f"{int(spread.sum())} of {len(spread)} numbers of "
        yield Finding("constant", name, tuple(map(str, np.flatnonzero(spread))), (
            f"{which}the output {name} {'is' if spread.all() else 'are'} the same on all {len(rows)} images: "
            "that unit is dead, train the head anew"
        ))  # fmt: skip


def _dead_presence(split: Split, readings: Readings, threshold: float) -> Iterator[Finding]:
    part = next((part for part in split.parts if part.role == "presence"), None)
    if part is None or (readings.presence >= threshold).any():
        return
    yield Finding("dead-presence", part.tensor, ("presence",), (
        f"presence never reaches its threshold {threshold:g} on {len(readings.presence)} images (at most "
        f"{readings.presence.max():.3g}): the model says that nothing is there; check the images, the contract's "
        "normalization and the activation of presence"
    ))  # fmt: skip
