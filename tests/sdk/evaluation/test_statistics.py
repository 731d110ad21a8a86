"""Percentiles and the bootstrap: against known values and a plain-Python twin."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgeloc.evaluation.statistics import bootstrap_drop, mean, share, summarize


def test_summary_of_known_values() -> None:
    summary = summarize([float(value) for value in range(101)])
    assert (summary.p50_ms, summary.p90_ms, summary.p99_ms) == (50, 90, 99)
    assert (summary.min_ms, summary.max_ms, summary.mean_ms, summary.count) == (0, 100, 50, 101)


def test_an_outlier_is_not_clipped() -> None:
    summary = summarize([1.0] * 99 + [1000.0])
    assert summary.max_ms == 1000
    assert summary.mean_ms == pytest.approx(10.99)


def test_summary_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        summarize([])


def test_mean_and_share_of_nothing_are_none() -> None:
    assert mean([]) is None
    assert share([]) is None
    assert share([True, False, True, True]) == 0.75


def test_interval_of_a_constant_drop_is_that_drop() -> None:
    interval = bootstrap_drop([0.8, 0.6, 0.7], [0.7, 0.5, 0.6])
    assert interval.low == pytest.approx(0.1)
    assert interval.high == pytest.approx(0.1)


def test_interval_agrees_with_the_normal_approximation() -> None:
    rng = np.random.default_rng(3)
    drops = rng.normal(0.01, 0.05, 1000)
    interval = bootstrap_drop(list(drops), [0.0] * 1000)
    half = 1.96 * drops.std() / np.sqrt(1000)
    assert interval.low == pytest.approx(drops.mean() - half, abs=0.0005)
    assert interval.high == pytest.approx(drops.mean() + half, abs=0.0005)
    assert interval.by == "image"


def test_group_interval_agrees_with_brute_force() -> None:
    rng = np.random.default_rng(4)
    groups = [f"clip{number}" for number in range(8) for _ in range(3 + 5 * number)]
    level = {group: rng.normal(0.02, 0.05) for group in set(groups)}
    drops = [level[group] + rng.normal(0, 0.01) for group in groups]
    interval = bootstrap_drop(drops, [0.0] * len(drops), groups, resamples=4000)
    low, high = _brute_force(drops, groups)
    assert interval.by == "group"
    assert interval.groups == 8
    assert interval.low == pytest.approx(low, abs=0.004)
    assert interval.high == pytest.approx(high, abs=0.004)


def _brute_force(drops: list[float], groups: list[str], resamples: int = 4000) -> tuple[float, float]:
    dice = random.Random(11)
    by_group: dict[str, list[float]] = {}
    for drop, group in zip(drops, groups, strict=True):
        by_group.setdefault(group, []).append(drop)
    names = sorted(by_group)
    means = []
    for _ in range(resamples):
        drawn = [drop for name in dice.choices(names, k=len(names)) for drop in by_group[name]]
        means.append(sum(drawn) / len(drawn))
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def test_groups_widen_the_interval_where_frames_of_a_clip_are_alike() -> None:
    rng = np.random.default_rng(5)
    groups = [f"clip{number // 100}" for number in range(1600)]
    drops = np.repeat(rng.normal(0.005, 0.03, 16), 100) + rng.normal(0, 0.02, 1600)
    by_image = bootstrap_drop(list(drops), [0.0] * 1600)
    by_group = bootstrap_drop(list(drops), [0.0] * 1600, groups)
    assert by_group.high - by_group.low > 3 * (by_image.high - by_image.low)


def test_same_seed_same_interval() -> None:
    before, after = [0.9, 0.5, 0.7, 0.4], [0.8, 0.6, 0.7, 0.1]
    assert bootstrap_drop(before, after, seed=1) == bootstrap_drop(before, after, seed=1)


def test_one_group_or_none_resamples_images() -> None:
    before, after = [0.9, 0.5, 0.7, 0.4], [0.8, 0.6, 0.7, 0.1]
    assert bootstrap_drop(before, after, ["a"] * 4) == bootstrap_drop(before, after)
    assert bootstrap_drop(before, after, [None] * 4).by == "image"


def test_an_image_without_a_group_stands_alone() -> None:
    interval = bootstrap_drop([0.9, 0.5, 0.7, 0.4, 0.3], [0.8, 0.6, 0.7, 0.1, 0.2], ["a", "a", "a", None, None])
    assert (interval.by, interval.groups) == ("group", 3)


def test_unpaired_values_are_refused() -> None:
    with pytest.raises(ValueError, match="as many of both"):
        bootstrap_drop([0.5], [0.5, 0.6])
