"""What quantization cost a detector: both models' objects image by image, matched, and the figures made of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from edgeloc.data import Sample
from edgeloc.evaluation.average_precision import AveragePrecision, Precisions, coco_library
from edgeloc.evaluation.figures import SIZES, WORST, WORST_OF_A_GROUP, size_of
from edgeloc.evaluation.pairing import Recorder, rounded_box
from edgeloc.evaluation.statistics import Interval, draws, mean
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.types import Box, LabelledBox, Pixels, Result

__all__ = [
    "DetectionRecorder",
    "DetectionRegression",
    "DetectionRow",
    "Found",
    "ImageCounts",
    "MatchedFigures",
    "WorstImage",
    "below_threshold",
    "count_hits",
    "detection_figures",
    "match",
]

# From which IoU a box is that of an object.
MATCH_IOU = 0.5
# What average precision looks at far below the threshold.
_FLOOR = 0.01
_RESAMPLES = 200


class Found(NamedTuple):
    """One object that a model found: its box in pixels of the image, its score, 0 to 1, and its class."""

    box: Box
    score: float
    label: str | None


@dataclass(frozen=True, slots=True)
class DetectionRow:
    """One image: what it holds, and what both models found in it, of scores from 0.01 on.

    Parameters:
        name: the image's.
        group: what it shares with others (its clip).
        width, height: in pixels.
        truth: what it holds; where nothing is labelled, what the float model found.
        before: the float model's objects, best first.
        after: the quantized model's.
    """

    name: str
    group: str | None
    width: int
    height: int
    truth: tuple[LabelledBox, ...]
    before: tuple[Found, ...]
    after: tuple[Found, ...]

    def __post_init__(self) -> None:
        boxes = [
            *(item.box for item in self.truth),
            *(one.box for one in self.before),
            *(one.box for one in self.after),
        ]
        if not np.isfinite(np.array(boxes, np.float64)).all():
            raise ValueError("its boxes must be finite numbers")


@dataclass(frozen=True, slots=True)
class MatchedFigures:
    """Over the true objects of a size or a class, and the float model's among them.

    Parameters:
        objects: how many true objects there are.
        recall_float, recall_quantized: the share of them that the models find, with their class.
        found: how many objects the float model finds.
        box_iou: of those that the quantized model finds too, the mean IoU between the two boxes.
    """

    objects: int = 0
    recall_float: float | None = None
    recall_quantized: float | None = None
    found: int = 0
    box_iou: float | None = None


@dataclass(frozen=True, slots=True)
class WorstImage:
    """An image that lost much: the float model's objects that the quantized one has not, and the mean IoU of others.

    `preview` is a JPEG data URI, `preview_scale` its pixels per pixel.
    """

    name: str
    group: str | None
    found: int
    lost: int
    box_iou: float | None
    preview: str | None = None
    preview_scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.preview_scale):
            raise ValueError("its preview_scale must be a finite number")


@dataclass(frozen=True)
class DetectionRegression:
    """What quantization cost a detector; shares are 0 to 1. Of rows alone, the figures are missing.

    Parameters:
        rows: everything that was found.
        threshold_float, threshold_quantized: from which scores a box is an object.
        images: how many.
        labelled: whether the truth is labels; else it is what the float model finds.
        precision_float, precision_quantized: COCO's average precision.
        drop_ci95: the 95 % interval of its drop, by resampling images or groups.
        ci_by: `image` or `group`.
        ci_groups: how many were resampled.
        all: over all objects.
        by_size: by name of `edgeloc.evaluation.figures.SIZES`.
        by_class: by label.
        false_float, false_quantized: the share of boxes from the threshold on that are of no object.
        agreement: of the float model's objects that the quantized one finds, the share of the same class.
        worst: the images that lost most.
    """

    rows: tuple[DetectionRow, ...] = field(repr=False)
    threshold_float: float
    threshold_quantized: float
    images: int = 0
    labelled: bool = True
    precision_float: Precisions = field(default_factory=Precisions)
    precision_quantized: Precisions = field(default_factory=Precisions)
    drop_ci95: tuple[float, float] | None = None
    ci_by: str = "image"
    ci_groups: int = 0
    all: MatchedFigures = field(default_factory=MatchedFigures)
    by_size: dict[str, MatchedFigures] = field(default_factory=dict)
    by_class: dict[str, MatchedFigures] = field(default_factory=dict)
    false_float: float | None = None
    false_quantized: float | None = None
    agreement: float | None = None
    worst: tuple[WorstImage, ...] = ()

    @property
    def drop(self) -> float | None:
        """How much average precision is lost."""
        before, after = self.precision_float.ap, self.precision_quantized.ap
        return None if before is None or after is None else before - after


def below_threshold(contract: Contract) -> Contract:
    """The contract of a detector with a threshold of 0.01, whose results hold what average precision looks at."""
    floor = min(_FLOOR, contract.thresholds.presence)
    return dataclasses.replace(contract, thresholds=dataclasses.replace(contract.thresholds, presence=floor))


class DetectionRecorder(Recorder[DetectionRow]):
    """Takes each image through a float detector and a quantized one, both opened with `below_threshold`.

    `before` and `after` may be one model: then its figures stand twice. Raises MissingExtra without pycocotools, which
    the figures will need.
    """

    def __init__(self, before: Localizer, after: Localizer, *, skip_bad: bool = False) -> None:
        coco_library()
        super().__init__(negatives=False, skip_bad=skip_bad)
        self._before, self._after = before, after

    def _row(self, sample: Sample, pixels: Pixels, kind: str) -> DetectionRow:
        height, width = pixels.shape[:2]
        after = _found(self._after(pixels))
        before = after if self._before is self._after else _found(self._before(pixels))
        return DetectionRow(sample.name, sample.group, width, height, sample.objects, before, after)


def _found(result: Result) -> tuple[Found, ...]:
    boxes = ((rounded_box(one.box), one) for one in result.objects)
    return tuple(Found(box, round(one.score, 6), one.label) for box, one in boxes if box is not None)


def match(boxes: Sequence[Box], others: Sequence[Box], least: float = MATCH_IOU) -> list[tuple[int, float] | None]:
    """For each box, in its order, the number of the other that overlaps it most and is not taken yet, and the IoU."""
    taken: set[int] = set()
    pairs: list[tuple[int, float] | None] = []
    for box in boxes:
        free = [(box.iou(other), number) for number, other in enumerate(others) if number not in taken]
        # Of boxes that overlap it alike the first: one box may be of two classes, the better score before the other.
        iou, number = max(free, key=itemgetter(0), default=(0.0, -1))
        if iou < least:
            pairs.append(None)
            continue
        taken.add(number)
        pairs.append((number, iou))
    return pairs


@dataclass(frozen=True, slots=True)
class _Object:
    """One true object, and who found it; or one of the float model's, and the IoU with the quantized one's box."""

    size: str
    label: str | None
    found_float: bool = False
    found_quantized: bool = False
    box_iou: float | None = None
    same_class: bool = False


def detection_figures(
    rows: Sequence[DetectionRow], threshold_float: float, threshold_quantized: float, *, seed: int = 0
) -> DetectionRegression:
    """The figures of both models, found objects at their thresholds; ValueError without rows.

    Where no row has a true object, those that the float model finds are the truth. Where the data or the models know
    no classes, an object of any class is found by a box of any.
    """
    if not rows:
        raise ValueError("figures need at least one image")
    labelled = any(row.truth for row in rows)
    if not labelled:
        rows = [dataclasses.replace(row, truth=_as_truth(row, threshold_float)) for row in rows]
    alike = _without_classes(rows) if _lacks_classes(rows) else rows
    truths = [row.truth for row in alike]
    before = AveragePrecision(truths, [row.before for row in alike])
    after = AveragePrecision(truths, [row.after for row in alike])
    interval = _interval(before, after, [row.group for row in rows], seed)
    objects = [one for row in alike for one in _true_objects(row, threshold_float, threshold_quantized)]
    pairs = [list(_pairs(row, threshold_float, threshold_quantized)) for row in rows]
    everything = [one for found in pairs for one in found]
    labels = sorted({one.label for one in objects if one.label is not None})
    matched = [one for one in everything if one.box_iou is not None]
    return DetectionRegression(
        images=len(rows),
        labelled=labelled,
        precision_float=before.figures(),
        precision_quantized=after.figures(),
        drop_ci95=None if interval is None else (interval.low, interval.high),
        ci_by="image" if interval is None else interval.by,
        ci_groups=len(rows) if interval is None else interval.groups,
        all=_matched(objects, everything),
        by_size={
            size: _matched([o for o in objects if o.size == size], [o for o in everything if o.size == size])
            for size in SIZES
        },
        by_class={
            label: _matched([o for o in objects if o.label == label], [o for o in everything if o.label == label])
            for label in labels
        },
        false_float=_false_share(alike, "before", threshold_float),
        false_quantized=_false_share(alike, "after", threshold_quantized),
        agreement=mean([float(one.same_class) for one in matched]),
        worst=_worst(rows, pairs),
        threshold_float=threshold_float,
        threshold_quantized=threshold_quantized,
        rows=tuple(rows),
    )


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """The objects of an image, each model's boxes from its threshold on, and how many of these are of an object."""

    objects: int
    boxes_float: int
    hits_float: int
    boxes_quantized: int
    hits_quantized: int


def count_hits(rows: Sequence[DetectionRow], threshold_float: float, threshold_quantized: float) -> list[ImageCounts]:
    """The counts of each image; of classes as in `detection_figures`."""
    counts = []
    for row in _without_classes(rows) if _lacks_classes(rows) else rows:
        before, after = _sure(row.before, threshold_float), _sure(row.after, threshold_quantized)
        hits = sum(_hits(row, before)), sum(_hits(row, after))
        counts.append(ImageCounts(len(row.truth), len(before), hits[0], len(after), hits[1]))
    return counts


def _as_truth(row: DetectionRow, threshold: float) -> tuple[LabelledBox, ...]:
    return tuple(LabelledBox(one.box, one.label) for one in _sure(row.before, threshold))


def _lacks_classes(rows: Sequence[DetectionRow]) -> bool:
    """Whether the data, or the models that found something, name no class at all."""
    found = [one for row in rows for one in (*row.before, *row.after)]
    named = any(item.label for row in rows for item in row.truth)
    return not named or (bool(found) and not any(one.label for one in found))


def _without_classes(rows: Sequence[DetectionRow]) -> list[DetectionRow]:
    return [
        dataclasses.replace(
            row,
            truth=tuple(item._replace(label=None) for item in row.truth),
            before=tuple(one._replace(label=None) for one in row.before),
            after=tuple(one._replace(label=None) for one in row.after),
        )
        for row in rows
    ]


def _sure(found: Sequence[Found], threshold: float) -> list[Found]:
    return [one for one in found if one.score >= threshold]


def _boxes(found: Iterable[Found]) -> list[Box]:
    return [one.box for one in found]


def _hits(row: DetectionRow, found: Sequence[Found]) -> list[bool]:
    """Which true objects are among those found, with their class."""
    hits = [False] * len(row.truth)
    for label in {item.label for item in row.truth}:
        places = [place for place, item in enumerate(row.truth) if item.label == label]
        same = _boxes(one for one in found if one.label == label)
        for hit in match(same, [row.truth[place].box for place in places]):
            if hit is not None:
                hits[places[hit[0]]] = True
    return hits


def _true_objects(row: DetectionRow, threshold_float: float, threshold_quantized: float) -> Iterator[_Object]:
    before, after = _hits(row, _sure(row.before, threshold_float)), _hits(row, _sure(row.after, threshold_quantized))
    for item, first, second in zip(row.truth, before, after, strict=True):
        yield _Object(size_of(item.box, row.width, row.height), item.label, first, second)


def _pairs(row: DetectionRow, threshold_float: float, threshold_quantized: float) -> Iterator[_Object]:
    """The float model's objects, each with the quantized model's box of it."""
    before, after = _sure(row.before, threshold_float), _sure(row.after, threshold_quantized)
    for one, pair in zip(before, match(_boxes(before), _boxes(after)), strict=True):
        size = size_of(one.box, row.width, row.height)
        iou, same = (None, False) if pair is None else (pair[1], after[pair[0]].label == one.label)
        yield _Object(size, one.label, box_iou=iou, same_class=same)


def _matched(objects: Sequence[_Object], found: Sequence[_Object]) -> MatchedFigures:
    return MatchedFigures(
        objects=len(objects),
        recall_float=mean([float(one.found_float) for one in objects]),
        recall_quantized=mean([float(one.found_quantized) for one in objects]),
        found=len(found),
        box_iou=mean([one.box_iou for one in found if one.box_iou is not None]),
    )


def _false_share(rows: Sequence[DetectionRow], which: str, threshold: float) -> float | None:
    hits = total = 0
    for row in rows:
        found = _sure(getattr(row, which), threshold)
        total += len(found)
        hits += sum(_hits(row, found))
    return 1 - hits / total if total else None


def _worst(rows: Sequence[DetectionRow], pairs: Sequence[Sequence[_Object]]) -> tuple[WorstImage, ...]:
    """Those in which most of the float model's boxes are lost or moved, as a share; of a group WORST_OF_A_GROUP."""
    images = [(row, found) for row, found in zip(rows, pairs, strict=True) if found]
    images.sort(key=lambda item: mean([one.box_iou or 0.0 for one in item[1]]) or 0.0)
    worst: list[WorstImage] = []
    for row, found in images:
        alike = sum(row.group is not None and other.group == row.group for other in worst)
        if alike < WORST_OF_A_GROUP and len(worst) < WORST:
            worst.append(_as_worst(row, found))
    return tuple(worst)


def _as_worst(row: DetectionRow, found: Sequence[_Object]) -> WorstImage:
    ious = [one.box_iou for one in found if one.box_iou is not None]
    return WorstImage(row.name, row.group, len(found), len(found) - len(ious), mean(ious))


def _interval(
    before: AveragePrecision, after: AveragePrecision, groups: Sequence[str | None], seed: int
) -> Interval | None:
    """The 95 % percentile interval of the drop, by whole groups where there are some."""
    by, count, drawn = draws(groups, _RESAMPLES, seed)
    drops = []
    for images in drawn:
        first, second = before.figures(images).ap, after.figures(images).ap
        if first is not None and second is not None:
            drops.append(first - second)
    if not drops:
        return None
    low, high = np.percentile(drops, (2.5, 97.5))
    return Interval(float(low), float(high), by, count)
