"""Which of two models localizes worse: the same images paired one by one, other images as two samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeloc.benchmarks.comparison.change import Change, CompareLimits
from edgeloc.benchmarks.result import BenchResult
from edgeloc.evaluation.accuracy import AccuracyRow
from edgeloc.evaluation.detection import DetectionRow, ImageCounts, count_hits, detection_figures
from edgeloc.evaluation.figures import ImageFacts, Row
from edgeloc.evaluation.statistics import bootstrap_drop, draws, mean

__all__ = ["Answers", "Lost", "answers_of", "lost_most", "quality_changes", "same_images"]

Key = tuple[str, str]
_LOST = 3
_RESAMPLES = 1000
# Of fewer images a percentile interval is too narrow to judge by: of three, one in eight misses a change of nothing.
_LEAST_IMAGES = 10


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model answered on each image: `rows` of a localizer, else `detections`, of which `after` is the model's.

    `threshold` is the presence or score from which an object counts as found.
    """

    threshold: float
    rows: tuple[AccuracyRow, ...] = ()
    detections: tuple[DetectionRow, ...] = ()

    @property
    def truths(self) -> dict[Key, object]:
        """What each image holds, by its kind and its name."""
        every: tuple[AccuracyRow | DetectionRow, ...] = (*self.rows, *self.detections)
        return {_key(row): (row.width, row.height, row.truth) for row in every}


@dataclass(frozen=True, slots=True)
class Lost:
    """An image on which the new model's box has less IoU with the truth than the base's."""

    name: str
    iou_before: float
    iou_after: float


def _key(row: AccuracyRow | DetectionRow) -> Key:
    return getattr(row, "kind", ""), row.name


def answers_of(results: Sequence[BenchResult]) -> Answers | None:
    """The model's answers, of the first result that has them: a model answers the same each time."""
    for result in results:
        if result.detection is not None and result.detection.rows:
            return Answers(result.detection.threshold_quantized, detections=result.detection.rows)
        if result.regression is not None and result.regression.rows:
            rows = tuple(map(_of_the_quantized, result.regression.rows))
            return Answers(result.regression.presence.threshold_quantized, rows)
        if result.accuracy is not None and result.accuracy.rows:
            return Answers(result.accuracy.threshold, result.accuracy.rows)
    return None


def _of_the_quantized(row: Row) -> AccuracyRow:
    return AccuracyRow(
        **{entry.name: getattr(row, entry.name) for entry in dataclasses.fields(ImageFacts)},
        box=row.box_quantized,
        iou=row.iou_quantized,
        presence=row.presence_quantized,
        predicted_label=row.label_quantized,
    )


def same_images(before: Answers, after: Answers) -> bool:
    """Whether both hold the same images with the same boxes."""
    return before.truths == after.truths


def quality_changes(before: Answers, after: Answers, limits: CompareLimits) -> Iterator[Change]:
    """The figures of accuracy; none where a localizer meets a detector."""
    if before.detections and after.detections:
        yield from _detector_changes(before, after, limits)
    elif before.rows and after.rows:
        for figure in _FIGURES:
            change = _localizer_change(figure, before, after, limits)
            if change is not None:
                yield change


def lost_most(before: Answers, after: Answers) -> tuple[Lost, ...]:
    """The images of a localizer that lost most IoU with the truth; empty where the images are others."""
    others = {_key(row): row for row in after.rows if row.kind == "object"}
    pairs = [Lost(row.name, row.iou or 0.0, others[_key(row)].iou or 0.0) for row in before.rows if _key(row) in others]
    worse = [pair for pair in pairs if pair.iou_after < pair.iou_before]
    return tuple(sorted(worse, key=lambda pair: pair.iou_after - pair.iou_before)[:_LOST])


@dataclass(frozen=True, slots=True)
class _Figure:
    """A mean over those rows of a localizer for which `value`, given the threshold, is not None."""

    name: str
    option: str
    value: Callable[[AccuracyRow, float], float | None]
    higher_is_worse: bool = False


def _iou(row: AccuracyRow, threshold: float) -> float | None:
    return (row.iou or 0.0) if row.kind == "object" else None


def _found(row: AccuracyRow, threshold: float) -> float | None:
    return float(row.presence >= threshold) if row.kind == "object" else None


def _false_alarm(row: AccuracyRow, threshold: float) -> float | None:
    return float(row.presence >= threshold) if row.kind != "object" else None


def _right_class(row: AccuracyRow, threshold: float) -> float | None:
    known = row.kind == "object" and row.label is not None and row.predicted_label is not None
    return float(row.label == row.predicted_label) if known else None


_FIGURES = (
    _Figure("mean IoU", "max_iou_drop", _iou),
    _Figure("objects found", "max_recall_drop", _found),
    _Figure("false alarms", "max_false_alarm_rise", _false_alarm, higher_is_worse=True),
    _Figure("right classes", "max_accuracy_drop", _right_class),
)


def _localizer_change(figure: _Figure, before: Answers, after: Answers, limits: CompareLimits) -> Change | None:
    first, groups = _values(figure, before)
    second, others = _values(figure, after)
    common = [key for key in first if key in second]
    if not first or not second:
        return None
    if common:
        pairs = [first[key] for key in common], [second[key] for key in common]
        drop = bootstrap_drop(*pairs, [groups[key] for key in common])
        change, ends = _mean(pairs[1]) - _mean(pairs[0]), (-drop.high, -drop.low)
        values, basis = pairs, f"{len(common)} images, paired, by {drop.by}"
    else:
        values = list(first.values()), list(second.values())
        change, ends = _unpaired(values, (list(groups.values()), list(others.values())))
        basis = f"{len(first)} and {len(second)} other images"
    return Change(
        name=figure.name,
        unit="",
        before=_mean(values[0]),
        after=_mean(values[1]),
        change=change,
        ci95=_judged(ends, min(map(len, values))),
        relative=False,
        higher_is_worse=figure.higher_is_worse,
        basis=basis,
        option=figure.option,
        limit=limits.of(figure.option),
    )


def _values(figure: _Figure, answers: Answers) -> tuple[dict[Key, float], dict[Key, str | None]]:
    """The figure of each row that has it, and the group of each."""
    found = {_key(row): figure.value(row, answers.threshold) for row in answers.rows}
    groups = {_key(row): row.group for row in answers.rows if found[_key(row)] is not None}
    return {key: value for key, value in found.items() if value is not None}, groups


def _mean(values: Sequence[float]) -> float:
    return mean(values) or 0.0


def _unpaired(
    values: tuple[list[float], list[float]], groups: tuple[list[str | None], list[str | None]]
) -> tuple[float, tuple[float, float]]:
    """The difference of two means over other images, and its interval.

    It is made of the two means' own bootstrap intervals as in Zou & Donner, Construction of confidence limits about
    effect measures, Statistics in Medicine 27 (2008) 1693.
    """
    means = [_mean(side) for side in values]
    ends = [bootstrap_drop(side, [0.0] * len(side), of) for side, of in zip(values, groups, strict=True)]
    change = means[1] - means[0]
    low = change - math.hypot(means[1] - ends[1].low, ends[0].high - means[0])
    high = change + math.hypot(ends[1].high - means[1], means[0] - ends[0].low)
    return change, (low, high)


def _judged(ends: tuple[float, float], images: int) -> tuple[float, float] | None:
    """The interval, or None where it is made of too few images to judge by."""
    return ends if images >= _LEAST_IMAGES else None


def _detector_changes(before: Answers, after: Answers, limits: CompareLimits) -> Iterator[Change]:
    """COCO's average precision, and what is found from the thresholds on; other images have no interval."""
    rows = _paired_detections(before, after)
    if rows:
        figures = detection_figures(rows, before.threshold, after.threshold)
        first, second, drop = figures.precision_float, figures.precision_quantized, figures.drop_ci95
        basis = f"{len(rows)} images, paired, by {figures.ci_by}"
    else:
        first = detection_figures(before.detections, before.threshold, before.threshold).precision_quantized
        second = detection_figures(after.detections, after.threshold, after.threshold).precision_quantized
        drop, basis = None, f"{len(before.detections)} and {len(after.detections)} other images"
    if first.ap is not None and second.ap is not None:
        ends = None if drop is None else _judged((-drop[1], -drop[0]), len(rows))
        yield _precision("average precision", first.ap, second.ap, ends, basis, limits)
    yield from _counted(rows, before, after, limits)


def _precision(
    name: str, before: float, after: float, ci95: tuple[float, float] | None, basis: str, limits: CompareLimits
) -> Change:
    return Change(
        name, "", before, after, after - before, ci95, False, False, basis, "max_map_drop", limits.max_map_drop
    )


def _paired_detections(before: Answers, after: Answers) -> list[DetectionRow]:
    """The images of both sides, with the base's objects as `before` and the new model's as `after`."""
    others = {_key(row): row for row in after.detections}
    return [
        dataclasses.replace(row, before=row.after, after=others[_key(row)].after)
        for row in before.detections
        if _key(row) in others
    ]


def _counted(rows: Sequence[DetectionRow], before: Answers, after: Answers, limits: CompareLimits) -> Iterator[Change]:
    """The shares of objects found and of boxes of no object, from each model's threshold on."""
    if not rows:
        return
    counts = count_hits(rows, before.threshold, after.threshold)
    groups = [row.group for row in rows]
    yield from _ratio_change("objects found", "max_recall_drop", False, counts, _recalls, groups, limits)
    yield from _ratio_change("boxes of no object", "max_false_alarm_rise", True, counts, _falses, groups, limits)


def _recalls(counts: ImageCounts) -> tuple[int, int, int, int]:
    return counts.hits_float, counts.objects, counts.hits_quantized, counts.objects


def _falses(counts: ImageCounts) -> tuple[int, int, int, int]:
    first, second = counts.boxes_float, counts.boxes_quantized
    return first - counts.hits_float, first, second - counts.hits_quantized, second


def _ratio_change(
    name: str,
    option: str,
    higher_is_worse: bool,
    counts: Sequence[ImageCounts],
    parts: Callable[[ImageCounts], tuple[int, int, int, int]],
    groups: Sequence[str | None],
    limits: CompareLimits,
) -> Iterator[Change]:
    """The change of a share over all images, such as hits over objects, with its bootstrap interval."""
    table = np.array([parts(one) for one in counts], np.float64)
    by, _, drawn = draws(groups, _RESAMPLES, 0)
    sums = np.array([table[images].sum(axis=0) for images in drawn])
    sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
    total = table.sum(axis=0)
    if not (total[1] and total[3] and len(sums)):
        return
    low, high = map(float, np.percentile(sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1], (2.5, 97.5)))
    first, second = float(total[0] / total[1]), float(total[2] / total[3])
    basis = f"{len(counts)} images, paired, by {by}"
    yield Change(
        name, "", first, second, second - first, _judged((low, high), len(counts)), False, higher_is_worse, basis,
        option, limits.of(option),
    )  # fmt: skip
