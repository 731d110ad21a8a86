"""What reaches the user's terminal: log lines, tables, progress bars, and silence around libraries that print."""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, BinaryIO, TextIO, TypeVar

from edgeloc.errors import EdgelocError, mask_credentials, printable

__all__ = [
    "aligned",
    "progress",
    "quiet_import",
    "quiet_opencv",
    "quiet_stderr",
    "report_progress_to",
    "trace_crashes",
    "write_line",
]

T = TypeVar("T")

_SILENT = 0  # cv2's LOG_LEVEL_SILENT
_REPORT_EVERY_S = 1.0


class _Silence:
    """The process's standard error turned away while at least one thread wants it so.

    There is one descriptor 2 for all threads: the first that enters turns it away, the last that leaves turns it back.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._inside = 0
        self._terminal: BinaryIO | None = None
        self._held: BinaryIO | None = None
        self._warnings: warnings.catch_warnings[None] | None = None
        # Whether crashes are traced to descriptor 2, as by the interpreter's option.
        self._traced = bool("faulthandler" in sys._xoptions or os.environ.get("PYTHONFAULTHANDLER"))
        # Whether they are traced to the terminal meanwhile, and not to where a program wants them.
        self._tracing = False

    def enter(self) -> int | None:
        """Begin; what is held back from here on starts at the position returned. None: there is no standard error."""
        with self._lock:
            if not self._inside:
                try:
                    terminal = os.fdopen(os.dup(2), "wb", buffering=0)
                except OSError:
                    return None
                self._turn_away(terminal)
            self._inside += 1
            return os.lseek(2, 0, os.SEEK_END)

    def leave(self, since: int | None, *, show: bool) -> None:
        """End; `show` prints what was held back since that position."""
        if since is None:
            return
        with self._lock:
            assert self._held is not None and self._terminal is not None
            _flush()
            if show:
                with suppress(OSError):  # nobody reads it any more
                    self._terminal.write(os.pread(self._held.fileno(), os.fstat(2).st_size, since))
            self._inside -= 1
            if not self._inside:
                self._turn_back()

    def say(self, line: bytes) -> bool:
        """Print a line past the silence; False when there is none."""
        with self._lock:
            if self._terminal is None:
                return False
            self._terminal.write(line)
            return True

    def trace_crashes(self) -> None:
        """Trace crashes from now on, where nobody does so yet."""
        with self._lock, suppress(OSError, ValueError):
            if not faulthandler.is_enabled():
                faulthandler.enable(2)
                self._traced = True

    def _turn_away(self, terminal: BinaryIO) -> None:
        _flush()
        self._terminal, self._held = terminal, _held_back()
        # Filters are the process's as well: two threads that each restore them leave the other's.
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._tracing = self._traced or not faulthandler.is_enabled()
        if self._tracing:
            faulthandler.enable(terminal.fileno())
        os.dup2(self._held.fileno(), 2)

    def _turn_back(self) -> None:
        assert self._held is not None and self._terminal is not None and self._warnings is not None
        os.dup2(self._terminal.fileno(), 2)
        if self._traced:
            faulthandler.enable(2)
        elif self._tracing:
            faulthandler.disable()
        self._warnings.__exit__(None, None, None)
        self._held.close()
        self._terminal.close()
        self._terminal = self._held = None


_silence = _Silence()


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Inside, whatever is written to the process's standard error is held back; it is shown if a foreign error leaves.

    An error of this package names its reason itself. Warnings are not shown. A crash is traced to the terminal.

    TensorFlow logs before its own log level is in force, so the file descriptor is what must be turned away.
    """
    show = False
    since = _silence.enter()
    try:
        yield
    except EdgelocError:
        raise
    except Exception:
        show = True
        raise
    finally:
        _silence.leave(since, show=show)


def trace_crashes() -> None:
    """Let a native crash print where it happened, on the standard error; where it is traced already, it stays so."""
    _silence.trace_crashes()


def _flush() -> None:
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def _held_back() -> BinaryIO:
    """A file without a name; in memory where the system can, since a program that starts passes here once."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()


def write_line(text: str) -> None:
    """Print a line on the standard error: above a progress bar that is shown, and through `quiet_stderr`.

    Credentials are masked. Where nobody can read it any more, work goes on without it.
    """
    if sys.stderr is None:
        return
    text = printable(mask_credentials(text))
    with suppress(OSError, ValueError):
        tqdm: Any = sys.modules.get("tqdm")
        if _is_the_process_own(sys.stderr) and _silence.say(f"{text}\n".encode(errors="backslashreplace")):
            return
        if tqdm is not None and sys.stderr.isatty():
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
    if _Reports.descriptor is not None:
        return _reported(iterable, total, label)
    if not sys.stderr.isatty():
        return iterable
    try:
        from tqdm import tqdm
    except ImportError:
        return iterable
    bar: Iterable[T] = tqdm(iterable, total=total, desc=label or None, leave=False, dynamic_ncols=True)
    return bar


class _Reports:
    """Where progress is reported to instead of being shown; None: nowhere."""

    descriptor: int | None = None


def report_progress_to(descriptor: int) -> None:
    """Have `progress` write what it counts to a pipe, for the program that started this one.

    A JSON line with `label`, `done` and `total` (None: unknown) at the beginning, at the end, and once a second.
    """
    _Reports.descriptor = descriptor


def _reported(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    done = 0
    _report_count(label, done, total)
    due = time.monotonic() + _REPORT_EVERY_S
    for item in iterable:
        yield item
        done += 1
        if time.monotonic() >= due:
            _report_count(label, done, total)
            due = time.monotonic() + _REPORT_EVERY_S
    _report_count(label, done, total)


def _report_count(label: str, done: int, total: int | None) -> None:
    line = json.dumps({"label": label, "done": done, "total": total}) + "\n"
    with suppress(OSError):  # nobody reads it any more
        os.write(_Reports.descriptor or 0, line.encode())


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first and the last column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        middle = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *middle, row[-1]]).rstrip())
    return lines
