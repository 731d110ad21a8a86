"""The images to label: those of a folder, or frames of a video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from edgeloc._support.files import utf8_path, write_durably
from edgeloc.cameras.files import VideoCamera, images_in
from edgeloc.data.images import IMAGE_SUFFIXES, read_image
from edgeloc.errors import DataError, OutputError, UsageError
from edgeloc.loop.draw import as_jpeg
from edgeloc.types import Pixels

__all__ = ["Image", "images_of", "labels_beside"]

_FRAME_QUALITY = 95
# Of a video, whose frames are much alike and are held in memory.
_USUAL_FRAMES = 200
_VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


@dataclass(frozen=True)
class Image:
    """An image to label.

    Parameters:
        name: its path, relative to the folder of the labels.
        path: its file; of a video's frame, the one that `keep` writes.
        sequence: its number in the folder or the video, from 0.
        jpeg: a video's frame that is in no file yet.
    """

    name: str
    path: Path
    sequence: int = -1
    jpeg: bytes | None = field(default=None, repr=False)

    def pixels(self) -> Pixels:
        """BGR uint8 (height, width, 3); DataError for a damaged or missing file."""
        if self.jpeg is None:
            return read_image(self.path)
        return np.asarray(cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)

    def keep(self) -> None:
        """Write a video's frame to its file, where it is in none yet; OutputError where that cannot be.

        OutputError, too, where another picture lies there: labels of that one must not get this one's boxes.
        """
        if self.jpeg is None:
            return
        if not self.path.exists():
            write_durably(self.path, self.jpeg)
        elif self.path.read_bytes() != self.jpeg:
            hint = "give another folder with {out}, or move that file away"
            raise OutputError(f"{self.path} is another picture than the video's frame {self.sequence}", hint=hint)


def labels_beside(source: Path) -> Path:
    """Where the labels of a source are, unless the user names a place: in a folder of images, or beside a video."""
    return source / "labels.json" if source.is_dir() else source.with_name(f"{source.stem}-labels") / "labels.json"


def images_of(source: Path, labels: Path, frames: int | None = None) -> list[Image]:
    """The images of a folder by name, or frames of a video in order.

    Parameters:
        source: a folder, or a video file.
        labels: the file of the labels, to whose folder names are relative.
        frames: at most so many, spread evenly; None for all of a folder, and 200 of a video.

    Raises UsageError where nothing is there or it is neither, DataError for an empty folder and a bad video.
    """
    if not source.exists():
        raise UsageError(f"{source} is not there", hint="give a folder of images, or a video")
    if source.is_dir():
        return list(_of_folder(source, labels, frames))
    if source.suffix.lower() not in _VIDEO_SUFFIXES:
        raise UsageError(f"{source} is neither a folder of images nor a video", hint="give one of them")
    return _of_video(source, labels, frames or _USUAL_FRAMES)


def _of_folder(source: Path, labels: Path, frames: int | None) -> Iterator[Image]:
    files = images_in(source)
    if not files:
        raise DataError(f"folder {source} holds no image", hint=f"give one with {', '.join(IMAGE_SUFFIXES)} files")
    count = min(frames or len(files), len(files))
    folder = os.path.realpath(labels.parent)
    for number in (index * len(files) // count for index in range(count)):
        # A browser asks for a name in UTF-8.
        name = utf8_path(os.path.relpath(os.path.realpath(files[number]), folder))
        yield Image(name, files[number], number)


def _of_video(source: Path, labels: Path, most: int) -> list[Image]:
    """Every frame whose number is a multiple of a power of two: so no count need be known, and each time the same."""
    step, kept = 1, list[Image]()
    with VideoCamera(source) as video:
        for frame in video:
            if frame.sequence % step:
                continue
            name = utf8_path(f"{source.stem}-{frame.sequence:06}.jpg")
            jpeg = as_jpeg(frame.pixels, _FRAME_QUALITY)
            kept.append(Image(name, labels.parent / name, frame.sequence, jpeg))
            if len(kept) > most:
                step *= 2
                kept = [one for one in kept if one.sequence % step == 0]
    return kept
