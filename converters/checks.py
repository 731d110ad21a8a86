"""Checks of a conversion: same answers as the original, the ports and precision asked for, a contract that fits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.calibration import drawn_order
from edgeloc.converters.quantization.quantize import Recipe
from edgeloc.converters.sources.base import Source, answer_each
from edgeloc.data import Dataset, Sample
from edgeloc.engines import open_engine
from edgeloc.errors import ContractError, DataError, ModelError
from edgeloc.evaluation.pairing import Side
from edgeloc.findings import Finding
from edgeloc.localizer import Localizer
from edgeloc.model.contract import BoxForm, Contract, InputSpec, Resize
from edgeloc.model.file import Golden, ModelFile
from edgeloc.model.flatbuffer import parse_flatbuffer
from edgeloc.model.inspection import ModelReport
from edgeloc.scenes import SceneGenerator
from edgeloc.types import Pixels

Array = NDArray[np.float64]

__all__ = [
    "check_contract",
    "check_parity",
    "check_ports",
    "check_presence_range",
    "make_golden",
    "require_precision",
    "run_flatbuffer",
]

_IMAGES = 128
_FEWEST = 16
# Another contract must be clearly better. With the shipped model's own contract no other gains anything. With BGR,
# 0..255 or ImageNet's normalization in its stead the right one gains 0.21, 1.27 and 0.15 of mean IoU plus top-1 on
# training images, 5 standard errors or more; with 0..1 it gains 0.03 at 2, which is within noise.
_LEAST_GAIN = 0.03
_STANDARD_ERRORS = 3.0
_NORMALIZATIONS = (("-1..1", 127.5, 127.5), ("0..1", 0.0, 255.0), ("0..255", 0.0, 1.0))
_IMAGENET_MEAN: tuple[float, ...] = (123.675, 116.28, 103.53)
_IMAGENET_STD: tuple[float, ...] = (58.395, 57.12, 57.375)
_RESIZES: tuple[Resize, ...] = ("letterbox", "stretch", "center-crop")
_FORMS: tuple[BoxForm, ...] = ("cxcywh", "xyxy", "yxyx", "xywh", "cxcyhw")
_SLOT_ORDERS = (
    ("cx", "cy", "w", "h"), ("cx", "cy", "h", "w"), ("cy", "cx", "h", "w"), ("x1", "y1", "x2", "y2"),
    ("y1", "x1", "y2", "x2"), ("x1", "y1", "w", "h"), ("x1", "y1", "h", "w"),
)  # fmt: skip
_BOX_SLOTS = {slot for order in _SLOT_ORDERS for slot in order}
_SWAPPED_SIDES = {"w": "h", "h": "w"}
_FLOAT_PARTS = "mixed: float island"
_CANDIDATES = 16
_SIZE = (160, 120)
# Of an output's spread over the images, and of its largest number: two float32 networks that do
# the same sums in another order stay a hundred times below; a wrong layout is far above.
_OF_SPREAD = 1e-3
_OF_LARGEST = 1e-4


def check_ports(flatbuffer: bytes, contract: Contract, name: str) -> None:
    """Raise ContractError when the contract names an output that the float model does not have."""
    signature = parse_flatbuffer(flatbuffer, name).signature
    names = tuple(signature.outputs) if signature is not None else ()
    for output in contract.outputs:
        if output.tensor not in names:
            raise ContractError(
                f"the contract names the output {output.tensor!r}, which the model does not have; "
                f"it has {', '.join(names)}"
            )


def require_precision(chosen: Recipe, report: ModelReport, kept_float: bool) -> None:
    """Raise ModelError where the model is not what its recipe is for, or has an output that never changes.

    Parameters:
        chosen: the recipe.
        report: what was read out of the result.
        kept_float: whether operators were asked to stay in float.
    """
    if report.constant_outputs:
        names = ", ".join(report.constant_outputs)
        raise ModelError(f"the output {names} does not depend on the input: the head is dead, train it again")
    wanted = (chosen.precision, _FLOAT_PARTS) if kept_float else (chosen.precision,)
    if report.precision not in wanted:
        reasons = "; ".join(report.reasons) or "see edgeloc inspect"
        message = f"the recipe {chosen.name} gave a model that is {report.precision} instead of {chosen.precision}"
        raise ModelError(f"{message}: {reasons}", hint=_keep_float_hint(chosen, report))


def _keep_float_hint(chosen: Recipe, report: ModelReport) -> str:
    """What helps where the quantizer has no integer form of some operators."""
    if report.precision != _FLOAT_PARTS or not chosen.keeps_float:
        return ""
    names = " ".join(f"{{keep_float}} {name}" for name in sorted({reason.split()[0] for reason in report.reasons}))
    return f"build the network without them, or, for CPUs, allow it with {names}"


def check_presence_range(report: ModelReport, contract: Contract) -> Finding | None:
    """Whether the quantized presence output can reach both sides of its threshold; None where it can."""
    output = contract.output("presence")
    port = next((port for port in report.outputs if output is not None and port.name == output.tensor), None)
    if output is None or port is None or port.scale is None or port.zero_point is None:
        return None
    threshold = contract.thresholds.presence
    if not 0 < threshold < 1:
        return None
    if output.activation == "sigmoid":
        threshold = math.log(threshold / (1 - threshold))
    limits = np.iinfo(port.dtype)
    lowest, highest = ((limit - port.zero_point) * port.scale for limit in (limits.min, limits.max))
    if lowest < threshold <= highest:
        return None
    word = "present" if lowest >= threshold else "absent"
    message = f"the presence output can only be {word!r}, as on every calibration image"
    return Finding("presence-saturated", "warning", message, "calibrate on images with and without an object")


def check_parity(source: Source, flatbuffer: bytes, spec: InputSpec, images: NDArray[np.float32]) -> float:
    """Raise ModelError when the float32 flatbuffer and its source disagree; the largest difference, as a share.

    `images` is float32 (n, height, width, channels), normalized as `spec` says; a few real scenes
    do, blank or equal images show no layout. An output may differ by a thousandth of its spread
    over the images and a ten-thousandth of its largest number. The result is the largest difference
    of any output in units of what is allowed.
    """
    original = source.answer(images)
    converted = run_flatbuffer(flatbuffer, source.name, spec, images)
    worst = 0.0
    for name, expected in original.items():
        if name not in converted:
            raise ModelError(
                f"{source.name}: the converted network lost the output {name}; it has {', '.join(converted)}"
            )
        worst = max(worst, _compare(source.name, name, expected, converted[name]))
    return worst


def run_flatbuffer(
    flatbuffer: bytes, name: str, spec: InputSpec, images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """The outputs of a float32 flatbuffer on each image, (n, ...) by name; `name` is for errors."""
    engine = open_engine("auto", ModelFile(Path(name), flatbuffer, "tflite", trusted=True))
    if list(engine.inputs) != [spec.tensor]:
        raise ModelError(f"{name}: the converted network's input is {', '.join(engine.inputs)}, not {spec.tensor}")
    return answer_each(images, engine.invoke)


def _compare(model: str, output: str, expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    if expected.shape != got.shape:
        raise ModelError(
            f"{model}: the output {output} is {expected.shape[1:]} in the original and {got.shape[1:]} after conversion"
        )
    if not np.isfinite(expected).all() or not np.isfinite(got).all():
        where = "original" if not np.isfinite(expected).all() else "converted network"
        raise ModelError(f"{model}: the {where} answers {output} with numbers that are not finite")
    difference = float(np.abs(expected - got).max())
    largest = float(np.abs(expected).max())
    allowed = _OF_SPREAD * float(np.ptp(expected, axis=0).max()) + _OF_LARGEST * max(largest, 1e-6)
    if difference > allowed:
        raise ModelError(
            f"{model}: after conversion the output {output} differs by up to {difference:.3g} (allowed {allowed:.2g}, "
            f"its largest number is {largest:.3g}): the conversion is wrong, most often in the image's layout"
        )
    return difference / allowed


def make_golden(localizer: Localizer) -> Golden:
    """Of a few generated scenes the one that the model is surest about; ModelError where it answers no numbers."""
    scenes = SceneGenerator(seed=0, size=_SIZE)
    pictures = [scenes.scene(index).pixels for index in range(_CANDIDATES)]
    result, pixels = max(((localizer(pixels), pixels) for pixels in pictures), key=lambda answer: answer[0].presence)
    if not np.isfinite(result.presence):
        raise ModelError("the converted model answers with numbers that are not finite")
    return Golden(pixels, result.presence, result.box, result.label)


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


def check_contract(
    flatbuffer: bytes, contract: Contract, dataset: Dataset, *, seed: int = 0, skip_bad: bool = False
) -> Finding | None:
    """Whether the float model is clearly better under another contract; None where it is not.

    Tried are, one at a time, on at most 128 labelled images: red and blue swapped, the usual normalizations, the other
    ways to resize (where images are not of the input's shape) and the other orders of a box's numbers, as an output of
    its own or as slots of a vector. Images that the model learned from show best how it was trained. Fewer than 16
    with an object show nothing.

    Parameters:
        flatbuffer: the float model.
        contract: the one in question.
        dataset: images, labelled or not.
        seed: which of them are drawn.
        skip_bad: leave a damaged image out, which raises DataError otherwise.

    Raises ContractError where the contract does not fit the model.
    """
    samples, pixels = _labelled(dataset, seed, skip_bad)
    if len(samples) < _FEWEST:
        return None
    model = ModelFile(Path("the float model"), flatbuffer, "tflite", contract=contract, trusted=True)
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
    return _finding(given, best[2], best[1], len(samples))


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
    """By how much `score` is better on average; 0 where that is little, or within noise."""
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
    yield from _slot_orders(contract)


def _slot_orders(contract: Contract) -> Iterator[_Variant]:
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
            dataclasses.replace(output, slots=tuple(slots)) if output is vector else output
            for output in contract.outputs
        )
        change = f"with its box's slots read as {', '.join(order)}"
        yield _Variant(dataclasses.replace(contract, outputs=outputs), change, f"outputs[{vector.tensor}].slots")


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


def _finding(given: _Score, better: _Score, variant: _Variant, count: int) -> Finding:
    classes = ""
    if better.right.sum() > given.right.sum():
        classes = f" and the class right on {better.right.mean():.0%} instead of {given.right.mean():.0%}"
    message = (
        f"{variant.change} the float model is clearly better on {count} labelled images (mean IoU "
        f"{better.iou.mean():.2f} instead of {given.iou.mean():.2f}{classes})"
    )
    return Finding("contract-suspect", "warning", message, f"check {variant.field} of the contract")
