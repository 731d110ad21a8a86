"""Files written so that nobody ever sees half of one, and files that are read while they grow."""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from edgeloc.errors import EdgelocError, OutputError, UsageError
from edgeloc.findings import Finding, report

__all__ = [
    "atomic_path",
    "cache_folder",
    "growing_file",
    "made_cache_folder",
    "release",
    "require_writable",
    "utf8_path",
    "write_durably",
]

logger = logging.getLogger(__name__)

_TIME = "{time}"
_reported: set[str] = set()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, with its suffix; the file written there takes `path`'s place at the end.

    The folder is made where it is missing. If the block raises, whatever it wrote is removed and
    an older file at `path` stays as it was. Raises OutputError where the folder cannot be made or
    written, where `path` is a folder, where the block leaves no file, and for an OSError of the
    block's, such as a full disk.
    """
    target = Path(path)
    lock, temporary = _reserve(target)
    try:
        yield temporary
        # mkstemp makes files that only their owner reads; a result is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except EdgelocError:
        raise
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        os.close(lock)
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; it outlives a loss of power. OutputError where it cannot be written."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def growing_file(path: Path, *, overwrite: bool = False) -> tuple[Path, FileIO]:
    """A file that others read under its own name while it is written, unbuffered; its path, and the file.

    `{time}` in its name becomes now, as in 20251231T235959, numbered where that file is there already. A link is
    followed. A pipe with a name is written into, as is a device. UsageError where the file is there already and
    `overwrite` is not given, or another still writes it; OutputError where it cannot be written. `release` it before
    it is closed.
    """
    if _TIME in str(path.parent):
        raise UsageError(f"{path} has {_TIME} in the name of a folder", hint="give it in that of the file")
    if _TIME not in path.name:
        return path, _create(path, overwrite)
    now = time.strftime("%Y%m%dT%H%M%S")
    for number in itertools.count(1):
        named = path.with_name(path.name.replace(_TIME, now if number == 1 else f"{now}-{number}"))
        # Another process may begin in the same second: what decides is who creates the file.
        with suppress(UsageError):
            return named, _create(named, overwrite=False)
    raise AssertionError  # counting has no end


def _create(path: Path, overwrite: bool) -> FileIO:
    target = Path(os.path.realpath(path))
    _make_place(target)
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        if _is_stream(target):
            # Without a reader, opening a pipe would wait for one.
            descriptor = os.open(target, flags | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
        else:
            descriptor = os.open(target, flags | os.O_CREAT | (0 if overwrite else os.O_EXCL), 0o666)
            _empty(descriptor, path)
    except FileExistsError as error:
        hint = "give another name, one with {{time}} in it, or {overwrite}"
        raise UsageError(f"{path} is there already", hint=hint) from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OutputError(f"nobody reads from the pipe {path}", hint="start its reader first") from error
        raise _unwritable(path, error) from error
    return FileIO(descriptor, "w")


def _empty(descriptor: int, path: Path) -> None:
    """Lock the file for as long as it is written, and empty it; UsageError where another program holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(f"{path} is being written by another run", hint="give another name") from error
    except OSError:
        logger.debug("%s: its file system has no locks", path)
    os.ftruncate(descriptor, 0)


def release(file: FileIO) -> None:
    """Let others write a growing file, though a copy of its descriptor may still be open."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)


def _is_stream(target: Path) -> bool:
    try:
        return not stat.S_ISREG(target.stat().st_mode)
    except FileNotFoundError:
        return False


def _make_place(target: Path) -> None:
    """Make the folder for the file; OutputError where that cannot be, or where `target` is a folder itself."""
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder; give the name of a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(target, error) from error


def _reserve(target: Path) -> tuple[int, Path]:
    """A file beside `target`, locked while this process lives; what a killed one left is not."""
    _make_place(target)
    try:
        _report_leftovers(target)
        lock, name = tempfile.mkstemp(suffix=target.suffix, prefix=f".{target.stem}-", dir=target.parent)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError as error:
        raise _unwritable(target, error) from error
    return lock, Path(name)


def _report_leftovers(target: Path) -> None:
    """A finding for what processes that were killed left beside `target`."""
    pattern = re.compile(rf"\.{re.escape(target.stem)}-[a-z0-9_]{{8}}{re.escape(target.suffix)}")
    for entry in os.scandir(target.parent):
        if pattern.fullmatch(entry.name) and entry.path not in _reported and not _is_locked(entry.path):
            _reported.add(entry.path)
            message = f"{entry.path} was left half written by a process that was killed"
            report(logger, Finding("leftover-file", "warning", message, "remove it"))


def _is_locked(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # gone meanwhile, or another user's
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _unwritable(target: Path, error: OSError) -> OutputError:
    above = next((folder for folder in target.parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        return OutputError(f"cannot write {target}: {above} is a file, not a folder")
    return OutputError(f"cannot write {target}: {error.strerror or error}; give a place that can be written")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def cache_folder(name: str) -> Path:
    """`$XDG_CACHE_HOME/edgeloc/NAME`, or `~/.cache/edgeloc/NAME`; RuntimeError where there is no home folder."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored: https://specifications.freedesktop.org/basedir-spec/
    root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return root / "edgeloc" / name


def made_cache_folder(name: str) -> Path | None:
    """The same, made where it is missing, for this user alone; None where it cannot be, or is not this user's to make.

    A home may be read-only, absent or somebody else's: root with a user's HOME would lock them out.
    """
    try:
        folder = cache_folder(name)
        above = next(path for path in (folder, *folder.parents) if path.exists())
        if above.stat().st_uid != os.geteuid():
            return None
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder


def require_writable(path: str | Path, *inputs: str | Path | None) -> None:
    """Raise OutputError now if `path` could not be written later, or is one of `inputs`; a missing folder is made."""
    if any(given is not None and os.path.realpath(given) == os.path.realpath(path) for given in inputs):
        raise OutputError(f"cannot write {path}: it is one of the files that are read; give another name")
    with suppress(_Unwanted), atomic_path(path):
        raise _Unwanted


def utf8_path(path: str | Path) -> str:
    """The path as text for OpenCV, which crashes on a name whose bytes are not UTF-8; UsageError for such a one."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {text!a} is not UTF-8, which OpenCV needs: rename it") from error
    return text


class _Unwanted(Exception):
    """Ends a trial write, so that nothing takes the target's place."""
