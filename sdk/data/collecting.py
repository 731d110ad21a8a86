"""The rules that every format shares: row checks, splits, numbers in fields."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgeloc._support.numbers import finite
from edgeloc.data.images import image_size, read_image
from edgeloc.data.sample import Dataset, Sample
from edgeloc.errors import DataError
from edgeloc.findings import Finding
from edgeloc.types import Box, LabelledBox

__all__ = ["Collector", "choose_split", "number", "split_word", "whole"]

_WORDS = re.compile(r"(?<![a-z])(train|val|valid|validation|test)(?![a-z])")
_SAME = {"valid": "val", "validation": "val"}
_SLACK = 1.0  # pixels a box may stand out by rounding; it is clipped


class Collector:
    """Gathers a format's images into a Dataset.

    `root`: the folder that the images' names are relative to.
    `skip_bad`: count bad rows and go on, where they would raise DataError.
    """

    def __init__(self, root: Path, skip_bad: bool = False) -> None:
        self.root = root
        self._skip_bad = skip_bad
        self._samples: list[Sample] = []
        self._names: set[str] = set()
        self._skipped = 0
        self._first = ""
        self._left_out: Counter[Finding] = Counter()

    @contextmanager
    def row(self) -> Iterator[None]:
        """The block that reads and adds one image: with `skip_bad`, a DataError in it costs that image alone."""
        try:
            yield
        except DataError as error:
            if not self._skip_bad:
                raise
            self._skipped += 1
            self._first = self._first or str(error)

    def left_out(self, finding: Finding) -> None:
        """Count what was left out by rule; the count goes before the finding's message."""
        self._left_out[finding] += 1

    def add(
        self,
        path: Path,
        objects: Sequence[LabelledBox],
        *,
        where: str,
        size: tuple[int, int] | None = None,
        group: str | None = None,
        field: str = "the box",
    ) -> None:
        """Add one image; call it inside `row()`.

        `path`: the image.
        `objects`: what it holds, whose edges may still be wrong; none makes it a negative.
        `where`: the file and line, or the record's id, for errors.
        `size`: (width, height) in pixels as annotated; None to read it from the image.
        `group`: what the image shares with others that are not independent of it.
        `field`: what errors call a box.

        Raises DataError for a missing or repeated image, and for a bad box.
        """
        name = self._name(path)
        if not path.is_file():
            raise DataError(f"{where}: the image {path} does not exist")
        if name in self._names:
            raise DataError(f"{where}: the image {name} is listed twice")
        if size is not None and min(size) < 1:
            raise DataError(f"{where}: the image's size is {size[0]}x{size[1]}: each side must be at least 1")
        kept: tuple[LabelledBox, ...] = ()
        if objects:
            frame = size or image_size(path)
            kept = tuple(LabelledBox(_checked(item.box, frame, f"{where}: {field}"), item.label) for item in objects)
        self._append(path, kept, size, group, labelled=True)

    def add_unlabelled(self, path: Path) -> None:
        """Add an image about which nothing is known."""
        self._append(path, (), None, None, labelled=False)

    def dataset(
        self, name: str, labels: Iterable[str], *, splits: Iterable[str] = (), split: str | None = None
    ) -> Dataset:
        """Return all that was gathered.

        `name`: the data set's. `labels`: the classes in the format's own order. `splits`: the parts that the source
        has. `split`: the one that was read, None for all.

        Raises DataError when there is nothing.
        """
        if not self._samples:
            part = f" in the split {split!r}" if split else ""
            skipped = f"; {self._skipped_rows()}" if self._skipped else ""
            raise DataError(f"{self.root}: the data set is empty: there is no usable image{part}{skipped}")
        findings = tuple(self._findings(name))
        return Dataset(name, str(self.root), tuple(labels), tuple(self._samples), findings, tuple(splits), split)

    def _append(
        self,
        path: Path,
        objects: tuple[LabelledBox, ...],
        size: tuple[int, int] | None,
        group: str | None,
        *,
        labelled: bool,
    ) -> None:
        name = self._name(path)
        self._names.add(name)
        read = partial(read_image, path, size)
        self._samples.append(Sample(name, objects, group, labelled, path, read=read))

    def _name(self, path: Path) -> str:
        with suppress(ValueError):
            return path.relative_to(self.root).as_posix()
        return path.as_posix()

    def _skipped_rows(self) -> str:
        rows = "row was" if self._skipped == 1 else "rows were"
        return f"{self._skipped} bad {rows} skipped, the first: {self._first}"

    def _findings(self, name: str) -> Iterator[Finding]:
        if self._skipped:
            message = f"{name}: {self._skipped_rows()}"
            yield Finding("data-rows-skipped", "warning", message, "fix the rows, or remove them")
        for finding, count in self._left_out.items():
            yield replace(finding, message=f"{name}: {count} {finding.message}")


def _checked(box: Box, size: tuple[int, int], where: str) -> Box:
    width, height = size
    edges = f"({', '.join(f'{edge:g}' for edge in box)})"
    if not all(math.isfinite(edge) for edge in box):
        raise DataError(f"{where} {edges} has an edge that is not a number")
    if box.x2 <= box.x1 or box.y2 <= box.y1:
        raise DataError(f"{where} {edges} is empty or inverted: x1 < x2 and y1 < y2 are needed")
    inside = min(box.x1, box.y1) >= -_SLACK and box.x2 <= width + _SLACK and box.y2 <= height + _SLACK
    clipped = Box(max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, width), min(box.y2, height))
    if not inside or not clipped.area:
        raise DataError(f"{where} {edges} lies outside the image of {width}x{height}")
    return clipped


def number(value: object, where: str, name: str) -> float:
    """A finite number from a field of JSON or text; DataError names the field."""
    try:
        return finite(value)
    except ValueError as error:
        raise DataError(f"{where}: {name} is {value!r}, not {error}") from None


def whole(value: object, where: str, name: str) -> int:
    """A whole number from a field of JSON or text; DataError names the field."""
    result = number(value, where, name)
    if result != int(result):
        raise DataError(f"{where}: {name} is {value!r}, not a whole number")
    return int(result)


def split_word(text: str) -> str | None:
    """The part that a file or folder name such as `instances_val2017` or `valid` names: train, val or test."""
    found = _WORDS.search(text.lower())
    return _SAME.get(found[1], found[1]) if found else None


def choose_split(root: Path, found: Iterable[str], split: str | None) -> str | None:
    """The name among `found` that `split` means (`valid` finds `val`), None for all; DataError where there is none."""
    names = sorted(set(found))
    if split is None or split in names:
        return split
    if _SAME.get(split) in names:
        return _SAME[split]
    raise DataError(f"{root}: there is no split {split!r}; found: {', '.join(names) or 'none'}")
