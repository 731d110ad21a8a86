"""A camera that draws its own frames, `pattern://`, and a sink that writes a table of boxes, `.csv`."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable

import numpy as np

from edgeloc import Camera, FileSink, Frame, Observation, Pixels, Uri, UsageError

COLUMNS = ("sequence", "age_ms", "label", "x1", "y1", "x2", "y2")


class PatternCamera(Camera):
    """`pattern://?width=320&height=240&frames=20`: a white square that moves over grey, one frame whenever asked."""

    def __init__(self, width: int = 320, height: int = 240, frames: int = 20) -> None:
        if min(width, height, frames) < 1:
            raise UsageError("pattern:// needs width, height and frames of 1 or more")
        self._shape, self._frames, self._next = (height, width, 3), frames, 0

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> PatternCamera:
        """The camera a URI asks for; `size`, what the model would like to get, is left to the resize."""
        uri.require_no_path()
        return cls(**uri.options({"width": int, "height": int, "frames": int}))

    @property
    def name(self) -> str:
        """The camera's name in messages."""
        return "pattern://"

    def _open(self) -> None:
        self.size = (self._shape[1], self._shape[0])
        self._next = 0

    def _read(self, timeout_s: float) -> Frame | None:
        if self._next == self._frames:
            return None
        pixels = np.full(self._shape, 90, np.uint8)
        side = min(self._shape[:2]) // 4
        left = (self._next * side) % max(1, self._shape[1] - side)
        pixels[side : 2 * side, left : left + side] = 255
        self._next += 1
        return Frame(pixels, time.monotonic(), self._next - 1)

    def _close(self) -> None:
        """Nothing is held."""


class CsvSink(FileSink):
    """`NAME.csv`: a table with a row for each frame, with the best object's box in pixels of the frame."""

    # A disk may be slow for a while: so many results of a live camera wait, which need no pictures.
    capacity = 2000
    pictures = False

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Create the file; UsageError where there is one already, OutputError when it cannot be written."""
        self._begin()
        self._is_empty = True

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Append one row, behind the names of the columns; OutputError when the disk is full."""
        result = observation.result
        row = [observation.sequence, round(observation.age_ms, 1), result.label, *(result.box or [None] * 4)]
        text = io.StringIO()
        csv.writer(text).writerows([COLUMNS, row] if self._is_empty else [row])
        self._append(text.getvalue().encode())
        self._is_empty = False

    def close(self) -> None:
        """Close the file, and remove it where nothing was written."""
        self._end()
