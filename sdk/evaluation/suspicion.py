"""Whether a model clearly does better on labelled images under another contract than under the one that it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeloc.data import Dataset, Sample
from edgeloc.data.sample import drawn_order
from edgeloc.engines import Engine, TensorInfo, open_engine
from edgeloc.errors import ContractError, DataError, EngineError
from edgeloc.evaluation.variants import Variant, variants_of
from edgeloc.findings import Finding
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract, InputSpec, Thresholds
from edgeloc.model.file import ModelFile
from edgeloc.model.fit import check_input_range
from edgeloc.types import Detection, LabelledBox, Pixels

__all__ = ["ContractTrial", "try_contract"]

Array = NDArray[np.float64]

_IMAGES = 128
# Another contract must be clearly better. With the shipped model's own contract no other gains anything. With BGR,
# 0..255 or ImageNet's normalization in its stead the right one gains 0.21, 1.27 and 0.15 of mean IoU plus top-1 on
# training images, 5 standard errors or more; with 0..1 it gains 0.03 at 2, which is within noise.
_LEAST_GAIN = 0.03
# A detector's objects are many and not independent, and a resize that shows them larger helps by 0.04.
_LEAST_GAIN_OF_DETECTORS = 0.1
_STANDARD_ERRORS = 3.0
_LARGE_GAIN, _STANDARD_ERRORS_OF_LARGE = 0.2, 1.5
# With fewer objects there is no standard error to speak of.
_FEW = 16
_LEAST_GAIN_OF_FEW = 0.3
_HIT = 0.5


@dataclass(frozen=True, slots=True)
class ContractTrial:
    """How a model does under its contract.

    Parameters:
        objects: how many labelled objects were looked for.
        mean_iou: of their boxes with the best of the model's.
        right: the share of them whose best box has their class.
        suspicion: that another contract is clearly better; None where none is.
    """

    objects: int
    mean_iou: float
    right: float
    suspicion: Finding | None


@dataclass(frozen=True, slots=True)
class _Score:
    """For each labelled object the IoU with the best box, 1 where its class is right, and boxes of no object.

    The last, of a detector alone, are those of its image, as a share of the objects there.
    """

    iou: Array
    right: Array
    false: Array


def try_contract(
    model: ModelFile,
    contract: Contract,
    dataset: Dataset,
    *,
    engine: str | Engine = "auto",
    seed: int = 0,
    skip_bad: bool = False,
    fewest: int = 1,
) -> ContractTrial | None:
    """Run a model on at most 128 labelled images, under its contract and under others; None without enough objects.

    Others differ in one thing: red and blue swapped, the usual normalizations, ways to resize (where images are not of
    the input's shape), orders and units of a box's numbers, the order of the labels, parts of outputs exchanged. Images
    that the model learned from show best how it was trained. A localizer is held against the largest object alone.

    Parameters:
        model: the model's file.
        contract: the one in question.
        dataset: images, labelled or not.
        engine: what runs it.
        seed: which images are drawn.
        skip_bad: leave a damaged image out, which raises DataError otherwise.
        fewest: with fewer labelled objects nothing is tried.

    Raises ContractError where the contract does not fit the model.
    """
    samples, pixels = _labelled(dataset, seed, skip_bad)
    wanted = [sample.objects if contract.detector else _largest(sample) for sample in samples]
    if sum(map(len, wanted)) < max(fewest, 1):
        return None
    loaded = open_engine(engine, model) if isinstance(engine, str) else engine
    given = _score(model, contract, loaded, wanted, pixels)
    least = _LEAST_GAIN if contract.detector is None else _LEAST_GAIN_OF_DETECTORS
    best: tuple[float, Variant, _Score] | None = None
    for variant in variants_of(contract, pixels):
        tensor = loaded.inputs.get(variant.contract.input.tensor)
        if tensor is not None and _is_out_of_range(variant.contract.input, tensor):
            continue  # the file itself shows that it is not this one
        try:
            score = _score(model, variant.contract, loaded, wanted, pixels)
        except ContractError:
            continue  # as above
        gain = _gain(score, given)
        if gain >= least and (best is None or gain > best[0]):
            best = gain, variant, score
    suspicion = None if best is None else _finding(given, best[2], best[1], len(given.iou))
    return ContractTrial(len(given.iou), float(given.iou.mean()), float(given.right.mean()), suspicion)


def _is_out_of_range(spec: InputSpec, tensor: TensorInfo) -> bool:
    return check_input_range(spec, tensor.dtype, tensor.scale, tensor.zero_point or 0) is not None


def _largest(sample: Sample) -> tuple[LabelledBox, ...]:
    return () if sample.box is None else (LabelledBox(sample.box, sample.label),)


def _labelled(dataset: Dataset, seed: int, skip_bad: bool) -> tuple[list[Sample], list[Pixels]]:
    samples: list[Sample] = []
    pixels: list[Pixels] = []
    for sample in drawn_order([sample for sample in dataset if sample.objects], seed):
        if len(samples) == _IMAGES:
            break
        try:
            pixels.append(sample.load())
        except DataError:
            if not skip_bad:
                raise
            continue
        samples.append(sample)
    return samples, pixels


def _score(
    model: ModelFile,
    contract: Contract,
    engine: Engine,
    wanted: Sequence[Sequence[LabelledBox]],
    pixels: Sequence[Pixels],
) -> _Score:
    if contract.detector is None:  # the box, even where its presence is under the threshold
        contract = replace(contract, thresholds=Thresholds(presence=0.0, label=0.0))
    localizer = Localizer(model, engine, contract=contract)
    pairs = [
        pair
        for objects, image in zip(wanted, pixels, strict=True)
        for pair in _found(objects, _objects(localizer, image), contract.labels, contract.detector is not None)
    ]
    return _Score(*np.array(pairs, np.float64).T)


def _objects(localizer: Localizer, image: Pixels) -> tuple[Detection, ...]:
    """What it finds: nothing where its numbers cannot be what this contract says."""
    try:
        return localizer(image).objects
    except EngineError:
        return ()


def _found(
    objects: Sequence[LabelledBox], answers: Sequence[Detection], labels: tuple[str, ...], penalty: bool
) -> Iterator[tuple[float, float, float]]:
    """For each object the IoU of the best answer, whether one that hits it has its class, and its share of misses."""
    boxes = [answer for answer in answers if answer.box is not None]
    hits = {id(answer) for box, _ in objects for answer in boxes if answer.box and box.iou(answer.box) >= _HIT}
    false = min(1.0, (len(boxes) - len(hits)) / len(objects)) if penalty else 0.0
    for box, label in objects:
        overlaps = [(box.iou(answer.box), answer.label) for answer in boxes if answer.box]
        named = any(iou >= _HIT and label == other for iou, other in overlaps)
        yield max((iou for iou, _ in overlaps), default=0.0), float(named and label in labels), false


def _gain(score: _Score, given: _Score) -> float:
    """By how much `score` is better; 0 where that is little, or within noise.

    Fewer boxes of no object are a gain, more of them a loss: who finds everything everywhere is not better.
    """
    found, false = score.iou + score.right - given.iou - given.right, score.false - given.false
    return max(_clear(found - max(float(false.mean()), 0.0)), _clear(found - false))


def _clear(difference: Array) -> float:
    """The mean, where it is clearly above 0, else 0."""
    mean = float(difference.mean())
    if len(difference) < _FEW:
        return mean if mean >= _LEAST_GAIN_OF_FEW else 0.0
    error = float(difference.std(ddof=1)) / len(difference) ** 0.5
    errors = _STANDARD_ERRORS_OF_LARGE if mean >= _LARGE_GAIN else _STANDARD_ERRORS
    return mean if mean >= _LEAST_GAIN and mean >= errors * error else 0.0


def _finding(given: _Score, better: _Score, variant: Variant, count: int) -> Finding:
    figures = [f"mean IoU {better.iou.mean():.2f} instead of {given.iou.mean():.2f}"]
    if better.right.sum() > given.right.sum():
        figures.append(f"the class right on {better.right.mean():.0%} instead of {given.right.mean():.0%}")
    if better.false.sum() < given.false.sum():
        figures.append(f"{better.false.mean():.2f} instead of {given.false.mean():.2f} boxes of no object for each")
    message = f"{variant.change} the model is clearly better on {count} labelled objects ({' and '.join(figures)})"
    return Finding("contract-suspect", "warning", message, f"check {variant.field} of the contract")
