"""Writes observations as a ROS 2 bag in one MCAP file, without ROS."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from edgeloc._support.backend import Uri
from edgeloc.errors import MissingExtra, OutputError
from edgeloc.observation import Observation
from edgeloc.sinks.base import FileSink
from edgeloc.sinks.ros_messages import FRAME_ID, TYPES, Messages, WallClock, definition
from edgeloc.types import Pixels

__all__ = ["McapSink"]

# A chunk of messages is written when it is as old or as large as this: it is lost when the program is killed.
_CHUNK_S, _CHUNK_BYTES = 1.0, 2**20
# The writer keeps 600 bytes for each chunk until its file is complete.
MOST_BYTES, MOST_CHUNKS = 2_000_000_000, 20_000
_PREFIX = "/edgeloc"


class McapSink(FileSink):
    """A bag that Foxglove opens and ROS 2 plays: the frames as they were taken, and what was found in them.

    It is complete once it is closed; after a kill everything up to the last second can be read. After 2 GB or about
    five hours it goes on in a file with the time of its start in its name. Needs the extra `ros`.

    Parameters:
        path: the file. `{time}` in its name becomes the time of opening, 20251231T235959.
        overwrite: whether a file that is there already is emptied; otherwise `open` refuses it with a UsageError.
        frame_id: the coordinate frame that the messages name.
    """

    capacity = 8

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False, frame_id: str = FRAME_ID) -> None:
        super().__init__(path, overwrite=overwrite)
        self._frame_id = frame_id
        self._waiting = _Waiting()
        self._writer: Any = None
        self._schemas: dict[str, Any] = {}
        self._chunks, self._chunk_at = 0, 0.0

    @classmethod
    def from_uri(cls, uri: Uri) -> McapSink:
        """PATH, or PATH?frame_id=front_camera"""
        return cls(uri.path, **uri.options({"frame_id": str}))

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Create the file.

        Raises MissingExtra without the packages, UsageError where the file is there already, OutputError when it cannot
        be written.
        """
        try:
            import mcap_ros2.writer  # noqa: F401
        except ImportError as error:
            raise MissingExtra("mcap-ros2-support", "ros", "writing .mcap") from error
        self._begin()
        self._clock = WallClock(fps, live)

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Append the messages of one observation.

        OutputError when the disk is full: of this observation nothing is taken, and what was taken before waits.
        """
        self._save()
        if self._chunks >= MOST_CHUNKS or self._whole >= MOST_BYTES:
            self._finish()
            self._go_on()
        if self._writer is None:
            self._start()
        stamp_ns = self._clock(observation)
        for topic, message in Messages(_make, observation, stamp_ns, self._frame_id).of(TYPES):
            schema = self._schemas[TYPES[topic]]
            self._writer.write_message(f"{_PREFIX}/{topic}", schema, message, stamp_ns, stamp_ns, observation.sequence)
        if time.monotonic() - self._chunk_at >= _CHUNK_S:
            # Its own class passes on no flush.
            self._writer._writer.flush()
            # What does not fit is reported by the next write, or by close.
            with suppress(OutputError):
                self._save()

    def close(self) -> None:
        """Complete the bag; without a result none is left. OutputError where its end could not be written."""
        try:
            self._finish()
        finally:
            self._writer = None
            self._end()

    def _start(self) -> None:
        from mcap.writer import CompressionType
        from mcap_ros2.writer import Writer

        self._waiting = _Waiting()
        # Pictures are compressed already.
        stream: Any = self._waiting
        self._writer = Writer(stream, chunk_size=_CHUNK_BYTES, compression=CompressionType.NONE)
        self._schemas = {
            kind: self._writer.register_msgdef(kind.replace("/", "/msg/"), definition(kind))
            for kind in dict.fromkeys(TYPES.values())
        }
        self._chunks, self._chunk_at = 0, float("-inf")

    def _save(self) -> None:
        """Write what waits; OutputError where that fails, and it waits on."""
        if self._waiting.data:
            self._append(self._waiting.data)
            self._waiting.data = bytearray()
            self._chunks, self._chunk_at = self._chunks + 1, time.monotonic()

    def _finish(self) -> None:
        if self._writer is not None:
            self._save()
            self._writer.finish()
            self._save()
            self._writer = None


class _Waiting:
    """The stream that the bag's writer writes to: what the file has not taken yet."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._count = 0

    def write(self, data: bytes) -> int:
        self.data += data
        self._count += len(data)
        return len(data)

    def tell(self) -> int:
        return self._count

    def flush(self) -> None:
        """What was written goes to the file when its time has come."""


def _make(_kind: str, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**fields)
