"""The names of a data set's parts: what is asked for against what is there; which rows are in them, a format knows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from edgeloc.errors import DataError

__all__ = ["choose_split", "split_word"]

_WORDS = re.compile(r"(?<![a-z])(train|val|valid|validation|test)(?![a-z])")
_SAME = {"valid": "val", "validation": "val"}


def split_word(text: str) -> str | None:
    """The part that a file or folder name such as `instances_val2017` or `valid` speaks of: train, val or test."""
    found = _WORDS.search(text.lower())
    return _SAME.get(found[1], found[1]) if found else None


def choose_split(root: Path, found: Iterable[str], split: str | None) -> str | None:
    """The name among `found` that `split` asks for (`valid` finds `val`), None for all; else DataError."""
    names = sorted(set(found))
    if split is None or split in names:
        return split
    if _SAME.get(split) in names:
        return _SAME[split]
    raise DataError(f"{root}: there is no split {split!r}; found: {', '.join(names) or 'none'}")
