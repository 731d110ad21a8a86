"""Memory that a training frees stays with it: the next step asks for as much again."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# Of malloc.h, with their values; mallopt takes an int.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_MOST = 2**31 - 1
_SPARE = 64 * 2**20


def keep_freed_memory() -> None:
    """Tell glibc's malloc, for the rest of this process, to keep what is freed; nothing where there is another.

    A step allocates hundreds of megabytes in large pieces. By default each comes from the kernel, which clears it page
    by page, and goes back: on a virtual machine that was more than half of the time. One arena, because those of
    further threads cannot hold such pieces.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MOST), (_TOP_PAD, _SPARE), (_ARENA_MAX, 1)):
        mallopt(option, value)
