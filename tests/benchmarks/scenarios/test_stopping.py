"""How well a 90th percentile is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloc.benchmarks.scenarios.stopping import LEAST_SAMPLES, Scenario, p90_bound


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


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(ValueError, match="one of single-stream, stream, sustained, cold-start"):
        Scenario("offline", 1, 1, 1)  # type: ignore[arg-type]
