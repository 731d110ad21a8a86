"""The interface of every sink, and what those that write a file share."""

from __future__ import annotations

import logging
import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc._support.backend import Uri
from edgeloc._support.files import growing_file, release
from edgeloc.errors import OutputError
from edgeloc.findings import Reporting
from edgeloc.observation import Observation
from edgeloc.types import Pixels

if TYPE_CHECKING:
    from edgeloc.loop.summary import RunSummary

__all__ = ["CallbackSink", "FileSink", "Sink"]

logger = logging.getLogger(__name__)

_SYNC_S = 1.0


class Sink(Reporting, ABC):
    """Where observations go: `open()`, `write()` for each observation, `close()`.

    Attributes:
        ended: True once the sink's user wants the run to end (such as a closed window).
        auxiliary: whether nothing of a result gets out through it (such as a watchdog's signal): a run whose other
            sinks have all failed ends.
        capacity: how many results of a live camera wait for it at most while it is busy; when one more comes the oldest
            is skipped and counted. 1 keeps the newest alone. A file's frames wait for every sink: none is skipped.
        pictures: whether it looks at pictures; without, `observation.frame.pixels` has the frame's shape, but is black
            and takes no memory, and nothing may be drawn.
        needs_geometry: whether it needs the camera's geometry: a run without it is refused.
        inline: whether `write` is called by the run's own thread, as a window's toolkit demands, and so holds the loop.
            Every other sink is opened, written to and closed by a thread of its own.
        status: set before `open`: gives the figures of the run so far, from any thread.
        notify: takes each fault when it is noticed; a run sets it, and without one they are logged.
    """

    ended: bool = False
    auxiliary: bool = False
    capacity: int = 1
    pictures: bool = True
    needs_geometry: bool = False
    inline: bool = False
    status: Callable[[], RunSummary] | None = None

    @classmethod
    def from_uri(cls, uri: Uri) -> Sink:
        """The sink that a URI or a path names, not opened; UsageError for an unknown option."""
        uri.require_no_path()
        uri.options({})
        return cls()

    @property
    @abstractmethod
    def name(self) -> str:
        """The sink's name in messages: its path or URI."""

    @abstractmethod
    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Get ready, before any frame is read.

        Parameters:
            fps: the camera's frame rate, None where it has none.
            live: whether the camera's frames come by themselves.

        Raises OutputError or DeviceError when the sink cannot work.
        """

    @abstractmethod
    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Take one observation.

        Parameters:
            drawn: returns the annotated copy of the frame, drawn once for all sinks that call it: do not write into it.

        An OutputError or OSError means that this one was not written: with a live camera it is offered again after a
        pause that grows, until the sink takes it; with a file the sink is closed. Any other error is a fault of the
        sink, which is closed. The run goes on without it, unless it was the last one.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish and keep what was written, whatever ended the run; may be called more than once.

        No signal interrupts it.
        """


class CallbackSink(Sink):
    """Calls a function with each observation; what it raises is a failure of the sink."""

    def __init__(self, function: Callable[[Observation], object]) -> None:
        self._function = function

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self._function, "__qualname__", None) or type(self._function).__name__)

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Nothing is needed."""

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Call the function."""
        self._function(observation)

    def close(self) -> None:
        """Nothing is held."""


class FileSink(Sink):
    """A sink that writes one file, which others can read under its name from the first observation on.

    Parameters:
        path: the file. `{time}` in its name becomes the time of opening, 20251231T235959.
        overwrite: whether a file that is there already is emptied; otherwise `open` refuses it with a UsageError.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path = self._given = Path(path)
        self.overwrite = overwrite
        self._file: FileIO | None = None
        self._synced: threading.Event | None = None
        self._whole = 0

    @classmethod
    def from_uri(cls, uri: Uri) -> FileSink:
        """A path."""
        uri.options({})
        return cls(uri.path)

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def _begin(self, path: Path | None = None) -> FileIO:
        """Create the file, or another one at `path`; UsageError where there is one, OutputError where none can be."""
        self.path, self._file = growing_file(path or self._given, overwrite=self.overwrite)
        file = self._file
        self._whole = 0
        self._synced = threading.Event()
        threading.Thread(target=_sync, args=(os.dup(file.fileno()), self._synced), daemon=True).start()
        return file

    def _go_on(self) -> None:
        """End the full file, and begin another, with the time in its name."""
        full, given = self.path, self._given
        self._end()
        self._begin(given if "{time}" in given.name else given.with_stem(f"{given.stem}-{{time}}"))
        logger.info("%s is full and goes on in %s", full, self.path)

    def _append(self, data: bytes | bytearray) -> None:
        """Write it behind what is there, all or nothing: OutputError on a full disk or a pipe without reader."""
        assert self._file is not None
        try:
            # Unbuffered: it is out at once, and a full disk leaves nothing to be written again by close.
            written = self._file.write(data)
            # A pipe may take it in parts.
            while 0 < written < len(data) and self._streams:
                written += self._file.write(data[written:])
            complete, reason = written == len(data), "the disk is full"
        except OSError as error:
            complete, reason = False, error.strerror or str(error)
        if not complete:
            with suppress(OSError):  # a pipe cannot be cut
                self._file.truncate(self._whole)
                self._file.seek(self._whole)
            raise OutputError(f"{self.path} cannot be written to: {reason}")
        self._whole += len(data)

    @property
    def _taken(self) -> int:
        """How many bytes the open file has."""
        return 0 if self._file is None else os.fstat(self._file.fileno()).st_size

    @property
    def _streams(self) -> bool:
        """Whether what is open is a pipe or a device, which is read once, and not a file."""
        return self._file is not None and not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)

    def _end(self) -> None:
        """Close the file; one that nothing was written into is removed, but never another that took its name."""
        file, self._file = self._file, None
        if file is None or self._synced is None:
            return
        self._synced.set()
        status, target = os.fstat(file.fileno()), os.path.realpath(self.path)
        release(file)
        file.close()
        if stat.S_ISREG(status.st_mode) and not status.st_size:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(target), status):
                    os.unlink(target)


def _sync(descriptor: int, stop: threading.Event) -> None:
    """Have the system write out each second what it keeps in memory: a power cut loses no more than that."""
    with suppress(OSError):  # a pipe has no disk
        while not stop.wait(_SYNC_S):
            os.fdatasync(descriptor)
        os.fdatasync(descriptor)
    os.close(descriptor)
