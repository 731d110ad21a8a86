"""How a power meter's URI and its options are read; which meters there are is not decided here."""

from __future__ import annotations

import math

from edgeloc.errors import UsageError
from edgeloc.uri import Uri, split_uri

__all__ = ["above_zero", "baud", "parse_uri", "percent"]

# Beyond this, the kernel's drivers know no speed.
_FASTEST = 10_000_000


def parse_uri(text: str) -> Uri:
    """Take `text` apart; UsageError where it is no URI."""
    if "://" not in text:
        raise UsageError(f"power meter {text!r} is no URI: give auto, none, or one such as pmic:// or csv://power.csv")
    return split_uri(text, "power meter")


def baud(text: str) -> int:
    """A speed of a serial line: a whole number above 0."""
    if not text.isdecimal() or not 0 < int(text) <= _FASTEST:
        raise ValueError(f"a whole number from 1 to {_FASTEST}")
    return int(text)


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise ValueError("a number above 0")
    return value


def percent(text: str) -> float:
    """A share from 0 to 100 %, given in per cent and returned as a fraction."""
    value = _number(text)
    if not 0 <= value <= 100:
        raise ValueError("a number of per cent from 0 to 100")
    return value / 100


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
