"""A labelled image, a list of them, and crops beside the objects as images without one."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from edgeloc.findings import Finding
from edgeloc.types import Box, LabelledBox, Pixels, largest

__all__ = [
    "LARGEST_SIDE",
    "SMALLEST_SIDE",
    "SMALLEST_TAKEN",
    "Background",
    "Dataset",
    "Sample",
    "background_crop",
    "cut_background",
    "drawn_order",
    "fingerprint",
    "several_objects",
    "spread",
]


@dataclass(frozen=True)
class Sample:
    """One image and what is known to be in it.

    Parameters:
        name: stable and unique within its data set (a path relative to the root, or a scene's number).
        objects: what it holds, boxes in pixels of the image.
        group: what the frame shares with others that are not independent of it (a video clip).
        labelled: False where nothing is known about the image: it serves calibration, not evaluation.
        path: the file; None for generated images.
        read: reads the pixels; call `load()`.
    """

    name: str
    objects: tuple[LabelledBox, ...] = ()
    group: str | None = None
    labelled: bool = True
    path: Path | None = None
    read: Callable[[], Pixels] = field(repr=False, kw_only=True)

    @property
    def box(self) -> Box | None:
        """The largest object's box, which a model that finds one object takes; None where the image holds none."""
        found = largest(self.objects)
        return None if found is None else found.box

    @property
    def label(self) -> str | None:
        """The largest object's class; None where there is no object or no class."""
        found = largest(self.objects)
        return None if found is None else found.label

    def load(self) -> Pixels:
        """The image, BGR uint8 (height, width, 3), read from the file each time; DataError for a damaged file."""
        return self.read()


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """Samples in the order of their source.

    Parameters:
        name: the data set's, such as its folder's.
        root: the folder, or the URI of generated scenes.
        labels: the class names in the format's own order.
        samples: the images.
        findings: what was skipped or reduced while reading, with counts.
        splits: the parts that the source has; empty where it has none.
        split: the one that was read; None for all.
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


def several_objects(name: str, samples: Iterable[Sample]) -> Iterator[Finding]:
    """That images of a data set hold several objects, for what learns or measures the largest alone."""
    count = sum(len(sample.objects) > 1 for sample in samples)
    if count:
        images = "image holds" if count == 1 else "images hold"
        message = f"{name}: {count} {images} several objects, of which a localizer takes the largest"
        yield Finding("data-several-objects", "note", message)


def drawn_order(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """All samples, shuffled, then so ordered that labels take turns, and within a label its groups do."""
    rng = np.random.default_rng(seed)
    strata: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for index in rng.permutation(len(samples)):
        sample = samples[int(index)]
        strata[sample.label or ""][sample.group or ""].append(sample)
    return _take_turns([_take_turns(list(groups.values())) for groups in strata.values()])


def fingerprint(samples: Iterable[Sample]) -> str:
    """SHA-256 of what is in `samples`, in their order: of each its file's bytes or its pixels, objects and group.

    It is the same wherever the files lie and whatever they are called. A file that cannot be read counts as empty.
    """
    whole = hashlib.sha256()
    for sample in samples:
        objects = [[[float(edge) for edge in found.box], found.label] for found in sample.objects]
        known = [_content_hash(sample), objects, sample.group, sample.labelled]
        whole.update(json.dumps(known).encode() + b"\n")
    return whole.hexdigest()


def _content_hash(sample: Sample) -> str:
    if sample.path is None:
        return hashlib.sha256(sample.load().tobytes()).hexdigest()
    try:
        return hashlib.sha256(sample.path.read_bytes()).hexdigest()
    except OSError:
        return hashlib.sha256().hexdigest()


def _take_turns(lists: list[list[Sample]]) -> list[Sample]:
    return [sample for turn in zip_longest(*lists) for sample in turn if sample is not None]


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


Rectangle = tuple[int, int, int, int]  # x, y, width and height in pixels

SMALLEST_SIDE = 0.4  # of the image's shorter side, as is LARGEST_SIDE: the range that is drawn from
LARGEST_SIDE = 1.0
SMALLEST_TAKEN = 0.3  # where nothing larger fits beside the box


class Background(NamedTuple):
    """A piece of an image that shows none of its objects.

    Attributes:
        pixels: BGR uint8 (side, side, 3), contiguous.
        place: (x, y, w, h) in pixels of the image.
    """

    pixels: Pixels
    place: tuple[int, int, int, int]


def cut_background(pixels: Pixels, objects: Sequence[LabelledBox], rng: np.random.Generator) -> Background | None:
    """Cut a square beside all objects out of an image; None where there is no room.

    Parameters:
        pixels: BGR uint8 (height, width, 3).
        objects: all that the image holds, boxes in pixels.
        rng: draws the place, see `background_crop`.
    """
    place = background_crop(objects, pixels.shape[1], pixels.shape[0], rng)
    if place is None:
        return None
    x, y, width, height = place
    return Background(np.ascontiguousarray(pixels[y : y + height, x : x + width]), place)


def background_crop(
    objects: Sequence[LabelledBox], width: int, height: int, rng: np.random.Generator
) -> Rectangle | None:
    """A square of background as (x, y, w, h) in pixels of the image, or None where there is no room.

    The crop overlaps none of the objects. Its side is drawn from 0.4 to 1.0 of the image's shorter side, or is as large
    as fits beside the boxes, and at least 0.3. One of the free rectangles (of a single object those left, above, right
    and below of the box) is drawn among those wide enough.

    Parameters:
        objects: all that the image holds, boxes in pixels.
        width: the image's, in pixels.
        height: the image's, in pixels.
        rng: the same state gives the same crop.
    """
    shorter = min(width, height)
    wanted = round(float(rng.uniform(SMALLEST_SIDE, LARGEST_SIDE)) * shorter)
    free = _free([found.box for found in objects], width, height, max(1, SMALLEST_TAKEN * shorter))
    if not free:
        return None
    roomy = [one for one in free if min(one[2:]) >= wanted] or [max(free, key=lambda one: min(one[2:]))]
    x, y, free_width, free_height = roomy[int(rng.integers(len(roomy)))]
    side = min(wanted, free_width, free_height)
    left = x + int(rng.integers(free_width - side + 1))
    top = y + int(rng.integers(free_height - side + 1))
    return left, top, side, side


def _free(boxes: Sequence[Box], width: int, height: int, least: float) -> list[Rectangle]:
    """The largest rectangles of whole pixels that hold no part of a box, with sides of `least` or more."""
    free = [(0, 0, width, height)]
    for box in boxes:
        parts = [part for one in free for part in _beside(box, one) if min(part[2:]) >= least]
        distinct = list(dict.fromkeys(parts))
        free = [one for one in distinct if not any(_within(one, other) for other in distinct if other != one)]
    return free


def _beside(box: Box, rectangle: Rectangle) -> list[Rectangle]:
    """The parts of a rectangle left of, above, right of and below a box."""
    x, y, width, height = rectangle
    left, top, right, bottom = math.floor(box.x1), math.floor(box.y1), math.ceil(box.x2), math.ceil(box.y2)
    if left >= x + width or top >= y + height or right <= x or bottom <= y:
        return [rectangle]
    return [
        (x, y, left - x, height),
        (x, y, width, top - y),
        (right, y, x + width - right, height),
        (x, bottom, width, y + height - bottom),
    ]


def _within(one: Rectangle, other: Rectangle) -> bool:
    x, y, width, height = one
    return x >= other[0] and y >= other[1] and x + width <= other[0] + other[2] and y + height <= other[1] + other[3]
