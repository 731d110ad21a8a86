"""What a quantized model is held to: each figure, its limit and what the data cannot tell; nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeloc.evaluation.figures import SIZES, Regression

__all__ = ["FEWEST", "MEAN_IOU", "Check", "checks", "doubts"]

MEAN_IOU = "mean IoU"

# How much worse than the float model each figure may be. Plain post-training quantization stays
# inside all of them; calibration on noise, swapped colours or an output of mixed ranges does not.
_SIZE_MARGIN = 0.01  # beyond the drop that is allowed over all sizes
_BETWEEN_BOXES = 0.15
_BETWEEN_BOXES_OF_A_SIZE = 0.2
_SHARE = 0.02  # of objects found, of false alarms, of classes right
_SAME_CLASS = 0.1
FEWEST = 50
"""A figure of fewer images than this is told but fails nothing; the mean IoU that was asked for always counts."""

_POOR_FLOAT = 0.5
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Check:
    """One figure of both models, 0 to 1, over `images` images, and how much worse the quantized one may be.

    `before` is None for a figure that compares the two models with each other (the float model
    with itself would have 1). With `lower_is_better` worse means higher. `size` says that the figure is
    that of the objects of one size.
    """

    name: str
    images: int
    before: float | None
    after: float
    limit: float
    size: bool = False
    lower_is_better: bool = False

    @property
    def bound(self) -> float:
        """What the quantized model's figure must reach, or must not exceed where lower is better."""
        before = 1.0 if self.before is None else self.before
        return min(before + self.limit, 1.0) if self.lower_is_better else max(before - self.limit, 0.0)

    @property
    def met(self) -> bool:
        """Whether the figure is within its limit."""
        loss = self.after - self.bound if self.lower_is_better else self.bound - self.after
        return loss <= _ROUNDING

    @property
    def counts(self) -> bool:
        """Whether the figure can fail the gate: enough images, or the one that was asked for."""
        return self.name == MEAN_IOU or self.images >= FEWEST

    @property
    def failed(self) -> bool:
        """Whether the figure fails the gate."""
        return self.counts and not self.met

    def __str__(self) -> str:
        most = "at most" if self.lower_is_better else "at least"
        after, bound = _told_apart(self.after, self.bound)
        return f"{self.name} is {after}, it must be {most} {bound}"


def checks(regression: Regression, max_iou_drop: float) -> tuple[Check, ...]:
    """All figures that the data gives, in the order in which a reader wants them."""
    return (*_boxes(regression, max_iou_drop), *_presence(regression), *_classes(regression))


def _boxes(regression: Regression, max_iou_drop: float) -> Iterator[Check]:
    sizes = {name: regression.by_size[name] for name in SIZES if regression.by_size[name].images}
    before, after = regression.mean_iou_float, regression.mean_iou_quantized
    between = regression.mean_iou_float_to_quantized
    if before is None or after is None or between is None:
        return
    yield Check(MEAN_IOU, regression.images, before, after, max_iou_drop)
    for name, figures in sizes.items():
        if figures.mean_iou_float is not None and figures.mean_iou_quantized is not None:
            limit = max_iou_drop + _SIZE_MARGIN
            values = figures.images, figures.mean_iou_float, figures.mean_iou_quantized, limit
            yield Check(f"{MEAN_IOU}, {name}", *values, size=True)
    yield Check("IoU between the two boxes", regression.images, None, between, _BETWEEN_BOXES)
    for name, figures in sizes.items():
        if figures.mean_iou_float_to_quantized is not None:
            between, limit = figures.mean_iou_float_to_quantized, _BETWEEN_BOXES_OF_A_SIZE
            yield Check(f"IoU between the two boxes, {name}", figures.images, None, between, limit, size=True)


def _presence(regression: Regression) -> Iterator[Check]:
    if not _has_presence(regression):
        return
    presence = regression.presence
    negatives = presence.empty_images + presence.background_crops
    if presence.recall_float is not None and presence.recall_quantized is not None:
        yield Check("objects found", presence.objects, presence.recall_float, presence.recall_quantized, _SHARE)
    if presence.false_alarms_float is not None and presence.false_alarms_quantized is not None:
        values = negatives, presence.false_alarms_float, presence.false_alarms_quantized, _SHARE
        yield Check("false alarms", *values, lower_is_better=True)


def _has_presence(regression: Regression) -> bool:
    """Whether the models say anything: one without such an output is always sure."""
    return any(min(row.presence_float, row.presence_quantized) < 1 for row in regression.rows)


def _classes(regression: Regression) -> Iterator[Check]:
    classes = regression.classes
    if classes.images and classes.top1_float is not None and classes.top1_quantized is not None:
        yield Check("class right", classes.images, classes.top1_float, classes.top1_quantized, _SHARE)
    if classes.agreement is not None:
        yield Check("both say the same class", regression.images, None, classes.agreement, _SAME_CLASS)


def doubts(regression: Regression, found: tuple[Check, ...], max_iou_drop: float) -> tuple[str, ...]:
    """What a reader must know before trusting the verdict, a sentence each."""
    return (*_about_the_data(regression, max_iou_drop), *_about_few_images(found), *_about_the_float(regression))


def _about_the_data(regression: Regression, max_iou_drop: float) -> Iterator[str]:
    if regression.drop_ci95 is not None and regression.drop_ci95[0] < max_iou_drop < regression.drop_ci95[1]:
        yield (
            f"the 95 % interval of the drop reaches to both sides of the limit {max_iou_drop:g}: "
            f"{regression.ci_groups} {regression.ci_by}s cannot tell on which side the drop is; more of them can"
        )
    if regression.ci_by == "image" and len({row.group for row in regression.rows}) == 1:
        yield "the data names no groups, or only one: if images are frames of one clip, the interval is too narrow"
    if _has_presence(regression) and regression.presence.false_alarms_quantized is None:
        yield "no image without an object was measured: nothing is known of false alarms"
    if regression.classes.unknown_labels:
        yield f"{regression.classes.unknown_labels} images have a label that the model does not know"


def _about_few_images(found: tuple[Check, ...]) -> Iterator[str]:
    names = [check.name for check in found if not check.met and not check.counts]
    if names:
        yield f"worse than allowed, but over fewer than {FEWEST} images, which can fail nothing: {'; '.join(names)}"


def _about_the_float(regression: Regression) -> Iterator[str]:
    if regression.mean_iou_float is not None and regression.mean_iou_float < _POOR_FLOAT:
        yield (
            f"the float model itself only reaches a mean IoU of {regression.mean_iou_float:.3f} here: if it did better "
            "in training, the contract's colour order, normalization or box encoding is not what it was trained with"
        )


def _told_apart(after: float, bound: float) -> tuple[str, str]:
    """Both numbers, with as many digits as it takes to see which is the larger."""
    for digits in range(3, 6):
        if round(after, digits) != round(bound, digits):
            break
    return f"{after:.{digits}f}", f"{bound:.{digits}f}"
