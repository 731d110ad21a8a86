"""Numbers out of text: options of a URI, flags of the command line, fields of data.

Each parser raises ValueError with what the text must be, as in "a whole number from 1 to 9".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeVar

__all__ = ["above_zero", "at_least_one", "at_least_zero", "finite", "for_flag", "number", "threads_or_auto", "whole"]

# More than anything here can count; beyond it, libraries in C refuse a number in words of their own.
_MOST = 1_000_000_000

T = TypeVar("T")


def whole(least: int, most: int = _MOST) -> Callable[[str], int]:
    """A parser of whole numbers from `least`, at least 0, to `most`."""

    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST)) else -1
        if not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most:,}")
        return value

    return parse


def number(
    least: float, most: float = math.inf, *, above: bool = False, what: str = "a number"
) -> Callable[[str], float]:
    """A parser of finite numbers from `least` to `most`; with `above`, `least` itself is refused."""
    allowed = f"{what} above {least:g}" if above else f"{what} from {least:g}"
    if most < math.inf:
        allowed += f"{',' if above else ''} {'at most' if above else 'to'} {most:g}"

    def parse(text: str) -> float:
        try:
            value = finite(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            raise ValueError(allowed)
        return value

    return parse


def finite(value: object) -> float:
    """A finite number of a number or its text; a truth value is none."""
    result = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            result = float(value)
    if not math.isfinite(result):
        raise ValueError("a number")
    return result


def for_flag(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The same parser for argparse's `type=`, which shows the text of no other error than its own."""

    def parse_flag(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} must be {error}") from None

    return parse_flag


def _threads(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return whole(1)(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


at_least_one = for_flag(whole(1))
at_least_zero = for_flag(whole(0))
threads_or_auto = for_flag(_threads)
above_zero = for_flag(number(0, above=True))
