"""One benchmark, from its options to its saved result."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeloc._support.files import require_writable
from edgeloc._support.terminal import progress
from edgeloc.benchmarks.energy import EnergyRecorder
from edgeloc.benchmarks.latency import CameraSource, FrameSource, ImageSource, LatencyRecorder, SceneSource
from edgeloc.benchmarks.report.plots import with_previews
from edgeloc.benchmarks.result import (
    UNKNOWN_PRECISION,
    BenchResult,
    DataInfo,
    ModelInfo,
    read_environment,
    write_result,
)
from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.data.sample import several_objects, spread
from edgeloc.device.thermal import ThermalReader, ThermalSampler
from edgeloc.errors import DataError, ModelError, UsageError, mask_credentials
from edgeloc.evaluation.accuracy import Accuracy, AccuracyRecorder, accuracy_figures
from edgeloc.evaluation.detection import DetectionRecorder, DetectionRegression, below_threshold, detection_figures
from edgeloc.evaluation.figures import Regression, regression_figures
from edgeloc.evaluation.pairing import Recorder, RegressionRecorder, Side, float_localizer
from edgeloc.findings import Finding, report
from edgeloc.localizer import Localizer
from edgeloc.model.file import own_contract
from edgeloc.model.inspection import inspect_model

__all__ = ["BenchOptions", "Measurement", "bench"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and where the result goes.

    Parameters:
        model: the quantized model, `.tflite` or `.onnx`.
        out: where the result goes, as JSON.
        against: the float model to compare it with, `.tflite` or `.keras`; needs `validation`.
        validation: labelled images, as `edgeloc.open_dataset` takes them. Without `against` the model's own accuracy
            is measured on them.
        validation_split: the part of `validation` to use; None is all of it.
        max_images: how many images to measure accuracy on, spread evenly over the data's groups; None is all.
        camera: time frames of this camera; None is the images of `validation`, else synthetic scenes.
        frames: how many frames to time.
        warmup: frames before them, which are kept apart.
        engine: what runs the model, as in `edgeloc.Localizer`.
        threads: of the engine; None is its own choice.
        contract: a JSON file, for a model that carries no contract.
        negatives: take crops of background through the model too, for the presence figures.
        skip_bad: leave out images and rows that cannot be read, and count them.
        power: a power meter's URI, `auto` or `none`.
    """

    model: str | Path
    out: str | Path
    against: str | Path | None = None
    validation: str | Path | None = None
    validation_split: str | None = None
    max_images: int | None = None
    camera: str | None = None
    frames: int = 200
    warmup: int = 20
    engine: str = "auto"
    threads: int | None = None
    contract: str | Path | None = None
    negatives: bool = True
    skip_bad: bool = False
    power: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("warmup", 0), ("max_images", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(field=name, value=value, allowed=f"at least {least}")
        if self.validation is not None:
            return
        if self.against is not None:
            raise UsageError("two models are compared on labelled images", hint="give {validation}")
        if self.validation_split is not None:
            message = f"there is no data set to take the split {self.validation_split} of"
            raise UsageError(message, hint="give {validation}, or leave {validation_split} out")
        if self.max_images is not None:
            message = "there are no labelled images to measure accuracy on"
            raise UsageError(message, hint="give {validation}, or leave {max_images} out")


def bench(options: BenchOptions) -> BenchResult:
    """Measure, write the result to `options.out`, and return it.

    Whatever can be refused is refused before the first measurement. What was measured is written first as it is, then
    again with the figures made of it: whatever fails there costs no measurement. After Ctrl-C, a damaged image, a lost
    camera or any other error, what was measured until then is written with `complete` false, and the error is raised.
    """
    recording = options.power.partition("://")[2].partition("?")[0] or None
    inputs = (options.model, options.against, options.validation, options.camera, options.contract, recording)
    require_writable(options.out, *inputs)
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
    """Everything that one benchmark has open, and what it has measured so far."""

    def __init__(self, options: BenchOptions) -> None:
        self.options = options
        self.environment = read_environment()
        self.localizer = Localizer(options.model, options.engine, options.threads, options.contract)
        self.model = _model_info(options.model, self.localizer)
        self.data: Dataset | None = None
        self.samples: list[Sample] = []
        if options.validation:
            self.data = open_dataset(options.validation, split=options.validation_split, skip_bad=options.skip_bad)
            self.samples = _labelled(self.data, options.max_images)
        self.float_model: Localizer | None = None
        self.against: ModelInfo | None = None
        if options.against is not None:
            contract = self.localizer.contract
            self.float_model = float_localizer(options.against, contract, options.engine, options.threads)
            self.against = _model_info(options.against, self.float_model)
        self.source = self._source()
        self.thermal = ThermalSampler(ThermalReader())
        self.latency = LatencyRecorder(self.localizer, self.source, options.warmup, options.threads)
        self.pairs: RegressionRecorder | None = None
        self.answers: AccuracyRecorder | None = None
        self.detections: DetectionRecorder | None = None
        if self.data is not None:
            self._open_recorder()
        # Last: a meter that is open is always closed again.
        self.energy = EnergyRecorder(options.power)

    def _open_recorder(self) -> None:
        """What takes the images through both models, or through the one there is."""
        negatives, skip_bad = self.options.negatives, self.options.skip_bad
        if self.localizer.contract.detector is not None:
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
            turns = progress(range(self.options.warmup + self.options.frames), label="latency")
            self.latency.record(energy.frames(turns, self.options.warmup))
            energy.inferences(self._inference, self.options.frames)
            energy.idle("after")
        if self.images is not None:
            label = "accuracy" if self.float_model is None else "float against quantized"
            self.images.record(progress(self.samples, label=label))

    def _inference(self) -> Callable[[], object]:
        """One frame through the engine alone, as often as it is called."""
        tensor, _ = self.localizer.preprocess(self.source.grab())
        return lambda: self.localizer.invoke(tensor)

    def close(self) -> None:
        self.energy.close()
        self.source.close()

    @property
    def has_figures(self) -> bool:
        return bool(self.latency.frames or (self.images and self.images.rows))

    def save(self, *, complete: bool) -> BenchResult:
        """Write what was measured, then the result with its figures in its place."""
        raw = self._raw()
        write_result(self.options.out, raw)
        try:
            result = self._composed(raw, complete=complete)
        except Exception:
            logger.info("every sample that was measured is in %s", self.options.out)
            raise
        write_result(self.options.out, result)
        for finding in result.findings:
            report(logger, finding)
        return result

    def _raw(self) -> BenchResult:
        """Samples, readings and rows as they were measured, `complete` false: the figures made of them are missing."""
        return BenchResult(
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            complete=False,
            environment=self.environment,
            model=self.model,
            against=self.against,
            size_ratio=round(self.against.bytes / self.model.bytes, 3) if self.against else None,
            data=self._data_info(),
            latency=self.latency.stages(),
            latency_run=self.latency.run() if self.latency.frames else None,
            regression=self._regression(computed=False),
            accuracy=self._accuracy(computed=False),
            detection=self._detection(computed=False),
            thermal=self.thermal.record() if self.latency.frames else None,
            energy=self.energy.readings(),
        )

    def _composed(self, raw: BenchResult, *, complete: bool) -> BenchResult:
        regression, accuracy = self._regression(), self._accuracy()
        detection = self._detection()
        if regression is not None:
            regression = dataclasses.replace(regression, worst=with_previews(regression.worst, self.samples))
        if detection is not None:
            detection = dataclasses.replace(detection, worst=with_previews(detection.worst, self.samples))
        thermal = raw.thermal.findings() if raw.thermal else ()
        data = _data_findings(regression or accuracy or detection)
        return dataclasses.replace(
            raw,
            complete=complete,
            regression=regression,
            accuracy=accuracy,
            detection=detection,
            energy=self.energy.figures(),
            findings=(*self.environment.findings(), *self._model_findings(), *data, *thermal),
        )

    def _regression(self, *, computed: bool = True) -> Regression | None:
        if self.pairs is None or self.float_model is None:
            return None
        rows = tuple(self.pairs.rows)
        figures = regression_figures(
            rows if computed else (),
            threshold_float=self.float_model.contract.thresholds.presence,
            threshold_quantized=self.localizer.contract.thresholds.presence,
            labels=self.localizer.contract.labels,
        )
        return dataclasses.replace(figures, rows=rows)

    def _accuracy(self, *, computed: bool = True) -> Accuracy | None:
        if self.answers is None:
            return None
        rows = tuple(self.answers.rows)
        contract = self.localizer.contract
        threshold, labels = contract.thresholds.presence, contract.labels
        figures = accuracy_figures(rows if computed else (), threshold=threshold, labels=labels)
        return dataclasses.replace(figures, rows=rows)

    def _detection(self, *, computed: bool = True) -> DetectionRegression | None:
        if self.detections is None or not self.detections.rows:
            return None
        before = self.localizer if self.float_model is None else self.float_model
        thresholds = before.contract.thresholds.presence, self.localizer.contract.thresholds.presence
        rows = tuple(self.detections.rows)
        return detection_figures(rows, *thresholds) if computed else DetectionRegression(rows, *thresholds)

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
        )


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


def _model_info(path: str | Path, localizer: Localizer) -> ModelInfo:
    """The facts about a model file that `localizer` runs."""
    data = Path(path).read_bytes()
    precision, operators = _inspected(path)
    contract = own_contract(localizer.model)
    return ModelInfo(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        precision=precision,
        engine=localizer.engine.name,
        engine_version=localizer.engine.version,
        recipe=contract.recipe if contract else "",
        operators=operators,
    )


def _inspected(path: str | Path) -> tuple[str, dict[str, int]]:
    """Precision and operators as read out of the file; a Keras file computes in float32.

    A file that runs may still not be understood.
    """
    if Path(path).suffix == ".keras":
        return "float32 (Keras)", {}
    try:
        report = inspect_model(path)
    except ModelError as error:
        logger.debug("%s", error)
        return UNKNOWN_PRECISION, {}
    return report.precision, report.operators


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
