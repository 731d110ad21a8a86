"""Writes each observation as one line of JSON."""

from __future__ import annotations

from collections.abc import Callable

from edgeloc.sinks.base import FileSink
from edgeloc.sinks.record import as_line
from edgeloc.types import Observation, Pixels

__all__ = ["JsonLinesSink"]


class JsonLinesSink(FileSink):
    """One line for each observation, written as it comes: a reader of the file never sees half of one."""

    capacity = 2000
    pictures = False

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Create the file; UsageError where there is one already, OutputError when it cannot be written."""
        self._begin()

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Append one line; OutputError when the disk is full, with the lines before kept whole."""
        self._append(as_line(observation))

    def close(self) -> None:
        """Close the file."""
        self._end()
