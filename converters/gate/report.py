"""The gate's report as a user reads it, and the pictures of the worst images."""

from __future__ import annotations

from collections.abc import Sequence

from edgeloc.converters.gate import GateReport
from edgeloc.converters.gate.checks import MEAN_IOU, Check
from edgeloc.evaluation.figures import Worst, format_drop, format_interval, format_share

__all__ = ["aligned", "report_lines"]


_WORST = 3
_HEAD = ("", "images", "float", "quantized", "change", "must be", "")


def report_lines(report: GateReport) -> list[str]:
    """Data, one table, threshold, worst images, warnings and verdict, a line each."""
    warnings = [f"warning: {text}" for text in report.warnings]
    return [
        _title(report), *_table(report.checks), _interval(report), *_threshold(report),
        *_worst(report.regression.worst), *_skipped(report.skipped), *warnings, _verdict(report),
    ]  # fmt: skip


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right, the last as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        middle = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *middle, row[-1]]).rstrip())
    return lines


def _title(report: GateReport) -> str:
    presence = report.regression.presence
    split = f", split {report.split}" if report.split else ""
    without = presence.empty_images + presence.background_crops
    return f"the gate on {report.data}{split}: {presence.objects} images with an object, {without} without"


def _table(checks: Sequence[Check]) -> list[str]:
    return aligned([_HEAD, *(_row(check) for check in checks)])


def _row(check: Check) -> tuple[str, ...]:
    name = f"  {check.name.rpartition(', ')[2]}" if check.size else check.name
    before = "" if check.before is None else format_share(check.before)
    change = "" if check.before is None else f"{round(check.after - check.before, 4) + 0.0:+.4f}"
    bound = f"{'<=' if check.lower_is_better else '>='} {check.bound:.4f}"
    verdict = "ok" if check.met else "FAILED" if check.failed else "too few images to tell"
    return name, str(check.images), before, format_share(check.after), change, bound, verdict


def _interval(report: GateReport) -> str:
    regression = report.regression
    drop = format_drop(regression.mean_iou_float, regression.mean_iou_quantized)
    resampled = f"{regression.ci_groups} {regression.ci_by}s resampled"
    return f"{MEAN_IOU} drops by {drop}, 95 % interval {format_interval(regression)} ({resampled})"


def _threshold(report: GateReport) -> list[str]:
    fit, before, after = report.fit, report.presence_before, report.regression.presence
    if not fit.moved:
        return [f"the threshold of presence stays {fit.before:g}: {fit.reason}"]
    found = f"objects found {format_share(before.recall_quantized)} -> {format_share(after.recall_quantized)}"
    alarms = f"{format_share(before.false_alarms_quantized)} -> {format_share(after.false_alarms_quantized)}"
    agreement = f"{format_share(fit.agreement_before)} -> {format_share(fit.agreement_after)}"
    return [
        f"the threshold of presence goes from {fit.before:g} to {fit.after:g}: {found}, false alarms {alarms}, "
        f"decided as by the float model {agreement}"
    ]


def _worst(worst: Sequence[Worst]) -> list[str]:
    lost = [image for image in worst if image.iou_quantized < image.iou_float][:_WORST]
    return [
        f"lost most: {image.name} (IoU {image.iou_float:.2f} -> {image.iou_quantized:.2f}, "
        f"between the two boxes {image.iou_float_to_quantized:.2f})"
        for image in lost
    ]


def _skipped(names: Sequence[str]) -> list[str]:
    plural = "s" * (len(names) != 1)
    return [f"left out {len(names)} image{plural} that cannot be read, such as {names[0]}"] if names else []


def _verdict(report: GateReport) -> str:
    if report.passed:
        return f"the gate is passed: {MEAN_IOU} may drop by {report.max_iou_drop:g}"
    return f"the gate failed: {len(report.failures)} of {len(report.checks)} figures are worse than allowed"
