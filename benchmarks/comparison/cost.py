"""Which of two sides costs more: the time of a frame or of a start, energy, memory and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeloc.benchmarks.comparison.change import Change, CompareLimits
from edgeloc.benchmarks.comparison.runs import Estimate, of_samples, of_starts, of_values, relative_change
from edgeloc.benchmarks.result import LOCALIZE, BenchResult, stages_in

__all__ = ["cost_changes", "scenario_of"]

_PERCENTILES = (50, 90)


def scenario_of(result: BenchResult) -> str:
    """The scenario's name."""
    return "single-stream" if result.scenario is None else result.scenario.name


def cost_changes(
    before: Sequence[BenchResult], after: Sequence[BenchResult], limits: CompareLimits
) -> Iterator[Change]:
    """The figures that both sides have; capture and drawing are none, as they depend on where frames come from."""
    kinds = {_kind(result) for result in (*before, *after)}
    if len(kinds) == 1 and _timed((*before, *after), "total"):
        starts = kinds == {"cold-start"}
        yield from _start_changes(before, after, limits) if starts else _frame_changes(before, after, limits)
    yield from _energy_changes(before, after, limits)
    yield from _size_change(before[0].model.bytes, after[0].model.bytes, limits.max_size_increase)
    yield from _memory_changes(before, after)


def _size_change(before: int, after: int, limit: float) -> Iterator[Change]:
    if min(before, after) > 0:
        change = after / before - 1
        ends = change, change
        yield Change(
            "model file", "bytes", before, after, change, ends, True, True, "exact", "max_size_increase", limit
        )


def _kind(result: BenchResult) -> str:
    """What a sample is of: a stream, a cold start, or frames one after the other."""
    name = scenario_of(result)
    return name if name in ("stream", "cold-start") else "frames"


def _frame_changes(
    before: Sequence[BenchResult], after: Sequence[BenchResult], limits: CompareLimits
) -> Iterator[Change]:
    if scenario_of(before[0]) == "stream":
        name, first, second = "frame age", _samples(before, "total"), _samples(after, "total")
    elif _timed((*before, *after), LOCALIZE):
        name, first, second = LOCALIZE, _samples(before, LOCALIZE), _samples(after, LOCALIZE)
    else:
        return
    for percent in _PERCENTILES:
        yield _slower(f"{name} p{percent}", first, second, percent, limits.max_latency_increase)
    for stage in _common_stages(before, after):
        yield _slower(f"{stage} p50", _samples(before, stage), _samples(after, stage), 50, None)


def _common_stages(before: Sequence[BenchResult], after: Sequence[BenchResult]) -> list[str]:
    left_out = ("capture", "draw", "total", LOCALIZE)
    stages = [stage for stage in stages_in(before[0].latency) if stage not in left_out]
    return [stage for stage in stages if _timed((*before, *after), stage)]


def _timed(results: Sequence[BenchResult], stage: str) -> bool:
    return all(stage in result.latency and result.latency[stage].samples_ms for result in results)


def _samples(results: Sequence[BenchResult], stage: str) -> list[Sequence[float]]:
    return [result.latency[stage].samples_ms for result in results]


def _slower(
    name: str, before: list[Sequence[float]], after: list[Sequence[float]], percent: int, limit: float | None
) -> Change:
    sides = of_samples(before, percent), of_samples(after, percent)
    if sides[0] is None or sides[1] is None:
        first, second = (float(np.mean([np.percentile(run, percent) for run in side])) for side in (before, after))
        return _unknown(name, "ms", first, second, "too few samples", "max_latency_increase", limit)
    return _relative(name, "ms", sides[0], sides[1], _basis(before, after, "frames"), "max_latency_increase", limit)


def _unknown(
    name: str, unit: str, before: float, after: float, reason: str, option: str, limit: float | None
) -> Change:
    """A figure that has no interval, and why."""
    change = after / before - 1 if before > 0 else 0.0
    named = None if limit is None else option
    return Change(name, unit, before, after, change, None, True, True, reason, named, limit)


def _relative(
    name: str, unit: str, before: Estimate, after: Estimate, basis: str, option: str, limit: float | None
) -> Change:
    change, low, high = relative_change(before, after)
    named = None if limit is None else option
    return Change(name, unit, before.value, after.value, change, (low, high), True, True, basis, named, limit)


def _basis(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], what: str) -> str:
    """Such as "200 and 200 frames" or "3 and 3 runs"."""
    if max(len(before), len(after)) > 1:
        return f"{len(before)} and {len(after)} runs"
    return f"{len(before[0])} and {len(after[0])} {what}"


def _start_changes(
    before: Sequence[BenchResult], after: Sequence[BenchResult], limits: CompareLimits
) -> Iterator[Change]:
    for stage in ("total", *_common_stages(before, after)):
        first, second = _samples(before, stage), _samples(after, stage)
        limit, name = (limits.max_latency_increase, "cold start") if stage == "total" else (None, stage)
        sides = of_starts(first), of_starts(second)
        if sides[0] is None or sides[1] is None:
            old, new = (float(np.mean(np.concatenate(side))) for side in (first, second))
            yield _unknown(name, "ms", old, new, "too few samples", "max_latency_increase", limit)
        else:
            basis = _basis(first, second, "processes")
            yield _relative(name, "ms", sides[0], sides[1], basis, "max_latency_increase", limit)


def _energy_changes(
    before: Sequence[BenchResult], after: Sequence[BenchResult], limits: CompareLimits
) -> Iterator[Change]:
    """Energy beyond idle, where all results have it of one kind of meter."""
    meters = {(result.energy.status, result.energy.source) for result in (*before, *after)}
    if len(meters) > 1:
        return
    limit, basis = limits.max_energy_increase, f"{len(before)} and {len(after)} runs, {before[0].energy.source}"
    for name in ("frame", "inference"):
        sides = [_energies(side, f"per_{name}") for side in (before, after)]
        if not all(sides):
            continue
        name, option = f"energy of {name}", "max_energy_increase"
        first, second = (of_values(*zip(*side, strict=True)) for side in sides)
        if first is not None and second is not None:
            yield _relative(name, "mJ", first, second, basis, option, limit)
        else:
            old, new = (float(np.mean([value for value, _ in side])) for side in sides)
            yield _unknown(name, "mJ", old, new, "not above its uncertainty", option, limit)


def _energies(results: Sequence[BenchResult], name: str) -> list[tuple[float, float]]:
    """The energy of each result and its uncertainty; empty where one has none."""
    found = [
        (getattr(result.energy, f"{name}_mj"), getattr(result.energy, f"{name}_uncertainty_mj")) for result in results
    ]
    return [] if any(None in pair for pair in found) else found


def _memory_changes(before: Sequence[BenchResult], after: Sequence[BenchResult]) -> Iterator[Change]:
    """Peaks are shown without a limit: they depend on what else the process did, such as reading images."""
    peaks = [[result.memory.peak_mib for result in side if result.memory] for side in (before, after)]
    if all(peaks) and min(map(min, peaks)) > 0:
        first, second = (max(side) for side in peaks)
        change = second / first - 1
        yield Change("peak memory", "MiB", first, second, change, None, True, True, "highest of the runs")
