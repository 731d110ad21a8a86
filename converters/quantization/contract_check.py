"""Whether a contract says what the float model was trained with, tried on labelled images; it changes no contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloc.benchmarks.sides import Side
from edgeloc.contract import BoxForm, Contract, InputSpec, Resize
from edgeloc.converters.quantization.calibration import drawn_order
from edgeloc.data import Dataset, Sample
from edgeloc.engines import open_engine
from edgeloc.errors import DataError
from edgeloc.modelfile import ModelFile
from edgeloc.types import Pixels

__all__ = ["suspect_contract"]

_IMAGES = 128
_FEWEST = 16
# Another contract must be clearly better. With the shipped model's own contract no other gains anything. With BGR,
# 0..255 or ImageNet's normalization in its stead the right one gains 0.21, 1.27 and 0.15 of mean IoU plus top-1 on
# training images, 5 standard errors or more; with 0..1 it gains 0.03 at 2, which is not told from luck.
_LEAST_GAIN = 0.03
_STANDARD_ERRORS = 3.0
_NORMALIZATIONS = (("-1..1", 127.5, 127.5), ("0..1", 0.0, 255.0), ("0..255", 0.0, 1.0))
_IMAGENET_MEAN: tuple[float, ...] = (123.675, 116.28, 103.53)
_IMAGENET_STD: tuple[float, ...] = (58.395, 57.12, 57.375)
_RESIZES: tuple[Resize, ...] = ("letterbox", "stretch", "center-crop")
_FORMS: tuple[BoxForm, ...] = ("cxcywh", "xyxy", "yxyx", "xywh", "cxcyhw")

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class _Variant:
    """Another contract, how it differs, and the field in question."""

    contract: Contract
    change: str
    field: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Score:
    """For each image the IoU with the truth, and 1 where the class is right, else 0."""

    iou: Array
    right: Array

    @property
    def total(self) -> Array:
        return self.iou + self.right


def suspect_contract(
    flatbuffer: bytes, contract: Contract, dataset: Dataset, *, seed: int = 0, skip_bad: bool = False
) -> str | None:
    """One sentence where the float model is clearly better under another contract, else None.

    Tried are, one at a time, on at most 128 labelled images: red and blue swapped, the usual
    normalizations, the other ways to resize (where images are not of the input's shape) and the
    other orders of a box's numbers. Images that the model learned from tell best, since what is
    asked is how it was trained. Fewer than 16 with an object tell nothing.

    Raises DataError for a damaged image without `skip_bad`, ContractError where the contract does not fit the model.
    """
    samples, pixels = _labelled(dataset, seed, skip_bad)
    if len(samples) < _FEWEST:
        return None
    model = ModelFile(Path("the float model"), flatbuffer, contract=contract, verified=True)
    engine = open_engine("auto", model)
    given = _score(Side(model, contract, engine), contract, samples, pixels)
    best: tuple[float, _Variant, _Score] | None = None
    for variant in _variants(contract, pixels):
        score = _score(Side(model, variant.contract, engine), contract, samples, pixels)
        gain = _gain(score, given)
        if best is None or gain > best[0]:
            best = gain, variant, score
    if best is None or best[0] <= 0:
        return None
    return _sentence(given, best[2], best[1], len(samples))


def _labelled(dataset: Dataset, seed: int, skip_bad: bool) -> tuple[list[Sample], list[Pixels]]:
    samples: list[Sample] = []
    pixels: list[Pixels] = []
    for sample in drawn_order([sample for sample in dataset if sample.box is not None], seed):
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


def _score(side: Side, contract: Contract, samples: Sequence[Sample], pixels: Sequence[Pixels]) -> _Score:
    answers = [side.answer(image) for image in pixels]
    pairs = list(zip(samples, answers, strict=True))
    iou = [sample.box.iou(answer.box) if sample.box and answer.box else 0.0 for sample, answer in pairs]
    right = [sample.label in contract.labels and answer.label == sample.label for sample, answer in pairs]
    return _Score(np.array(iou, np.float64), np.array(right, np.float64))


def _gain(score: _Score, given: _Score) -> float:
    """By how much `score` is better on average; 0 where that is little, or could be luck."""
    difference = score.total - given.total
    mean = float(difference.mean())
    error = float(difference.std(ddof=1)) / len(difference) ** 0.5
    return mean if mean >= _LEAST_GAIN and mean >= _STANDARD_ERRORS * error else 0.0


def _variants(contract: Contract, pixels: Sequence[Pixels]) -> Iterator[_Variant]:
    spec = contract.input
    inputs = [*_colors(spec), *_normalizations(spec)]
    # All ways to resize do the same to images that are of the input's shape.
    if any(image.shape[0] * spec.width != image.shape[1] * spec.height for image in pixels):
        inputs += [
            (dataclasses.replace(spec, resize=resize), f"resized by {resize}", "input.resize") for resize in _RESIZES
        ]
    for other, change, name in inputs:
        if other != spec:
            yield _Variant(dataclasses.replace(contract, input=other), change, name)
    if contract.box.form in _FORMS and contract.output("box") is not None:
        for form in (form for form in _FORMS if form != contract.box.form):
            box = dataclasses.replace(contract.box, form=form)
            yield _Variant(dataclasses.replace(contract, box=box), f"with its box read as {form}", "box.form")


def _colors(spec: InputSpec) -> Iterator[tuple[InputSpec, str, str]]:
    if spec.color != "gray":
        swapped = dataclasses.replace(spec, color="bgr" if spec.color == "rgb" else "rgb")
        yield swapped, "with red and blue swapped", "input.color"


def _normalizations(spec: InputSpec) -> Iterator[tuple[InputSpec, str, str]]:
    fields = "input.mean and input.std"
    for name, mean, std in _NORMALIZATIONS:
        yield dataclasses.replace(spec, mean=(mean,), std=(std,)), f"with pixels normalized to {name}", fields
    if spec.color != "gray":
        order = slice(None) if spec.color == "rgb" else slice(None, None, -1)
        imagenet = dataclasses.replace(spec, mean=_IMAGENET_MEAN[order], std=_IMAGENET_STD[order])
        yield imagenet, "with ImageNet's mean and deviation", fields


def _sentence(given: _Score, better: _Score, variant: _Variant, count: int) -> str:
    classes = ""
    if better.right.sum() > given.right.sum():
        classes = f" and the class right on {better.right.mean():.0%} instead of {given.right.mean():.0%}"
    plural = " and " in variant.field
    return (
        f"warning: {variant.change} the float model is clearly better on {count} labelled images (mean IoU "
        f"{better.iou.mean():.2f} instead of {given.iou.mean():.2f}{classes}): "
        f"{'are' if plural else 'is'} {variant.field} of the contract right?"
    )
