"""One benchmark, from its options to its saved result."""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import islice
from statistics import median
from typing import Any, TypeVar

from edgeloc._support.files import require_writable
from edgeloc._support.terminal import progress
from edgeloc.benchmarks.energy import EnergyRecorder
from edgeloc.benchmarks.environment import Memory, OthersLoad, peak_memory, read_environment
from edgeloc.benchmarks.journal import Journal
from edgeloc.benchmarks.latency import CameraSource, FrameSource, ImageSource, LatencyRecorder, SceneSource, TwiceSource
from edgeloc.benchmarks.options import BenchOptions
from edgeloc.benchmarks.report.pictures import with_previews
from edgeloc.benchmarks.result import (
    UNKNOWN_PRECISION,
    BenchResult,
    DataInfo,
    ModelInfo,
    model_info,
    with_obstacles,
    with_reached,
    write_result,
)
from edgeloc.benchmarks.scenarios.course import Course, RecordingReader, moved
from edgeloc.benchmarks.scenarios.loadgen import LoadGen, drive
from edgeloc.benchmarks.scenarios.start import StartRecorder
from edgeloc.benchmarks.scenarios.stopping import Scenario, Stopping
from edgeloc.benchmarks.scenarios.stream import StreamRecorder, stream_camera
from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.data.sample import fingerprint, several_objects, spread
from edgeloc.device.thermal import ThermalReader, ThermalSampler
from edgeloc.engines import FASTEST
from edgeloc.errors import DataError, mask_credentials
from edgeloc.evaluation.accuracy import Accuracy, AccuracyRecorder, accuracy_figures
from edgeloc.evaluation.detection import DetectionRecorder, DetectionRegression, below_threshold, detection_figures
from edgeloc.evaluation.figures import Regression, format_names, regression_figures
from edgeloc.evaluation.pairing import Recorder, RegressionRecorder, Side, float_localizer
from edgeloc.findings import Finding, report
from edgeloc.localizer import Localizer

__all__ = ["BenchOptions", "Measurement", "bench"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

# The meter needs no more inferences, and the comparison with the float model no more frames.
_MOST_INFERENCES = _MOST_AGAINST = 200


def bench(options: BenchOptions) -> BenchResult:
    """Measure, write the result to `options.out`, and return it.

    Whatever can be refused is refused before the first measurement. What was measured is written once a second, between
    two samples, so that a process which is killed leaves a file that `read_result` reads, with `complete` false. After
    Ctrl-C, a damaged image, a lost camera or any other error, the figures until then are written so too, and the error
    is raised.
    """
    require_writable(options.out, *options.inputs)
    measurement = Measurement(options)
    try:
        measurement.run()
    except BaseException:
        if measurement.has_figures:
            _save_the_rest(measurement)
            logger.info("stopped; what was measured until then is in %s", options.out)
        raise
    finally:
        measurement.close()
    return measurement.save(complete=True)


def _save_the_rest(measurement: Measurement) -> None:
    """Save an interrupted measurement; the error that interrupted it is the one to raise."""
    try:
        measurement.save(complete=False)
    except Exception as error:
        report(logger, Finding("result-not-composed", "problem", f"the result is not whole: {error}"))


class Measurement:
    """Everything that one benchmark has open, and what it has measured so far.

    One that takes turns with another, `beside`, shares its labelled images, frames and thermal readings.
    """

    def __init__(self, options: BenchOptions, beside: Measurement | None = None) -> None:
        self.options = options
        self.environment = read_environment()
        self.localizer = Localizer(options.model, options.engine, options.threads, options.contract)
        # What was chosen by measuring is what the float model and other processes run on.
        chosen = self.localizer.engine
        self.engine = chosen.name if options.engine == FASTEST else options.engine
        self.threads = chosen.threads if options.threads == "auto" else options.threads
        self.model = model_info(options.model, self.localizer)
        self.data: Dataset | None = None
        self.samples: list[Sample] = []
        if beside is not None:
            self.data, self.samples = beside.data, beside.samples
        elif options.validation:
            self.data = open_dataset(options.validation, split=options.validation_split, skip_bad=options.skip_bad)
            self.samples = _labelled(self.data, options.max_images)
        self.float_model: Localizer | None = None
        self.against: ModelInfo | None = None
        if options.against is not None:
            contract = self.localizer.contract
            self.float_model = float_localizer(options.against, contract, self.engine, self.threads)
            self.against = model_info(options.against, self.float_model)
        own = fingerprint(self.samples) if self.data and not beside else None
        self.data_hash: str | None = beside.data_hash if beside else own
        self.source: FrameSource = beside.source if beside else self._source()
        self.readings: RecordingReader = beside.readings if beside else RecordingReader(ThermalReader())
        self.thermal: ThermalSampler = beside.thermal if beside else ThermalSampler(self.readings)
        self.latency, self.in_turns = self._recorder(), self._in_turns()
        limits = options.asked, options.count, options.warmup_samples
        self.stopping = Stopping(*limits, alone=not options.loadgen, patience=options.patience)
        self.loadgen: LoadGen | None = None
        self.journal = Journal(options.out)
        self.memory: Memory | None = None
        self.others_busy: float | None = None
        self.pairs: RegressionRecorder | None = None
        self.answers: AccuracyRecorder | None = None
        self.detections: DetectionRecorder | None = None
        if self.data is not None:
            self._open_recorder()
        # Last: a meter that is open is always closed again.
        self.energy = EnergyRecorder(options.power)

    def _recorder(self) -> LatencyRecorder:
        """What times the scenario's samples."""
        options = self.options
        timed = self.localizer, self.source, options.warmup_samples, self.threads
        if options.scenario == "stream":
            return StreamRecorder(*timed, stream_camera(self.source, options.fps))
        if options.scenario == "cold-start":
            return StartRecorder(*timed, options.model, self.engine, options.contract)
        return LatencyRecorder(*timed)

    def _in_turns(self) -> tuple[LatencyRecorder, LatencyRecorder] | None:
        """What times this model and the float model in turns, where there is one."""
        if self.float_model is None or self.options.scenario != "single-stream":
            return None
        timed = TwiceSource(self.source), self.options.warmup_samples, self.threads
        return LatencyRecorder(self.localizer, *timed), LatencyRecorder(self.float_model, *timed)

    def _open_recorder(self) -> None:
        """What takes the images through both models, or through the one there is."""
        negatives, skip_bad = self.options.negatives, self.options.skip_bad
        if not self.localizer.contract.finds_one:
            after = _below_threshold(self.localizer)
            before = after if self.float_model is None else _below_threshold(self.float_model)
            self.detections = DetectionRecorder(before, after, skip_bad=skip_bad)
        elif self.float_model is not None:
            sides = _side(self.float_model), _side(self.localizer)
            self.pairs = RegressionRecorder(*sides, negatives=negatives, skip_bad=skip_bad)
        else:
            self.answers = AccuracyRecorder(_side(self.localizer), negatives=negatives, skip_bad=skip_bad)

    @property
    def images(self) -> Recorder[Any] | None:
        """What takes the images of `samples` through the models; None without labelled data."""
        return self.pairs or self.answers or self.detections

    def _source(self) -> FrameSource:
        if self.options.camera:
            wanted = self.localizer.contract.input
            return CameraSource(self.options.camera, (wanted.width, wanted.height))
        if self.data is not None:
            return ImageSource(str(self.options.validation), self.samples, skip_bad=self.options.skip_bad)
        return SceneSource()

    def run(self) -> None:
        """Latency first, while the machine is as cool as it was found; then the images."""
        with self.thermal, self.energy as energy:
            energy.idle("before")
            self._time(energy)
            energy.inferences(self.latency.inference, min(self.latency.frames, _MOST_INFERENCES))
            energy.idle("after")
        self.memory = self._memory()
        if self.in_turns is not None:
            ours, theirs = self.in_turns
            turns = range(ours.warmup + min(self.latency.frames, _MOST_AGAINST))
            ours.beside(theirs, progress(turns, label="latency beside the float model"))
        if self.images is not None:
            label = "accuracy" if self.float_model is None else "float against quantized"
            self.images.record(self._journaled(progress(self.samples, label=label)))

    def _time(self, energy: EnergyRecorder) -> None:
        recorder, count, warmup = self.latency, self.options.count, self.latency.warmup
        others = OthersLoad()
        total = None if count is None else warmup + count
        turns = progress(self.stopping.turns(recorder.began, recorder.totals), total=total, label="latency")
        frames = recorder.each(self._journaled(energy.frames(turns, warmup)))
        if self.options.loadgen:
            deque(islice(frames, warmup + 1), maxlen=0)  # up to the first frame that counts
            self.loadgen = drive(recorder, frames, self.options.asked, count, median(recorder.totals or [1.0]))
            self.stopping.end(recorder.totals)
        deque(frames, maxlen=0)
        energy.count_frames(recorder.frames)
        self.others_busy = others.share

    def each_frame(self) -> Iterator[None]:
        """Time one frame for each `next`, into the journal, until the scenario has enough."""
        return self.latency.each(self._journaled(self.stopping.turns(self.latency.began, self.latency.totals)))

    def take_images(self) -> None:
        """Take the labelled images through the model, into the journal."""
        if self.images is not None:
            self.images.record(self._journaled(self.samples))

    def _journaled(self, turns: Iterable[T]) -> Iterator[T]:
        """The same turns; between two of them, once a second, what was measured until then is written."""
        for turn in turns:
            yield turn
            if self.has_figures and self.journal.due:
                self.write_journal()
        if self.has_figures:
            self.write_journal()

    def write_journal(self) -> None:
        """Write what was measured since the last time, so that it stays whatever happens to this process."""
        recorder, energy = self.latency, self.energy
        with suppress(DataError):  # readings that no figures can be made of
            energy.take()
        lists: dict[str, Sequence[Any]] = {f"latency.{stage}": list_ for stage, list_ in recorder.samples.items()}
        lists |= {"began": recorder.began, "readings": self.readings.seen, "t_s": energy.t_s, "watts": energy.watts}
        lists |= {"rows": self.images.rows} if self.images else {}
        facts = {
            "created_at": _now(),
            "latency_run": recorder.run() if recorder.frames else None,
            "thermal": self.thermal.record() if recorder.frames else None,
            "memory": self._memory(),
            "scenario": self._asked(),
            "data": self._data_info(),
        }
        self.journal.write(self.head(), lists, facts)

    def close(self) -> None:
        self.energy.close()
        self.source.close()

    @property
    def has_figures(self) -> bool:
        return bool(self.latency.frames or (self.images and self.images.rows))

    def save(self, *, complete: bool) -> BenchResult:
        """Write what was measured, then the result with its figures in its place; report what there is to know."""
        result = self.write(complete=complete)
        for finding in result.findings:
            report(logger, finding)
        return result

    def write(self, *, complete: bool) -> BenchResult:
        """The same without a report."""
        self.write_journal()
        try:
            result = self._composed(complete=complete)
        except Exception:
            logger.info("every sample that was measured is in %s", self.options.out)
            raise
        finally:
            self.journal.close()
        write_result(self.options.out, result)
        return result

    def head(self) -> BenchResult:
        """The result without what is measured."""
        return BenchResult(
            created_at=_now(),
            complete=False,
            environment=self.environment,
            model=self.model,
            against=self.against,
            size_ratio=round(self.against.bytes / self.model.bytes, 3) if self.against else None,
            data=self._data_info(),
            latency={},
            latency_run=None,
            regression=self._regression(()),
            accuracy=self._accuracy(()),
            detection=self._detection(()),
            energy=self.energy.head(),
            findings=(*self.environment.findings(), *self._model_findings()),
            scenario=self._asked(),
            command=self.options.command,
        )

    def _asked(self) -> Scenario:
        return dataclasses.replace(self.options.asked, **self.latency.reached)

    def _memory(self) -> Memory | None:
        return self.latency.memory if isinstance(self.latency, StartRecorder) else peak_memory()

    def _composed(self, *, complete: bool) -> BenchResult:
        rows = self.images.rows if self.images else ()
        regression, accuracy, detection = self._regression(rows), self._accuracy(rows), self._detection(rows)
        if regression is not None:
            regression = dataclasses.replace(regression, worst=with_previews(regression.worst, self.samples))
        if detection is not None:
            detection = dataclasses.replace(detection, worst=with_previews(detection.worst, self.samples))
        timed = self.latency.frames
        head = self.head()
        result = dataclasses.replace(
            head,
            complete=complete,
            latency=self.latency.stages(),
            latency_run=self.latency.run() if timed else None,
            latency_against=self.in_turns[1].stages() if self.in_turns else {},
            latency_beside=self.in_turns[0].stages() if self.in_turns else {},
            regression=regression,
            accuracy=accuracy,
            detection=detection if rows else None,
            thermal=self.thermal.record() if timed else None,
            energy=self.energy.figures(),
            course=self._course() if timed else None,
            loadgen=self.loadgen,
            memory=self.memory or self._memory(),
        )
        found = [*head.findings, *_data_findings(regression or accuracy or detection)]
        if self.loadgen:
            found += self.loadgen.findings(result.latency["total"].p90_ms)
        result = with_reached(dataclasses.replace(result, findings=tuple(found)), self.stopping.stopped_by)
        return with_obstacles(result)

    def _course(self) -> Course:
        began = self.latency.began[self.latency.warmup :]
        energy_at = self.energy.began_at
        return Course(
            began_s=tuple(round(at - began[0], 4) for at in began),
            readings=tuple(moved(reading, began[0]) for reading in self.readings.seen),
            energy_from_s=None if energy_at is None else round(energy_at - began[0], 4),
            others_busy=self.others_busy,
        )

    def _regression(self, rows: Sequence[Any]) -> Regression | None:
        if self.pairs is None or self.float_model is None:
            return None
        return regression_figures(
            rows,
            threshold_float=self.float_model.contract.thresholds.presence,
            threshold_quantized=self.localizer.contract.thresholds.presence,
            labels=self.localizer.contract.labels,
        )

    def _accuracy(self, rows: Sequence[Any]) -> Accuracy | None:
        if self.answers is None:
            return None
        contract = self.localizer.contract
        return accuracy_figures(rows, threshold=contract.thresholds.presence, labels=contract.labels)

    def _detection(self, rows: Sequence[Any]) -> DetectionRegression | None:
        if self.detections is None:
            return None
        before = self.localizer if self.float_model is None else self.float_model
        thresholds = before.contract.thresholds.presence, self.localizer.contract.thresholds.presence
        return detection_figures(rows, *thresholds) if rows else DetectionRegression((), *thresholds)

    def _model_findings(self) -> list[Finding]:
        found = []
        for model in (self.model, self.against):
            if model and model.precision == UNKNOWN_PRECISION:
                message = f"{model.path} runs, but its precision cannot be read"
                found.append(Finding("precision-unknown", "warning", message))
        if self.against and not any(name in self.against.precision for name in ("float32", UNKNOWN_PRECISION)):
            message = f"{self.against.path}, the model compared against, is itself {self.against.precision}"
            found.append(Finding("float-model-quantized", "warning", message, "give the float32 model"))
        if self.float_model is not None and self.float_model.contract.labels != self.localizer.contract.labels:
            message = "the two models do not have the same labels: their classes cannot be compared"
            found.append(Finding("labels-differ", "warning", message))
        known, shown = self.localizer.contract.labels, self.data.labels if self.data else ()
        if known and shown and not set(known) & set(shown):
            message = f"none of the data's labels ({format_names(shown)}) is among the model's ({format_names(known)})"
            found.append(Finding("labels-differ", "warning", message, "give data of what the model knows"))
        return found

    def _data_info(self) -> DataInfo | None:
        if self.data is None:
            return None
        images = self.images
        skipped = list(dict.fromkeys([*self.source.skipped, *(images.skipped if images else [])]))
        one = self.localizer.contract.finds_one
        notes = (*self.data.findings, *(several_objects(self.data.name, self.samples) if one else ()))
        return DataInfo(
            uri=mask_credentials(str(self.options.validation)),
            name=self.data.name,
            split=self.data.split,
            labels=self.data.labels,
            notes=tuple(map(str, notes)),
            images=len(self.data),
            used=sum(getattr(row, "kind", "") != "background" for row in images.rows) if images else 0,
            skipped=len(skipped),
            skipped_names=tuple(skipped),
            sha256=self.data_hash,
        )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _side(localizer: Localizer) -> Side:
    return Side(localizer.model, localizer.contract, localizer.engine)


def _below_threshold(localizer: Localizer) -> Localizer:
    return Localizer(localizer.model, localizer.engine, contract=below_threshold(localizer.contract))


def _labelled(data: Dataset, most: int | None) -> list[Sample]:
    """The samples of which something is known, spread evenly where there are more than `most`."""
    samples = [sample for sample in data if sample.labelled]
    if not samples:
        raise DataError(f"{data.root} holds no labelled image: a comparison with the truth needs some")
    return spread(samples, most)


def _data_findings(figures: Regression | Accuracy | DetectionRegression | None) -> Sequence[Finding]:
    if figures is None:
        return ()
    if isinstance(figures, DetectionRegression) and not figures.labelled:
        message = "no image that was measured holds an object: what the float model finds is taken as the truth"
        return (Finding("no-objects", "warning", message, "give images with boxes"),)
    if not figures.images:
        message = "no image that was measured holds an object: there is no IoU, only presence"
        return (Finding("no-objects", "warning", message, "give images with boxes"),)
    if figures.ci_by == "image" and len({row.group for row in figures.rows}) == 1:
        message = "the data names no groups, or only one: of frames of one clip, the interval is too narrow"
        return (Finding("no-groups", "warning", message, "name the clip of each image in the data"),)
    return ()
