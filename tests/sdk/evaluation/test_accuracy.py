"""The accuracy of one model, from rows whose figures are known by hand."""

from __future__ import annotations

import pytest

from edgeloc.evaluation.accuracy import AccuracyRow, accuracy_figures
from edgeloc.types import Box

TRUTH, HALF = Box(0, 0, 40, 40), Box(0, 0, 20, 40)


def found(name: str, box: Box, *, presence: float = 0.9, label: str = "bolt", group: str | None = None) -> AccuracyRow:
    return AccuracyRow(
        name, "object", 100, 100, group, label, "large", TRUTH, box, TRUTH.iou(box), presence, "bolt"
    )  # fmt: skip


def negative(presence: float) -> AccuracyRow:
    return AccuracyRow("n", "background", 60, 60, None, None, None, None, None, None, presence, None)


def test_means_and_rates() -> None:
    rows = [found("a", TRUTH), found("b", HALF, presence=0.2, label="spoon"), negative(0.8), negative(0.1)]
    accuracy = accuracy_figures(rows, threshold=0.5, labels=("bolt",))
    assert (accuracy.images, accuracy.mean_iou, accuracy.mean_iou_ci95) == (2, 0.75, (0.5, 1.0))
    assert (accuracy.iou50, accuracy.iou75) == (1.0, 0.5)
    assert (accuracy.recall, accuracy.false_alarms, accuracy.background_crops) == (0.5, 0.5, 2)
    assert (accuracy.labelled, accuracy.unknown_labels, accuracy.top1) == (2, 1, 0.5)
    assert accuracy.mean_iou_by_size == {"small": None, "medium": None, "large": 0.75}


def test_groups_are_resampled_where_there_are_some() -> None:
    rows = [found(str(i), HALF if i < 4 else TRUTH, group=f"clip{i // 4}") for i in range(8)]
    accuracy = accuracy_figures(rows, threshold=0.5)
    assert (accuracy.ci_by, accuracy.ci_groups, accuracy.labelled) == ("group", 2, 0)


def test_negatives_alone_have_no_iou() -> None:
    accuracy = accuracy_figures([negative(0.9)], threshold=0.5)
    assert (accuracy.images, accuracy.mean_iou, accuracy.mean_iou_ci95, accuracy.recall) == (0, None, None, None)
    assert accuracy.false_alarms == 1


def test_a_row_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'photo'"):
        AccuracyRow("n", "photo", 1, 1, None, None, None, None, None, None, 0.5, None)
