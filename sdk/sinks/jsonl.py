"""Writes each observation as one line of JSON."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from edgeloc.errors import OutputError
from edgeloc.sinks.base import FileSink
from edgeloc.sinks.record import as_line
from edgeloc.types import Observation, Pixels

__all__ = ["JsonLinesSink"]


class JsonLinesSink(FileSink):
    """One line for each observation, written as it comes: a reader of the file never sees half of one."""

    capacity = 2000
    pictures = False
    _whole = 0

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Create the file; UsageError where there is one already, OutputError when it cannot be written."""
        self._begin()
        self._whole = 0

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Append one line; OutputError when the disk is full, with the lines before kept whole."""
        assert self._file is not None
        line = as_line(observation)
        try:
            # Unbuffered: each line is out at once, and a full disk leaves nothing to be written again by close.
            written = self._file.write(line)
            # A pipe may take a line in parts.
            while 0 < written < len(line) and self._streams:
                written += self._file.write(line[written:])
            complete, reason = written == len(line), "the disk is full"
        except OSError as error:
            complete, reason = False, error.strerror or str(error)
        if not complete:
            with suppress(OSError):  # a pipe cannot be cut
                self._file.truncate(self._whole)
                self._file.seek(self._whole)
            raise OutputError(f"{self.path} cannot be written to: {reason}")
        self._whole += len(line)

    def close(self) -> None:
        """Close the file."""
        self._end()
