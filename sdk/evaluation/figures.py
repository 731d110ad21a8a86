"""What quantization cost: the rows of two models image by image, the figures made of them, and how they are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeloc.evaluation.statistics import bootstrap_drop, mean, share
from edgeloc.types import Box

__all__ = [
    "FLOAT_COLOR",
    "MARK_COLOR",
    "QUANTIZED_COLOR",
    "SIZES",
    "WORST",
    "WORST_OF_A_GROUP",
    "ClassFigures",
    "ImageFacts",
    "PresenceFigures",
    "Regression",
    "Row",
    "SizeFigures",
    "Worst",
    "describe_sizes",
    "format_drop",
    "format_interval",
    "format_names",
    "format_share",
    "format_size",
    "format_threads",
    "labels_of",
    "presence_figures",
    "regression_figures",
    "size_of",
]

# Side of the object over side of the image, sqrt(box area / image area): from, and below.
SIZES: dict[str, tuple[float, float]] = {"small": (0.0, 0.15), "medium": (0.15, 0.4), "large": (0.4, math.inf)}
WORST = 12
WORST_OF_A_GROUP = 3
# Of plots; the same as `edgeloc.loop.draw` has for boxes. They stand out on white and on near-black alike.
FLOAT_COLOR = "#56b4e9"
QUANTIZED_COLOR = "#e69f00"
MARK_COLOR = "#cc79a7"


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One measured image and its label, whatever models run on it; boxes in its pixels.

    `kind` is `object`, `empty` (an image without a box) or `background` (a crop beside the box). `label` and `truth`
    are the true ones; `size` is that of the true box, see `edgeloc.evaluation.figures.SIZES`.
    """

    name: str
    kind: str
    width: int
    height: int
    group: str | None
    label: str | None
    size: str | None
    truth: Box | None

    def __post_init__(self) -> None:
        if self.kind not in ("object", "empty", "background"):
            raise ValueError(f"kind is {self.kind!r}: it must be object, empty or background")


@dataclass(frozen=True, slots=True)
class Row(ImageFacts):
    """One image through both models; boxes are the raw ones, whatever the presence.

    IoU is None where nothing is to be found.
    """

    box_float: Box | None
    box_quantized: Box | None
    iou_float: float | None
    iou_quantized: float | None
    iou_float_to_quantized: float | None
    presence_float: float
    presence_quantized: float
    label_float: str | None
    label_quantized: str | None


@dataclass(frozen=True, slots=True)
class SizeFigures:
    """The regression over the objects of one size, or of one class."""

    images: int
    mean_iou_float: float | None
    mean_iou_quantized: float | None
    mean_iou_drop: float | None
    mean_iou_float_to_quantized: float | None


@dataclass(frozen=True, slots=True)
class PresenceFigures:
    """Shares, 0 to 1: objects found, negatives with a false alarm, images on which both models agree."""

    threshold_float: float
    threshold_quantized: float
    objects: int
    empty_images: int
    background_crops: int
    recall_float: float | None
    recall_quantized: float | None
    false_alarms_float: float | None
    false_alarms_quantized: float | None
    agreement: float | None


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Shares, 0 to 1, over images with a labelled object; a label that a model does not know counts as missed."""

    images: int
    unknown_labels: int
    top1_float: float | None
    top1_quantized: float | None
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Worst:
    """An image on which quantization cost most; `preview` is a JPEG data URI, `preview_scale` its pixels per pixel."""

    name: str
    group: str | None
    label: str | None
    truth: Box
    box_float: Box | None
    box_quantized: Box | None
    iou_float: float
    iou_quantized: float
    iou_float_to_quantized: float
    preview: str | None = None
    preview_scale: float = 1.0

    def __post_init__(self) -> None:
        boxes = [box for box in (self.truth, self.box_float, self.box_quantized) if box is not None]
        if not all(math.isfinite(number) for number in (*(edge for box in boxes for edge in box), self.preview_scale)):
            raise ValueError("its boxes and preview_scale must be finite numbers")


@dataclass(frozen=True, slots=True)
class Regression:
    """What quantization cost, paired image by image; IoU over images with an object, whatever the presence.

    `mean_iou_drop` is float minus quantized; `drop_ci95` its 95 % bootstrap interval, for which
    `ci_groups` groups or images (`ci_by`) were resampled. `by_size` is by name of SIZES, `by_class` by true label. None
    stands for a mean over no image.
    """

    images: int
    mean_iou_float: float | None
    mean_iou_quantized: float | None
    mean_iou_drop: float | None
    drop_ci95: tuple[float, float] | None
    ci_by: str | None
    ci_groups: int
    mean_iou_float_to_quantized: float | None
    iou50_float: float | None
    iou50_quantized: float | None
    iou75_float: float | None
    iou75_quantized: float | None
    presence: PresenceFigures
    classes: ClassFigures
    by_size: dict[str, SizeFigures]
    worst: tuple[Worst, ...]
    rows: tuple[Row, ...]
    by_class: dict[str, SizeFigures] = field(default_factory=dict)


def size_of(box: Box, width: int, height: int) -> str:
    """The name in SIZES of a box in an image of `width` x `height` pixels."""
    side = math.sqrt(box.area / (width * height))
    return next(name for name, (low, high) in SIZES.items() if low <= side < high)


def regression_figures(
    rows: Sequence[Row],
    *,
    threshold_float: float,
    threshold_quantized: float,
    labels: Sequence[str] = (),
    seed: int = 0,
) -> Regression:
    """All figures of `rows`.

    `threshold_float`, `threshold_quantized`: the presence from which each model counts an object as found.
    `labels`: the classes that the quantized model knows; without any there are no class figures.
    `seed`: of the bootstrap; the same seed gives the same interval.
    """
    objects = [row for row in rows if row.kind == "object"]
    before = [row.iou_float or 0.0 for row in objects]
    after = [row.iou_quantized or 0.0 for row in objects]
    interval = bootstrap_drop(before, after, [row.group for row in objects], seed=seed) if objects else None
    whole = _size_figures(objects)
    return Regression(
        images=whole.images,
        mean_iou_float=whole.mean_iou_float,
        mean_iou_quantized=whole.mean_iou_quantized,
        mean_iou_drop=whole.mean_iou_drop,
        drop_ci95=(interval.low, interval.high) if interval else None,
        ci_by=interval.by if interval else None,
        ci_groups=interval.groups if interval else 0,
        mean_iou_float_to_quantized=whole.mean_iou_float_to_quantized,
        iou50_float=share([iou >= 0.5 for iou in before]),
        iou50_quantized=share([iou >= 0.5 for iou in after]),
        iou75_float=share([iou >= 0.75 for iou in before]),
        iou75_quantized=share([iou >= 0.75 for iou in after]),
        presence=presence_figures(rows, threshold_float, threshold_quantized),
        classes=_classes(objects, labels),
        by_size={name: _size_figures([row for row in objects if row.size == name]) for name in SIZES},
        by_class={label: _size_figures([row for row in objects if row.label == label]) for label in labels_of(objects)},
        worst=_worst(objects),
        rows=tuple(rows),
    )


def labels_of(objects: Sequence[ImageFacts]) -> list[str]:
    """The true labels of these images, sorted."""
    return sorted({row.label for row in objects if row.label is not None})


def _size_figures(objects: Sequence[Row]) -> SizeFigures:
    before = mean([row.iou_float or 0.0 for row in objects])
    after = mean([row.iou_quantized or 0.0 for row in objects])
    return SizeFigures(
        images=len(objects),
        mean_iou_float=before,
        mean_iou_quantized=after,
        mean_iou_drop=None if before is None or after is None else before - after,
        mean_iou_float_to_quantized=mean([row.iou_float_to_quantized or 0.0 for row in objects]),
    )


def presence_figures(rows: Sequence[Row], threshold_float: float, threshold_quantized: float) -> PresenceFigures:
    """Objects found, false alarms and agreement, each model counted from its own presence threshold."""
    found = [(row.presence_float >= threshold_float, row.presence_quantized >= threshold_quantized) for row in rows]
    objects = [pair for row, pair in zip(rows, found, strict=True) if row.kind == "object"]
    negatives = [pair for row, pair in zip(rows, found, strict=True) if row.kind != "object"]
    return PresenceFigures(
        threshold_float=threshold_float,
        threshold_quantized=threshold_quantized,
        objects=len(objects),
        empty_images=sum(row.kind == "empty" for row in rows),
        background_crops=sum(row.kind == "background" for row in rows),
        recall_float=share([by_float for by_float, _ in objects]),
        recall_quantized=share([by_quantized for _, by_quantized in objects]),
        false_alarms_float=share([by_float for by_float, _ in negatives]),
        false_alarms_quantized=share([by_quantized for _, by_quantized in negatives]),
        agreement=share([by_float == by_quantized for by_float, by_quantized in found]),
    )


def _classes(objects: Sequence[Row], labels: Sequence[str]) -> ClassFigures:
    labelled = [row for row in objects if row.label is not None] if labels else []
    known = [row for row in objects if row.label_float is not None and row.label_quantized is not None]
    return ClassFigures(
        images=len(labelled),
        unknown_labels=sum(row.label not in labels for row in labelled),
        top1_float=share([row.label_float == row.label for row in labelled]),
        top1_quantized=share([row.label_quantized == row.label for row in labelled]),
        agreement=share([row.label_float == row.label_quantized for row in known]),
    )


def _worst(objects: Sequence[Row]) -> tuple[Worst, ...]:
    """The images on which quantization took most IoU with the truth; among equals those whose box moved most.

    Of one group at most WORST_OF_A_GROUP, since frames of one clip fail alike.
    """

    def order(row: Row) -> tuple[float, float, str]:
        drop = (row.iou_float or 0.0) - (row.iou_quantized or 0.0)
        return -drop, row.iou_float_to_quantized or 0.0, row.name

    worst: list[Worst] = []
    for row in sorted(objects, key=order):
        alike = sum(row.group is not None and other.group == row.group for other in worst)
        if row.truth is not None and alike < WORST_OF_A_GROUP and len(worst) < WORST:
            worst.append(_as_worst(row, row.truth))
    return tuple(worst)


def _as_worst(row: Row, truth: Box) -> Worst:
    return Worst(
        name=row.name,
        group=row.group,
        label=row.label,
        truth=truth,
        box_float=row.box_float,
        box_quantized=row.box_quantized,
        iou_float=row.iou_float or 0.0,
        iou_quantized=row.iou_quantized or 0.0,
        iou_float_to_quantized=row.iou_float_to_quantized or 0.0,
    )


def format_share(value: float | None) -> str:
    """A share or an IoU, to a thousandth; a dash where there was nothing to take a mean of."""
    return "-" if value is None else f"{value:.3f}"


def format_drop(before: float | None, after: float | None) -> str:
    """How much `after` is below `before`, to a ten-thousandth; negative where it is above."""
    return "-" if before is None or after is None else _signed(before - after)


def format_interval(interval: tuple[float, float] | None) -> str:
    """A drop's 95 % interval, to a ten-thousandth."""
    if interval is None:
        return "-"
    low, high = interval
    return f"{_signed(low)} to {_signed(high)}"


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}"  # + 0.0 makes 0 of -0


def format_size(count: int) -> str:
    """Bytes as MB or kB."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def describe_sizes() -> str:
    """The limits of SIZES in words."""
    words = []
    for name, (low, high) in SIZES.items():
        limits = f"from {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
        words.append(f"{name} " + (f"below {high:g}" if low == 0 else limits))
    return ", ".join(words)


def format_threads(count: int | None) -> str:
    """How many threads an engine was given."""
    return "the engine's default threads" if count is None else f"{count} thread{'s' * (count != 1)}"


def format_names(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
