"""Numbers out of fields that people and tools wrote; what a number means is known to the format that reads it."""

from __future__ import annotations

import math
from contextlib import suppress

from edgeloc.errors import DataError

__all__ = ["number", "whole"]


def number(value: object, where: str, name: str) -> float:
    """A finite number from a field of JSON or text; DataError names the field."""
    result = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            result = float(value)
    if not math.isfinite(result):
        raise DataError(f"{where}: {name} is {value!r}, not a number")
    return result


def whole(value: object, where: str, name: str) -> int:
    """A whole number from a field of JSON or text; DataError names the field."""
    result = number(value, where, name)
    if result != int(result):
        raise DataError(f"{where}: {name} is {value!r}, not a whole number")
    return int(result)
