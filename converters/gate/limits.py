"""What the gate allows: the limit of each figure, the figures held against them, and what the data leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from edgeloc.errors import UsageError
from edgeloc.evaluation.figures import SIZES, Regression
from edgeloc.findings import Finding

__all__ = [
    "AVERAGE_PRECISION",
    "FEWEST",
    "MEAN_IOU",
    "Check",
    "GateLimits",
    "Verdict",
    "about_few",
    "about_the_interval",
    "check_figures",
    "gate_findings",
    "lost",
    "rounded",
]

MEAN_IOU = "mean IoU"
AVERAGE_PRECISION = "average precision"
FEWEST = 50
"""A figure over fewer images, or a detector's objects, is reported but fails nothing; the first always counts."""

_SIZE_MARGIN = 0.01
_POOR_FLOAT = 0.5
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class GateLimits:
    """How much worse than its float model a quantized model may be; every limit is 0 to 1.

    Plain post-training quantization stays inside the defaults; calibration on noise, swapped colours or an output of
    mixed ranges does not.

    Parameters:
        max_iou_drop: how much mean IoU with the truth may be lost; of a localizer.
        max_map_drop: how much average precision (COCO's, over IoU 0.50 to 0.95) may be lost; of a detector.
        max_iou_drop_by_size: the same over small, medium and large objects each; None is 0.01 more than max_iou_drop.
        min_box_iou: the least mean IoU between the float model's box and the quantized one's.
        min_box_iou_by_size: the same over the objects of each size.
        max_recall_drop: how much of the share of objects found may be lost.
        max_false_alarm_rise: how much the share of images with a false alarm may grow; of a detector, the share of its
            boxes that are of no object.
        max_accuracy_drop: how much of the share of right classes may be lost.
        min_class_agreement: the least share of images on which both models give the same class.
    """

    max_iou_drop: float = 0.005
    max_map_drop: float = 0.01
    max_iou_drop_by_size: float | None = None
    min_box_iou: float = 0.85
    min_box_iou_by_size: float = 0.8
    max_recall_drop: float = 0.02
    max_false_alarm_rise: float = 0.02
    max_accuracy_drop: float = 0.02
    min_class_agreement: float = 0.9

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(field=entry.name, value=value, allowed="0 to 1")

    @property
    def iou_drop_by_size(self) -> float:
        """The limit for the objects of one size, whether it was given or follows from `max_iou_drop`."""
        given = self.max_iou_drop_by_size
        return min(self.max_iou_drop + _SIZE_MARGIN, 1.0) if given is None else given


@dataclass(frozen=True, slots=True)
class Check:
    """One figure of both models, 0 to 1, over `images` images, and the bound that the quantized one must keep to.

    `before` is None for a figure that compares the two models with each other (the float model with itself would have
    1). `option` is the field of GateLimits that moves the bound. With `lower_is_better` worse means higher. `size`
    says that the figure is that of the objects of one size.
    """

    name: str
    option: str
    images: int
    before: float | None
    after: float
    bound: float
    size: bool = False
    lower_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure is within its bound."""
        loss = self.after - self.bound if self.lower_is_better else self.bound - self.after
        return loss <= _ROUNDING

    @property
    def counts(self) -> bool:
        """Whether the figure can fail the gate: it is over enough images, or the mean IoU."""
        return self.name in (MEAN_IOU, AVERAGE_PRECISION) or self.images >= FEWEST

    @property
    def failed(self) -> bool:
        """Whether the figure fails the gate."""
        return self.counts and not self.met

    def __str__(self) -> str:
        most = "at most" if self.lower_is_better else "at least"
        after, bound = _distinct(self.after, self.bound)
        return f"{self.name} is {after}, it must be {most} {bound}"


class Verdict:
    """What follows from a report's checks."""

    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The figures that are worse than allowed."""
        return tuple(check for check in self.checks if check.failed)

    @property
    def failed_options(self) -> tuple[str, ...]:
        """The fields of GateLimits that move the limits of these figures, each once."""
        return tuple(dict.fromkeys(check.option for check in self.failures))

    @property
    def passed(self) -> bool:
        """Whether every figure that counts is within its limit."""
        return not self.failures


def check_figures(regression: Regression, limits: GateLimits) -> tuple[Check, ...]:
    """Hold each figure that the data gives against its limit, in the order of the table."""
    return (*_boxes(regression, limits), *_presence(regression, limits), *_classes(regression, limits))


def lost(name: str, option: str, images: int, before: float, after: float, limit: float, size: bool = False) -> Check:
    """A figure of both models, over so many images or objects, that may fall by `limit`."""
    return Check(name, option, images, before, after, max(before - limit, 0.0), size)


def _boxes(regression: Regression, limits: GateLimits) -> Iterator[Check]:
    sizes = {name: regression.by_size[name] for name in SIZES if regression.by_size[name].images}
    images, between = regression.images, regression.mean_iou_float_to_quantized
    before, after = regression.mean_iou_float, regression.mean_iou_quantized
    if before is None or after is None or between is None:
        return
    yield lost(MEAN_IOU, "max_iou_drop", images, before, after, limits.max_iou_drop)
    for name, figures in sizes.items():
        before, after = figures.mean_iou_float, figures.mean_iou_quantized
        if before is not None and after is not None:
            limit = limits.iou_drop_by_size
            yield lost(f"{MEAN_IOU}, {name}", "max_iou_drop_by_size", figures.images, before, after, limit, True)
    yield Check("IoU between the two boxes", "min_box_iou", images, None, between, limits.min_box_iou)
    bound = limits.min_box_iou_by_size
    for name, figures in sizes.items():
        if figures.mean_iou_float_to_quantized is not None:
            shared = figures.mean_iou_float_to_quantized
            title = f"IoU between the two boxes, {name}"
            yield Check(title, "min_box_iou_by_size", figures.images, None, shared, bound, size=True)


def _presence(regression: Regression, limits: GateLimits) -> Iterator[Check]:
    if not _has_presence(regression):
        return
    figures = regression.presence
    before, after = figures.recall_float, figures.recall_quantized
    if before is not None and after is not None:
        yield lost("objects found", "max_recall_drop", figures.objects, before, after, limits.max_recall_drop)
    before, after = figures.false_alarms_float, figures.false_alarms_quantized
    if before is not None and after is not None:
        negatives, bound = figures.empty_images + figures.background_crops, before + limits.max_false_alarm_rise
        values = negatives, before, after, min(bound, 1.0)
        yield Check("false alarms", "max_false_alarm_rise", *values, lower_is_better=True)


def _has_presence(regression: Regression) -> bool:
    """Whether the models have a presence output: one without is always sure."""
    return any(min(row.presence_float, row.presence_quantized) < 1 for row in regression.rows)


def _classes(regression: Regression, limits: GateLimits) -> Iterator[Check]:
    classes = regression.classes
    before, after = classes.top1_float, classes.top1_quantized
    if classes.images and before is not None and after is not None:
        yield lost("class right", "max_accuracy_drop", classes.images, before, after, limits.max_accuracy_drop)
    if classes.agreement is not None:
        bound = limits.min_class_agreement
        yield Check("class agreement", "min_class_agreement", regression.images, None, classes.agreement, bound)


def gate_findings(regression: Regression, checks: tuple[Check, ...], limits: GateLimits) -> tuple[Finding, ...]:
    """What a reader should know before trusting the verdict."""
    return (*_about_the_data(regression, limits), *about_few(checks), *_about_the_float(regression))


def _about_the_data(regression: Regression, limits: GateLimits) -> Iterator[Finding]:
    yield from about_the_interval(regression.drop_ci95, limits.max_iou_drop, regression.ci_groups, regression.ci_by)
    if regression.ci_by == "image" and len({row.group for row in regression.rows}) == 1:
        message = (
            "the data names no groups, or only one: if images are frames of one clip, the interval of the drop is "
            "too narrow"
        )
        yield Finding("no-groups", "warning", message, "name the clip of each image in the data")
    if _has_presence(regression) and regression.presence.false_alarms_quantized is None:
        message = "no image without an object was measured: false alarms are unknown"
        yield Finding("gate-no-empty-images", "warning", message, "add images without an object")


def about_the_interval(
    interval: tuple[float, float] | None, limit: float, count: int, by: str | None
) -> Iterator[Finding]:
    """What images or groups are too few to show."""
    if interval is not None and interval[0] < limit < interval[1]:
        message = (
            f"the 95 % interval of the drop includes the limit {limit:g}: {count} {by}s cannot show on which side of "
            "it the drop is"
        )
        yield Finding("gate-inconclusive", "warning", message, "measure on more of them")


def about_few(checks: tuple[Check, ...]) -> Iterator[Finding]:
    """What would have failed over more images."""
    names = [str(check) for check in checks if not check.met and not check.counts]
    if names:
        message = f"worse than allowed, but over fewer than {FEWEST} images, which fails nothing: {'; '.join(names)}"
        yield Finding("gate-few-images", "warning", message, "measure on more images")


def _about_the_float(regression: Regression) -> Iterator[Finding]:
    if regression.mean_iou_float is not None and regression.mean_iou_float < _POOR_FLOAT:
        message = f"the float model itself only reaches a mean IoU of {regression.mean_iou_float:.3f} here"
        fix = (
            "if it did better in training, the contract's colour order, normalization or box encoding is not what it "
            "was trained with"
        )
        yield Finding("float-model-poor", "warning", message, fix)


def rounded(value: Any) -> Any:
    """Plain data with numbers to five decimals."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _distinct(after: float, bound: float) -> tuple[str, str]:
    """Both numbers, with as many digits as it takes to see which is the larger."""
    for digits in range(3, 6):
        if round(after, digits) != round(bound, digits):
            break
    return f"{after:.{digits}f}", f"{bound:.{digits}f}"
