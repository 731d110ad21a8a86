"""Which of several ways is the fastest: they are timed in turn, and no longer than it takes to know."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Outcome", "race"]

# A way that is faster than the leader by less than this share need not be found, and ways that differ by less than that
# one count as equally fast: together, what is taken is within 3 % of the fastest.
_ENOUGH, _SAME = 0.02, 0.01
# So much slower in three of three rounds, or in three quarters of more, is enough to leave a way out.
_CLEARLY, _FEW = 0.1, 3
# How often a way may be left out by mistake, in one look at it.
_ALPHA = 0.01
_LEAST_ROUNDS, _MOST_ROUNDS = 7, 200
# A faster way is run twice in its turn, and the shorter time counts: the first run finds its data out of the caches and
# other ways' threads awake, and either may be interrupted.
_LONG_S = 0.05

Run = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a race ended.

    Parameters:
        best: the number of the way to take.
        times_s: what each way takes, in seconds: the median over the rounds in which it was timed.
        decided: whether all others were left out; else the time was over before.
    """

    best: int
    times_s: tuple[float, ...]
    decided: bool


def race(ways: Sequence[Run], budget_s: float = 1.0) -> Outcome:
    """Time the ways in turn, round by round, until it is known which is the fastest.

    A way is left out once it is known to be at most 2 % faster than the leader, by the confidence interval of the
    median of its differences to it, round by round: what slows the whole machine meets both. Nothing is assumed of the
    noise. Of ways within 1 % of the leader the first is taken.

    Parameters:
        ways: each runs once and returns the seconds that it took; the preferred ones first.
        budget_s: the seconds of running after which the leader is taken. Seven rounds are run in any case.
    """
    logs: list[list[float]] = [[] for _ in ways]
    left, spent_s, rounds = list(range(len(ways))), 0.0, 0
    while len(left) > 1 and rounds < _MOST_ROUNDS and (rounds < _LEAST_ROUNDS or spent_s < budget_s):
        for number in left if rounds % 2 else left[::-1]:
            taken_s = ways[number]()
            spent_s += taken_s
            if taken_s < _LONG_S or not rounds:
                again_s = ways[number]()
                spent_s += again_s
                taken_s = min(taken_s, again_s)
            logs[number].append(math.log(max(taken_s, 1e-9)))
        rounds += 1
        leader = _leader(logs, left)
        left = [number for number in left if number == leader or not _is_slower(logs[number], logs[leader])]
    leader = _leader(logs, left)
    best = next((number for number in range(leader) if _is_same(logs[number], logs[leader])), leader)
    times_s = tuple(math.exp(statistics.median(each)) if each else math.nan for each in logs)
    return Outcome(best, times_s, len(left) == 1)


def _leader(logs: Sequence[Sequence[float]], left: Sequence[int]) -> int:
    return min(left, key=lambda number: statistics.median(logs[number]) if logs[number] else 0.0)


def _is_same(one: Sequence[float], leader: Sequence[float]) -> bool:
    """Whether a way is as fast as the leader, by its rounds and by those of both."""
    shared = min(len(one), len(leader))
    return all(statistics.median(one) - statistics.median(other) < _SAME for other in (leader, leader[:shared]))


def _is_slower(one: Sequence[float], leader: Sequence[float]) -> bool:
    """Whether a way need not be timed again."""
    ordered = sorted(mine - other for mine, other in zip(one, leader, strict=True))
    if len(ordered) >= _FEW and ordered[len(ordered) // 4] > _CLEARLY:
        return True
    below = _rank(len(ordered))
    return below > 0 and ordered[below - 1] > -_ENOUGH


def _rank(count: int) -> int:
    """Which of so many ordered values the median is below once in a hundred times at most; 0 for none.

    By the sign test (David and Nagaraja, Order Statistics, 7.1).
    """
    chance, rank = 0.5**count, 0
    while chance <= _ALPHA:
        rank += 1
        chance += math.comb(count, rank) * 0.5**count
    return rank
