"""A labelled image, a data set of them, and how to draw a few evenly from many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from edgeloc.findings import Finding
from edgeloc.types import Box, Pixels

__all__ = ["Dataset", "Sample", "spread"]


@dataclass(frozen=True)
class Sample:
    """One image and what is known to be in it.

    `name`: stable and unique within its data set (a path relative to the root, or a scene's number).
    `box`: the object, in pixels of the image; None where it holds none.
    `label`: the object's class; None where there is no object or no class.
    `group`: what the frame shares with others that are not independent of it (a video clip).
    `labelled`: False where nothing is known about the image: it serves calibration, not evaluation.
    `path`: the file; None for made images.
    `read`: reads the pixels; call `load()`.
    """

    name: str
    box: Box | None
    label: str | None
    group: str | None = None
    labelled: bool = True
    path: Path | None = None
    read: Callable[[], Pixels] = field(repr=False, kw_only=True)

    def load(self) -> Pixels:
        """The image, BGR uint8 (height, width, 3), read from the file each time; DataError for a damaged file."""
        return self.read()


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """Samples in the order of their source.

    `name`: the data set's, such as its folder's. `root`: the folder, or the URI of made scenes.
    `labels`: the class names in the format's own order.
    `samples`: the images.
    `findings`: what was skipped or reduced while reading, with counts.
    `splits`: the parts that the source has; empty where it has none.
    `split`: the one that was read; None for all.
    """

    name: str
    root: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...] = field(repr=False)
    findings: tuple[Finding, ...] = ()
    splits: tuple[str, ...] = ()
    split: str | None = None

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def spread(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` samples (None: all) in their order, evenly spaced in each group, as many of each as of others."""
    if limit is None or limit >= len(samples):
        return list(samples)
    groups: dict[str | None, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.group, []).append(index)
    chosen = [index for members, count in _shares(list(groups.values()), limit) for index in _evenly(members, count)]
    return [samples[index] for index in sorted(chosen)]


def _shares(groups: list[list[int]], limit: int) -> list[tuple[list[int], int]]:
    """How many to take of each group: smallest groups first, so that what they lack goes to the others."""
    if limit < len(groups):
        return [(groups[index], 1) for index in _evenly(list(range(len(groups))), limit)]
    shares = []
    for position, members in enumerate(sorted(groups, key=len)):
        count = min(len(members), limit // (len(groups) - position))
        limit -= count
        shares.append((members, count))
    return shares


def _evenly(items: list[int], count: int) -> list[int]:
    """`count` of `items`, each from the middle of its share of the list."""
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]
