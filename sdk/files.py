"""How a file is written so that nobody ever sees half of it; what goes into the file is its writer's affair."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeloc.errors import OutputError

__all__ = ["atomic_path", "require_writable"]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, with its suffix; the file written there takes `path`'s place at the end.

    The folder is made where it is missing. If the block raises, whatever it wrote is removed and
    an older file at `path` stays as it was. Raises OutputError where the folder cannot be made or
    written, where `path` is a folder, and where the block leaves no file.
    """
    target = Path(path)
    temporary = _reserve(target)
    try:
        yield temporary
        _replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _reserve(target: Path) -> Path:
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder; give the name of a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=target.suffix, prefix=f".{target.stem}-", dir=target.parent)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    os.close(handle)
    return Path(name)


def _replace(temporary: Path, target: Path) -> None:
    try:
        # mkstemp makes files that only their owner reads; a result is an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def require_writable(path: str | Path) -> None:
    """Raise OutputError now if `path` could not be written later; a missing folder is made."""
    with suppress(_Unwanted), atomic_path(path):
        raise _Unwanted


class _Unwanted(Exception):
    """Ends a trial write, so that nothing takes the target's place."""
