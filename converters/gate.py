"""The gate: a quantized model against its float model on labelled images; limits and wording are modules of their own.

gate = Gate(float_flatbuffer, float_contract, open_dataset(data, split="val"), max_iou_drop=0.005)
report = gate.judge(quantized_flatbuffer, quantized_contract)
contract = report.written_into(quantized_contract)
gate.require(report, out)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeloc.benchmarks.figures import presence_figures, regression_figures
from edgeloc.benchmarks.regression import RegressionRecorder
from edgeloc.benchmarks.result import PresenceFigures, Regression
from edgeloc.benchmarks.sides import side_in_memory
from edgeloc.benchmarks.sources import spread
from edgeloc.contract import Contract
from edgeloc.converters.gate_checks import Check, checks, doubts
from edgeloc.converters.thresholds import PresenceFit, fit_presence
from edgeloc.converters.worst import remove_worst, write_worst
from edgeloc.data import Dataset
from edgeloc.engines import Engine
from edgeloc.errors import DataError, GateFailed, UsageError
from edgeloc.progress import progress

__all__ = ["DEFAULT_MAX_IOU_DROP", "Gate", "GateReport"]

DEFAULT_MAX_IOU_DROP = 0.005
_MEASURED = "quantization"
_NAMED = 3  # failures in the error; the table has all


@dataclass(frozen=True)
class GateReport:
    """What quantization cost on labelled data, each figure against its limit, and the threshold of presence to use.

    `regression` is taken at the threshold of `fit`; `presence_before` at the one that the
    contract had. `warnings` are sentences on what the data cannot tell. `data` and `split` name
    the images, `skipped` those that could not be read.
    """

    data: str
    split: str | None
    skipped: tuple[str, ...]
    max_iou_drop: float
    regression: Regression
    fit: PresenceFit
    presence_before: PresenceFigures
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The figures that are worse than allowed."""
        return tuple(check for check in self.checks if check.failed)

    @property
    def passed(self) -> bool:
        """Whether every figure that counts is within its limit."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data for `Contract.measured`: no rows, no images, numbers to five decimals."""
        regression = self.regression
        figures: dict[str, Any] = _rounded(
            {
                "data": self.data,
                "split": self.split,
                "images": regression.images,
                "skipped": len(self.skipped),
                "mean_iou_float": regression.mean_iou_float,
                "mean_iou_quantized": regression.mean_iou_quantized,
                "mean_iou_drop": regression.mean_iou_drop,
                "drop_ci95": regression.drop_ci95,
                "ci_by": regression.ci_by,
                "ci_groups": regression.ci_groups,
                "mean_iou_float_to_quantized": regression.mean_iou_float_to_quantized,
                "by_size": {name: dataclasses.asdict(size) for name, size in regression.by_size.items() if size.images},
                "presence": dataclasses.asdict(regression.presence),
                "threshold_before": self.fit.before,
                "classes": dataclasses.asdict(regression.classes),
                "limits": {"max_iou_drop": self.max_iou_drop, **{check.name: check.bound for check in self.checks}},
                "failed": [check.name for check in self.failures],
                "passed": self.passed,
            }
        )
        return figures

    def written_into(self, contract: Contract) -> Contract:
        """The quantized model's contract with its new threshold, and with these figures beside those of training."""
        thresholds = dataclasses.replace(contract.thresholds, presence=self.fit.after)
        measured = {**contract.measured, _MEASURED: self.to_dict()}
        return dataclasses.replace(contract, thresholds=thresholds, measured=measured)


class Gate:
    """A float model and labelled images, against which any number of quantized models are held.

    `float_flatbuffer` and `contract` are the float model; `max_iou_drop` (0 to 1) is how much mean
    IoU a quantized one may lose. Of the labelled images at most `limit` are taken, as many of each group
    as of any other. With `skip_bad` an image that cannot be read is left out and listed in the report.

    Raises UsageError for a number out of range, DataError where no image holds a labelled object,
    ContractError where the contract does not fit the model.
    """

    def __init__(
        self,
        float_flatbuffer: bytes,
        contract: Contract,
        dataset: Dataset,
        *,
        max_iou_drop: float = DEFAULT_MAX_IOU_DROP,
        limit: int | None = None,
        skip_bad: bool = False,
    ) -> None:
        if not 0 <= max_iou_drop <= 1:
            raise UsageError(f"--max-iou-drop is {max_iou_drop:g}: it must be 0 to 1, such as {DEFAULT_MAX_IOU_DROP}")
        if limit is not None and limit < 1:
            raise UsageError(f"limit is {limit}: it must be at least 1")
        self._dataset, self._max_iou_drop, self._skip_bad = dataset, max_iou_drop, skip_bad
        self.samples = spread([sample for sample in dataset if sample.labelled], limit)
        if not any(sample.box is not None for sample in self.samples):
            raise DataError(
                f"{dataset.name} has no image with a labelled object: the gate compares boxes with the truth"
            )
        # Asked again for every quantized model, on the same images.
        self._float = side_in_memory("the float model", float_flatbuffer, contract, remember=True)

    def judge(self, flatbuffer: bytes, contract: Contract, engine: Engine | None = None) -> GateReport:
        """Take every image, and a background crop of each with an object, through both models and hold the figures up.

        `engine`, with the model loaded, is for one that a TFLite runtime does not run. Raises
        DataError for a damaged image without `skip_bad`, ContractError where the contract does not
        fit the quantized model, EngineError where it cannot be run.
        """
        quantized = side_in_memory("the quantized model", flatbuffer, contract, engine=engine)
        recorder = RegressionRecorder(
            self._float, quantized, negatives=_says_presence(contract), skip_bad=self._skip_bad
        )
        recorder.record(progress(self.samples, label="float against quantized"))
        if not any(row.kind == "object" for row in recorder.rows):
            raise DataError(f"{self._dataset.name}: no image with a labelled object could be read")
        fit = fit_presence(recorder.rows, self._float.threshold, quantized.threshold)
        regression = regression_figures(
            recorder.rows,
            threshold_float=self._float.threshold,
            threshold_quantized=fit.after,
            labels=contract.labels,
        )
        found = checks(regression, self._max_iou_drop)
        return GateReport(
            data=self._dataset.name,
            split=self._dataset.split,
            skipped=tuple(recorder.skipped),
            max_iou_drop=self._max_iou_drop,
            regression=regression,
            fit=fit,
            presence_before=presence_figures(recorder.rows, self._float.threshold, quantized.threshold),
            checks=found,
            warnings=doubts(regression, found, self._max_iou_drop),
        )

    def require(self, report: GateReport, out: str | Path) -> None:
        """Write the worst images of a report that has not passed beside `out` and raise GateFailed.

        The pictures go into the folder `<out without suffix>-worst`. One of an earlier failure is
        replaced, or removed where the report has passed.
        """
        if report.passed:
            remove_worst(out)
            return
        folder = write_worst(report.regression.worst, self.samples, out)
        first = "; ".join(str(check) for check in report.failures[:_NAMED])
        more = f" and {len(report.failures) - _NAMED} more figures" if len(report.failures) > _NAMED else ""
        raise GateFailed(
            f"{out} is not written, since the gate failed: {first}{more}; the worst images are in {folder}; "
            "calibrate on images like those of the camera, try --fix-head, or allow more with --max-iou-drop"
        )


def _says_presence(contract: Contract) -> bool:
    roles = {output.role for output in contract.outputs}
    return bool(roles & {"presence", "ssd-scores", "yolo"}) or any("presence" in o.slots for o in contract.outputs)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
