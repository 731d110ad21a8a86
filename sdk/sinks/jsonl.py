"""Writes each observation as one line of JSON."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from edgeloc._support.backend import Uri
from edgeloc.observation import Observation
from edgeloc.sinks.base import FileSink
from edgeloc.sinks.record import as_line
from edgeloc.types import Pixels

__all__ = ["JsonLinesSink"]


class JsonLinesSink(FileSink):
    """One line for each observation, written as it comes: a reader of the file never sees half of one.

    Parameters:
        path: the file.
        overwrite: whether a file that is there already is emptied.
        most_bytes: how large a file may become; what follows is in another one, with the time in its name.
        most_s: for how many seconds a file is written to.
    """

    capacity = 2000
    pictures = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        most_bytes: float = math.inf,
        most_s: float = math.inf,
    ) -> None:
        super().__init__(path, overwrite=overwrite)
        self._most_bytes, self._most_s = most_bytes, most_s
        self._began_at, self._between = 0.0, False

    @classmethod
    def from_uri(cls, uri: Uri) -> JsonLinesSink:
        """PATH, or PATH?rotate=100MB, or PATH?rotate=1h"""
        options = uri.options({"rotate": _rotation})
        if not options:
            return cls(uri.path)
        path = Path(uri.path)
        # So that the names of all its files sort by time.
        path = path if "{time}" in uri.path else path.with_stem(f"{path.stem}-{{time}}")
        most_bytes, most_s = options["rotate"]
        return cls(path, most_bytes=most_bytes, most_s=most_s)

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Create the file; UsageError where there is one already, OutputError when it cannot be written."""
        self._begin()
        self._began_at, self._between = time.monotonic(), False

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Append one line; OutputError when the disk is full, with the lines before kept whole."""
        line = as_line(observation)
        if self._between or self._is_over(len(line)):
            # Where the next file cannot be made, it is tried again with the next line.
            self._between = True
            self._go_on()
            self._between, self._began_at = False, time.monotonic()
        self._append(line)

    def close(self) -> None:
        """Close the file."""
        self._end()

    def _is_over(self, more: int) -> bool:
        """Whether the next line, of so many bytes, belongs into another file."""
        full = self._whole + more > self._most_bytes or time.monotonic() - self._began_at >= self._most_s
        return full and self._whole > 0 and not self._streams


def _rotation(text: str) -> tuple[float, float]:
    """The most bytes and the most seconds of one file, from 100MB or 1h."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})(MB|h)", text)
    if found is None:
        raise ValueError("a size such as 100MB, or hours such as 1h")
    number = int(found[1])
    return (number * 1e6, math.inf) if found[2] == "MB" else (math.inf, number * 3600.0)
