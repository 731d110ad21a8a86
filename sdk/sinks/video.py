"""Writes annotated frames as an MP4 video."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from edgeloc._support.files import utf8_path
from edgeloc._support.terminal import quiet_opencv
from edgeloc.errors import OutputError
from edgeloc.sinks.base import FileSink
from edgeloc.types import Observation, Pixels

__all__ = ["VideoSink", "fit"]

# MPEG-4 Part 2: what every FFmpeg of the OpenCV wheels can encode; they hold no software H.264 encoder.
FOURCC = "mp4v"
LIVE_FPS = 30.0
IMAGES_FPS = 10.0
# A picture of a live camera is held for no longer than this.
LONGEST_HOLD_S = 10.0
LEAST_FREE_BYTES = 2**20
CHECK_EVERY = 32


class VideoSink(FileSink):
    """An MP4 that plays at the speed at which things happened.

    From a file or folder each result is one picture. From a live camera, which gives results at
    no constant rate, a picture is held until the next result's time of capture. The video takes
    the size of the first frame; a later one of another size is scaled to fit, with black bars.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._temporary: Path | None = None
        self._writer: cv2.VideoWriter | None = None
        self._fps, self._live = LIVE_FPS, False
        self._size = (0, 0)
        self._written = 0
        self._began_at = 0.0
        self._last: Pixels | None = None

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Make the file, so that an unwritable place shows before the run; the writer waits for the first frame."""
        utf8_path(self.path)
        self._temporary = self._begin()
        self._fps, self._live = fps or (LIVE_FPS if live else IMAGES_FPS), live
        self._writer, self._last, self._written = None, None, 0

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Append the annotated frame; OutputError when the disk is full or the video cannot be encoded."""
        picture = drawn()
        if self._writer is None:
            self._writer = self._start(picture)
            self._began_at = observation.captured_at
        picture = fit(picture, self._size)
        if self._live:
            place = round((observation.captured_at - self._began_at) * self._fps)
            if place < self._written:
                return
            self._hold(place)
        self._append(picture)
        self._last = picture

    def close(self) -> None:
        """Finish the video, check that it can be read, and give it its name; without a frame none is left."""
        writer, self._writer, self._last = self._writer, None, None
        if writer is None:
            self._discard()
            return
        writer.release()
        if not _readable(self._temporary):
            self._discard()
            raise OutputError(f"{self.path} could not be written in full: is the disk full?")
        self._keep()

    def _start(self, picture: Pixels) -> cv2.VideoWriter:
        """The writer for pictures of this size, made even since the encoder halves the colour's resolution."""
        height, width = picture.shape[:2]
        self._size = (width + width % 2, height + height % 2)
        writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*FOURCC), self._fps, self._size)
        if not writer.isOpened():
            raise OutputError(
                f"{self.path}: this OpenCV cannot encode MP4 ({FOURCC})",
                hint="pip install opencv-python, or write .jsonl",
            )
        return writer

    def _hold(self, place: int) -> None:
        """Repeat the last picture up to the place of the next one."""
        missing = min(place - self._written, round(LONGEST_HOLD_S * self._fps))
        if self._last is not None:
            for _ in range(missing):
                self._append(self._last)

    def _append(self, picture: Pixels) -> None:
        assert self._writer is not None
        # OpenCV does not report a failed write, so the free space is checked.
        if self._written % CHECK_EVERY == 0 and shutil.disk_usage(self.path.parent).free < LEAST_FREE_BYTES:
            raise OutputError(f"{self.path}: the disk is full (under 1 MB free); frames written before are kept")
        self._writer.write(picture)
        self._written += 1


def fit(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """The picture scaled down or up to fit in `size` (width, height), its shape kept, with black bars."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    # An odd row or column is only filled up.
    scale = min(size[0] / width, size[1] / height)
    if not (0 <= size[0] - width <= 1 and 0 <= size[1] - height <= 1):
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    right, bottom = size[0] - width, size[1] - height
    sides = (bottom // 2, bottom - bottom // 2, right // 2, right - right // 2)
    return np.asarray(cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=(0, 0, 0)), np.uint8)


def _readable(path: Path | None) -> bool:
    """Whether the video's first frame can be decoded: without its index, written last, it cannot."""
    with quiet_opencv():
        capture = cv2.VideoCapture(str(path))
        try:
            return bool(capture.isOpened() and capture.grab())
        finally:
            capture.release()
