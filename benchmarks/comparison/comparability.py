"""Whether two sides can be compared at all: the same machine, scenario, frames and images, and nothing in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgeloc.benchmarks.comparison.cost import scenario_of
from edgeloc.benchmarks.comparison.quality import answers_of, same_images
from edgeloc.benchmarks.result import BenchResult, is_result_name, machine, obstacles, read_result
from edgeloc.errors import DataError
from edgeloc.findings import Finding

__all__ = ["differences", "read_side", "reasons_against", "require_one_model"]

# What may be under test, and is named where it changed.
_TESTED: dict[str, Callable[[BenchResult], object]] = {
    "model": lambda result: f"{Path(result.model.path).name} ({result.model.sha256[:12]})",
    "precision": lambda result: result.model.precision,
    "recipe": lambda result: result.model.recipe or None,
    "engine": lambda result: f"{result.model.engine} {result.model.engine_version}",
    "threads": lambda result: result.latency_run and result.latency_run.threads,
    "edgeloc": lambda result: result.environment.edgeloc,
    "Python": lambda result: result.environment.python,
    "NumPy": lambda result: result.environment.numpy,
    "OpenCV": lambda result: result.environment.opencv,
    "power meter": lambda result: result.energy.source,
    "system": lambda result: result.environment.os,
}
# What must be the same for times and energies to mean the same.
_MACHINE: dict[str, Callable[[BenchResult], object]] = {
    "machine": machine,
    "architecture": lambda result: result.environment.machine,
    "cores": lambda result: result.environment.cores,
    "CPU governor": lambda result: result.environment.governor,
    "power mode": lambda result: result.environment.power_mode,
}
_FRAMES: dict[str, Callable[[BenchResult], object]] = {
    "source of frames": lambda result: result.latency_run and result.latency_run.capture,
    "rate of frames": lambda result: result.scenario and result.scenario.fps,
    "size of frames": lambda result: result.latency_run and result.latency_run.frame_sizes,
}


def read_side(path: str | Path) -> tuple[BenchResult, ...]:
    """The result in a file, or all results in a folder, by name; DataError where there is none."""
    path = Path(path)
    if not path.is_dir():
        return (read_result(path),)
    files = sorted(file for file in path.iterdir() if is_result_name(file.name))
    if not files:
        raise DataError(f"{path} holds no result: give a .json of `edgeloc bench`, or a folder of them")
    return tuple(map(read_result, files))


def require_one_model(side: str, results: Sequence[BenchResult]) -> None:
    """DataError unless the results are repeats of one measurement: of one model in one scenario."""
    if not results:
        raise DataError(f"the {side} side has no result")
    for what, key in (("models", _sha256), ("scenarios", scenario_of)):
        if len({key(result) for result in results}) > 1:
            raise DataError(f"the results of the {side} side are of different {what}: repeat one measurement")


def _sha256(result: BenchResult) -> str:
    return result.model.sha256


def differences(before: BenchResult, after: BenchResult) -> dict[str, tuple[str, str]]:
    """What changed between two results, apart from their figures: by name, both values."""
    return dict(_unequal(_TESTED, before, after))


def reasons_against(before: Sequence[BenchResult], after: Sequence[BenchResult]) -> tuple[Finding, ...]:
    """Why the two sides are not to be compared; empty where they are."""
    found = [*_in_the_way("base", before), *_in_the_way("new", after)]
    for result in (*before[1:], *after):
        found += _between(before[0], result)
    unlike = _images_differ(before, after)
    return tuple({(one.code, one.message): one for one in (*found, *unlike)}.values())


def _in_the_way(side: str, results: Sequence[BenchResult]) -> Iterator[Finding]:
    for number, result in enumerate(results, 1):
        name = f"the {side} result" if len(results) == 1 else f"{side} result {number}"
        for one in obstacles(result):
            yield Finding(one.code, one.severity, f"{name}: {one.message}", one.fix)


def _between(before: BenchResult, after: BenchResult) -> Iterator[Finding]:
    scenarios = scenario_of(before), scenario_of(after)
    if scenarios[0] != scenarios[1]:
        yield Finding("other-scenario", "warning", _differs("scenario", *scenarios))
    for name, values in _unequal(_MACHINE, before, after):
        yield Finding("other-machine", "warning", _differs(name, *values))
    if before.latency_run and after.latency_run:
        for name, values in _unequal(_FRAMES, before, after):
            yield Finding("other-frames", "warning", _differs(name, *values))


def _unequal(
    facts: dict[str, Callable[[BenchResult], object]], before: BenchResult, after: BenchResult
) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, fact in facts.items():
        values = fact(before), fact(after)
        if values[0] != values[1]:
            yield name, (_shown(values[0]), _shown(values[1]))


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{width}x{height}" for width, height in value)
    return "unknown" if value is None else str(value)


def _differs(name: str, before: str, after: str) -> str:
    return f"the {name} is not the same: {before} in the base, {after} in the new result"


def _images_differ(before: Sequence[BenchResult], after: Sequence[BenchResult]) -> Iterator[Finding]:
    first, second = answers_of(before), answers_of(after)
    if first is None or second is None:
        return
    hashes = {result.data.sha256 for result in (*before, *after) if result.data and result.data.sha256}
    if len(hashes) > 1 or not same_images(first, second):
        counts = len(first.truths), len(second.truths)
        message = f"the labelled images are not the same ({counts[0]} in the base, {counts[1]} in the new result)"
        yield Finding("other-data", "warning", message, "measure both on the same images")
