"""Labelled samples for Keras: the training and the validation side, and both as batches."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from edgeloc._support.terminal import progress
from edgeloc.converters.training.augment import Augmentation, augment
from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.data.sample import cut_background
from edgeloc.errors import DataError
from edgeloc.findings import Finding
from edgeloc.model.contract import InputSpec
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Box, Pixels

__all__ = ["TrainingBatches", "TrainingSamples", "ValidationBatches", "gather_samples"]

logger = logging.getLogger(__name__)

Batch = tuple[NDArray[np.float32], dict[str, NDArray[Any]]]

_HELD_OUT = 0.2
# Every so many validation images, one also gives a crop without its object.
_NEGATIVE_EVERY = 4


class TrainingSamples(NamedTuple):
    """Both sides, the labels of all data sets in the order of their first appearance, and what reading them changed."""

    training: list[Sample]
    validation: list[Sample]
    labels: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


def gather_samples(
    uris: Sequence[str],
    split: str,
    validation: str | None,
    validation_split: str,
    *,
    seed: int = 0,
    skip_bad: bool = False,
) -> TrainingSamples:
    """Open data sets to train and validate on.

    Parameters:
        uris: the data sets to learn from.
        split: their split.
        validation: the data set to validate on; None takes the first of `uris`. Where that has no splits at all, a
            fifth of its groups is held out, or of its images where it has no groups.
        validation_split: its split.
        seed: which groups are held out.
        skip_bad: leave bad rows and images out.

    Raises DataError where a group is on both sides, where a side has no object to learn from or
    to measure on, for images without labels, and for a damaged image unless `skip_bad`.
    """
    training: list[Sample] = []
    held_out: list[Sample] = []
    labels: dict[str, None] = {}
    findings: list[Finding] = []
    for number, uri in enumerate(uris):
        dataset = _open(uri, split, skip_bad, findings)
        labels |= dict.fromkeys(dataset.labels)
        samples = list(dataset)
        if number == 0 and validation is None:
            samples, held_out = _validation_of(uri, dataset, validation_split, seed, skip_bad, findings)
        training += samples
    if validation is not None:
        dataset = _open(validation, validation_split, skip_bad, findings)
        labels |= dict.fromkeys(dataset.labels)
        held_out = list(dataset)
    training, held_out = (_read_once(side, skip_bad, findings) for side in (training, held_out))
    _check_sides(training, held_out)
    return TrainingSamples(training, held_out, tuple(labels), tuple(findings))


def _open(uri: str, split: str, skip_bad: bool, findings: list[Finding]) -> Dataset:
    """A data set's split; all of one that has no splits."""
    dataset = open_dataset(uri, skip_bad=skip_bad)
    if dataset.splits:
        dataset = open_dataset(uri, split=split, skip_bad=skip_bad)
    findings += dataset.findings
    if any(not sample.labelled for sample in dataset):
        raise DataError(f"{uri} has images without labels: training needs for each a box, or that there is none")
    return dataset


def _validation_of(
    uri: str, dataset: Dataset, split: str, seed: int, skip_bad: bool, findings: list[Finding]
) -> tuple[list[Sample], list[Sample]]:
    if dataset.splits:
        return list(dataset), list(_open(uri, split, skip_bad, findings))
    training, held_out = _hold_out(dataset, seed)
    logger.info(
        "%s: no splits, so %d of %d images are held out to validate on", dataset.name, len(held_out), len(dataset)
    )
    return training, held_out


def _hold_out(dataset: Dataset, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Set a fifth of the groups aside; an image without a group is one of its own."""
    units = [sample.group if sample.group is not None else sample.name for sample in dataset]
    names = sorted(set(units))
    if len(names) < 2:
        message = f"{dataset.name} cannot be split: all images are of one group"
        raise DataError(message, field="validation", hint="give {validation}")
    count = max(1, round(_HELD_OUT * len(names)))
    aside = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]}
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample, unit in zip(dataset, units, strict=True):
        sides[unit in aside].append(sample)
    return sides


def _read_once(samples: list[Sample], skip_bad: bool, findings: list[Finding]) -> list[Sample]:
    """Read every image now: a damaged file ends the training or is left out before it starts, not hours later."""
    kept: list[Sample] = []
    for sample in progress(samples, label="checking the images"):
        try:
            if sample.path is not None:
                sample.load()
            kept.append(sample)
        except DataError as error:
            if not skip_bad:
                raise
            findings.append(Finding("image-damaged", "warning", f"left out: {error}"))
    return kept


def _check_sides(training: Sequence[Sample], validation: Sequence[Sample]) -> None:
    for side, samples in (("to learn from", training), ("to validate on", validation)):
        if not any(sample.box is not None for sample in samples):
            raise DataError(f"the images {side} ({len(samples)}) hold no labelled object: give data that has some")
    # Frames of one clip on both sides would make the validation worthless.
    shared = {s.group for s in training if s.group is not None} & {s.group for s in validation}
    if shared:
        raise DataError(
            f"training and validation share the group {min(map(str, shared))!r} ({len(shared)} in all): "
            "split the data so that every clip is on one side only"
        )


class _View(NamedTuple):
    """One image of a batch, BGR, and its object's box, in pixels, and label; None for a negative."""

    pixels: Pixels
    box: Box | None
    label: str | None


class TrainingBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Augmented batches, drawn with the square root of a class's rarity; the same seed and epoch give the same.

    A batch is float32 images (batch, height, width, channels), normalized, and the targets `box` (batch, 4), corners
    in fractions of the input, `present` (batch,), 1 or 0, and `label` (batch,), the label's index or -1.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: tuple[str, ...],
        spec: InputSpec,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(workers=2, max_queue_size=6)
        self._samples, self._labels, self._spec = samples, labels, spec
        self._batch_size, self._seed = batch_size, seed
        counts = Counter(sample.label for sample in samples)
        rarity = np.array([counts[sample.label] ** -0.5 for sample in samples])
        self._chances = rarity / rarity.sum()
        self.start_epoch(0, Augmentation())

    def start_epoch(self, epoch: int, how: Augmentation) -> None:
        """Draw the batches of this epoch from now on, augmented as `how` says."""
        self.epoch, self._how = epoch, how

    def __len__(self) -> int:
        return max(1, len(self._samples) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self._seed, self.epoch, index))
        size = self._spec.width
        views = []
        for number in rng.choice(len(self._samples), self._batch_size, p=self._chances):
            sample = self._samples[number]
            view = augment(sample.load(), sample.box, size, self._how, rng, self._spec.pad_value)
            box = None if view.box is None else Box(*(edge * size for edge in view.box))
            views.append(_View(view.pixels, box, sample.label))
        return _batch(views, self._labels, self._spec)


class ValidationBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Unchanged images through the runtime's own preprocessing, and crops beside the object as negatives."""

    def __init__(
        self, samples: Sequence[Sample], labels: tuple[str, ...], spec: InputSpec, batch_size: int, limit: int
    ) -> None:
        super().__init__(workers=1)
        step = max(1, -(-len(samples) // limit))
        self._samples = [samples[i] for i in range(0, len(samples), step)]
        self._labels, self._spec, self._batch_size = labels, spec, batch_size

    def __len__(self) -> int:
        return -(-len(self._samples) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        first = index * self._batch_size
        views = []
        for number, sample in enumerate(self._samples[first : first + self._batch_size], first):
            pixels = sample.load()
            views.append(_View(pixels, sample.box, sample.label))
            if number % _NEGATIVE_EVERY == 0 and sample.box is not None:
                background = cut_background(pixels, sample.box, np.random.default_rng(number))
                if background is not None:
                    views.append(_View(background.pixels, None, None))
        return _batch(views, self._labels, self._spec)


def _batch(views: Sequence[_View], labels: tuple[str, ...], spec: InputSpec) -> Batch:
    """The views through the runtime's preprocessing, and their targets."""
    preprocess = Preprocessor(spec, np.dtype(np.float32), None, None)  # of this call: batches are made in threads
    known = {name: index for index, name in enumerate(labels)}
    images, boxes, label = [], [], []
    for view in views:
        tensor, placement = preprocess(view.pixels)
        images.append(tensor[0].astype(np.float32))
        corners = np.array(placement.to_input(view.box) if view.box else (0, 0, spec.width, spec.height))
        boxes.append(corners / (spec.width, spec.height, spec.width, spec.height))
        label.append(known.get(view.label or "", -1) if view.box else -1)
    targets = {
        "box": np.array(boxes, np.float32),
        "present": np.array([view.box is not None for view in views], np.float32),
        "label": np.array(label, np.int32),
    }
    return np.stack(images), targets
