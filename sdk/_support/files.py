"""Files written so that nobody ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeloc.errors import EdgelocError, OutputError, UsageError

__all__ = ["atomic_path", "cache_folder", "require_writable", "utf8_path"]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, with its suffix; the file written there takes `path`'s place at the end.

    The folder is made where it is missing. If the block raises, whatever it wrote is removed and
    an older file at `path` stays as it was. Raises OutputError where the folder cannot be made or
    written, where `path` is a folder, where the block leaves no file, and for an OSError of the
    block's, such as a full disk.
    """
    target = Path(path)
    temporary = _reserve(target)
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
        temporary.unlink(missing_ok=True)


def _reserve(target: Path) -> Path:
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder; give the name of a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=target.suffix, prefix=f".{target.stem}-", dir=target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    os.close(handle)
    return Path(name)


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
