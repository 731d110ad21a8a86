"""Cameras over a path: a video file, a folder of images, a labelled data set."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from edgeloc._support.backend import Uri
from edgeloc._support.files import utf8_path
from edgeloc._support.terminal import quiet_opencv
from edgeloc.cameras.base import Camera, PathCamera, flag, positive
from edgeloc.data import Dataset, open_dataset
from edgeloc.data.images import IMAGE_SUFFIXES, read_image
from edgeloc.errors import DataError, UsageError
from edgeloc.findings import Finding
from edgeloc.types import Frame, Pixels

__all__ = ["DatasetCamera", "ImageCamera", "VideoCamera", "images_in"]

_FULL_ENOUGH = 0.95
_MOST_NAMES = 3


class VideoCamera(PathCamera):
    """Every frame of a video file in order, as fast as it is read; `captured_at` is when it was decoded.

    The file is read by OpenCV's FFmpeg where it has one: MP4, AVI, MKV, MOV, WebM.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._capture: cv2.VideoCapture | None = None
        self._first: Pixels | None = None
        self._next = 0

    def _open(self) -> None:
        if not self.path.exists():
            raise UsageError(f"video {self.path} is not there")
        with quiet_opencv():
            self._capture = cv2.VideoCapture(utf8_path(self.path), _backend())
        if not self._capture.isOpened():
            raise DataError(f"video {self.path} cannot be read: it is damaged, cut short or of an unknown format")
        # The first frame is decoded now, so that a video without any fails before a run has begun.
        self._first, self._next = self._decode(self._capture), 0
        if self._first is None:
            raise DataError(f"video {self.path} holds no frame that can be read")
        self.size = (self._first.shape[1], self._first.shape[0])
        self.findings = ()
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else None

    def _read(self, timeout_s: float) -> Frame | None:
        assert self._capture is not None
        pixels, self._first = self._first, None
        if pixels is None:
            pixels = self._decode(self._capture)
        if pixels is None:
            self.findings = _shortfall(self._next, self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
            return None
        frame = Frame(pixels, time.monotonic(), self._next)
        self._next += 1
        return frame

    @staticmethod
    def _decode(capture: cv2.VideoCapture) -> Pixels | None:
        found, pixels = capture.read()
        return np.asarray(pixels, np.uint8) if found else None

    def _close(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture = self._first = None


def _shortfall(given: int, announced: float) -> tuple[Finding, ...]:
    """A finding about a video that ended early; some containers only estimate how many frames they hold."""
    if given >= announced * _FULL_ENOUGH:
        return ()
    message = f"the video gave {given} of the {announced:.0f} frames it announces: it is cut short or damaged"
    return (Finding("video-cut-short", "warning", message),)


def _backend() -> int:
    """FFmpeg where OpenCV has it: other back ends take "%" in a name for a pattern and count frames differently."""
    return cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in cv2.videoio_registry.getStreamBackends() else cv2.CAP_ANY


class ImageCamera(PathCamera):
    """Every image of a folder in the order of the names, or one image; `captured_at` is when it was decoded.

    Subfolders are left out. Images may differ in size. An image that cannot be read raises DataError with its name;
    with `skip_bad` it is left out and counted, and DataError is raised where none can be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, skip_bad: bool = False) -> None:
        super().__init__(path)
        self._files: list[Path] = []
        self._next, self._skips = 0, _Skips(skip_bad)

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> ImageCamera:
        """A path; `skip_bad=1` behind one with a scheme."""
        return cls(uri.path, **uri.options({"skip_bad": flag}))

    def _open(self) -> None:
        if not self.path.exists():
            raise UsageError(f"image or folder {self.path} is not there")
        self._files = [self.path] if self.path.is_file() else images_in(self.path)
        if not self._files:
            raise DataError(
                f"folder {self.path} holds no image", hint=f"give one with {', '.join(IMAGE_SUFFIXES)} files"
            )
        self._next, self.findings = 0, ()
        self._skips.begin()

    def _read(self, timeout_s: float) -> Frame | None:
        while self._next < len(self._files):
            path = self._files[self._next]
            self._next += 1
            pixels = self._skips.load(path.name, partial(read_image, path))
            if pixels is not None:
                return Frame(pixels, time.monotonic(), self._next - 1, file=path.name)
            self.findings = self._skips.findings
        self._skips.require_some(f"folder {self.path}", self._given)
        return None

    def _close(self) -> None:
        self._files = []


def images_in(folder: Path) -> list[Path]:
    """The images directly in `folder`, by name."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))  # such as macOS puts beside each


class DatasetCamera(Camera):
    """The images of a data set, with their truth; `captured_at` is when one was decoded.

    `path` is the data set, `split` the split of it to take, None for all.
    `frames` is how many images to take, spread evenly; None for all.

    A damaged image or a bad row raises DataError; with `skip_bad` it is left out and counted, and DataError is raised
    where none can be read.
    """

    def __init__(
        self, path: str, split: str | None = None, frames: int | None = None, *, skip_bad: bool = False
    ) -> None:
        self.path, self._split, self._frames = path, split, frames
        self._skips = _Skips(skip_bad)
        self._dataset: Dataset | None = None
        self._numbers: range | list[int] = []
        self._next = 0

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> DatasetCamera:
        """data://PATH?split=val&frames=300&skip_bad=1"""
        return cls(uri.path, **uri.options({"split": str, "frames": positive, "skip_bad": flag}))

    @property
    def name(self) -> str:
        """The path of the data set."""
        return self.path

    def _open(self) -> None:
        self._dataset = open_dataset(self.path, split=self._split, skip_bad=self._skips.wanted)
        count = min(self._frames or len(self._dataset), len(self._dataset))
        self._numbers = [number * len(self._dataset) // count for number in range(count)]
        self._next, self.findings = 0, self._bad_rows
        self._skips.begin()

    @property
    def _bad_rows(self) -> tuple[Finding, ...]:
        found = () if self._dataset is None else self._dataset.findings
        return tuple(finding for finding in found if finding.code == "data-rows-skipped")

    def _read(self, timeout_s: float) -> Frame | None:
        while self._dataset is not None and self._next < len(self._numbers):
            sample = self._dataset[self._numbers[self._next]]
            self._next += 1
            pixels = self._skips.load(sample.name, sample.load)
            if pixels is not None:
                return Frame(
                    pixels, time.monotonic(), self._next - 1,
                    truth=sample.objects if sample.labelled else None,
                    file=None if sample.path is None else sample.name,
                )  # fmt: skip
            self.findings = (*self._bad_rows, *self._skips.findings)
        self._skips.require_some(f"data set {self.path}", self._given)
        return None

    def _close(self) -> None:
        self._dataset = None


class _Skips:
    """Damaged images: each an error, or with `wanted` left out and counted."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.begin()

    def begin(self) -> None:
        """From the first image on."""
        self._count, self._names = 0, list[str]()

    def load(self, name: str, load: Callable[[], Pixels]) -> Pixels | None:
        """An image; None where it is damaged and left out."""
        try:
            return load()
        except DataError:
            if not self.wanted:
                raise
            self._count += 1
            self._names = [*self._names, name][:_MOST_NAMES]
            return None

    def require_some(self, source: str, given: int) -> None:
        """DataError where every image was left out; `given` is the number of the last that was not, from 0."""
        if self._count and given < 0:
            raise DataError(f"{source} holds no image that can be read: {self.findings[0].message}")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """How many were left out, and the first of them."""
        if not self._count:
            return ()
        more = f" and {self._count - len(self._names)} more" if self._count > len(self._names) else ""
        what = "image that cannot be read was" if self._count == 1 else "images that cannot be read were"
        message = f"{self._count} {what} skipped: {', '.join(self._names)}{more}"
        return (Finding("images-skipped", "warning", message, "replace or remove them"),)
