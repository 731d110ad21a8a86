"""What reaches the user's terminal: log lines, progress bars, and silence around libraries that print."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, BinaryIO, TextIO, TypeVar

from edgeloc.errors import EdgelocError

__all__ = ["progress", "quiet_import", "quiet_opencv", "quiet_stderr", "write_line"]

T = TypeVar("T")

_SILENT = 0  # cv2's LOG_LEVEL_SILENT
# Copies of the standard error's descriptor, the user's terminal first, while `quiet_stderr` holds it back.
_terminals: list[int] = []


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Inside, whatever is written to the process's standard error is held back; it is shown if a foreign error leaves.

    An error of this package names its reason itself.

    TensorFlow logs before its own log level is in force, so the file descriptor is what must be turned away.
    """
    try:
        kept = os.dup(2)
    except OSError:  # no standard error at all: nothing to keep quiet
        yield
        return
    with os.fdopen(kept, "wb") as terminal, _held_back() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)
        _terminals.append(kept)
        try:
            yield
        except EdgelocError:
            raise
        except Exception:
            _restore(kept)
            held.seek(0)
            terminal.write(held.read())
            raise
        finally:
            _restore(kept)


def _held_back() -> BinaryIO:
    """A file without a name; in memory where the system can, since a program that starts passes here once."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()


def _restore(kept: int) -> None:
    if kept in _terminals:
        _terminals.remove(kept)
    sys.stderr.flush()
    os.dup2(kept, 2)


def write_line(text: str) -> None:
    """Print a line on the standard error: above a progress bar that is shown, and through `quiet_stderr`.

    Where nobody can read it any more, work goes on without it.
    """
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError):
        tqdm: Any = sys.modules.get("tqdm")
        if _terminals and _is_the_process_own(sys.stderr):
            os.write(_terminals[0], f"{text}\n".encode(errors="backslashreplace"))
        elif tqdm is not None and sys.stderr.isatty():
            tqdm.tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def _is_the_process_own(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except OSError:  # a stream in memory, as tests have
        return False


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Inside, OpenCV's own lines about a device or file stay off the terminal: an error reports what failed."""
    import cv2

    # FFmpeg beneath it has a level of its own, which is read with the first video.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Debian's OpenCV 4 has these functions at the top, the wheels of pip in a module of their own.
    logging: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


@contextmanager
def quiet_import(name: str) -> Iterator[None]:
    """Inside, the first import of the package `name`, by whomever, happens in silence."""
    finder = _QuietFinder(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _QuietFinder:
    """Finds one package as the others would, and has it executed in silence."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _in_silence(spec.loader.exec_module)  # type: ignore[assignment, method-assign]
        return spec


def _in_silence(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def quiet(module: ModuleType) -> None:
        with quiet_stderr():
            execute(module)

    return quiet


def progress(iterable: Iterable[T], *, total: int | None = None, label: str = "") -> Iterable[T]:
    """The same items, counted on the standard error where that is a terminal and tqdm is installed.

    `total` is the number of items, where `len(iterable)` does not give it.
    """
    if not sys.stderr.isatty():
        return iterable
    try:
        from tqdm import tqdm
    except ImportError:
        return iterable
    bar: Iterable[T] = tqdm(iterable, total=total, desc=label or None, leave=False, dynamic_ncols=True)
    return bar
