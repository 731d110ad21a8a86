"""A labelled data set as a camera: its images in order, each with its known truth."""

from __future__ import annotations

import time

from edgeloc.cameras.base import Camera
from edgeloc.cameras.uri import positive
from edgeloc.data import Dataset, open_dataset
from edgeloc.types import Frame
from edgeloc.uri import Uri

__all__ = ["DatasetCamera"]


class DatasetCamera(Camera):
    """The images of a data set, or `frames` of them spread evenly; `captured_at` is when one was decoded.

    A damaged image or a bad row raises DataError, as everywhere.
    """

    def __init__(self, path: str, split: str | None = None, frames: int | None = None) -> None:
        self.path, self._split, self._frames = path, split, frames
        self._dataset: Dataset | None = None
        self._numbers: range | list[int] = []
        self._next = 0

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> DatasetCamera:
        """data://PATH?split=val&frames=300"""
        return cls(uri.path, **uri.options({"split": str, "frames": positive}))

    @property
    def name(self) -> str:
        """The path of the data set."""
        return self.path

    def _open(self) -> None:
        self._dataset = open_dataset(self.path, split=self._split)
        count = min(self._frames or len(self._dataset), len(self._dataset))
        self._numbers = [number * len(self._dataset) // count for number in range(count)]
        self._next = 0

    def _read(self, timeout_s: float) -> Frame | None:
        if self._dataset is None or self._next >= len(self._numbers):
            return None
        sample = self._dataset[self._numbers[self._next]]
        frame = Frame(
            sample.load(), time.monotonic(), self._next,
            has_truth=sample.labelled, truth=sample.box, truth_label=sample.label,
        )  # fmt: skip
        self._next += 1
        return frame

    def _close(self) -> None:
        self._dataset = None
