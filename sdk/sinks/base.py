"""What every sink does and promises, and what the ones that write a file share; no sink lives here."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from edgeloc._support.files import atomic_path
from edgeloc.types import Frame, Pixels, Result

__all__ = ["FileSink", "Sink"]


class Sink(ABC):
    """Where results go: `open()`, `write()` for each result, `close()`.

    `open` raises OutputError or DeviceError when the sink cannot work, before any frame is read.
    `drawn()` gives the annotated copy of the frame, made once for all sinks that ask; it is shared:
    a sink does not write into it. `close` keeps everything written so far, whatever ended the run,
    and may be called more than once. `ended` turns True when the user asked the sink to stop the
    run (closed the window, say).
    """

    ended: bool = False

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call the sink: its path or URI."""

    @abstractmethod
    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Get ready; `fps` is the camera's frame rate, `live` whether its frames come by themselves."""

    @abstractmethod
    def write(self, frame: Frame, drawn: Callable[[], Pixels], result: Result) -> None:
        """Take one result and the frame that it is about."""

    @abstractmethod
    def close(self) -> None:
        """Finish what was written."""


class _Discarded(Exception):
    """Tells the temporary file that it is not wanted."""


class FileSink(Sink):
    """A sink that writes one file: under a temporary name beside it, which becomes `path` in `close`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._target: AbstractContextManager[Path] | None = None

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def _begin(self) -> Path:
        """The temporary path to write to; OutputError when nothing can be written there."""
        target = atomic_path(self.path)
        temporary = target.__enter__()
        self._target = target
        return temporary

    def _keep(self) -> None:
        """Give the temporary file its name."""
        target, self._target = self._target, None
        if target is not None:
            target.__exit__(None, None, None)

    def _discard(self) -> None:
        """Remove the temporary file."""
        target, self._target = self._target, None
        if target is not None:
            with suppress(_Discarded):
                target.__exit__(_Discarded, _Discarded(), None)
