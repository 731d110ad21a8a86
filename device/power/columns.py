"""Power out of rows of numbers (watts, or volts and amps), as recordings and USB meters give it; it opens nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeloc.errors import UsageError

__all__ = ["Columns", "column_names"]

KNOWN = ("time_s", "watts", "volts", "amps")


@dataclass(frozen=True, slots=True)
class Columns:
    """The order of the columns of each row; names other than time_s, watts, volts and amps are passed over."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        doubled = [name for name in KNOWN if self.names.count(name) > 1]
        if doubled or not ("watts" in self.names or {"volts", "amps"} <= set(self.names)):
            raise ValueError("watts, or volts and amps, each once")

    def power(self, cells: Sequence[str]) -> tuple[float, float]:
        """(watts, the step of the last printed digit in W) of a row; ValueError where it does not fit."""
        if len(cells) != len(self.names):
            raise ValueError(f"{len(cells)} cells instead of {len(self.names)} ({', '.join(self.names)})")
        row = dict(zip(self.names, cells, strict=True))
        if "watts" in row:
            return number(row["watts"]), _last_digit(row["watts"])
        volts, amps = number(row["volts"]), number(row["amps"])
        return volts * amps, abs(amps) * _last_digit(row["volts"]) + abs(volts) * _last_digit(row["amps"])

    def time(self, cells: Sequence[str]) -> float:
        """The row's time_s; ValueError where it is no number."""
        return number(cells[self.names.index("time_s")])


def column_names(text: str) -> tuple[str, ...]:
    """Names with commas between them, for a URI's option; ValueError says what is allowed."""
    return Columns(tuple(name.strip() for name in text.split(","))).names


def number(text: str) -> float:
    """A finite number; ValueError names the text."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]!r} is no number")
    return value


def _last_digit(text: str) -> float:
    mantissa, _, exponent = text.strip().lower().partition("e")
    return float(10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])))


def columns(names: Sequence[str], where: str) -> Columns:
    """The columns of a header; UsageError names `where` they stand."""
    try:
        return Columns(tuple(name.strip().lower() for name in names))
    except ValueError as error:
        there = f"has the columns {', '.join(names)}" if names else "has no head in its first line"
        raise UsageError(f"{where} {there}: it needs time_s and {error}") from None
