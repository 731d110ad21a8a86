"""Labelled samples for Keras: the training and the validation side, and both as batches."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from edgeloc._support.terminal import progress
from edgeloc.converters.training.augment import Augmentation, Augmented, augment, paste
from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.data.sample import cut_background
from edgeloc.errors import DataError
from edgeloc.findings import Finding
from edgeloc.model.contract import InputSpec
from edgeloc.preprocess import Preprocessor, frame_geometry
from edgeloc.types import Box, LabelledBox, Pixels

__all__ = [
    "Encode",
    "EveryObject",
    "ObjectSlots",
    "TrainingBatches",
    "TrainingSamples",
    "ValidationBatches",
    "gather_samples",
    "object_sizes",
    "slots_by_label",
]

logger = logging.getLogger(__name__)

Batch = tuple[NDArray[np.float32], dict[str, NDArray[Any]]]

_HELD_OUT = 0.2
# Every so many validation images, one also gives a crop without its object.
_NEGATIVE_EVERY = 4
# What an image without an object counts as where images are drawn by their classes.
_NOTHING = (LabelledBox(Box(0, 0, 0, 0), None),)


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


def object_sizes(samples: Sequence[Sample], spec: InputSpec) -> list[tuple[float, float]]:
    """Width and height of all objects, in pixels of the input."""
    sizes = []
    for sample in samples:
        if sample.objects:
            height, width = sample.load().shape[:2]
            to_input = frame_geometry(spec, width, height).placement.to_input
            sizes += [(box.width, box.height) for box in (to_input(found.box) for found in sample.objects)]
    return sizes


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


Objects = tuple[LabelledBox, ...]


class Encode(Protocol):
    """Makes the targets of one kind of network.

    The call takes the objects of each image of a batch, in pixels of the input, and gives arrays by name.
    """

    def __call__(self, images: Sequence[Objects]) -> dict[str, NDArray[Any]]: ...


class ObjectSlots:
    """The targets of a localizer: its image's largest object, or a known number of objects, each in a slot of its own.

    `box` float32 (batch, objects, 4) are corners in fractions of the input, the whole input where there is no object;
    `present` float32 (batch, objects) is 1 or 0; `label` int32 (batch, objects) the label's index, -1 without one.

    Parameters:
        labels: the classes.
        spec: the input.
        objects: how many objects.
        by_label: whether the slot of an object is the index of its label; else the largest come first.
    """

    def __init__(self, labels: tuple[str, ...], spec: InputSpec, objects: int = 1, *, by_label: bool = False) -> None:
        self._known = {name: index for index, name in enumerate(labels)}
        self._whole = np.array([spec.width, spec.height] * 2, np.float32)
        self._objects, self._by_label = objects, by_label

    def __call__(self, images: Sequence[Objects]) -> dict[str, NDArray[Any]]:
        shape = len(images), self._objects
        boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (*shape, 1))
        present, labels = np.zeros(shape, np.float32), np.full(shape, -1, np.int32)
        for row, objects in enumerate(images):
            for slot, (box, label) in self._placed(objects):
                number = self._known.get(label or "", -1)
                boxes[row, slot], present[row, slot], labels[row, slot] = box / self._whole, 1, number
        return {"box": boxes, "present": present, "label": labels}

    def _placed(self, objects: Objects) -> list[tuple[int, LabelledBox]]:
        if self._by_label:
            return [(self._known[found.label or ""], found) for found in objects if found.label in self._known]
        largest = sorted(objects, key=lambda found: found.box.area, reverse=True)
        return list(enumerate(largest[: self._objects]))


def slots_by_label(samples: Sequence[Sample], labels: tuple[str, ...], objects: int) -> bool:
    """Whether each of several objects can have the slot of its label: no image holds a label twice.

    Raises DataError for an image with more objects than a known number of them.
    """
    if objects == 1:
        return False
    for sample in samples:
        if len(sample.objects) > objects:
            message = f"{sample.name} holds {len(sample.objects)} objects"
            hint = "give as many {objects} as an image holds at most, or train a detector with {task} detect"
            raise DataError(message, field="objects", value=objects, hint=hint)
    repeated = any(len({found.label for found in sample.objects}) < len(sample.objects) for sample in samples)
    return len(labels) == objects and not repeated


class EveryObject:
    """The targets of a detector: all objects.

    `boxes` float32 (batch, `most`, 4) are corners in pixels of the input; `labels` int32 (batch, `most`) are indices,
    and -1 behind the last object. Objects whose label is not known are left out.
    """

    def __init__(self, labels: tuple[str, ...], most: int) -> None:
        self._known = {name: index for index, name in enumerate(labels)}
        self._most = most

    def __call__(self, images: Sequence[Objects]) -> dict[str, NDArray[Any]]:
        boxes = np.zeros((len(images), self._most, 4), np.float32)
        labels = np.full((len(images), self._most), -1, np.int32)
        for row, objects in enumerate(images):
            known = [found for found in objects if found.label in self._known][: self._most]
            for column, (box, label) in enumerate(known):
                boxes[row, column], labels[row, column] = box, self._known[label or ""]
        return {"boxes": boxes, "labels": labels}


class TrainingBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Augmented batches, drawn with the square root of a class's rarity; the same seed and epoch give the same.

    A batch is float32 images (batch, height, width, channels), normalized, and the targets that `encode` makes.

    Parameters:
        samples: the images.
        spec: the network's input.
        encode: makes the targets.
        batch_size: how many views a batch holds.
        seed: of the draws.
        views: how many an epoch holds at least; else as many as there are images.
    """

    def __init__(
        self, samples: Sequence[Sample], spec: InputSpec, encode: Encode, batch_size: int, seed: int, views: int = 0
    ) -> None:
        super().__init__(workers=2, max_queue_size=6)
        self._views = max(views, len(samples))
        self._samples, self._spec, self._encode = samples, spec, encode
        self._batch_size, self._seed = batch_size, seed
        counts = Counter(found.label for sample in samples for found in sample.objects or _NOTHING)
        rarest = [min(counts[found.label] for found in sample.objects or _NOTHING) for sample in samples]
        rarity = np.array(rarest, float) ** -0.5
        self._chances = rarity / rarity.sum()
        self.start_epoch(0, Augmentation())

    def start_epoch(self, epoch: int, how: Augmentation) -> None:
        """Draw the batches of this epoch from now on, augmented as `how` says."""
        self.epoch, self._how = epoch, how

    def __len__(self) -> int:
        return max(1, self._views // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self._seed, self.epoch, index))
        spec, views = self._spec, []
        for number in rng.choice(len(self._samples), self._batch_size, p=self._chances):
            sample = self._samples[number]
            pixels, objects = sample.load(), sample.objects
            if self._how.pasted and len(objects) == 1 and rng.random() < self._how.pasted:
                pixels, objects = self._on_another_background(pixels, objects, rng)
            views.append(augment(pixels, objects, (spec.width, spec.height), self._how, rng, spec.pad_value))
        return _batch(views, spec, self._encode)

    def _on_another_background(
        self, pixels: Pixels, objects: Objects, rng: np.random.Generator
    ) -> tuple[Pixels, Objects]:
        """The image's object on what another shows beside its own; unchanged where that is too little."""
        other = self._samples[int(rng.integers(len(self._samples)))]
        background = cut_background(other.load(), other.objects, rng)
        if background is None:
            return pixels, objects
        pasted = paste(pixels, objects[0], background.pixels, rng)
        return pasted.pixels, pasted.objects


class ValidationBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Unchanged images through the runtime's own preprocessing; with `negatives` also crops beside the objects."""

    def __init__(
        self,
        samples: Sequence[Sample],
        spec: InputSpec,
        encode: Encode,
        batch_size: int,
        limit: int,
        *,
        negatives: bool = True,
    ) -> None:
        super().__init__(workers=1)
        step = max(1, -(-len(samples) // limit))
        self._samples = [samples[i] for i in range(0, len(samples), step)]
        self._spec, self._encode, self._batch_size, self._negatives = spec, encode, batch_size, negatives

    def __len__(self) -> int:
        return -(-len(self._samples) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        first = index * self._batch_size
        views = []
        for number, sample in enumerate(self._samples[first : first + self._batch_size], first):
            pixels = sample.load()
            views.append(Augmented(pixels, sample.objects))
            if self._negatives and number % _NEGATIVE_EVERY == 0 and sample.objects:
                background = cut_background(pixels, sample.objects, np.random.default_rng(number))
                if background is not None:
                    views.append(Augmented(background.pixels, ()))
        return _batch(views, self._spec, self._encode)


def _batch(views: Sequence[Augmented], spec: InputSpec, encode: Encode) -> Batch:
    """The views through the runtime's preprocessing, and their targets."""
    preprocess = Preprocessor(spec, np.dtype(np.float32), None, None)  # of this call: batches are made in threads
    images, objects = [], []
    for view in views:
        tensor, placement = preprocess(view.pixels)
        images.append(tensor[0].astype(np.float32))
        objects.append(tuple(LabelledBox(placement.to_input(box), label) for box, label in view.objects))
    return np.stack(images), encode(objects)
