"""How a power meter's URI is taken apart and its options are read; which meters there are is not decided here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from edgeloc.errors import UsageError

__all__ = ["MeterUri", "above_zero", "parse_uri", "percent"]


@dataclass(frozen=True)
class MeterUri:
    """A meter's URI: the text as given, its scheme, what it names, its options."""

    text: str
    scheme: str
    path: str
    query: tuple[tuple[str, str], ...] = ()

    def options(self, parsers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
        """The options read by `parsers`, one for each known name; UsageError names what does not fit."""
        known = ", ".join(parsers) or "none"
        values: dict[str, Any] = {}
        for name, value in self.query:
            if name not in parsers:
                raise UsageError(f"power meter {self.text}: there is no option {name!r}; known are: {known}")
            if name in values:
                raise UsageError(f"power meter {self.text}: the option {name} is given twice")
            try:
                values[name] = parsers[name](value)
            except ValueError as error:
                raise UsageError(f"power meter {self.text}: {name}={value} must be {error}") from None
        return values


def parse_uri(text: str) -> MeterUri:
    """Take `text` apart; UsageError where it is no URI."""
    try:
        parts = urlsplit(text)
        query = tuple(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise UsageError(f"power meter {text}: this is no URI: {error}") from None
    if "://" not in text:
        raise UsageError(f"power meter {text!r} is no URI: give auto, none, or one such as pmic:// or csv://power.csv")
    return MeterUri(text, parts.scheme.lower(), unquote(parts.netloc + parts.path), query)


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
