"""How sure a slowdown is: noise that lasts, runs that differ, and how often a false alarm is raised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloc.benchmarks.comparison.change import Change
from edgeloc.benchmarks.comparison.runs import of_samples, of_starts, of_values, relative_change

REPEATS, FRAMES = 200, 500
LIMIT = 0.05


def noisy_runs(
    rng: np.random.Generator, count: int, *, between: float, correlation: float = 0.9, slow: float = 0.02
) -> NDArray[np.float64]:
    """Runs of FRAMES latencies around 10 ms: what lasts some frames, what is new in each, what a run keeps, a tail."""
    steps = rng.normal(0, slow * math.sqrt(1 - correlation**2), (count, FRAMES))
    lasting = np.empty_like(steps)
    state = rng.normal(0, slow, count)
    for frame in range(FRAMES):
        state = correlation * state + steps[:, frame]
        lasting[:, frame] = state
    noise = lasting + rng.normal(0, 0.03, steps.shape) + rng.normal(0, between, (count, 1))
    tail = rng.exponential(0.5, steps.shape) * (rng.random(steps.shape) < 0.1)
    return np.asarray(10 * np.exp(noise) + tail)


def verdicts(before: NDArray[np.float64], after: NDArray[np.float64], percent: int) -> list[str]:
    """Of each repeat; its runs are in axis 1."""
    found = []
    for first, second in zip(before, after, strict=True):
        sides = of_samples(list(first), percent), of_samples(list(second), percent)
        assert sides[0] is not None and sides[1] is not None
        change, low, high = relative_change(sides[0], sides[1])
        found.append(Change("t", "ms", 1, 1, change, (low, high), True, True, "", "option", LIMIT).verdict)
    return [str(verdict) for verdict in found]


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("noise", [{"between": 0.01}, {"between": 0.015, "correlation": 0.97}])
def test_of_twenty_repeats_one_false_alarm_at_most_and_a_tenth_is_found(runs: int, noise: dict[str, float]) -> None:
    rng = np.random.default_rng(1)
    base, new = (noisy_runs(rng, REPEATS * runs, **noise).reshape(REPEATS, runs, FRAMES) for _ in range(2))
    alarms = ["regression" in both for both in zip(verdicts(base, new, 50), verdicts(base, new, 90), strict=True)]
    assert sum(alarms) <= 0.02 * REPEATS
    slowed = verdicts(base, 1.1 * new, 50)
    assert slowed.count("regression") >= 0.95 * REPEATS
    assert slowed.count("ok") == 0


def test_a_neighbour_that_takes_turns_on_the_machine_leaves_it_undecided() -> None:
    frames = np.where(np.arange(FRAMES) // 60 % 2, 14.0, 10.0)[None, None]
    later = np.roll(frames, 40, axis=2)
    assert verdicts(frames, 1.1 * later, 50) == ["undecided"]
    assert verdicts(frames, 3 * later, 50) == ["regression"]


def test_what_both_runs_do_over_time_cancels_out() -> None:
    warming = np.linspace(10, 13, FRAMES)[None, None]
    assert verdicts(warming, 1.1 * warming, 50) == ["regression"]
    assert verdicts(warming, warming[..., ::-1], 50) == ["undecided"]


def test_several_runs_show_what_one_cannot() -> None:
    calm = np.full((1, 1, FRAMES), 10.0)
    alike = np.array([[9.99], [10.0], [10.01]])[None] * np.ones(FRAMES)
    assert verdicts(calm, 1.03 * calm, 50) == ["undecided"]
    assert verdicts(alike, 1.03 * alike, 50) == ["ok"]
    apart = np.array([[9.0], [10.0], [11.0]])[None] * np.ones(FRAMES)
    assert verdicts(apart, 1.1 * apart, 50) == ["undecided"]


def test_the_interval_of_runs_is_welchs() -> None:
    """Against the textbook formula, with the 0.975 quantile of Student's t for 3 degrees of freedom."""
    before, after = [10.0, 10.2, 9.9], [11.0, 11.1, 11.4]
    sides = [of_samples([[value] * 20 for value in side], 50) for side in (before, after)]
    assert sides[0] is not None and sides[1] is not None
    logs = np.log(before), np.log(after)
    shares = [side.var(ddof=1) / 3 for side in logs]
    degrees = sum(shares) ** 2 / sum(share**2 / 2 for share in shares)
    assert 3 <= degrees < 4
    half, middle = 3.182 * math.sqrt(sum(shares)), logs[1].mean() - logs[0].mean()
    wanted = tuple(map(math.expm1, (middle, middle - half, middle + half)))
    assert relative_change(sides[0], sides[1]) == pytest.approx(wanted)


def test_too_few_samples_have_no_interval() -> None:
    assert of_samples([[1.0] * 19], 50) is None
    assert of_samples([], 50) is None
    assert of_samples([[0.0] * 30], 50) is None
    assert of_starts([[300.0, 310.0]]) is None


def test_starts_are_as_sure_as_their_parts_are_alike() -> None:
    rng = np.random.default_rng(0)
    first, second = (of_starts([list(mean * rng.lognormal(0, 0.02, 10))]) for mean in (300, 345))
    assert first is not None and second is not None
    change, low, high = relative_change(first, second)
    assert change == pytest.approx(0.15, abs=0.03)
    assert 0.05 < low < 0.15 < high < 0.25
    # What slowed the second half lasts, and may have slowed the other result, or not.
    slowed = of_starts([[300.0] * 5 + [400.0] * 5])
    assert slowed is not None
    assert relative_change(first, slowed)[1] < 0
    repeated = of_starts([[345.0] * 3, [346.0] * 3, [344.0] * 3]), of_starts([[300.0] * 3, [301.0] * 3, [299.0] * 3])
    assert repeated[0] is not None and repeated[1] is not None
    assert relative_change(repeated[1], repeated[0])[1] > 0.14


def test_energy_is_as_uncertain_as_its_meter() -> None:
    first, second = of_values([10.0], [4.0]), of_values([11.0], [4.4])
    assert first is not None and second is not None
    _, low, high = relative_change(first, second)
    assert low < -0.2 and high > 0.4
    assert of_values([-0.1], [0.2]) is None
