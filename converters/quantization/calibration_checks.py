"""Whether images are fit to calibrate on: noise, nothing, all alike, too few; leaks into validation are `leaks`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeloc.benchmarks.tensor_runner import TensorRunner
from edgeloc.contract import InputSpec
from edgeloc.converters.quantization.calibration import Calibration
from edgeloc.flatbuffer import parse_flatbuffer
from edgeloc.progress import progress

__all__ = ["FEW_IMAGES", "judge_halves", "judge_images"]

_Values = NDArray[np.float32]

FEW_IMAGES = 50

# Correlation of neighbouring pixels: at least 0.52 on 800 photos of fod-a, 0.67 on generated scenes, 0.75 on frames of
# 21 clips; at most 0.08 on uniform and Gaussian noise, resized or not.
_NOISE = 0.3
# Standard deviation in grey levels: at least 3.5 on the same photos and frames (an aeroplane in a clear sky), 0 on
# plain colours.
_NOTHING = 1.5
# How many such images are one too many to be an accident (a lens cap, a broken frame).
_SHARE = 0.1
# Standard deviation of a pixel across images, in grey levels: 35 to 43 on fod-a, 44 on scenes; 0.4 to 3.5 on one still
# camera that looks at the sky, 5 to 15 on one that looks at people.
_ALIKE = 4.0
_ALIKE_FROM = 8
# The largest of the tensors' factors on the shipped model: 1.06 to 1.16 with 200 images, 1.16 to 1.34 with 50, 1.25 to
# 1.83 with 10. On it and one other network this limit speaks in 11 of 16 draws of 10 images, 2 of 16 of 50, 0 of 24 of
# 100 or more.
_HALVES = 1.35
_SPLITS = 32
_MOST_IMAGES = 200
_MEND = "calibrate on about 200 images as the camera takes them, of many places and lights"


def judge_images(calibration: Calibration, spec: InputSpec) -> tuple[str, ...]:
    """One sentence for each doubt about the images themselves; none where they are fit to calibrate on.

    `spec` is the contract's input, by which the images were normalized.
    """
    return tuple(_doubts(calibration, spec))


def _doubts(calibration: Calibration, spec: InputSpec) -> Iterator[str]:
    manifest = calibration.manifest
    count = len(calibration.images)
    noise, nothing = _like_noise_or_nothing(calibration.images, spec)
    if noise > _SHARE * count:
        yield (
            f"warning: {noise} of the {count} calibration images look like noise (neighbouring pixels have nothing to "
            f"do with each other), on which scales are wrong: {_MEND}"
        )
    if nothing > _SHARE * count:
        yield f"warning: {nothing} of the {count} calibration images show nothing (a plain colour): {_MEND}"
    spread = float(calibration.thumbnails.std(axis=0).mean())
    groups = {entry.get("group") for entry in manifest["images"]}
    if nothing < count >= _ALIKE_FROM and spread < _ALIKE:
        yield (
            f"warning: the calibration images all look the same (a pixel differs by {spread:.1f} of 255 between them): "
            f"{_MEND}"
        )
    elif count >= _ALIKE_FROM and len(groups) == 1 and None not in groups:
        yield f"warning: all {count} calibration images are of one group ({next(iter(groups))}): {_MEND}"
    if count < FEW_IMAGES:
        yield f"warning: {count} calibration images are few, and what they miss is clipped: {_MEND}"


def _like_noise_or_nothing(images: NDArray[np.float32], spec: InputSpec) -> tuple[int, int]:
    """How many of the images are noise, and how many are a plain colour."""
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    noise = nothing = 0
    for image in images:
        grey = (image * std + mean).mean(axis=2, dtype=np.float64)
        # The bars of a letterbox are no part of the picture.
        grey = grey[grey.std(axis=1) > 0][:, grey.std(axis=0) > 0]
        if grey.size == 0 or grey.std() < _NOTHING:
            nothing += 1
        elif min(_correlation(grey[:, 1:], grey[:, :-1]), _correlation(grey[1:], grey[:-1])) < _NOISE:
            noise += 1
    return noise, nothing


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson's correlation, -1 to 1; 1 where one of them never changes."""
    first, second = first - first.mean(), second - second.mean()
    power = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / power if power > 0 else 1.0


def judge_halves(flatbuffer: bytes, images: NDArray[np.float32], seed: int = 0) -> str | None:
    """A sentence where one half of the images gives a tensor another range than the other half does, else None.

    `flatbuffer` is the float model; `images` is float32 (n, height, width, channels), normalized,
    of which at most 200 are used. The range is what an int8 scale is made of; the factor of a
    tensor is the median over 32 ways to halve the images.
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
    return (
        f"warning: two halves of the {len(images)} calibration images give the tensor {names[worst]} ranges that "
        f"differ by a factor of {factors[worst]:.1f}, so its scale is a matter of luck: {_MEND}"
    )


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
