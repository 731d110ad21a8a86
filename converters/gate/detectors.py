"""The gate of detectors: average precision, boxes, objects found and false ones, against the float model's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgeloc._support.terminal import progress
from edgeloc.converters.gate.limits import (
    AVERAGE_PRECISION,
    Check,
    GateLimits,
    Verdict,
    about_few,
    about_the_interval,
    lost,
    rounded,
)
from edgeloc.data import Dataset
from edgeloc.data.sample import spread
from edgeloc.engines import Engine
from edgeloc.errors import DataError, UsageError
from edgeloc.evaluation.detection import (
    DetectionRecorder,
    DetectionRegression,
    below_threshold,
    detection_figures,
)
from edgeloc.evaluation.figures import SIZES
from edgeloc.findings import Finding
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.model.file import file_in_memory

__all__ = ["DetectionReport", "DetectorGate"]

_MEASURED = "quantization"
_POOR_FLOAT = 0.2


@dataclass(frozen=True)
class DetectionReport(Verdict):
    """What quantization cost a detector on images, each figure against its limit.

    Parameters:
        data, split: which images.
        skipped: those that could not be read.
        limits: what is allowed.
        regression: the figures.
        checks: the figures that have a limit.
        findings: what the data leaves open.
    """

    data: str
    split: str | None
    skipped: tuple[str, ...]
    limits: GateLimits
    regression: DetectionRegression
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data for `Contract.measured`: no images, numbers to five decimals."""
        regression = self.regression
        names = ("images", "labelled", "drop_ci95", "ci_by", "ci_groups", "false_float", "false_quantized", "agreement")
        figures: dict[str, Any] = rounded(
            {
                "data": self.data,
                "split": self.split,
                "skipped": len(self.skipped),
                **{name: getattr(regression, name) for name in names},
                "map_float": dataclasses.asdict(regression.precision_float),
                "map_quantized": dataclasses.asdict(regression.precision_quantized),
                "map_drop": regression.drop,
                "all": dataclasses.asdict(regression.all),
                "by_size": {name: dataclasses.asdict(one) for name, one in regression.by_size.items() if one.objects},
                "by_class": {name: dataclasses.asdict(one) for name, one in regression.by_class.items()},
                "limits": dataclasses.asdict(self.limits),
                "bounds": {check.name: check.bound for check in self.checks},
                "failed": [check.name for check in self.failures],
                "passed": self.passed,
            }
        )
        return figures

    def written_into(self, contract: Contract) -> Contract:
        """The quantized model's contract with these figures beside those of training."""
        return dataclasses.replace(contract, measured={**contract.measured, _MEASURED: self.to_dict()})


class DetectorGate:
    """A float detector and images, against which any number of quantized ones are held.

    Parameters:
        float_flatbuffer: the float model.
        contract: its contract.
        dataset: images that the quantization was not calibrated on; where none is labelled, the float model's own
            objects are the truth.
        limits: how much worse a quantized model may be.
        max_images: how many of the images to take at most, as many of each group as of any other.
        skip_bad: leave an image that cannot be read out, and list it in the report.

    Raises UsageError for a number out of range, ContractError where the contract does not fit the model.
    """

    def __init__(
        self,
        float_flatbuffer: bytes,
        contract: Contract,
        dataset: Dataset,
        *,
        limits: GateLimits | None = None,
        max_images: int | None = None,
        skip_bad: bool = False,
    ) -> None:
        if max_images is not None and max_images < 1:
            raise UsageError(field="max_images", value=max_images, allowed="at least 1")
        self._dataset, self._limits, self._skip_bad = dataset, limits or GateLimits(), skip_bad
        labelled = [sample for sample in dataset if sample.labelled]
        self.samples = spread(labelled or list(dataset), max_images)
        self._threshold = contract.thresholds.presence
        self._float = _opened("the float model", float_flatbuffer, contract, None)

    def judge(self, flatbuffer: bytes, contract: Contract, engine: Engine | None = None) -> DetectionReport:
        """Run every image through both models and compare them.

        Parameters:
            flatbuffer: the quantized model.
            contract: its contract.
            engine: what runs it, loaded, where that is no TFLite runtime.

        Raises DataError for a damaged image without `skip_bad`, and where no image holds an object, ContractError
        where the contract does not fit the quantized model, EngineError where it cannot be run.
        """
        quantized = _opened("the quantized model", flatbuffer, contract, engine)
        recorder = DetectionRecorder(self._float, quantized, skip_bad=self._skip_bad)
        recorder.record(progress(self.samples, label="float against quantized"))
        rows = recorder.rows
        if not rows:
            raise DataError(f"{self._dataset.name}: no image could be read")
        regression = detection_figures(rows, self._threshold, contract.thresholds.presence)
        if regression.precision_float.ap is None:
            raise DataError(f"{self._dataset.name}: no image has a labelled object, nor does the float model find one")
        checks = tuple(_checks(regression, self._limits))
        return DetectionReport(
            data=self._dataset.name,
            split=self._dataset.split,
            skipped=tuple(recorder.skipped),
            limits=self._limits,
            regression=regression,
            checks=checks,
            findings=(*_about_the_data(regression, self._limits), *about_few(checks)),
        )


def _opened(name: str, payload: bytes, contract: Contract, engine: Engine | None) -> Localizer:
    model = file_in_memory(name, payload, contract)
    return Localizer(model, engine or "auto", contract=below_threshold(contract))


def _checks(regression: DetectionRegression, limits: GateLimits) -> Iterator[Check]:
    before, after, every = regression.precision_float.ap, regression.precision_quantized.ap, regression.all
    assert before is not None
    yield lost(AVERAGE_PRECISION, "max_map_drop", every.objects, before, after or 0.0, limits.max_map_drop)
    found = every.found
    if every.box_iou is not None:
        yield Check("IoU between matched boxes", "min_box_iou", found, None, every.box_iou, limits.min_box_iou)
    for name in SIZES:
        figures = regression.by_size[name]
        if figures.box_iou is not None:
            title = f"IoU between matched boxes, {name}"
            bound = limits.min_box_iou_by_size
            yield Check(title, "min_box_iou_by_size", figures.found, None, figures.box_iou, bound, size=True)
    if every.recall_float is not None and every.recall_quantized is not None:
        limit = limits.max_recall_drop
        yield lost("objects found", "max_recall_drop", every.objects, every.recall_float, every.recall_quantized, limit)
    if regression.false_float is not None and regression.false_quantized is not None:
        bound = min(regression.false_float + limits.max_false_alarm_rise, 1.0)
        values = found, regression.false_float, regression.false_quantized, bound
        yield Check("boxes of no object", "max_false_alarm_rise", *values, lower_is_better=True)
    if regression.agreement is not None:
        bound = limits.min_class_agreement
        yield Check("class agreement", "min_class_agreement", found, None, regression.agreement, bound)


def _about_the_data(regression: DetectionRegression, limits: GateLimits) -> Iterator[Finding]:
    yield from about_the_interval(regression.drop_ci95, limits.max_map_drop, regression.ci_groups, regression.ci_by)
    if not regression.labelled:
        message = "no image is labelled: the float model's own objects are the truth, so that its errors count as right"
        yield Finding("gate-no-labels", "note", message, "measure on labelled images")
    if regression.ci_by == "image" and len({row.group for row in regression.rows}) == 1:
        message = (
            "the data names no groups, or only one: if images are frames of one clip, the interval of the drop is "
            "too narrow"
        )
        yield Finding("no-groups", "warning", message, "name the clip of each image in the data")
    before = regression.precision_float.ap
    if before is not None and before < _POOR_FLOAT:
        message = f"the float model itself only reaches an average precision of {before:.3f} here"
        yield Finding("float-model-poor", "warning", message, "check its contract with `edgeloc contract check`")
