"""The gate: a quantized model held against its float model on labelled images, and the recipe that passes it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.terminal import progress
from edgeloc.converters.gate.detectors import DetectionReport, DetectorGate
from edgeloc.converters.gate.limits import Check, GateLimits, Verdict, check_figures, gate_findings, rounded
from edgeloc.converters.quantization.quantize import Recipe
from edgeloc.data import Dataset
from edgeloc.data.sample import spread
from edgeloc.engines import Engine
from edgeloc.errors import DataError, GateFailed, ModelError, UsageError
from edgeloc.evaluation.figures import PresenceFigures, Regression, Row, presence_figures, regression_figures
from edgeloc.evaluation.pairing import RegressionRecorder, side_in_memory
from edgeloc.findings import Finding
from edgeloc.model.contract import Contract
from edgeloc.model.inspection import report_payload

__all__ = [
    "Choice",
    "DetectionReport",
    "DetectorGate",
    "Gate",
    "GateLimits",
    "GateRefused",
    "GateReport",
    "PresenceFit",
    "Report",
    "Trial",
    "choose_recipe",
    "fit_presence",
]

_MEASURED = "quantization"
# Scores are kept to six decimals: two that differ by less are one.
_FINEST = 1e-5
_TINY = 1e-9
_LEAST_GAIN = 0.005


@dataclass(frozen=True, slots=True)
class PresenceFit:
    """The quantized model's threshold before and after, and how often it then decides as the float model does.

    Agreement is a share, 0 to 1: the mean of that over images with an object and that over images
    without one, None where there is none of either kind. `reason` says why the threshold was kept,
    "" where it was moved.
    """

    before: float
    after: float
    agreement_before: float | None
    agreement_after: float | None
    reason: str

    @property
    def moved(self) -> bool:
        """Whether the threshold is another one than before."""
        return self.after != self.before


@dataclass(frozen=True)
class GateReport(Verdict):
    """What quantization cost on labelled data, each figure against its limit, and the presence threshold to use.

    `regression` is taken at the threshold of `fit`; `presence_before` at the one that the
    contract had. `findings` are what the data leaves open. `data` and `split` name the images,
    `skipped` those that could not be read.
    """

    data: str
    split: str | None
    skipped: tuple[str, ...]
    limits: GateLimits
    regression: Regression
    fit: PresenceFit
    presence_before: PresenceFigures
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data for `Contract.measured`: no rows, no images, numbers to five decimals."""
        regression = self.regression
        figures: dict[str, Any] = rounded(
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
                "by_class": {name: dataclasses.asdict(one) for name, one in regression.by_class.items()},
                "presence": dataclasses.asdict(regression.presence),
                "threshold_before": self.fit.before,
                "classes": dataclasses.asdict(regression.classes),
                "limits": dataclasses.asdict(self.limits),
                "bounds": {check.name: check.bound for check in self.checks},
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


Report = GateReport | DetectionReport
"""Of a localizer, or of a detector."""


class Gate:
    """A float model and labelled images, against which any number of quantized models are held.

    Parameters:
        float_flatbuffer: the float model.
        contract: its contract.
        dataset: labelled images that the quantization was not calibrated on.
        limits: how much worse a quantized model may be.
        max_images: how many of the labelled images to take at most, as many of each group as of any other.
        skip_bad: leave an image that cannot be read out, and list it in the report.

    Raises UsageError for a number out of range, DataError where no image holds a labelled object, ContractError where
    the contract does not fit the model.
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
        self.samples = spread([sample for sample in dataset if sample.labelled], max_images)
        if not any(sample.box is not None for sample in self.samples):
            raise DataError(
                f"{dataset.name} has no image with a labelled object: the gate compares boxes with the truth"
            )
        # Asked again for every quantized model, on the same images.
        self._float = side_in_memory("the float model", float_flatbuffer, contract, remember=True)

    def judge(self, flatbuffer: bytes, contract: Contract, engine: Engine | None = None) -> GateReport:
        """Run every image, and a background crop of each with an object, through both models and compare them.

        Parameters:
            flatbuffer: the quantized model.
            contract: its contract.
            engine: what runs it, loaded, where that is no TFLite runtime.

        Raises DataError for a damaged image without `skip_bad`, ContractError where the contract does not fit the
        quantized model, EngineError where it cannot be run.
        """
        quantized = side_in_memory("the quantized model", flatbuffer, contract, engine=engine)
        recorder = RegressionRecorder(
            self._float, quantized, negatives=_has_presence(contract), skip_bad=self._skip_bad
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
        checks = check_figures(regression, self._limits)
        return GateReport(
            data=self._dataset.name,
            split=self._dataset.split,
            skipped=tuple(recorder.skipped),
            limits=self._limits,
            regression=regression,
            fit=fit,
            presence_before=presence_figures(recorder.rows, self._float.threshold, quantized.threshold),
            checks=checks,
            findings=gate_findings(regression, checks, self._limits),
        )


def _has_presence(contract: Contract) -> bool:
    return any(output.role == "presence" or "presence" in output.slots for output in contract.outputs)


@dataclass(frozen=True)
class Trial:
    """One recipe: the model it gave, what that computes in as read from its bytes, and the gate's report on it.

    Where the recipe gave no model, `flatbuffer` and `report` are None and `reason` is why; a recipe that was not tried
    has no reason either.
    """

    recipe: Recipe
    flatbuffer: bytes | None = field(default=None, repr=False)
    precision: str = ""
    report: Report | None = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the gate let the model through."""
        return self.report is not None and self.report.passed


@dataclass(frozen=True)
class Choice:
    """The recipe that was kept, its model and the gate's report on it, and all candidates in their order."""

    recipe: Recipe
    flatbuffer: bytes = field(repr=False)
    report: Report
    trials: tuple[Trial, ...]


class GateRefused(GateFailed):
    """No model passed the gate.

    Parameters:
        message: what failed.
        report: on the last model; None where no recipe gave one.
        trials: the recipes that were tried, if several.
        hint: the fix.
    """

    def __init__(self, message: str, report: Report | None, trials: tuple[Trial, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.report, self.trials = report, trials


def choose_recipe(
    candidates: Sequence[Recipe],
    make: Callable[[Recipe], bytes],
    judge: Callable[[bytes], Report],
) -> Choice:
    """Quantize by each of `candidates` until one passes the gate, and keep that one.

    Parameters:
        candidates: the recipes, cheapest on the device first.
        make: gives the flatbuffer of a recipe, or raises ModelError where the network cannot be quantized so.
        judge: `Gate.judge` for the contract at hand.

    Raises GateRefused when none has passed, UsageError without candidates.
    """
    if not candidates:
        raise UsageError("there is no recipe to choose from", field="recipe", hint="name one with {recipe}")
    trials: list[Trial] = []
    for recipe in candidates:
        trials.append(_trial(recipe, make, judge))
        if trials[-1].passed:
            break
    everything = (*trials, *(Trial(recipe) for recipe in candidates[len(trials) :]))
    last = trials[-1]
    if last.flatbuffer is None or last.report is None or not last.report.passed:
        names = ", ".join(trial.recipe.name for trial in trials)
        reports = [trial.report for trial in trials if trial.report is not None]
        raise GateRefused(
            f"none of the recipes {names} passes the gate, so nothing is written",
            reports[-1] if reports else None,
            everything,
            hint=f"calibrate on images like those of the camera{_or_move(reports[-1:])}",
        )
    return Choice(last.recipe, last.flatbuffer, last.report, everything)


def _or_move(reports: Sequence[Report]) -> str:
    """Advice that names the options whose limits failed; none where no recipe gave a model to judge."""
    options = " and ".join(f"{{{name}}}" for report in reports for name in report.failed_options)
    return f", or move the limit with {options}" if options else ""


def _trial(recipe: Recipe, make: Callable[[Recipe], bytes], judge: Callable[[bytes], Report]) -> Trial:
    try:
        flatbuffer = make(recipe)
        precision = report_payload(flatbuffer, recipe.name).precision
        return Trial(recipe, flatbuffer, precision, judge(flatbuffer))
    except ModelError as error:
        return Trial(recipe, reason=str(error))


def fit_presence(rows: Sequence[Row], threshold_float: float, threshold_quantized: float) -> PresenceFit:
    """The threshold at which the quantized model decides most as the float model does at its own.

    Both kinds of image, with and without an object, weigh the same however many there are. The old
    threshold stays where the best gains no more than one image's worth or half a per cent, so that
    chance does not move it; among the best, the one nearest to the old is taken. Between two scores
    that the quantized model gives (steps of its integer output) all thresholds decide alike: of
    these it is the shortest decimal near the middle. It always lies between 0 and 1; where the data
    has only one kind of image, or the old threshold is 0 or 1 (presence was switched off), the old
    one stays.
    """

    def kept(reason: str, agreement: float | None = None) -> PresenceFit:
        return PresenceFit(threshold_quantized, threshold_quantized, agreement, agreement, reason)

    objects = np.array([row.kind == "object" for row in rows], bool)
    if objects.all() or not objects.any():
        missing = "without" if objects.any() else "with"
        return kept(f"the data has no image {missing} an object")
    before = np.array([row.presence_float for row in rows]) >= threshold_float
    scores = np.array([row.presence_quantized for row in rows])
    old = _agreement(before, scores, objects, threshold_quantized)
    if not 0 < threshold_quantized < 1:
        return kept(f"it is {threshold_quantized:g}, which switches presence off", old)
    gaps = _gaps(scores)
    reached = [_agreement(before, scores, objects, (low + high) / 2) for low, high in gaps]
    needed = max(_LEAST_GAIN, 0.5 / min(objects.sum(), (~objects).sum()))
    best = max(reached)
    if best <= old + needed + _TINY:
        return kept("no other agrees noticeably better with the float model", old)
    good = [gap for gap, agreement in zip(gaps, reached, strict=True) if agreement >= best - _TINY]
    chosen = _between(*min(good, key=lambda gap: _distance(gap, threshold_quantized)))
    return PresenceFit(threshold_quantized, chosen, old, _agreement(before, scores, objects, chosen), "")


def _agreement(before: NDArray[np.bool_], scores: NDArray[np.float64], objects: NDArray[np.bool_], at: float) -> float:
    same = before == (scores >= at)
    return float((same[objects].mean() + same[~objects].mean()) / 2)


def _gaps(scores: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The open intervals between neighbouring scores, with 0 and 1 as the outermost."""
    edges = np.unique(np.concatenate([[0.0, 1.0], scores]))
    return [(float(a), float(b)) for a, b in itertools.pairwise(edges) if b - a > _FINEST]


def _distance(gap: tuple[float, float], value: float) -> float:
    return max(gap[0] - value, value - gap[1], 0.0)


def _between(low: float, high: float) -> float:
    """The decimal of fewest digits inside the gap that is nearest to its middle."""
    middle = (low + high) / 2
    for digits in range(2, 7):
        value = round(middle, digits)
        if low < value < high:
            return value
    return middle
