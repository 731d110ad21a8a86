"""The kinds of number that flags take, for argparse's `type=`; which flags there are, each command says itself."""

from __future__ import annotations

import argparse
import math

__all__ = ["above_zero", "at_least_one", "at_least_zero"]

# More than anything here can count; beyond it, libraries in C refuse a number in words of their own.
_MOST = 1_000_000_000


def at_least_one(text: str) -> int:
    """A whole number from 1."""
    return _whole(text, 1)


def at_least_zero(text: str) -> int:
    """A whole number from 0."""
    return _whole(text, 0)


def above_zero(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0")
    return value


def _whole(text: str, least: int) -> int:
    number = int(text) if text.isdecimal() and len(text) <= len(str(_MOST)) else -1
    if not least <= number <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {least} to {_MOST:,}")
    return number
