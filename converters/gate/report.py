"""The gate's report as a user reads it, and the pictures of the worst images."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2

from edgeloc._support.terminal import aligned
from edgeloc.converters.gate import DetectionReport, GateRefused, GateReport, Report, Trial
from edgeloc.converters.gate.limits import AVERAGE_PRECISION, MEAN_IOU, Check
from edgeloc.data import Sample
from edgeloc.errors import DataError, OutputError
from edgeloc.evaluation.detection import DetectionRegression, WorstImage
from edgeloc.evaluation.figures import Regression, Worst, format_drop, format_interval, format_share
from edgeloc.loop.draw import FLOAT_COLOR, QUANTIZED_COLOR, TRUTH_COLOR, Color, draw_boxes
from edgeloc.types import Box, Pixels

__all__ = ["remove_worst", "report_lines", "require_passed", "trial_lines", "write_worst"]

_WORST = 3
_NAMED = 3  # failures in the error; the table has all
_SIDE = 640  # pixels of the longer side, so that titles stay beside a small object
_QUALITY = 90
_OURS = re.compile(r"\d\d-.*\.jpg")
_TRIALS = ("95 % interval", "precision", "verdict")
_HEAD = ("", "images", "float", "quantized", "change", "must be", "")


def report_lines(report: Report) -> list[str]:
    """Data, one table, threshold, worst images and verdict, a line each; the findings are reported apart."""
    if isinstance(report, DetectionReport):
        middle = [*_precision_of_classes(report.regression), *_worst_detections(report.regression.worst)]
    else:
        middle = [*_threshold(report), *_worst(report.regression.worst)]
    return [
        _title(report), *_table(report.checks), _interval(report), *middle, *_skipped(report.skipped), _verdict(report),
    ]  # fmt: skip


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """The table of the recipes that were tried, and of those that were not, a line each."""
    of_a_detector = any(isinstance(trial.report, DetectionReport) for trial in trials)
    head = "recipe", "MB", f"{AVERAGE_PRECISION if of_a_detector else MEAN_IOU} drop"
    return aligned([(*head, *_TRIALS), *(_trial_row(trial) for trial in trials)])


def _trial_row(trial: Trial) -> tuple[str, ...]:
    if trial.flatbuffer is None or trial.report is None:
        return trial.recipe.name, "", "", "", "", trial.reason or "not tried: it costs the device more"
    report = trial.report
    drop = format_drop(*_headline(report.regression))
    verdict = "kept" if report.passed else "failed: " + ", ".join(check.name for check in report.failures)
    size = f"{len(trial.flatbuffer) / 1e6:.2f}"
    return trial.recipe.name, size, drop, format_interval(report.regression.drop_ci95), trial.precision, verdict


def require_passed(report: Report, samples: Sequence[Sample], out: str | Path, *, head_repaired: bool) -> None:
    """Write the worst images of a report that has not passed beside `out` and raise GateRefused.

    Parameters:
        report: the gate's.
        samples: the images that it is made of.
        out: where the model would go; the pictures go into the folder `<out without suffix>-worst`. One of an earlier
            failure is replaced, or removed where the report has passed.
        head_repaired: whether the outputs were repaired, so that this is no advice any more.
    """
    if report.passed:
        remove_worst(out)
        return
    folder = write_worst(_pictures(report.regression), samples, out)
    first = "; ".join(str(check) for check in report.failures[:_NAMED])
    more = f" and {len(report.failures) - _NAMED} more figures" if len(report.failures) > _NAMED else ""
    options = " and ".join(f"{{{name}}}" for name in report.failed_options)
    repair = "" if head_repaired else ", try {fix_head}"
    raise GateRefused(
        f"{out} is not written, since the gate failed: {first}{more}; the worst images are in {folder}",
        report,
        hint=f"calibrate on images like those of the camera{repair}, or move the limit with {options}",
    )


def _headline(regression: Regression | DetectionRegression) -> tuple[float | None, float | None]:
    """The figure that counts, of the float and the quantized model."""
    if isinstance(regression, DetectionRegression):
        return regression.precision_float.ap, regression.precision_quantized.ap
    return regression.mean_iou_float, regression.mean_iou_quantized


def _name_of(report: Report) -> str:
    return AVERAGE_PRECISION if isinstance(report, DetectionReport) else MEAN_IOU


def _title(report: Report) -> str:
    split = f", split {report.split}" if report.split else ""
    if isinstance(report, DetectionReport):
        regression = report.regression
        kind = "objects" if regression.labelled else "objects of the float model"
        return f"the gate on {report.data}{split}: {regression.images} images with {regression.all.objects} {kind}"
    presence = report.regression.presence
    without = presence.empty_images + presence.background_crops
    return f"the gate on {report.data}{split}: {presence.objects} images with an object, {without} without"


def _table(checks: Sequence[Check]) -> list[str]:
    return aligned([_HEAD, *(_row(check) for check in checks)])


def _row(check: Check) -> tuple[str, ...]:
    name = f"  {check.name.rpartition(', ')[2]}" if check.size else check.name
    before = "" if check.before is None else format_share(check.before)
    change = "" if check.before is None else f"{round(check.after - check.before, 4) + 0.0:+.4f}"
    bound = f"{'<=' if check.lower_is_better else '>='} {check.bound:.4f}"
    verdict = "ok" if check.met else "FAILED" if check.failed else "too few images to count"
    return name, str(check.images), before, format_share(check.after), change, bound, verdict


def _interval(report: Report) -> str:
    regression = report.regression
    drop = format_drop(*_headline(regression))
    resampled = f"{regression.ci_groups} {regression.ci_by}s resampled"
    return f"{_name_of(report)} drops by {drop}, 95 % interval {format_interval(regression.drop_ci95)} ({resampled})"


def _threshold(report: GateReport) -> list[str]:
    fit, before, after = report.fit, report.presence_before, report.regression.presence
    if not fit.moved:
        return [f"the presence threshold stays {fit.before:g}: {fit.reason}"]
    found = f"objects found {format_share(before.recall_quantized)} -> {format_share(after.recall_quantized)}"
    alarms = f"{format_share(before.false_alarms_quantized)} -> {format_share(after.false_alarms_quantized)}"
    agreement = f"{format_share(fit.agreement_before)} -> {format_share(fit.agreement_after)}"
    return [
        f"the presence threshold goes from {fit.before:g} to {fit.after:g}: {found}, false alarms {alarms}, "
        f"decided as by the float model {agreement}"
    ]


def _worst(worst: Sequence[Worst]) -> list[str]:
    lost = [image for image in worst if image.iou_quantized < image.iou_float][:_WORST]
    return [
        f"lost most: {image.name} (IoU {image.iou_float:.2f} -> {image.iou_quantized:.2f}, "
        f"between the two boxes {image.iou_float_to_quantized:.2f})"
        for image in lost
    ]


def _precision_of_classes(regression: DetectionRegression) -> list[str]:
    before, after = regression.precision_float, regression.precision_quantized
    rows = []
    for name, value in before.by_class.items():
        objects = regression.by_class[name].objects if name in regression.by_class else 0
        rows.append((f"  {name}", str(objects), format_share(value), format_share(after.by_class.get(name))))
    at_50 = ("at IoU 0.5", str(regression.all.objects), format_share(before.ap50), format_share(after.ap50))
    return aligned([("average precision", "objects", "float", "quantized"), at_50, *rows])


def _worst_detections(worst: Sequence[WorstImage]) -> list[str]:
    return [
        f"lost most: {image.name} ({image.lost} of {image.found} objects lost"
        + (f", IoU of the others {image.box_iou:.2f})" if image.box_iou is not None else ")")
        for image in worst[:_WORST]
        if image.lost or (image.box_iou or 1) < 1
    ]


def _skipped(names: Sequence[str]) -> list[str]:
    plural = "s" * (len(names) != 1)
    return [f"left out {len(names)} image{plural} that cannot be read, such as {names[0]}"] if names else []


def _verdict(report: Report) -> str:
    if report.passed:
        limits = report.limits
        allowed = limits.max_map_drop if isinstance(report, DetectionReport) else limits.max_iou_drop
        return f"the gate is passed: {_name_of(report)} may drop by {allowed:g}"
    return f"the gate failed: {len(report.failures)} of {len(report.checks)} figures are worse than allowed"


def remove_worst(out: str | Path) -> None:
    """Remove the pictures of an earlier failure beside `out`, which would speak of another model than the one there."""
    folder = _folder(out)
    if folder.is_dir() and _only_ours(folder):
        shutil.rmtree(folder, ignore_errors=True)


Picture = tuple[str, Sequence[tuple[Box | None, str, Color]]]


def _pictures(regression: Regression | DetectionRegression) -> list[Picture]:
    """The names of the worst images, and what is drawn on each: boxes, titles and colours."""
    if isinstance(regression, Regression):
        return [(image.name, _boxes(image)) for image in regression.worst]
    rows = {row.name: row for row in regression.rows}
    pictures: list[Picture] = []
    for image in regression.worst:
        row = rows[image.name]
        before = [one for one in row.before if one.score >= regression.threshold_float]
        after = [one for one in row.after if one.score >= regression.threshold_quantized]
        drawn: list[tuple[Box | None, str, Color]] = [(item.box, "", TRUTH_COLOR) for item in row.truth]
        drawn += [(one.box, f"{one.label or 'float'} {one.score:.2f}", FLOAT_COLOR) for one in before]
        drawn += [(one.box, f"{one.label or 'quantized'} {one.score:.2f}", QUANTIZED_COLOR) for one in after]
        pictures.append((image.name, drawn))
    return pictures


def write_worst(worst: Sequence[Picture], samples: Sequence[Sample], out: str | Path) -> Path:
    """Write one JPEG for each worst image that can still be read: truth, float and quantized boxes; give their folder.

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


def _write_all(folder: Path, worst: Sequence[Picture], samples: Sequence[Sample]) -> None:
    by_name = {sample.name: sample for sample in samples}
    for rank, (name, boxes) in enumerate(worst, start=1):
        try:
            pixels = by_name[name].load()
        except DataError:
            continue
        written, data = cv2.imencode(".jpg", _drawn(boxes, pixels), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if written:
            (folder / f"{rank:02}-{_plain(name)}.jpg").write_bytes(data.tobytes())


def _boxes(image: Worst) -> list[tuple[Box | None, str, Color]]:
    return [
        (image.truth, "truth", TRUTH_COLOR),
        (image.box_float, f"float {image.iou_float:.2f}", FLOAT_COLOR),
        (image.box_quantized, f"quantized {image.iou_quantized:.2f}", QUANTIZED_COLOR),
    ]


def _drawn(boxes: Sequence[tuple[Box | None, str, Color]], pixels: Pixels) -> Pixels:
    scale = _SIDE / max(pixels.shape[:2])
    large = cast(Pixels, cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR))
    return draw_boxes(large, [(box.scaled(scale), title, color) for box, title, color in boxes if box is not None])


def _plain(name: str) -> str:
    """The image's name without folders, suffix and anything that a file name cannot hold."""
    return re.sub(r"[^\w.-]+", "_", Path(name).stem)[-60:]
