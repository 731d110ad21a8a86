"""Several models, engines and thread counts in one run, in turns, and which of them to take."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeloc._support.files import atomic_path, require_writable
from edgeloc._support.json import to_json
from edgeloc._support.terminal import progress
from edgeloc.benchmarks.energy import MIN_READINGS, EnergyRecorder
from edgeloc.benchmarks.environment import OthersLoad
from edgeloc.benchmarks.latency import time_frame
from edgeloc.benchmarks.measurement import Measurement
from edgeloc.benchmarks.options import BenchOptions
from edgeloc.benchmarks.result import LOCALIZE, SWEEP_FILE, BenchResult, older_results
from edgeloc.benchmarks.sweeps.choice import Choice, SweepRow, choose, pareto_svg, with_front
from edgeloc.engines import engine_class
from edgeloc.errors import EdgelocError, EngineError, MissingExtra, ModelError, UsageError, first_line, mask_credentials
from edgeloc.findings import Finding, report

__all__ = ["Sweep", "SweepOptions", "sweep"]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
# Frames of one configuration in a row: its caches are warm, as where it runs alone, and others' threads have gone to
# sleep.
_BURST = 10


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """What to measure, and where the results go.

    Parameters:
        models: model files: of several recipes, input sizes or networks.
        out: a folder for a result of each configuration, `sweep.json` and `pareto.svg`.
        engines: what runs them, as in `edgeloc.Localizer`; what does not run a model is left out, and named.
        threads: how many threads; () is 1, 2, 4 and so on up to the cores.
        validation: labelled images to measure quality on.
        validation_split: the part of them to use; None is all.
        max_images: how many of them; None is all.
        frames: how many frames to time of each configuration.
        power: a power meter's URI, `auto` or `none`.
        max_drop: how much of the best quality may be given up for speed.
        max_latency_ms: the longest median latency to recommend; None is any.
    """

    models: tuple[str, ...]
    out: str | Path
    engines: tuple[str, ...] = ("auto",)
    threads: tuple[int, ...] = ()
    validation: str | None = None
    validation_split: str | None = None
    max_images: int | None = None
    frames: int = 200
    power: str = "auto"
    max_drop: float = 0.01
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        stems = [Path(model).stem for model in self.models]
        twice = next((stem for stem in stems if stems.count(stem) > 1), None)
        if twice is not None:
            raise UsageError(f"two models are called {twice}, and so would be their results", hint="rename one of them")
        if self.power.startswith("csv://"):
            raise UsageError("a recording holds the power of one measurement", hint="give a meter as {power}, or none")
        for name in self.engines:
            if name != "auto":
                engine_class(name.partition("://")[0])

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """The thread counts to measure."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.threads or tuple(1 << power for power in range(cores.bit_length()) if 1 << power <= cores)

    def bench_options(self, configuration: Configuration) -> BenchOptions:
        """One configuration as a benchmark of its own."""
        model, engine, threads = configuration
        name = f"{Path(model).stem}-{engine.replace('://', '-').replace('/', '-')}-{threads}.json"
        return BenchOptions(
            model,
            Path(self.out) / name,
            validation=self.validation,
            validation_split=self.validation_split,
            max_images=self.max_images,
            frames=self.frames,
            engine=engine,
            threads=threads,
            power="none",  # the meter is opened for one at a time, after the latencies
        )


class Configuration(NamedTuple):
    """What is measured: a model, an engine and a number of threads."""

    model: str
    engine: str
    threads: int

    def __str__(self) -> str:
        return f"{Path(self.model).name} on {self.engine}, threads {self.threads}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep found; `sweep.json` holds it.

    Parameters:
        created_at: when it ended, in UTC (ISO 8601).
        complete: false when it was interrupted; it then holds what was measured until then.
        command: the command line that asks for the same.
        quality: what `rows[].quality` is; None where it was not measured.
        rows: one for each configuration, by latency.
        missing: by configuration, why it was not measured.
        recommendation: one sentence.
        chosen: the result of what is recommended, as in `rows[].result`.
        plot: the file of the plot; None where matplotlib is not installed.
        schema_version: of the file's format.
    """

    created_at: str
    complete: bool
    command: str
    quality: str | None
    rows: tuple[SweepRow, ...]
    missing: dict[str, str]
    recommendation: str
    chosen: str | None
    plot: str | None = None
    schema_version: int = SCHEMA_VERSION


def sweep(options: SweepOptions) -> Sweep:
    """Measure every configuration, write the results into `options.out`, and recommend one.

    Latency is measured in turns, ten frames of each in another order each time; then energy, one after the other, where
    there is a meter; then quality, once for each model and engine. Each configuration has a result as of `bench`, which
    grows while it is measured. After Ctrl-C or an error all that was measured is written, and the error is raised.

    Raises UsageError for bad options and for a detector beside a localizer, and what the first configuration raises
    where none can be measured.
    """
    folder = Path(options.out)
    absent = [str(model) for model in options.models if not Path(model).exists()]
    if absent:
        raise UsageError(f"{absent[0]}: no such file", hint="correct its name; nothing was measured")
    made = not folder.exists()
    require_writable(folder / SWEEP_FILE, *options.models, options.validation)
    try:
        running = _Running(options)
    except BaseException:
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()
        raise
    try:
        running.measure()
    except BaseException:
        with suppress(EdgelocError):
            running.save(complete=False)
        raise
    finally:
        running.close()
    return running.save(complete=True)


class _Running:
    """The configurations that are open."""

    def __init__(self, options: SweepOptions) -> None:
        EnergyRecorder(options.power).close()  # a meter that is not there is refused before anything is measured
        self._options = options
        self._open: dict[Configuration, Measurement] = {}
        self._missing: dict[str, str] = {}
        first_error: EdgelocError | None = None
        combined = itertools.product(options.models, options.engines, options.thread_counts)
        for configuration in itertools.starmap(Configuration, combined):
            beside = next(iter(self._open.values()), None)
            try:
                self._open[configuration] = Measurement(options.bench_options(configuration), beside)
            except (EngineError, ModelError) as error:
                first_error = first_error or error
                self._missing[str(configuration)] = first_line(error)
        if not self._open and first_error is not None:
            raise first_error
        if len({one.localizer.contract.finds_one for one in self._open.values()}) > 1:
            message = "a model of one object and one of several have no quality in common"
            raise UsageError(message, hint="sweep each kind by itself")

    def measure(self) -> None:
        """Latency of all in turns, then energy, then quality."""
        first = next(iter(self._open.values()))
        with first.thermal:
            self._time()
        self._meter()
        done: dict[tuple[str, str], Measurement] = {}
        for configuration, one in progress(list(self._open.items()), label="quality"):
            like = done.setdefault((configuration.model, configuration.engine), one)
            if like is one:
                one.take_images()
            else:
                one.pairs, one.answers, one.detections = like.pairs, like.answers, like.detections

    def _time(self) -> None:
        others = OthersLoad()
        for _ in progress(self._bursts(), label="latency"):
            pass
        for one in self._open.values():
            one.others_busy = others.share

    def _bursts(self) -> Iterator[None]:
        """Some frames of one configuration, then of the next."""
        rng = np.random.default_rng(0)
        left = {configuration: one.each_frame() for configuration, one in self._open.items()}
        while left:
            for number in rng.permutation(len(left)):
                turns = list(left.values())[number]
                for _ in itertools.islice(turns, _BURST):
                    pass
                yield
            enough = self._options.frames + next(iter(self._open.values())).latency.warmup
            left = {key: turns for key, turns in left.items() if len(self._open[key].latency.totals) < enough}

    def _meter(self) -> None:
        """Energy, one configuration after the other; nothing without a meter."""
        for one in progress(list(self._open.values()), label="energy"):
            one.energy = energy = EnergyRecorder(self._options.power)
            meter = energy.head()
            if meter.rate_hz is None:
                return
            try:
                with energy:
                    energy.idle("before")
                    for _ in energy.frames(_turns(self._options.frames, 2 * MIN_READINGS / meter.rate_hz), 0):
                        time_frame(one.localizer, one.source)
                    energy.inferences(one.latency.inference, self._options.frames)
                    energy.idle("after")
            finally:
                energy.close()

    def close(self) -> None:
        for one in self._open.values():
            one.close()

    def save(self, *, complete: bool) -> Sweep:
        """Write the result of each configuration, the plot and what is recommended."""
        measured = {key: one for key, one in self._open.items() if one.has_figures}
        results = [one.write(complete=complete) for one in measured.values()]
        rows = with_front([_row(*both, result) for both, result in zip(measured.items(), results, strict=True)])
        quality = _quality(results[0])[0] if results else None
        choice = choose(rows, quality, self._options.max_drop, self._options.max_latency_ms)
        made = Sweep(
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            complete=complete,
            command=_command(self._options),
            quality=quality,
            rows=rows,
            missing=self._missing,
            recommendation=choice.sentence,
            chosen=choice.row.result if choice.row else None,
        )
        made = dataclasses.replace(made, plot=self._plot(made, choice))
        with atomic_path(Path(self._options.out) / SWEEP_FILE) as temporary:
            temporary.write_text(to_json(made), encoding="utf-8")
        findings = {finding.code: finding for result in results for finding in result.findings}.values()
        older = older_results(Path(self._options.out), [row.result for row in rows])
        for finding in (*findings, *filter(None, [older])):
            report(logger, finding)
        return made

    def _plot(self, made: Sweep, choice: Choice) -> str | None:
        if made.quality is None or not made.rows:
            return None
        try:
            drawing = pareto_svg(made.rows, made.quality, choice.row)
        except MissingExtra as error:
            report(logger, Finding("plot-missing", "note", f"there is no plot: {error}"))
            return None
        with atomic_path(Path(self._options.out) / "pareto.svg") as temporary:
            temporary.write_text(drawing, encoding="utf-8")
        return "pareto.svg"


def _turns(least: int, seconds: float) -> Iterator[int]:
    """So many turns, or as many as fit into this time."""
    until = time.monotonic() + seconds
    return itertools.takewhile(lambda number: number < least or time.monotonic() < until, itertools.count())


def _row(configuration: Configuration, one: Measurement, result: BenchResult) -> SweepRow:
    wanted, energy = one.localizer.contract.input, result.energy
    latency = result.latency.get(LOCALIZE)
    return SweepRow(
        model=configuration.model,
        precision=result.model.precision,
        input=f"{wanted.width}x{wanted.height}",
        bytes=result.model.bytes,
        engine=result.model.engine,
        threads=configuration.threads,
        p50_ms=latency.p50_ms if latency else None,
        p90_ms=latency.p90_ms if latency else None,
        quality=_quality(result)[1],
        energy_mj=energy.per_frame_mj,
        energy_uncertainty_mj=energy.per_frame_uncertainty_mj,
        result=Path(one.options.out).name,
    )


def _quality(result: BenchResult) -> tuple[str | None, float | None]:
    """The figure that configurations are compared by, and its name."""
    if result.detection is not None and result.detection.precision_quantized.ap is not None:
        return "mAP", result.detection.precision_quantized.ap
    if result.accuracy is not None and result.accuracy.images:
        return "mean IoU", result.accuracy.mean_iou
    return None, None


def _command(options: SweepOptions) -> str:
    words = ["edgeloc", "sweep", *options.models]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name not in ("models", "out") and value != field.default:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{field.name.replace('_', '-')}", text]
    return mask_credentials(shlex.join(words))
