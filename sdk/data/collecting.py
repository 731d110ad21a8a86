"""The rules every format shares: a row's checks, one object an image, what is counted; no format is read here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from edgeloc.data.images import image_size, read_image
from edgeloc.data.sample import Dataset, Sample
from edgeloc.errors import DataError
from edgeloc.types import Box

__all__ = ["Collector", "Labelled", "choose_split", "number", "whole"]

_SLACK = 1.0  # pixels a box may stand out by rounding; it is clipped


class Labelled(NamedTuple):
    """One object of an image; the box's edges may still be wrong."""

    box: Box
    label: str | None


@dataclass
class Collector:
    """Gathers a format's images into a Dataset; with `skip_bad` it counts bad rows instead of stopping."""

    root: Path
    skip_bad: bool = False
    samples: list[Sample] = field(default_factory=list)
    _skipped: Counter[str] = field(default_factory=Counter)
    _first: str = ""
    _reduced: int = 0
    _names: set[str] = field(default_factory=set)

    def bad(self, where: str, what: str) -> None:
        """A row that cannot be used: raises DataError "where: what", or counts it."""
        if not self.skip_bad:
            raise DataError(f"{where}: {what}")
        self._skipped["bad"] += 1
        self._first = self._first or f"{where}: {what}"

    def add(
        self,
        path: Path,
        objects: Sequence[Labelled],
        *,
        where: str,
        size: tuple[int, int] | None = None,
        group: str | None = None,
        field_name: str = "box",
    ) -> None:
        """One image with its objects (none: a negative); `where` is the file and line, or the record's id."""
        if not path.is_file():
            return self.bad(where, f"the image {path} does not exist")
        name = self._name(path)
        if name in self._names:
            return self.bad(where, f"the image {name} is listed twice")
        kept: list[Labelled] = []
        try:
            frame = size or (image_size(path) if objects else None)
            for item in objects:
                box = _checked(item.box, frame or (0, 0), f"{where}: {field_name}")
                kept.append(Labelled(box, item.label))
        except DataError as error:
            return self.bad(*_split_message(str(error), where))
        self._names.add(name)
        self._reduced += len(kept) > 1
        best = max(kept, key=lambda item: item.box.area, default=None)
        read = partial(read_image, path, size)
        box = best.box if best else None
        label = best.label if best else None
        self.samples.append(Sample(name, box, label, group, path=path, read=read))
        return None

    def add_unlabelled(self, path: Path) -> None:
        """An image about which nothing is known."""
        read = partial(read_image, path)
        self.samples.append(Sample(self._name(path), None, None, labelled=False, path=path, read=read))

    def dataset(
        self, name: str, labels: Iterable[str] | None = None, splits: Iterable[str] = (), split: str | None = None
    ) -> Dataset:
        """All that was gathered; `labels` in the format's own order, else those met, sorted. DataError when empty."""
        if not self.samples:
            where = f" in the split {split!r}" if split else ""
            raise DataError(f"{self.root}: the data set holds no usable image{where}{self._told('; ')}")
        if labels is None:
            labels = sorted({sample.label for sample in self.samples if sample.label is not None})
        return Dataset(
            name, str(self.root), tuple(labels), tuple(self.samples), tuple(self._notes()), tuple(splits), split
        )

    def _name(self, path: Path) -> str:
        with suppress(ValueError):
            return path.relative_to(self.root).as_posix()
        return path.as_posix()

    def _told(self, before: str = "") -> str:
        skipped = self._skipped["bad"]
        rows = "row was" if skipped == 1 else "rows were"
        return f"{before}{skipped} bad {rows} skipped, the first: {self._first}" if skipped else ""

    def _notes(self) -> Iterable[str]:
        if self._skipped:
            yield self._told()
        if self._reduced:
            images = "image holds" if self._reduced == 1 else "images hold"
            yield f"{self._reduced} {images} several objects: the largest was kept"


def choose_split(root: Path, found: Iterable[str], split: str | None) -> None:
    """Raise DataError where `split` is asked for and is none of the splits found."""
    names = sorted(set(found))
    if split is not None and split not in names:
        raise DataError(f"{root}: there is no split {split!r}; found: {', '.join(names) or 'none'}")


def number(value: object, where: str, name: str) -> float:
    """A finite number from a field of JSON or text; DataError names the field."""
    result = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            result = float(value)
    if not math.isfinite(result):
        raise DataError(f"{where}: {name} is {value!r}, not a number")
    return result


def whole(value: object, where: str, name: str) -> int:
    """A whole number from a field of JSON or text; DataError names the field."""
    result = number(value, where, name)
    if result != int(result):
        raise DataError(f"{where}: {name} is {value!r}, not a whole number")
    return int(result)


def _checked(box: Box, size: tuple[int, int], where: str) -> Box:
    width, height = size
    told = f"({', '.join(f'{edge:g}' for edge in box)})"
    if not all(math.isfinite(edge) for edge in box):
        raise DataError(f"{where} {told} has an edge that is not a number")
    if box.x2 <= box.x1 or box.y2 <= box.y1:
        raise DataError(f"{where} {told} is empty or inverted: x1 < x2 and y1 < y2 are needed")
    inside = min(box.x1, box.y1) >= -_SLACK and box.x2 <= width + _SLACK and box.y2 <= height + _SLACK
    clipped = Box(max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, width), min(box.y2, height))
    if not inside or not clipped.area:
        raise DataError(f"{where} {told} lies outside the image of {width}x{height}")
    return clipped


def _split_message(message: str, where: str) -> tuple[str, str]:
    """A checked row's message begins with where it is, a damaged header's with its file."""
    start = f"{where}: "
    return (where, message[len(start) :]) if message.startswith(start) else (where, message)
