"""Keeps the newest result and its picture in shared memory, for programs on the same machine that want pixels too."""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from edgeloc._support.backend import Uri
from edgeloc.errors import OutputError, UsageError
from edgeloc.sinks.base import Sink
from edgeloc.sinks.record import as_line
from edgeloc.types import Observation, Pixels

__all__ = ["ShmSink"]

_FOLDER = "/dev/shm"
# magic, number (odd while it is written), bytes of the line, height and width of the picture
_HEAD = struct.Struct("<8sQIII")
_MAGIC = b"EDGELOC1"
_LINE_AT, _PICTURE_AT = 64, 65536


class ShmSink(Sink):
    """`shm://NAME`: /dev/shm/NAME holds the newest result and picture; docs/guide/outputs.md has its layout.

    The number in the head is odd while both are written, and even once they are whole: a reader takes the number, then
    the data, then the number again, and begins again where the two differ. With the run's end the file is gone.
    """

    def __init__(self, name: str) -> None:
        self.path = f"{_FOLDER}/{name}"
        self._map: mmap.mmap | None = None
        self._number = 0

    @classmethod
    def from_uri(cls, uri: Uri) -> ShmSink:
        """The file's name."""
        uri.options({})
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", uri.path):
            raise UsageError(f"sink {uri.text}: this is no name for shared memory", hint="give shm://edgeloc")
        return cls(uri.path)

    @property
    def name(self) -> str:
        """Its URI."""
        return f"shm://{os.path.basename(self.path)}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Make the file, in place of one that a run left which was killed; OutputError where that fails."""
        self.close()
        self._grow(_PICTURE_AT)

    def _grow(self, size: int) -> None:
        """Put a new file in the place of the old one: readers keep what they have mapped, and see that it is over."""
        new = f"{self.path}.{os.getpid()}"
        try:
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
            try:
                # Allocated now: memory that is missing later would end the process.
                os.posix_fallocate(descriptor, 0, size)
                mapped = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
            mapped[: _HEAD.size] = _HEAD.pack(_MAGIC, self._number, 0, 0, 0)
            os.replace(new, self.path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(new)
            raise OutputError(f"{self.name} cannot be made: {error.strerror or error}") from error
        self._leave()
        self._map = mapped

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Put the result and the frame's own picture in the place of the ones before."""
        pixels, line = np.ascontiguousarray(observation.frame.pixels), as_line(observation)
        if len(line) > _PICTURE_AT - _LINE_AT:
            raise OutputError(f"{self.name}: a result of {len(line)} bytes is too long for it")
        if self._map is None or len(self._map) < _PICTURE_AT + pixels.nbytes:
            self._grow(_PICTURE_AT + pixels.nbytes)
        assert self._map is not None
        height, width = pixels.shape[:2]
        self._set_head(self._number + 1, 0, 0, 0)
        self._map[_LINE_AT : _LINE_AT + len(line)] = line
        self._map[_PICTURE_AT : _PICTURE_AT + pixels.nbytes] = pixels.data.cast("B")
        self._set_head(self._number + 1, len(line), height, width)

    def _set_head(self, number: int, length: int, height: int, width: int) -> None:
        assert self._map is not None
        self._number = number
        self._map[: _HEAD.size] = _HEAD.pack(_MAGIC, number, length, height, width)

    def _leave(self) -> None:
        """Mark what readers still have mapped as over: its number stays odd."""
        if self._map is not None:
            self._map[: _HEAD.size] = _HEAD.pack(_MAGIC, self._number | 1, 0, 0, 0)
            self._map.close()
            self._map = None

    def close(self) -> None:
        """Remove the file."""
        if self._map is not None:
            self._leave()
            with suppress(OSError):
                os.unlink(self.path)
