"""Percentiles of a run that may last for weeks, in bounded memory."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from itertools import accumulate

__all__ = ["Ages"]

# Bins this much apart, each 0.3 % wider than the one before.
_BINS_PER_E = 300
_SMALLEST_MS = 1e-3


class Ages:
    """Counts ages in ms; a percentile is exact to 0.2 %, and an age below 1 us counts as that.

    A bin for each 0.3 % from the smallest to the largest age seen: 2,000 of them if these are 1 ms and 1 s.
    """

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0

    def add(self, age_ms: float) -> None:
        """Count one."""
        self._bins[round(math.log(max(age_ms, _SMALLEST_MS)) * _BINS_PER_E)] += 1
        self.count += 1

    def percentiles(self, *percents: float) -> list[float | None]:
        """The ages in ms that so many percent of them do not exceed (the nearest rank); None without any.

        May be called while another thread counts.
        """
        bins = sorted(dict(self._bins).items())
        counts = list(accumulate(count for _, count in bins))
        ranks = (max(1, math.ceil(counts[-1] * percent / 100)) if counts else 0 for percent in percents)
        return [math.exp(bins[bisect_left(counts, rank)][0] / _BINS_PER_E) if counts else None for rank in ranks]
