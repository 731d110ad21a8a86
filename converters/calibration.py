"""The images that a quantization is calibrated on: choosing them, their manifest, and whether they are fit for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc._support.terminal import progress
from edgeloc.data import Dataset, Sample
from edgeloc.data.sample import cut_background, drawn_order
from edgeloc.errors import DataError
from edgeloc.evaluation.layers.graph import TensorRunner
from edgeloc.findings import Finding
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import parse_flatbuffer
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Pixels

__all__ = [
    "FEW_IMAGES",
    "Calibration",
    "calibrate",
    "check_images",
    "check_leaks",
    "check_range_stability",
    "pixel_hash",
    "thumbnail",
]

_Values = NDArray[np.float32]

FEW_IMAGES = 50
_CROP_EVERY = 4
_THUMBNAIL = 32
# Correlation of neighbouring pixels: at least 0.52 on 800 photos of fod-a, 0.67 on generated scenes, 0.75 on frames of
# 21 clips; at most 0.08 on uniform and Gaussian noise, resized or not.
_NOISE = 0.3
# Standard deviation in grey levels: at least 3.5 on the same photos and frames (an aeroplane in a clear sky), 0 on
# plain colours.
_BLANK = 1.5
# How many such images are one too many to be an accident (a lens cap, a broken frame).
_SHARE = 0.1
# Standard deviation of a pixel across images, in grey levels: 35 to 43 on fod-a, 44 on scenes; 0.4 to 3.5 on one still
# camera that looks at the sky, 5 to 15 on one that looks at people.
_ALIKE = 4.0
_ALIKE_FROM = 8
# The largest of the tensors' factors on the shipped model: 1.06 to 1.16 with 200 images, 1.16 to 1.34 with 50, 1.25 to
# 1.83 with 10. On it and one other network this limit warns in 11 of 16 draws of 10 images, 2 of 16 of 50, 0 of 24 of
# 100 or more.
_HALVES = 1.35
_SPLITS = 32
_MOST_IMAGES = 200
_FIX = "calibrate on about 200 images as the camera takes them, of many places and lights"
_NAMES_SHOWN = 3
# Most that any of the 32x32 greys may differ. Copies as JPEG at quality 30 to 90, or resized to 0.9 or 2 times, differ
# by at most 3, and 95 of 100 of half the size by at most 4; of 3 million pairs from different clips of fod-a none by
# less than 9, although some clips show the same floor under the same lamp.
_COPY = 4
# Pictures of nothing resemble each other: a wall, a clear sky. They are compared by their pixels alone.
_LEAST_CONTRAST = 8.0
_LEAK_FIX = "calibrate on other images, such as those of another split"


@dataclass(frozen=True)
class Calibration:
    """Calibration images as the model sees them, and where they came from.

    `images` is float32 (n, height, width, channels), normalized as the contract says; `manifest`
    names each with the SHA-256 of its pixels and its group, and the seed it was drawn with.
    `thumbnails`, uint8 (n, 32, 32), shows each whole image in grey, also where only a crop was used.
    """

    images: NDArray[np.float32] = field(repr=False)
    manifest: dict[str, Any]
    thumbnails: NDArray[np.uint8] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()


def calibrate(dataset: Dataset, spec: InputSpec, count: int, seed: int, skip_bad: bool = False) -> Calibration:
    """Draw `count` images, evenly over labels and groups, and bring them through the contract's preprocessing.

    A labelled data set without any image that is empty gives crops beside the objects for a quarter
    of them: a presence output that never saw "absent" could not say it, since its range in int8 is
    the one seen here.

    Parameters:
        dataset: what to draw from.
        spec: the contract's input.
        count: how many images to draw at most.
        seed: which of them are drawn.
        skip_bad: leave a damaged image out, which raises DataError otherwise.

    Raises DataError when the data set is empty.
    """
    preprocess = Preprocessor(spec, np.dtype(np.float32), None, None)
    images: list[NDArray[np.float32]] = []
    thumbnails: list[NDArray[np.uint8]] = []
    entries: list[dict[str, Any]] = []
    skipped: list[str] = []
    crops = not any(sample.labelled and sample.box is None for sample in dataset)
    for sample in drawn_order(dataset, seed):
        if len(images) == count:
            break
        try:
            pixels = sample.load()
        except DataError:
            if not skip_bad:
                raise
            skipped.append(sample.name)
            continue
        thumbnails.append(thumbnail(pixels))
        crop = (seed, len(images)) if crops and len(images) % _CROP_EVERY == 0 else None
        pixels, entry = _taken(sample, pixels, crop)
        tensor, _ = preprocess(pixels)
        images.append(tensor[0].astype(np.float32))
        entries.append(entry)
    if not images:
        raise DataError(f"{dataset.name} has no image to calibrate on")
    manifest = {
        "dataset": dataset.name, "split": dataset.split, "seed": seed,
        "count": len(images), "skipped": skipped, "images": entries,
    }  # fmt: skip
    return Calibration(np.stack(images), manifest, np.stack(thumbnails))


def _taken(sample: Sample, pixels: Pixels, crop: tuple[int, int] | None) -> tuple[Pixels, dict[str, Any]]:
    """What is used of an image, and its entry in the manifest; `crop` seeds a crop beside its objects."""
    entry: dict[str, Any] = {"name": sample.name, "sha256": pixel_hash(pixels)}
    if sample.group is not None:
        entry["group"] = sample.group
    if crop is not None and sample.objects:
        background = cut_background(pixels, sample.objects, np.random.default_rng(crop))
        if background is not None:
            pixels, entry["crop"] = background
    return pixels, entry


def pixel_hash(pixels: Pixels) -> str:
    """SHA-256 of an image's decoded pixels, as hexadecimal digits: the same whatever the file is called."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def thumbnail(pixels: Pixels) -> NDArray[np.uint8]:
    """A BGR uint8 image as 32x32 greys, whatever its shape was: alike for copies of another size or compression."""
    small = cv2.resize(pixels, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)


def check_images(calibration: Calibration, spec: InputSpec) -> tuple[Finding, ...]:
    """What makes the images unfit to calibrate on; nothing where they are fit.

    Parameters:
        calibration: the images that were drawn.
        spec: the contract's input, by which they were normalized.
    """
    return tuple(_image_findings(calibration, spec))


def _image_findings(calibration: Calibration, spec: InputSpec) -> Iterator[Finding]:
    manifest = calibration.manifest
    count = len(calibration.images)
    noise, blank = _noise_and_blank(calibration.images, spec)
    if noise > _SHARE * count:
        message = (
            f"{noise} of the {count} calibration images look like noise (neighbouring pixels have nothing to do with "
            "each other), which gives wrong scales"
        )
        yield Finding("calibration-noise", "warning", message, _FIX)
    if blank > _SHARE * count:
        message = f"{blank} of the {count} calibration images are blank (a plain colour)"
        yield Finding("calibration-blank", "warning", message, _FIX)
    spread = float(calibration.thumbnails.std(axis=0).mean())
    groups = {entry.get("group") for entry in manifest["images"]}
    if blank < count >= _ALIKE_FROM and spread < _ALIKE:
        message = f"the calibration images all look the same (a pixel differs by {spread:.1f} of 255 between them)"
        yield Finding("calibration-one-view", "warning", message, _FIX)
    elif count >= _ALIKE_FROM and len(groups) == 1 and None not in groups:
        message = f"all {count} calibration images are of one group ({next(iter(groups))})"
        yield Finding("calibration-one-group", "warning", message, _FIX)
    if count < FEW_IMAGES:
        message = f"{count} calibration images are few, and what they miss is clipped"
        yield Finding("calibration-few-images", "warning", message, _FIX)


def _noise_and_blank(images: NDArray[np.float32], spec: InputSpec) -> tuple[int, int]:
    """How many of the images are noise, and how many are a plain colour."""
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    noise = blank = 0
    for image in images:
        grey = (image * std + mean).mean(axis=2, dtype=np.float64)
        # The bars of a letterbox are no part of the picture.
        grey = grey[grey.std(axis=1) > 0][:, grey.std(axis=0) > 0]
        if grey.size == 0 or grey.std() < _BLANK:
            blank += 1
        elif min(_correlation(grey[:, 1:], grey[:, :-1]), _correlation(grey[1:], grey[:-1])) < _NOISE:
            noise += 1
    return noise, blank


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson's correlation, -1 to 1; 1 where one of them never changes."""
    first, second = first - first.mean(), second - second.mean()
    power = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / power if power > 0 else 1.0


def check_range_stability(flatbuffer: bytes, images: NDArray[np.float32], seed: int = 0) -> Finding | None:
    """Whether one half of the images gives a tensor another range than the other half does; None where none does.

    The range is what an int8 scale is made of; the factor of a tensor is the median over 32 ways to halve the images.

    Parameters:
        flatbuffer: the float model.
        images: float32 (n, height, width, channels), normalized, of which at most 200 are used.
        seed: of the ways to halve them.
    """
    images = images[:_MOST_IMAGES]
    if len(images) < 2:
        return None
    names, low, high = _ranges(flatbuffer, images)
    rng = np.random.default_rng(seed)
    factors = np.median([_factors(low, high, rng.permutation(len(images))) for _ in range(_SPLITS)], axis=0)
    worst = int(factors.argmax())
    if factors[worst] <= _HALVES:
        return None
    message = (
        f"two halves of the {len(images)} calibration images give the tensor {names[worst]} ranges that differ by a "
        f"factor of {factors[worst]:.1f}, so that its scale depends on which images were drawn"
    )
    return Finding("calibration-range-unstable", "warning", message, _FIX)


def _factors(low: _Values, high: _Values, order: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each tensor, the wider range of the two halves over the narrower; both made to hold 0, as int8 has it."""
    halves = order[::2], order[1::2]
    spans = [np.maximum(high[half].max(axis=0), 0) - np.minimum(low[half].min(axis=0), 0) for half in halves]
    wide, narrow = np.maximum(*spans).astype(np.float64), np.minimum(*spans).astype(np.float64)
    return np.where(wide > 0, wide / np.maximum(narrow, 1e-6 * wide + 1e-30), 1.0)


def _ranges(flatbuffer: bytes, images: NDArray[np.float32]) -> tuple[list[str], _Values, _Values]:
    """Names of the float tensors that operators compute, and the least and greatest value of each on each image."""
    graph = parse_flatbuffer(flatbuffer, "the float model").graphs[0]
    made = [index for operator in graph.operators for index in operator.outputs if graph.tensors[index].is_float]
    runner = TensorRunner(flatbuffer)
    low, high = (np.empty((len(images), len(made)), np.float32) for _ in range(2))
    for row, image in enumerate(progress(images, total=len(images), label="ranges")):
        runner.set(graph.inputs[0], image[np.newaxis])
        runner.run()
        for column, index in enumerate(made):
            values = runner.real(index)
            low[row, column], high[row, column] = values.min(), values.max()
    # Fused operators are named by all that they were made of: the first is enough to find them.
    return [graph.tensors[index].name.split(";")[0] for index in made], low, high


def check_leaks(calibration: Calibration, validation: Dataset, *, skip_bad: bool = False) -> tuple[Finding, ...]:
    """Raise DataError for calibration images that the validation data holds too, and report their near relations.

    The same pixels under whatever name are refused. Findings are pictures that look the same but are not, pixel by
    pixel (saved again, resized, the next frame), and groups that give images to both sides.

    Parameters:
        calibration: the images that were drawn.
        validation: each of its images is read once.
        skip_bad: pass over a damaged one, which raises DataError otherwise.
    """
    entries = calibration.manifest["images"]
    names = [str(entry["name"]) for entry in entries]
    by_hash = {entry["sha256"]: name for entry, name in zip(entries, names, strict=True)}
    thumbnails = calibration.thumbnails.astype(np.int16)
    rich = thumbnails.std(axis=(1, 2)) >= _LEAST_CONTRAST
    same: dict[str, str] = {}
    alike: dict[str, str] = {}
    for sample, pixels in _read(validation, skip_bad):
        found = by_hash.get(pixel_hash(pixels))
        if found is not None:
            same.setdefault(found, sample.name)
            continue
        differences = np.abs(thumbnails - thumbnail(pixels)).max(axis=(1, 2))
        for index in np.flatnonzero((differences <= _COPY) & rich):
            alike.setdefault(names[int(index)], sample.name)
    if same:
        raise DataError(
            f"{len(same)} of the {len(names)} calibration images are also in the validation data of {validation.name} "
            f"({_listed(same)}), so that what is measured there proves little",
            hint=_LEAK_FIX,
        )
    return tuple(_leak_findings(calibration, validation, alike))


def _read(validation: Sequence[Sample], skip_bad: bool) -> Iterator[tuple[Sample, Pixels]]:
    for sample in progress(validation, label="looking for leaks"):
        try:
            yield sample, sample.load()
        except DataError:
            if not skip_bad:
                raise


def _leak_findings(calibration: Calibration, validation: Dataset, alike: dict[str, str]) -> Iterator[Finding]:
    manifest = calibration.manifest
    if alike:
        message = (
            f"{len(alike)} of the {manifest['count']} calibration images look just like validation images of "
            f"{validation.name} ({_listed(alike)}), as copies saved again or neighbouring frames do"
        )
        yield Finding("validation-leak", "warning", message, _LEAK_FIX)
    # Names such as "1" mean something else in another data set.
    if manifest["dataset"] != validation.name:
        return
    groups = {entry.get("group") for entry in manifest["images"]} & {sample.group for sample in validation} - {None}
    if groups:
        shown = ", ".join(sorted(map(str, groups))[:_NAMES_SHOWN])
        message = (
            f"{len(groups)} group{'s' if len(groups) > 1 else ''} of {validation.name} ({shown}) "
            f"{'give' if len(groups) > 1 else 'gives'} images to calibration and validation, whose frames are not "
            "independent"
        )
        yield Finding("validation-shares-group", "warning", message, "split the data by group")


def _listed(pairs: dict[str, str]) -> str:
    shown = [name if name == other else f"{name} as {other}" for name, other in list(pairs.items())[:_NAMES_SHOWN]]
    return ", ".join(shown) + (", ..." if len(pairs) > _NAMES_SHOWN else "")
