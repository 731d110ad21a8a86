"""Which images a quantization is calibrated on, and the manifest that says so."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.data import Dataset, Sample
from edgeloc.data.background import cut_background
from edgeloc.errors import DataError
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Pixels

__all__ = ["Calibration", "calibrate", "drawn_order", "pixel_hash", "thumbnail"]

_CROP_EVERY = 4
_THUMBNAIL = 32


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

    A labelled data set without any image that is empty gives crops beside the object for a quarter
    of them: a presence output that never saw "absent" could not say it, since its range in int8 is
    the one seen here.

    Raises DataError when the data set is empty, or an image is damaged and `skip_bad` is not given.
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
        entry: dict[str, Any] = {"name": sample.name, "sha256": pixel_hash(pixels)}
        if sample.group is not None:
            entry["group"] = sample.group
        thumbnails.append(thumbnail(pixels))
        if crops and len(images) % _CROP_EVERY == 0 and sample.box is not None:
            background = cut_background(pixels, sample.box, np.random.default_rng((seed, len(images))))
            if background is not None:
                pixels, entry["crop"] = background
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


def pixel_hash(pixels: Pixels) -> str:
    """SHA-256 of an image's decoded pixels, as hexadecimal digits: the same whatever the file is called."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def thumbnail(pixels: Pixels) -> NDArray[np.uint8]:
    """A BGR uint8 image as 32x32 greys, whatever its shape was: alike for copies of another size or compression."""
    small = cv2.resize(pixels, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)


def drawn_order(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """All samples, shuffled, then so ordered that labels take turns, and within a label its groups do."""
    rng = np.random.default_rng(seed)
    strata: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for index in rng.permutation(len(samples)):
        sample = samples[int(index)]
        strata[sample.label or ""][sample.group or ""].append(sample)
    return _take_turns([_take_turns(list(groups.values())) for groups in strata.values()])


def _take_turns(lists: list[list[Sample]]) -> list[Sample]:
    return [sample for turn in zip_longest(*lists) for sample in turn if sample is not None]
