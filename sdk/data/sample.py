"""A labelled image and a list of them; the formats they are read from are the modules beside this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from edgeloc.types import Box, Pixels

__all__ = ["Dataset", "Sample"]


@dataclass(frozen=True)
class Sample:
    """One image and what is known to be in it.

    `name` is stable and unique within its data set (a path relative to the root, or a scene's
    number). `box` is in pixels of the image, None where it holds no object; `label` is the
    object's class, None where there is no object or no class. `group` names what the frame shares
    with others that are not independent of it (a video clip). Where `labelled` is False nothing is
    known about the image: it serves calibration, not evaluation. `path` is None for made images.
    """

    name: str
    box: Box | None
    label: str | None
    group: str | None = None
    labelled: bool = True
    path: Path | None = None
    read: Callable[[], Pixels] = field(repr=False, kw_only=True)

    def load(self) -> Pixels:
        """The image, BGR uint8 (height, width, 3), read anew each time; DataError names a file that is damaged."""
        return self.read()


@dataclass(frozen=True)
class Dataset(Sequence[Sample]):
    """Samples in the order of their source, with the class names and what reading them changed.

    `notes` are sentences to show the user: what was skipped or reduced, with counts. `splits` are
    the parts the source has, empty where it has none; `split` is the one read, None for all.
    """

    name: str
    root: str
    labels: tuple[str, ...]
    samples: tuple[Sample, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
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
