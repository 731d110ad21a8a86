"""How accurate one model is against the labels, where there is no float model to compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeloc.data import Sample
from edgeloc.evaluation.figures import SIZES, ImageFacts, labels_of
from edgeloc.evaluation.pairing import Recorder, Side, image_facts, rounded_box, rounded_iou
from edgeloc.evaluation.statistics import bootstrap_drop, mean, share
from edgeloc.types import Box, Pixels

__all__ = ["Accuracy", "AccuracyRecorder", "AccuracyRow", "accuracy_figures", "format_mean_interval"]


@dataclass(frozen=True, slots=True)
class AccuracyRow(ImageFacts):
    """One image through the model; `box` is the raw one, whatever the presence.

    `iou` is None where nothing is to be found.
    """

    box: Box | None
    iou: float | None
    presence: float
    predicted_label: str | None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The model against the labels; IoU over images with an object, whatever the presence.

    `images`, `mean_iou`: the images with an object, and the mean over them.
    `mean_iou_ci95`: its 95 % bootstrap interval; `ci_groups` groups or images (`ci_by`) were resampled.
    `iou50`, `iou75`: the share of these images with an IoU of at least 0.5 and 0.75.
    `mean_iou_by_size`: the mean for each name of `edgeloc.evaluation.figures.SIZES`.
    `mean_iou_by_class`: the mean for each true label.
    `threshold`: the presence from which an object counts as found.
    `recall`, `false_alarms`: the share of objects found, and of `empty_images` and `background_crops` with a find.
    `labelled`, `unknown_labels`, `top1`: objects with a label, those whose label the model does not know (they count
    as missed), and the share with the right class.
    All shares are 0 to 1; None stands for a mean over no image.
    """

    images: int
    mean_iou: float | None
    mean_iou_ci95: tuple[float, float] | None
    ci_by: str | None
    ci_groups: int
    iou50: float | None
    iou75: float | None
    mean_iou_by_size: dict[str, float | None]
    threshold: float
    empty_images: int
    background_crops: int
    recall: float | None
    false_alarms: float | None
    labelled: int
    unknown_labels: int
    top1: float | None
    rows: tuple[AccuracyRow, ...]
    mean_iou_by_class: dict[str, float | None] = field(default_factory=dict)


def accuracy_figures(
    rows: Sequence[AccuracyRow], *, threshold: float, labels: Sequence[str] = (), seed: int = 0
) -> Accuracy:
    """All figures of `rows`.

    `threshold`: the presence from which an object counts as found.
    `labels`: the classes that the model knows; without any there are no class figures.
    `seed`: of the bootstrap; the same seed gives the same interval.
    """
    objects = [row for row in rows if row.kind == "object"]
    negatives = [row for row in rows if row.kind != "object"]
    ious = [row.iou or 0.0 for row in objects]
    groups = [row.group for row in objects]
    interval = bootstrap_drop(ious, [0.0] * len(ious), groups, seed=seed) if ious else None
    labelled = [row for row in objects if row.label is not None] if labels else []
    return Accuracy(
        images=len(objects),
        mean_iou=mean(ious),
        mean_iou_ci95=(interval.low, interval.high) if interval else None,
        ci_by=interval.by if interval else None,
        ci_groups=interval.groups if interval else 0,
        iou50=share([iou >= 0.5 for iou in ious]),
        iou75=share([iou >= 0.75 for iou in ious]),
        mean_iou_by_size={name: mean([row.iou or 0.0 for row in objects if row.size == name]) for name in SIZES},
        mean_iou_by_class={
            label: mean([row.iou or 0.0 for row in objects if row.label == label]) for label in labels_of(objects)
        },
        threshold=threshold,
        empty_images=sum(row.kind == "empty" for row in rows),
        background_crops=sum(row.kind == "background" for row in rows),
        recall=share([row.presence >= threshold for row in objects]),
        false_alarms=share([row.presence >= threshold for row in negatives]),
        labelled=len(labelled),
        unknown_labels=sum(row.label not in labels for row in labelled),
        top1=share([row.predicted_label == row.label for row in labelled]),
        rows=tuple(rows),
    )


class AccuracyRecorder(Recorder[AccuracyRow]):
    """Runs one model on every image, as `RegressionRecorder` runs two."""

    def __init__(self, side: Side, *, negatives: bool = True, skip_bad: bool = False) -> None:
        super().__init__(negatives=negatives, skip_bad=skip_bad)
        self._side = side

    def _row(self, sample: Sample, pixels: Pixels, kind: str) -> AccuracyRow:
        facts, answer = image_facts(sample, pixels, kind), self._side.answer(pixels)
        return AccuracyRow(
            **facts,
            box=rounded_box(answer.box),
            iou=rounded_iou(facts["truth"], answer.box) if facts["truth"] else None,
            presence=round(answer.presence, 6),
            predicted_label=answer.label,
        )


def format_mean_interval(accuracy: Accuracy) -> str:
    """The 95 % interval of the mean IoU, to a thousandth; a dash where there is none."""
    if accuracy.mean_iou_ci95 is None:
        return "-"
    low, high = accuracy.mean_iou_ci95
    return f"{low:.3f} to {high:.3f}"
