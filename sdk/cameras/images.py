"""A folder of images, or one image, as a camera; labels beside the images are not read here."""

from __future__ import annotations

import os
import time
from pathlib import Path

from edgeloc.cameras.base import PathCamera
from edgeloc.data.images import IMAGE_SUFFIXES, read_image
from edgeloc.errors import DataError, UsageError
from edgeloc.types import Frame

__all__ = ["ImageCamera", "images_in"]


class ImageCamera(PathCamera):
    """Every image of a folder in the order of the names, or one image; `captured_at` is when it was decoded.

    Folders within the folder are left out. Images may differ in size. An image that cannot be
    read raises DataError with its name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._files: list[Path] = []
        self._next = 0

    def _open(self) -> None:
        if not self.path.exists():
            raise UsageError(f"image or folder {self.path} is not there")
        self._files = [self.path] if self.path.is_file() else images_in(self.path)
        if not self._files:
            raise DataError(f"folder {self.path} holds no image: known are {', '.join(IMAGE_SUFFIXES)}")
        self._next = 0

    def _read(self, timeout_s: float) -> Frame | None:
        if self._next >= len(self._files):
            return None
        pixels = read_image(self._files[self._next])
        frame = Frame(pixels, time.monotonic(), self._next)
        self._next += 1
        return frame

    def _close(self) -> None:
        self._files = []


def images_in(folder: Path) -> list[Path]:
    """The images directly in `folder`, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
