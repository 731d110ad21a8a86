"""The figures of a regression, from rows whose figures are known by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgeloc.evaluation.figures import Regression, Row, regression_figures, size_of
from edgeloc.types import Box


def figures(rows: list[Row], labels: tuple[str, ...] = ("bolt", "nut")) -> Regression:
    return regression_figures(rows, threshold_float=0.5, threshold_quantized=0.6, labels=labels)


def test_means_drop_and_rates(make_row: Callable[..., Row]) -> None:
    truth, half = Box(0, 0, 40, 40), Box(0, 0, 20, 40)
    regression = figures([make_row("a", truth, truth, half), make_row("b", truth, truth, truth)])
    assert regression.images == 2
    assert regression.mean_iou_float == 1
    assert regression.mean_iou_quantized == 0.75
    assert regression.mean_iou_drop == 0.25
    assert regression.mean_iou_float_to_quantized == 0.75
    assert (regression.iou50_quantized, regression.iou75_quantized) == (1.0, 0.5)
    assert regression.drop_ci95 == (0.0, 0.5)
    assert regression.ci_by == "image"


def test_rows_are_kept(rows: list[Row]) -> None:
    assert list(figures(rows).rows) == rows


def test_groups_are_resampled_where_there_are_some(rows: list[Row]) -> None:
    regression = figures(rows)
    assert (regression.ci_by, regression.ci_groups) == ("group", 3)
    assert regression.drop_ci95 is not None and regression.mean_iou_drop is not None
    assert regression.drop_ci95[0] <= regression.mean_iou_drop <= regression.drop_ci95[1]


def test_iou_counts_objects_that_presence_missed(make_row: Callable[..., Row]) -> None:
    truth = Box(0, 0, 40, 40)
    regression = figures([make_row("a", truth, truth, truth, presence_float=0.1, presence_quantized=0.1)])
    assert regression.images == 1
    assert regression.mean_iou_quantized == 1
    assert regression.presence.recall_quantized == 0


def test_presence_uses_each_side_s_threshold(rows: list[Row]) -> None:
    presence = figures(rows).presence
    assert (presence.objects, presence.background_crops, presence.empty_images) == (12, 2, 0)
    assert (presence.recall_float, presence.recall_quantized) == (1, 1)
    assert (presence.false_alarms_float, presence.false_alarms_quantized) == (0, 0.5)
    assert presence.agreement == pytest.approx(13 / 14)


def test_a_label_that_the_model_does_not_know_is_a_miss_and_is_counted(make_row: Callable[..., Row]) -> None:
    truth = Box(0, 0, 40, 40)
    spoon = make_row("a", truth, truth, truth, label="spoon")
    rows = [spoon, make_row("b", truth, truth, truth, label_quantized="nut")]
    classes = figures(rows).classes
    assert (classes.images, classes.unknown_labels) == (2, 1)
    assert (classes.top1_float, classes.top1_quantized, classes.agreement) == (0.5, 0, 0.5)


def test_a_model_without_classes_has_no_class_figures(make_row: Callable[..., Row]) -> None:
    truth = Box(0, 0, 40, 40)
    classes = figures([make_row("a", truth, truth, truth, label_float=None, label_quantized=None)], labels=()).classes
    assert (classes.images, classes.top1_float, classes.agreement) == (0, None, None)


def test_split_by_size_covers_every_object(rows: list[Row]) -> None:
    by_size = figures(rows).by_size
    assert list(by_size) == ["small", "medium", "large"]
    assert sum(size.images for size in by_size.values()) == 12
    assert by_size["small"].mean_iou_drop is None


@pytest.mark.parametrize(
    ("side", "name"), [(14.9, "small"), (15, "medium"), (39, "medium"), (40, "large"), (120, "large")]
)
def test_sizes(side: float, name: str) -> None:
    assert size_of(Box(0, 0, side, side), 100, 100) == name


def test_worst_first(rows: list[Row]) -> None:
    worst = figures(rows).worst
    assert worst[0].name == "images/11.jpg"
    drops = [image.iou_float - image.iou_quantized for image in worst]
    assert drops == sorted(drops, reverse=True)


def test_one_clip_does_not_fill_the_worst(rows: list[Row]) -> None:
    groups = [image.group for image in figures(rows).worst]
    assert groups == ["clip2"] * 3 + ["clip1"] * 3 + ["clip0"] * 3


def test_negatives_alone_have_no_iou(rows: list[Row]) -> None:
    regression = figures([row for row in rows if row.kind != "object"])
    assert regression.images == 0
    assert regression.mean_iou_drop is None and regression.drop_ci95 is None
    assert regression.presence.false_alarms_quantized == 0.5
