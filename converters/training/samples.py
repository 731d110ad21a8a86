"""Which labelled samples are learned from and which are validated on; a clip is never on both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.errors import DataError
from edgeloc.progress import progress

__all__ = ["TrainingSamples", "gather_samples"]

_HELD_OUT = 0.2


class TrainingSamples(NamedTuple):
    """Both sides, and the labels of all data sets in the order of their first appearance."""

    training: list[Sample]
    validation: list[Sample]
    labels: tuple[str, ...]


def gather_samples(
    uris: Sequence[str],
    split: str,
    validation: str | None,
    validation_split: str,
    *,
    seed: int = 0,
    skip_bad: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> TrainingSamples:
    """Open the data sets `uris` and take their `split` to learn from.

    Validated on is `validation_split` of `validation`, or of the first data set. Where that has no
    splits at all, a fifth of its groups is held out of it, or of its images where it has no
    groups. `tell` is called with what a user should know of the data.

    Raises DataError where a group is on both sides, where a side has no object to learn from or
    to measure on, for images without labels, and for a damaged image unless `skip_bad`.
    """
    training: list[Sample] = []
    held_out: list[Sample] = []
    labels: dict[str, None] = {}
    for number, uri in enumerate(uris):
        dataset = _open(uri, split, skip_bad, tell)
        labels |= dict.fromkeys(dataset.labels)
        samples = list(dataset)
        if number == 0 and validation is None:
            samples, held_out = _validation_of(uri, dataset, validation_split, seed, skip_bad, tell)
        training += samples
    if validation is not None:
        dataset = _open(validation, validation_split, skip_bad, tell)
        labels |= dict.fromkeys(dataset.labels)
        held_out = list(dataset)
    training, held_out = _read_once(training, skip_bad, tell), _read_once(held_out, skip_bad, tell)
    _check_sides(training, held_out)
    return TrainingSamples(training, held_out, tuple(labels))


def _open(uri: str, split: str, skip_bad: bool, tell: Callable[[str], None]) -> Dataset:
    """A data set's split; all of one that has no splits."""
    dataset = open_dataset(uri, skip_bad=skip_bad)
    if dataset.splits:
        dataset = open_dataset(uri, split=split, skip_bad=skip_bad)
    for note in dataset.notes:
        tell(f"{dataset.name}: {note}")
    if any(not sample.labelled for sample in dataset):
        raise DataError(f"{uri} has images without labels: training needs for each a box, or that there is none")
    return dataset


def _validation_of(
    uri: str, dataset: Dataset, split: str, seed: int, skip_bad: bool, tell: Callable[[str], None]
) -> tuple[list[Sample], list[Sample]]:
    if dataset.splits:
        return list(dataset), list(_open(uri, split, skip_bad, tell))
    training, held_out = _hold_out(dataset, seed)
    tell(f"{dataset.name}: no splits, so {len(held_out)} of {len(dataset)} images are held out to validate on")
    return training, held_out


def _hold_out(dataset: Dataset, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Set a fifth of the groups aside; an image without a group is one of its own."""
    units = [sample.group if sample.group is not None else sample.name for sample in dataset]
    names = sorted(set(units))
    if len(names) < 2:
        raise DataError(f"{dataset.name} cannot be split: all images are of one group; give --validation DATA")
    count = max(1, round(_HELD_OUT * len(names)))
    aside = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]}
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample, unit in zip(dataset, units, strict=True):
        sides[unit in aside].append(sample)
    return sides


def _read_once(samples: list[Sample], skip_bad: bool, tell: Callable[[str], None]) -> list[Sample]:
    """The samples whose image can be read: a damaged file ends a training now, or is left out, not after hours."""
    kept: list[Sample] = []
    for sample in progress(samples, label="looking at the images"):
        try:
            if sample.path is not None:
                sample.load()
            kept.append(sample)
        except DataError as error:
            if not skip_bad:
                raise
            tell(f"left out: {error}")
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
