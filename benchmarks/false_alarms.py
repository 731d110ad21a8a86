"""How often `edgeloc compare` raises a false alarm on this machine, and how often it finds what really got worse.

    python -m edgeloc.benchmarks.false_alarms MODEL

Each repeat measures three sides in turns, every run in a process of its own: the model, the same model again, and the
same with an inference that really takes a tenth longer. Accuracy on generated scenes is measured too, and compared
with the same boxes worsened by 0.01 of IoU.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloc.benchmarks.comparison import Comparison, compare
from edgeloc.benchmarks.comparison.runs import RUN_TO_RUN
from edgeloc.benchmarks.measurement import BenchOptions, Measurement
from edgeloc.benchmarks.result import LOCALIZE, BenchResult, read_result
from edgeloc.engines.base import Engine
from edgeloc.errors import DataError, EdgelocError, EngineError, GateFailed, UsageError
from edgeloc.model.file import ModelFile

__all__ = ["Outcome", "main", "repeat", "with_less_iou"]

SLOWER, LESS_IOU = 1.1, 0.01
_SIDES = ("base", "again", "slowed")


class Outcome(NamedTuple):
    """One repeat: the verdicts on the same model, on the slowed one and on less IoU; "refused" is not comparable.

    `medians_ms` are those of an answer's time in all runs of the model itself.
    """

    again: str
    slowed: str
    less_iou: str
    medians_ms: tuple[float, ...] = ()


class _Slowed(Engine):
    """Another engine whose inferences take `factor` times as long, the processor busy until then."""

    def __init__(self, engine: Engine, factor: float) -> None:
        self._engine, self._factor = engine, factor
        self.name, self.version = engine.name, engine.version
        self.inputs, self.outputs = engine.inputs, engine.outputs

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> Engine:
        """It is made of an engine that is loaded already."""
        raise EngineError("a slowed engine is made of another one")

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The other engine's answer, later."""
        began = time.perf_counter()
        answer = self._engine.invoke(tensor)
        until = began + self._factor * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        return answer


def _measure(options: BenchOptions, factor: float) -> None:
    logging.getLogger("edgeloc").setLevel(logging.ERROR)
    measurement = Measurement(options)
    try:
        if factor != 1:
            measurement.localizer.engine = _Slowed(measurement.localizer.engine, factor)
        measurement.run()
    finally:
        measurement.close()
    measurement.save(complete=True)


def _in_a_process(options: BenchOptions, factor: float) -> BenchResult:
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(options, factor))
    process.start()
    process.join()
    if process.exitcode:
        raise DataError(f"a measurement failed (exit status {process.exitcode})")
    return read_result(options.out)


def repeat(options: BenchOptions, runs: int, *, anyway: bool = False) -> Outcome:
    """Measure each side `runs` times, in turns, and compare."""
    sides: dict[str, list[BenchResult]] = {side: [] for side in _SIDES}
    for _ in range(runs):
        for side in _SIDES:
            sides[side].append(_in_a_process(options, SLOWER if side == "slowed" else 1))
    base = sides["base"]
    worse = [with_less_iou(result, LESS_IOU) for result in base]
    return Outcome(
        _verdict(base, sides["again"], anyway=anyway),
        _verdict(base, sides["slowed"], anyway=anyway),
        _verdict(base, worse, anyway=anyway),
        tuple(result.latency[LOCALIZE].p50_ms for result in (*base, *sides["again"])),
    )


def _verdict(base: Sequence[BenchResult], new: Sequence[BenchResult], *, anyway: bool) -> str:
    try:
        found: Comparison = compare(base, new, anyway=anyway)
    except DataError:
        return "refused"
    return found.verdict


def with_less_iou(result: BenchResult, less: float) -> BenchResult:
    """The result with every box of an object worse, so that the mean IoU is `less` lower."""
    assert result.accuracy is not None
    rows = result.accuracy.rows
    losing = [row.iou or 0.0 for row in rows if row.kind == "object" and (row.iou or 0.0) > 0.1]
    share = less * result.accuracy.images / len(losing)
    worse = (
        dataclasses.replace(row, iou=row.iou - share) if row.kind == "object" and row.iou and row.iou > 0.1 else row
        for row in rows
    )
    return dataclasses.replace(result, accuracy=dataclasses.replace(result.accuracy, rows=tuple(worse)))


def _lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    again = [outcome.again for outcome in outcomes]
    comparable = len(again) - again.count("refused")
    yield f"the same model twice: {again.count('regression')} false alarms in {comparable} comparable of {len(again)}"
    for what, name in (("slower by 10 %", "slowed"), ("IoU lower by 0.01", "less_iou")):
        found = [str(getattr(outcome, name)) for outcome in outcomes]
        others = [f"{found.count(word)} {word}" for word in ("undecided", "ok", "refused") if word in found]
        rest = f" ({', '.join(others)})" if others else ""
        yield f"{what}: found {found.count('regression')} of {len(found)}{rest}"
    medians = [median for outcome in outcomes for median in outcome.medians_ms]
    if len(medians) > 1:
        spread = float(np.log(medians).std(ddof=1))
        taken = f"standard deviation; compare takes at least {100 * RUN_TO_RUN:g} %"
        yield f"medians of runs differ by {100 * spread:.1f} % ({taken})"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 where more than one in twenty is a false alarm, or is missed."""
    parser = argparse.ArgumentParser(description="Count the false alarms of edgeloc compare, and what it misses.")
    add = parser.add_argument
    add("model", help="a model file of a localizer")
    add("--repeats", type=int, default=20, help="comparisons of each kind (default: %(default)s)")
    add("--runs", type=int, default=1, help="results of each side of a comparison, in turns (default: %(default)s)")
    add("--frames", type=int, default=1000, help="frames of each result (default: %(default)s)")
    add("--threads", type=int, help="threads of the engine (default: the runtime's)")
    add("--anyway", action="store_true", help="compare busy and throttled results too")
    arguments = parser.parse_args(argv)
    try:
        for name in ("repeats", "runs"):
            if getattr(arguments, name) < 1:
                raise UsageError(field=name, value=getattr(arguments, name), allowed="at least 1")
        outcomes = list(_repeats(arguments))
    except EdgelocError as error:
        print(f"false_alarms: error: {error}", file=sys.stderr)
        return error.exit_status
    print("\n".join(_lines(outcomes)))
    most = max(1, len(outcomes) // 20)
    alarms = sum(outcome.again == "regression" for outcome in outcomes)
    missed = max(sum(getattr(one, name) != "regression" for one in outcomes) for name in ("slowed", "less_iou"))
    return GateFailed.exit_status if alarms > most or missed > most else 0


def _repeats(arguments: argparse.Namespace) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        options = BenchOptions(
            model=arguments.model,
            out=Path(folder) / "result.json",
            validation="synthetic?count=100&size=160x160",
            frames=arguments.frames,
            threads=arguments.threads,
            power="none",
        )
        for number in range(arguments.repeats):
            outcome = repeat(options, arguments.runs, anyway=arguments.anyway)
            print(f"{number + 1:3}  again {outcome.again}, slowed {outcome.slowed}, less IoU {outcome.less_iou}")
            yield outcome


if __name__ == "__main__":
    sys.exit(main())
