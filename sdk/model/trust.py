"""Which models may be loaded without a trial, by what this machine knows of them; a file's own word counts for nothing.

Known are the models that ship with the package, those that were converted here, and those that a runtime has loaded
and run here before. Each of these is an empty file in the user's cache folder, named by the SHA-256 of the model and
the runtime: it is there or not, so that no crash and no other process can leave half of one.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from edgeloc.models import SHIPPED_DIGESTS

__all__ = ["CONVERTED", "is_trusted", "trust"]

CONVERTED = "converted"
"""Stands for every runtime: the file was written by a conversion on this machine."""

_FOLDER = "trusted"
# What this process has learned; all that there is where the cache cannot be written.
_known: set[str] = set()


def is_trusted(digest: str, runtime: str = CONVERTED) -> bool:
    """Whether the model of this SHA-256 needs no trial: in any runtime, or in this one, by its name and version."""
    return digest in SHIPPED_DIGESTS or _is_known(_name(digest, runtime))


def trust(digest: str, runtime: str = CONVERTED) -> None:
    """Let later loads of the model of this SHA-256 go without a trial, in this process and in the user's others."""
    name = _name(digest, runtime)
    _known.add(name)
    from edgeloc._support.files import made_cache_folder

    # Where it cannot be written, the next process tries the model again.
    with suppress(OSError):
        folder = made_cache_folder(_FOLDER)
        if folder is not None and _is_private(folder):
            os.close(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))


def _is_known(name: str) -> bool:
    if name in _known:
        return True
    with suppress(OSError, RuntimeError):
        folder = _folder()
        return _is_private(folder) and stat.S_ISREG((folder / name).lstat().st_mode)
    return False


def _folder() -> Path:
    # Here, since the model that ships needs no cache.
    from edgeloc._support.files import cache_folder

    return cache_folder(_FOLDER)


def _is_private(folder: Path) -> bool:
    """Whether nobody else can write there, who could vouch for a file that harms."""
    found = folder.stat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _name(digest: str, runtime: str) -> str:
    # A home folder may be shared by machines of several kinds, whose kernels differ.
    return f"{digest}-{re.sub(r'[^A-Za-z0-9.]+', '-', f'{runtime} {os.uname().machine}')}"
