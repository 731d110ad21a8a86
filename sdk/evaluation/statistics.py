"""Percentiles of latencies, and the paired bootstrap of an IoU drop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESAMPLES", "Interval", "Summary", "bootstrap_drop", "draws", "mean", "share", "summarize"]

RESAMPLES = 4000
_CHUNK_CELLS = 2_000_000  # of the index matrix at once: 16 MB, whatever the number of images


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a list of latencies, all in ms; every sample counts, none is clipped."""

    count: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval, and whether whole groups or single images were resampled for it."""

    low: float
    high: float
    by: str
    groups: int


def summarize(samples_ms: Sequence[float]) -> Summary:
    """Mean, extremes and percentiles (linear between neighbours, as numpy's default) of at least one sample in ms."""
    if not samples_ms:
        raise ValueError("a summary needs at least one sample")
    values = np.asarray(samples_ms, dtype=np.float64)
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    return Summary(len(values), float(values.mean()), float(values.min()), p50, p90, p99, float(values.max()))


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return float(np.mean(values)) if values else None


def share(hits: Sequence[bool]) -> float | None:
    """The share of true ones, 0 to 1, or None of nothing."""
    return mean([float(hit) for hit in hits])


def bootstrap_drop(
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[str | None] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The 95 % percentile interval of `mean(before) - mean(after)` over paired images.

    `before`, `after`: a figure of each image under both models, in the same order.
    `groups`: what each image shares with others (its clip), None where it is on its own.
    `resamples`: how often the images, or the groups, are drawn.
    `seed`: of the draws; the same seed gives the same interval.

    Images of one group (frames of one clip) are not independent, so whole groups are drawn with
    replacement where at least two are known; an image without a group is one of its own. Without
    groups single images are drawn. With few groups (below about 20) a percentile interval is still
    somewhat too narrow.
    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 13; the cluster
    variant: Davison & Hinkley, Bootstrap Methods and their Application (1997), sec. 3.8.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} values before and {len(after)} after: pairs need as many of both")
    drops = np.asarray(before, dtype=np.float64) - np.asarray(after, dtype=np.float64)
    members = _members(groups, len(drops))
    count = int(members.max()) + 1
    by = "group" if 1 < count < len(drops) else "image"
    if by == "image":
        members, count = np.arange(len(drops)), len(drops)
    sums = np.bincount(members, weights=drops, minlength=count).astype(np.float64)
    sizes = np.bincount(members, minlength=count).astype(np.float64)
    means = _resampled_means(sums, sizes, resamples, np.random.default_rng(seed))
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(low), float(high), by, count)


def draws(groups: Sequence[str | None], resamples: int, seed: int) -> tuple[str, int, Iterator[NDArray[np.intp]]]:
    """Images drawn with replacement, in whole groups where at least two are known: by what, of how many, and the draws.

    For figures that are no mean over images; see `bootstrap_drop`.
    """
    members = _members(groups, len(groups))
    count = int(members.max()) + 1
    by = "group" if 1 < count < len(groups) else "image"
    if by == "image":
        members, count = np.arange(len(groups)), len(groups)
    places = [np.flatnonzero(members == group) for group in range(count)]
    rng = np.random.default_rng(seed)
    return (
        by,
        count,
        (np.concatenate([places[group] for group in rng.integers(0, count, count)]) for _ in range(resamples)),
    )


def _members(groups: Sequence[str | None] | None, count: int) -> NDArray[np.intp]:
    """The number of the group that each image belongs to, counted from 0."""
    if groups is None:
        return np.arange(count)
    keys = [(0, str(index)) if group is None else (1, group) for index, group in enumerate(groups)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.asarray([numbers[key] for key in keys], dtype=np.intp)


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw as many groups as there are, `resamples` times; the mean over the images of each draw."""
    chunk = max(1, _CHUNK_CELLS // len(sums))
    means = []
    for start in range(0, resamples, chunk):
        drawn = rng.integers(0, len(sums), size=(min(chunk, resamples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)
