"""How well a 90th percentile is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeloc.benchmarks.scenarios.stopping import LEAST_SAMPLES, Scenario, Stopping, p90_bound


@pytest.mark.parametrize(("count", "discarded"), [(64, 0), (2048, 172), (2116, 178), (2145, 181), (7469, 685)])
def test_the_bound_discards_as_many_samples_as_loadgen(count: int, discarded: int) -> None:
    """The counts that LoadGen's own logs show ("Would discard 172 highest latency queries")."""
    assert p90_bound(range(count)) == count - 1 - discarded


def test_fewer_samples_have_no_bound() -> None:
    assert p90_bound(range(LEAST_SAMPLES - 1)) is None


def test_the_true_percentile_is_seldom_above_the_bound() -> None:
    rng = np.random.default_rng(0)
    true = np.log(10)  # of an exponential distribution
    above = sum(true > (p90_bound(rng.exponential(size=200).tolist()) or 0) for _ in range(2000))
    assert above <= 2000 * 0.01 + 3 * (2000 * 0.01) ** 0.5


def taken(stopping: Stopping, sample_ms: Callable[[int], float]) -> list[float]:
    """The samples that it takes, each of which begins where the one before it ended."""
    began: list[float] = []
    totals: list[float] = []
    for number in stopping.turns(began, totals):
        began.append(began[-1] + totals[-1] / 1000 if began else 0.0)
        totals.append(sample_ms(number))
    return totals


def test_it_ends_when_the_percentile_is_known_and_not_before_the_least() -> None:
    asked = Scenario("single-stream", 100, 1.0, 10.0)
    stopping = Stopping(asked, None, 5)
    assert len(taken(stopping, lambda _: 5.0)) == 5 + 200
    assert stopping.stopped_by == "known"
    stopping = Stopping(asked, None, 0)
    assert len(taken(stopping, lambda _: 20.0)) == 100 and stopping.stopped_by == "known"


def test_it_ends_by_time_where_samples_differ_too_much() -> None:
    stopping = Stopping(Scenario("single-stream", 10, 0.1, 3.0), None, 0)
    totals = taken(stopping, lambda number: 300.0 + number)
    assert stopping.stopped_by == "time" and 3.0 <= sum(totals) / 1000 < 3.5


def test_a_slow_model_still_gets_enough_samples_for_a_bound() -> None:
    stopping = Stopping(Scenario("single-stream", 200, 2.0, 10.0), None, 2, patience=LEAST_SAMPLES)
    assert len(taken(stopping, lambda _: 1000.0)) == 2 + LEAST_SAMPLES
    assert stopping.stopped_by == "time"


def test_a_count_is_exact() -> None:
    stopping = Stopping(Scenario("sustained", 7, 60.0, 60.0), 7, 3)
    assert len(taken(stopping, lambda _: 1.0)) == 10 and stopping.stopped_by == "count"


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(ValueError, match="one of single-stream, stream, sustained, cold-start"):
        Scenario("offline", 1, 1, 1)  # type: ignore[arg-type]
