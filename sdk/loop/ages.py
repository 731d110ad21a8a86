"""Percentiles of a run that may last for weeks, in bounded memory."""

from __future__ import annotations

import math
from collections import Counter

__all__ = ["Ages"]

# Bins this much apart, each 0.1 % wider than the one before.
_BINS_PER_E = 1000
_SMALLEST_MS = 1e-3


class Ages:
    """Counts ages in ms; a percentile is exact to 0.1 %, and an age below 1 us counts as that.

    A bin for each 0.1 % from the smallest to the largest age seen: 7,000 of them if these are 1 ms and 1 s.
    """

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0

    def add(self, age_ms: float) -> None:
        """Count one."""
        self._bins[round(math.log(max(age_ms, _SMALLEST_MS)) * _BINS_PER_E)] += 1
        self.count += 1

    def percentile(self, percent: float) -> float | None:
        """The age in ms that `percent` of the ages do not exceed (the nearest rank); None without any."""
        rank = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for number, count in sorted(self._bins.items()):
            seen += count
            if seen >= rank:
                return math.exp(number / _BINS_PER_E)
        return None
