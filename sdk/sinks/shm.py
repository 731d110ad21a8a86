"""Keeps the newest result and its picture in POSIX shared memory, for the other processes of this machine."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from edgeloc._support.backend import Uri
from edgeloc.errors import OutputError, UsageError
from edgeloc.observation import Observation
from edgeloc.sinks.base import Sink
from edgeloc.sinks.record import as_line
from edgeloc.types import Pixels

__all__ = ["ShmSink"]

MAGIC = b"EDGELOC1"
FOLDER = Path("/dev/shm")
# For its owner to write, and for its group to read.
MODE = 0o640
_HEAD_BYTES = _SLOT_HEAD_BYTES = 64
_BEGUN, _DONE, _ROOM, _CLOSED = 1, 2, 3, 4
# Results differ in length; there is room for one that is so much longer than the first.
_SPARE_BYTES = 16_384


class ShmSink(Sink):
    """`shm://NAME`: the newest result and its frame, at /dev/shm/NAME; docs/guide/outputs.md has the layout.

    A reader never sees half of either, and none holds up the writer. What a killed run left stays readable, until the
    next run replaces it.

    Parameters:
        name: as for shm_open(3), without its slash.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._block: _Block | None = None

    @classmethod
    def from_uri(cls, uri: Uri) -> ShmSink:
        """shm://NAME"""
        uri.options({})
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", uri.path):
            allowed = "letters, digits, dots, dashes and underscores"
            raise UsageError(f"sink {uri.text} names no shared memory: write shm://NAME, with {allowed}")
        return cls(uri.path)

    @property
    def name(self) -> str:
        """Its URI."""
        return f"shm://{self._name}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Make the shared memory, with nothing in it; UsageError where one of another program has the name.

        Raises OutputError where another run writes it, or there is no room for it or no right to it.
        """
        self._replace(0)

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Put the result and its picture there; OutputError where there is no room for one of this size."""
        assert self._block is not None
        line, pixels = as_line(observation), observation.frame.pixels
        needed = _SLOT_HEAD_BYTES + pixels.nbytes + len(line)
        if needed > self._block.room:
            self._replace(needed + _SPARE_BYTES, line, pixels)
        else:
            self._block.put(line, pixels)

    def close(self) -> None:
        """Remove it; a reader that has it open keeps what is there."""
        block, self._block = self._block, None
        if block is not None:
            block.retire()
            block.remove(FOLDER / self._name)

    def _replace(self, room: int, line: bytes = b"", pixels: Pixels | None = None) -> None:
        """Put a larger one under the name at once, what it holds included."""
        path = FOLDER / self._name
        new = path.with_name(f"{path.name}.new")
        try:
            block = _Block.create(new, room)
            try:
                old = self._block or _Block.left_behind(path)
                if pixels is not None:
                    block.put(line, pixels)
                os.rename(new, path)
            except BaseException:
                block.remove(new)
                raise
        except BlockingIOError:
            raise OutputError(f"{path} is being written by another run", hint="give another name") from None
        except OSError as error:
            raise OutputError(f"no shared memory can be made at {path}: {error.strerror}") from error
        self._block = block
        if old is not None:
            old.retire()
            old.free()


class _Block:
    """One piece of shared memory, locked for as long as its writer lives."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._bytes = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)
        # Each access is one of 8 bytes, which no other process sees half of.
        self._head = self._bytes[:_HEAD_BYTES].view(np.uint64)
        self._barrier = threading.Lock()
        self._barrier.acquire()

    @classmethod
    def create(cls, path: Path, room: int) -> _Block:
        """A new one with two slots of at least `room` bytes; BlockingIOError where another process makes it."""
        room = -(-room // _HEAD_BYTES) * _HEAD_BYTES
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            try:
                # Memory that is missing would end the process when it is written to.
                os.posix_fallocate(descriptor, 0, _HEAD_BYTES + 2 * room)
                os.fchmod(descriptor, MODE)
                block = cls(descriptor)
            except BaseException:
                os.unlink(path)
                raise
        except BaseException:
            os.close(descriptor)
            raise
        block._bytes[: len(MAGIC)] = np.frombuffer(MAGIC, np.uint8)
        block._head[_ROOM] = room
        return block

    @classmethod
    def left_behind(cls, path: Path) -> _Block | None:
        """What a killed run left at `path`, None for nothing; BlockingIOError where the run still lives."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.pread(descriptor, len(MAGIC), 0)[:-1] != MAGIC[:-1] or os.fstat(descriptor).st_size < _HEAD_BYTES:
                raise UsageError(f"{path} is there already, and is not of edgeloc", hint="give another name")
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def room(self) -> int:
        """The bytes of a slot."""
        return int(self._head[_ROOM])

    def put(self, line: bytes, pixels: Pixels) -> None:
        """Write into the slot that is not the newest, and then make it the newest."""
        number = int(self._head[_DONE]) + 1
        self._head[_BEGUN] = number
        self._fence()
        begin = _HEAD_BYTES + number % 2 * self.room
        slot = self._bytes[begin : begin + self.room]
        height, width = pixels.shape[:2]
        slot[:12].view(np.uint32)[:] = height, width, len(line)
        end = _SLOT_HEAD_BYTES + pixels.nbytes
        slot[_SLOT_HEAD_BYTES:end] = pixels.reshape(-1)
        slot[end : end + len(line)] = np.frombuffer(line, np.uint8)
        self._fence()
        self._head[_DONE] = number

    def _fence(self) -> None:
        """What is written before is seen before what is written after: a lock given back and taken again is a barrier.

        On x86 order is kept anyway, on ARM it is not.
        """
        self._barrier.release()
        self._barrier.acquire()

    def retire(self) -> None:
        """Have readers open the name again."""
        self._head[_CLOSED] = 1

    def remove(self, path: Path) -> None:
        """Take the name away where it still is this one's, and free it."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(self._descriptor)):
                os.unlink(path)
        self.free()

    def free(self) -> None:
        """Give lock and memory back; readers keep theirs."""
        # The memory goes with the last array over it.
        self._bytes = self._head = np.zeros(0, np.uint8)
        os.close(self._descriptor)
