"""A progress bar for long work: shown on a terminal, silent in a pipe; what the work is, the caller knows."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

__all__ = ["progress"]

T = TypeVar("T")


def progress(iterable: Iterable[T], *, total: int | None = None, label: str = "") -> Iterable[T]:
    """The same items, counted on the standard error where that is a terminal and tqdm is installed.

    `total` is the number of items, where `len(iterable)` does not tell it.
    """
    if not sys.stderr.isatty():
        return iterable
    try:
        from tqdm import tqdm
    except ImportError:
        return iterable
    bar: Iterable[T] = tqdm(iterable, total=total, desc=label or None, leave=False, dynamic_ncols=True)
    return bar
