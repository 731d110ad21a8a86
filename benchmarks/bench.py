"""One benchmark from its options to its saved result; timing, pairing and figures are modules of their own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edgeloc._support.files import require_writable
from edgeloc._support.terminal import progress
from edgeloc.benchmarks.energy import EnergyRecorder
from edgeloc.benchmarks.latency import CameraSource, FrameSource, ImageSource, LatencyRecorder, SceneSource
from edgeloc.benchmarks.report.page import energy_line
from edgeloc.benchmarks.report.plots import with_previews
from edgeloc.benchmarks.result import BenchResult, DataInfo, Environment, ModelInfo, read_environment, write_result
from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.data.sample import spread
from edgeloc.device.thermal import ThermalReader, ThermalRecord, ThermalSampler
from edgeloc.errors import DataError, EdgelocError, UsageError
from edgeloc.evaluation.figures import (
    Regression,
    format_drop,
    format_interval,
    format_share,
    format_size,
    regression_figures,
)
from edgeloc.evaluation.pairing import RegressionRecorder, Side, float_side
from edgeloc.localizer import Localizer

__all__ = ["BenchOptions", "bench", "closing_table"]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and where the result goes; see `edgeloc bench --help` for each."""

    model: str | Path
    out: str | Path
    against: str | Path | None = None
    data: str | Path | None = None
    split: str | None = None
    camera: str | None = None
    frames: int = 200
    warmup: int = 20
    limit: int | None = None
    threads: int | None = None
    engine: str = "auto"
    contract: str | Path | None = None
    negatives: bool = True
    skip_bad: bool = False
    power: str = "auto"

    def __post_init__(self) -> None:
        for name, value, least in (("frames", self.frames, 1), ("warmup", self.warmup, 0), ("limit", self.limit, 1)):
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}: it must be at least {least}")
        if self.against is not None and self.data is None:
            raise UsageError("--against compares the two models on labelled images: name them with --data")


def bench(options: BenchOptions, tell: Callable[[str], None] = lambda line: None) -> BenchResult:
    """Measure, write the result to `options.out`, and return it.

    Whatever can be refused is refused before the first measurement. After KeyboardInterrupt, or an
    error such as a damaged image or a lost camera, what was measured so far is written with
    `complete` false, `tell` is called with a line that says so, and the error goes on.
    """
    recording = options.power.partition("://")[2].partition("?")[0] or None
    inputs = (options.model, options.against, options.data, options.camera, options.contract, recording)
    require_writable(options.out, *inputs)
    measurement = _Measurement(options)
    try:
        measurement.run()
        result = measurement.result(complete=True)
        write_result(options.out, result)
        return result
    except (KeyboardInterrupt, EdgelocError):
        if measurement.has_figures:
            write_result(options.out, measurement.result(complete=False))
            tell(f"stopped; what was measured until then is in {options.out}")
        raise
    finally:
        measurement.close()


class _Measurement:
    """Everything one benchmark has open, and what it has measured so far."""

    def __init__(self, options: BenchOptions) -> None:
        self.options = options
        self.environment = read_environment()
        self.localizer = Localizer(options.model, options.engine, options.threads, options.contract)
        self.data = open_dataset(options.data, split=options.split, skip_bad=options.skip_bad) if options.data else None
        self.samples = _labelled(self.data, options.limit) if self.data is not None else []
        self.float_side, self.quantized_side = self._sides()
        self.source = self._source()
        self.heat = ThermalSampler(ThermalReader())
        self.latency = LatencyRecorder(self.localizer, self.source, options.warmup, options.threads)
        self.regression: RegressionRecorder | None = None
        if self.float_side is not None and self.quantized_side is not None:
            self.regression = RegressionRecorder(
                self.float_side, self.quantized_side, negatives=options.negatives, skip_bad=options.skip_bad
            )
        # Last: a meter that is open is always closed again.
        self.energy = EnergyRecorder(options.power)

    def _sides(self) -> tuple[Side | None, Side | None]:
        options = self.options
        if options.against is None or self.data is None:
            return None, None
        contract = self.localizer.contract
        quantized = Side(self.localizer.model, contract, self.localizer.engine)
        return float_side(options.against, contract, options.engine, options.threads), quantized

    def _source(self) -> FrameSource:
        if self.options.camera:
            wanted = self.localizer.contract.input
            return CameraSource(self.options.camera, (wanted.width, wanted.height))
        if self.data is not None:
            return ImageSource(str(self.options.data), self.samples, skip_bad=self.options.skip_bad)
        return SceneSource()

    def run(self) -> None:
        """Latency first, while the machine is as cool as it was found; then the comparison."""
        with self.heat, self.energy as energy:
            energy.idle("before")
            turns = progress(range(self.options.warmup + self.options.frames), label="latency")
            self.latency.record(energy.frames(turns, self.options.warmup))
            energy.inferences(self._inference, self.options.frames)
            energy.idle("after")
        if self.regression is not None:
            self.regression.record(progress(self.samples, label="float against quantized"))

    def _inference(self) -> Callable[[], object]:
        """One frame through the engine alone, as often as it is called."""
        tensor, _ = self.localizer.preprocess(self.source.grab())
        return lambda: self.localizer.invoke(tensor)

    def close(self) -> None:
        self.energy.close()
        self.source.close()

    @property
    def has_figures(self) -> bool:
        return bool(self.latency.frames or (self.regression and self.regression.rows))

    def result(self, *, complete: bool) -> BenchResult:
        """All figures of what was measured so far."""
        model = _model_info(self.options.model, self.localizer.engine.name, self.localizer.engine.version)
        against = self._against()
        regression = self._regression()
        heat = self.heat.record() if self.latency.frames else None
        return BenchResult(
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            complete=complete,
            environment=self.environment,
            model=model,
            against=against,
            size_ratio=round(against.bytes / model.bytes, 3) if against else None,
            data=self._data_info(),
            latency=self.latency.stages(),
            latency_run=self.latency.run() if self.latency.frames else None,
            regression=regression,
            heat=heat,
            energy=self.energy.figures(),
            notes=(*_notes(self.environment, against, regression, self._labels_differ), *_slowed(heat)),
        )

    @property
    def _labels_differ(self) -> bool:
        return self.float_side is not None and self.float_side.labels != self.localizer.contract.labels

    def _against(self) -> ModelInfo | None:
        side = self.float_side
        if side is None or self.options.against is None:
            return None
        return _model_info(self.options.against, side.engine.name, side.engine.version)

    def _regression(self) -> Regression | None:
        if self.regression is None or self.float_side is None or self.quantized_side is None:
            return None
        figures = regression_figures(
            self.regression.rows,
            threshold_float=self.float_side.threshold,
            threshold_quantized=self.quantized_side.threshold,
            labels=self.localizer.contract.labels,
        )
        return dataclasses.replace(figures, worst=with_previews(figures.worst, self.samples))

    def _data_info(self) -> DataInfo | None:
        if self.data is None:
            return None
        in_regression = self.regression.skipped if self.regression else []
        skipped = list(dict.fromkeys([*self.source.skipped, *in_regression]))
        return DataInfo(
            uri=str(self.options.data),
            name=self.data.name,
            split=self.data.split,
            labels=self.data.labels,
            notes=self.data.notes,
            images=len(self.data),
            used=self._used(skipped),
            skipped=len(skipped),
            skipped_names=tuple(skipped),
        )

    def _used(self, skipped: Sequence[str]) -> int:
        """How many images the comparison has seen; without one, how many there are to time."""
        if self.regression is None:
            return len(self.samples) - len(skipped)
        return sum(row.kind != "background" for row in self.regression.rows)


def _labelled(data: Dataset, limit: int | None) -> list[Sample]:
    """The samples of which something is known, spread evenly where there are more than `limit`."""
    samples = [sample for sample in data if sample.labelled]
    if not samples:
        raise DataError(f"{data.root} holds no labelled image: a comparison with the truth needs some")
    return spread(samples, limit)


def _model_info(path: str | Path, engine: str, version: str) -> ModelInfo:
    data = Path(path).read_bytes()
    return ModelInfo(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        precision=_precision(path),
        engine=engine,
        engine_version=version,
    )


def _precision(path: str | Path) -> str:
    """As read out of the file; a Keras file computes in float32."""
    from edgeloc.model.inspection import inspect_model

    return "float32 (Keras)" if Path(path).suffix == ".keras" else inspect_model(path).precision


def _notes(
    environment: Environment, against: ModelInfo | None, regression: Regression | None, labels_differ: bool
) -> tuple[str, ...]:
    notes = [*environment.warnings()]
    if against and "float32" not in against.precision:
        notes.append(f"the model compared against is itself {against.precision}, not float32: {against.path}")
    if labels_differ:
        notes.append("the two models do not have the same labels: what they say of classes cannot be compared")
    if regression and not regression.images:
        notes.append("no image that was compared holds an object: there is no IoU to tell, only presence")
    if regression and regression.ci_by == "image" and len({row.group for row in regression.rows}) == 1:
        notes.append(
            "the data names no groups, or only one: if images are frames of one clip, the interval is too narrow"
        )
    return tuple(notes)


def _slowed(heat: ThermalRecord | None) -> tuple[str, ...]:
    return tuple(map(str, heat.findings())) if heat is not None else ()


def closing_table(result: BenchResult, out: str | Path) -> str:
    """The numbers that matter, one a line."""
    rows: list[tuple[str, str]] = []
    figures = result.regression
    if figures and figures.images:
        before, after = figures.mean_iou_float, figures.mean_iou_quantized
        means = f"float {format_share(before)}, quantized {format_share(after)}, {figures.images} images"
        interval = f"95 % interval by {figures.ci_by} {format_interval(figures)}"
        rows.append(("IoU drop", f"{format_drop(before, after)}, {interval}  ({means})"))
    if result.latency:
        total, invoke = result.latency["total"].p50_ms, result.latency["invoke"].p50_ms
        rows.append(("latency", f"p50 {total:.1f} ms a frame, {1000 / total:.0f} a second  (invoke {invoke:.1f} ms)"))
    rows.append(("energy", energy_line(result.energy)))
    ratio = f"  ({result.size_ratio:.1f} times smaller than float)" if result.size_ratio else ""
    rows.append(("size", f"{format_size(result.model.bytes)}, {result.model.precision}{ratio}"))
    if result.data and result.data.skipped:
        names = _some(result.data.skipped_names)
        rows.append(("skipped", f"{result.data.skipped} images that cannot be read: {names}"))
    rows += [("note", note) for note in result.notes]
    rows.append(("result", str(out)))
    return "\n".join(f"{name:<9} {text}" for name, text in rows)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
