"""MLPerf's LoadGen in the place of the benchmark's own loop, as a check of its 90th percentile."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeloc.benchmarks.scenarios.stopping import Scenario
from edgeloc.errors import DeviceError, MissingExtra
from edgeloc.findings import Finding

__all__ = ["LoadGen", "Timing", "drive"]

_MOST_APART = 0.02
_LONGEST_S = 86400.0


@dataclass(frozen=True, slots=True)
class LoadGen:
    """What LoadGen measured of the same frames, from the issue of each to its completion.

    Parameters:
        version: of the package.
        valid: whether LoadGen takes the run for valid: its least duration, count and early stopping.
        frames: how many it issued.
        p90_ms: its 90th percentile.
        p90_bound_ms: its early-stopping estimate of that; None of too few frames.
    """

    version: str
    valid: bool
    frames: int
    p90_ms: float
    p90_bound_ms: float | None

    def findings(self, p90_ms: float) -> tuple[Finding, ...]:
        """`loadgen-disagrees` where the 90th percentile `p90_ms` of the same frames is more than 2 % off."""
        if abs(p90_ms / self.p90_ms - 1) <= _MOST_APART:
            return ()
        message = f"the 90th percentile is {p90_ms:.4g} ms, and {self.p90_ms:.4g} ms by LoadGen of the same frames"
        return (Finding("loadgen-disagrees", "warning", message, "measure again; report it if it stays"),)


class Timing(Protocol):
    """What times frames: calls `timed` as soon as one is, and times none once it has `ended`."""

    timed: Callable[[], object]
    ended: bool


def drive(
    recorder: Timing, frames: Iterator[object], asked: Scenario, count: int | None, expected_ms: float
) -> LoadGen:
    """Have LoadGen issue frames, in its scenario SingleStream.

    Parameters:
        recorder: what times them.
        frames: its `each`, halted before a frame; what is done between two frames is in no latency of LoadGen's either.
        asked: how many at least, and for how long.
        count: exactly how many; None: what `asked` says.
        expected_ms: about how long one takes, for LoadGen to prepare as many as it needs.

    Raises MissingExtra without LoadGen, and whatever `frames` raises, once LoadGen's shortest time has passed.
    """
    lg = _package()
    failures: list[BaseException] = []
    issued: list[Any] = []

    def complete() -> None:
        while issued:
            lg.QuerySamplesComplete([lg.QuerySampleResponse(issued.pop().id, 0, 0)])

    def issue(queries: Any) -> None:
        issued.extend(queries)
        # An exception would end the process in LoadGen's own code.
        try:
            if not failures:
                next(frames)
        except BaseException as failure:
            failures.append(failure)
        complete()

    recorder.timed = complete
    with tempfile.TemporaryDirectory() as folder:
        system = lg.ConstructSUT(issue, _nothing)
        samples = lg.ConstructQSL(1, 1, _nothing, _nothing)
        try:
            # Its settings could come from a file of this name in the current folder.
            audit = str(Path(folder) / "audit.config")
            lg.StartTestWithLogSettings(
                system, samples, _settings(lg, asked, count, expected_ms), _log(lg, folder), audit
            )
        finally:
            recorder.ended = True
            lg.DestroyQSL(samples)
            lg.DestroySUT(system)
        if failures:
            raise failures[0]
        return _outcome((Path(folder) / "mlperf_log_detail.txt").read_text(encoding="utf-8"))


def _package() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingExtra("mlcommons-loadgen", "loadgen", "letting LoadGen issue the frames") from error
    return mlperf_loadgen


def _nothing(*_: object) -> None:
    pass


def _settings(lg: Any, asked: Scenario, count: int | None, expected_ms: float) -> Any:
    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.SingleStream, lg.TestMode.PerformanceOnly
    settings.single_stream_expected_latency_ns = max(1000, int(expected_ms * 1e6))
    settings.min_query_count = asked.least_samples
    settings.min_duration_ms = int(1000 * asked.least_s)
    settings.max_duration_ms = int(1000 * (asked.most_s or _LONGEST_S))
    settings.max_query_count = count or 0  # no limit
    return settings


def _log(lg: Any, folder: str) -> Any:
    log = lg.LogSettings()
    log.log_output.outdir, log.log_output.copy_summary_to_stdout = folder, False
    log.enable_trace = False
    return log


def _outcome(text: str) -> LoadGen:
    """What LoadGen's detail log reports: JSON lines behind a mark."""
    values: dict[str, Any] = {}
    for line in text.splitlines():
        entry = json.loads(line.partition(":::MLLOG ")[2] or "{}")
        values[entry.get("key", "")] = entry.get("value")
    try:
        bound = values.get("early_stopping_latency_ss")
        return LoadGen(
            version=importlib.metadata.version("mlcommons-loadgen"),
            valid=values["result_validity"] == "VALID",
            frames=int(values["result_query_count"]),
            p90_ms=round(values["result_90.00_percentile_latency_ns"] / 1e6, 5),
            p90_bound_ms=round(bound / 1e6, 5) if bound else None,
        )
    except KeyError as error:
        raise DeviceError(
            f"LoadGen's log has no {error}", hint="install another version of mlcommons-loadgen"
        ) from error
