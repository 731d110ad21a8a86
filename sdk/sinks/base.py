"""The interface of every sink, and what those that write a file share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from edgeloc._support.backend import Uri
from edgeloc._support.files import atomic_path
from edgeloc.types import Observation, Pixels

__all__ = ["FileSink", "Sink"]


class Sink(ABC):
    """Where observations go: `open()`, `write()` for each observation, `close()`.

    `ended` is set to True by a sink whose user wants the run to end (such as a closed window).
    """

    ended: bool = False

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

        `fps` is the camera's frame rate, None where it has none.
        `live` is whether the camera's frames come by themselves.

        Raises OutputError or DeviceError when the sink cannot work.
        """

    @abstractmethod
    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Take one observation.

        `drawn` returns the annotated copy of the frame, drawn once for all sinks that call it: do not write into it.

        Raises OutputError, or an OSError, when it cannot be written: the run ends.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish and keep what was written, whatever ended the run; may be called more than once."""


class _Discarded(Exception):
    """Makes `atomic_path` remove its temporary file."""


class FileSink(Sink):
    """A sink that writes one file: under a temporary name beside it, which becomes `path` in `close`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._target: AbstractContextManager[Path] | None = None

    @classmethod
    def from_uri(cls, uri: Uri) -> FileSink:
        """A path."""
        uri.options({})
        return cls(uri.path)

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
