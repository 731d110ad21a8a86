"""Which images a quantization is calibrated on, and the manifest that says so."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.data import Dataset, Sample
from edgeloc.data.background import cut_background
from edgeloc.errors import DataError
from edgeloc.preprocess import Preprocessor

__all__ = ["Calibration", "calibrate"]

_CROP_EVERY = 4


@dataclass(frozen=True)
class Calibration:
    """Calibration images as the model sees them, and where they came from.

    `images` is float32 (n, height, width, channels), normalized as the contract says; `manifest`
    names each with the SHA-256 of its pixels, and the seed it was drawn with.
    """

    images: NDArray[np.float32] = field(repr=False)
    manifest: dict[str, Any]

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
    entries: list[dict[str, Any]] = []
    skipped: list[str] = []
    crops = not any(sample.labelled and sample.box is None for sample in dataset)
    for sample in _in_drawn_order(dataset, seed):
        if len(images) == count:
            break
        try:
            pixels = sample.load()
        except DataError:
            if not skip_bad:
                raise
            skipped.append(sample.name)
            continue
        entry: dict[str, Any] = {"name": sample.name, "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
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
    return Calibration(np.stack(images), manifest)


def _in_drawn_order(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """All samples, shuffled, then so ordered that labels take turns, and within a label its groups do."""
    rng = np.random.default_rng(seed)
    strata: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for index in rng.permutation(len(samples)):
        sample = samples[int(index)]
        strata[sample.label or ""][sample.group or ""].append(sample)
    return _take_turns([_take_turns(list(groups.values())) for groups in strata.values()])


def _take_turns(lists: list[list[Sample]]) -> list[Sample]:
    return [sample for turn in zip_longest(*lists) for sample in turn if sample is not None]
