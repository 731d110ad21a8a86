"""The gate: a quantized model held against its float model on labelled images, with the worst of them as pictures."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc._support.terminal import progress
from edgeloc.converters.gate.checks import Check, checks, doubts
from edgeloc.data import Dataset, Sample
from edgeloc.data.sample import spread
from edgeloc.engines import Engine
from edgeloc.errors import DataError, GateFailed, OutputError, UsageError
from edgeloc.evaluation.figures import PresenceFigures, Regression, Row, Worst, presence_figures, regression_figures
from edgeloc.evaluation.pairing import RegressionRecorder, side_in_memory
from edgeloc.loop.draw import FLOAT_COLOR, QUANTIZED_COLOR, TRUTH_COLOR, draw_boxes
from edgeloc.model.contract import Contract
from edgeloc.types import Box, Pixels

__all__ = ["DEFAULT_MAX_IOU_DROP", "Gate", "GateReport", "PresenceFit", "fit_presence", "remove_worst", "write_worst"]

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
        return kept("at no other are the decisions noticeably more those of the float model", old)
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


_SIDE = 640  # pixels of the longer side, so that titles stay beside a small object


_QUALITY = 90


_OURS = re.compile(r"\d\d-.*\.jpg")


def remove_worst(out: str | Path) -> None:
    """Remove the pictures of an earlier failure beside `out`, which would speak of another model than the one there."""
    folder = _folder(out)
    if folder.is_dir() and _only_ours(folder):
        shutil.rmtree(folder, ignore_errors=True)


def write_worst(worst: Sequence[Worst], samples: Sequence[Sample], out: str | Path) -> Path:
    """Write one JPEG for each worst image that can still be read: truth, float and quantized box; give their folder.

    They are named by rank and image. A folder of an earlier failure is replaced, all of it or nothing. Raises
    OutputError where it cannot be written, or where the folder holds something else.
    """
    folder = _folder(out)
    try:
        if folder.exists() and not (folder.is_dir() and _only_ours(folder)):
            raise OutputError(f"cannot write {folder}: it holds other things than pictures; remove or rename it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made:
            pictures = Path(made) / folder.name
            pictures.mkdir()
            _write_all(pictures, worst, samples)
            if folder.exists():
                shutil.rmtree(folder)
            pictures.rename(folder)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _folder(out: str | Path) -> Path:
    out = Path(out)
    return out.with_name(f"{out.stem}-worst")


def _only_ours(folder: Path) -> bool:
    return all(_OURS.fullmatch(path.name) for path in folder.iterdir())


def _write_all(folder: Path, worst: Sequence[Worst], samples: Sequence[Sample]) -> None:
    by_name = {sample.name: sample for sample in samples}
    for rank, image in enumerate(worst, start=1):
        try:
            pixels = by_name[image.name].load()
        except DataError:
            continue
        written, data = cv2.imencode(".jpg", _drawn(image, pixels), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if written:
            (folder / f"{rank:02}-{_plain(image.name)}.jpg").write_bytes(data.tobytes())


def _drawn(image: Worst, pixels: Pixels) -> Pixels:
    scale = _SIDE / max(pixels.shape[:2])
    large = cast(Pixels, cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR))
    boxes = (
        (image.truth, "truth", TRUTH_COLOR),
        (image.box_float, f"float {image.iou_float:.2f}", FLOAT_COLOR),
        (image.box_quantized, f"quantized {image.iou_quantized:.2f}", QUANTIZED_COLOR),
    )
    return draw_boxes(large, [(_scaled(box, scale), title, color) for box, title, color in boxes if box is not None])


def _scaled(box: Box, scale: float) -> Box:
    return Box(*(edge * scale for edge in box))


def _plain(name: str) -> str:
    """The image's name without folders, suffix and anything that a file name cannot hold."""
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)[-60:]
