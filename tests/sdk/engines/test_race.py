"""The race: within 3 % of the fastest way on boards of every kind, whatever the noise, in under a second."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from edgeloc.benchmarks.threads import BOARDS
from edgeloc.engines.race import Outcome, race


class Board:
    """A board whose clock is simulated."""

    def __init__(self, times_ms: tuple[float, ...], noise: str, seed: int) -> None:
        self.rng, self.noise = random.Random(seed), noise
        self.times_ms, self.drift, self.spent_s = times_ms, 1.0, 0.0

    def ways(self) -> list[Callable[[], float]]:
        return [lambda ms=ms: self.run(ms) for ms in self.times_ms]  # type: ignore[misc]

    def run(self, ms: float) -> float:
        taken_s = ms / 1000 * self.rng.gauss(1, 0.03)
        if self.noise == "interrupted" and self.rng.random() < 0.15:
            taken_s *= self.rng.uniform(1.5, 6)
        if self.noise == "drifting":
            self.drift = min(max(self.drift * self.rng.gauss(1, 0.02), 0.7), 1.5)
            taken_s *= self.drift
        self.spent_s += taken_s
        return taken_s

    def loss(self, outcome: Outcome) -> float:
        return self.times_ms[outcome.best] / min(self.times_ms) - 1


@pytest.mark.parametrize("noise", ["quiet", "interrupted", "drifting"])
@pytest.mark.parametrize("name", BOARDS)
def test_it_finds_a_way_within_3_percent_of_the_fastest_in_a_second(name: str, noise: str) -> None:
    for seed in range(40):
        board = Board(BOARDS[name], noise, seed)
        assert board.loss(race(board.ways(), 0.8)) <= 0.03
        assert board.spent_s < 1.1


def test_it_stops_early_where_it_is_clear() -> None:
    board = Board((4.0, 2.3), "quiet", 0)
    outcome = race(board.ways())
    assert outcome.decided and outcome.best == 1 and board.spent_s < 0.1
    assert outcome.times_s == pytest.approx((0.004, 0.0023), rel=0.05)


def test_of_equal_ways_the_first_is_taken_and_too_close_is_not_decided() -> None:
    board = Board((4.0, 4.0, 4.0), "quiet", 0)
    assert race(board.ways()).best == 0
    noisy = Board((4.0, 3.95), "interrupted", 0)
    assert not race(noisy.ways(), 0.1).decided


def test_a_slow_model_is_measured_longer_but_not_for_ever() -> None:
    board = Board((400.0, 230.0, 180.0, 190.0), "quiet", 1)
    assert board.loss(race(board.ways())) <= 0.03
    assert board.spent_s < 7


def test_one_way_is_not_run() -> None:
    board = Board((4.0,), "quiet", 0)
    assert race(board.ways()).best == 0 and board.spent_s == 0
