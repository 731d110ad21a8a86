"""Mean average precision in cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloc.converters.training.detectors.precision import Precision
from edgeloc.types import Box, Detection

LABELS = ("bolt", "nut")
TRUTH = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]], np.float32)
NUMBERS = np.array([0, 1, 1], np.int32)


def found(row: int, score: float, label: str, shift: float = 0) -> Detection:
    return Detection(Box(*(TRUTH[row] + shift).tolist()), score, label)


def figures(*objects: Detection) -> dict[str, float]:
    precision = Precision(len(LABELS))
    precision.add(objects, LABELS, TRUTH, NUMBERS)
    return precision.figures()


def test_everything_found_is_a_precision_of_one() -> None:
    result = figures(found(0, 0.9, "bolt"), found(1, 0.8, "nut"), found(2, 0.7, "nut"))
    assert result == {"map50": 1.0, "threshold": pytest.approx(0.7), "f1": 1.0}


def test_nothing_found_is_a_precision_of_zero() -> None:
    assert figures()["map50"] == 0.0
    assert Precision(2).figures() == {"map50": 0.0, "threshold": 0.5, "f1": 0.0}


def test_a_missed_object_costs_its_share_of_the_recall() -> None:
    result = figures(found(0, 0.9, "bolt"), found(1, 0.8, "nut"))
    assert result["map50"] == pytest.approx((1 + 51 / 101) / 2)  # recalls 0 to 0.5 of 101
    assert result["f1"] == pytest.approx(0.8)


def test_a_second_box_of_one_object_is_wrong_and_sets_the_threshold() -> None:
    result = figures(found(0, 0.9, "bolt"), found(1, 0.8, "nut"), found(2, 0.7, "nut"), found(1, 0.3, "nut", 1))
    assert result["map50"] == 1.0  # it comes after all that is right
    assert result["threshold"] == pytest.approx(0.7)
    first = figures(found(0, 0.9, "bolt"), found(1, 0.8, "nut"), found(1, 0.75, "nut", 1), found(2, 0.7, "nut"))
    assert 0.8 < first["map50"] < 1.0


def test_another_class_or_too_little_overlap_is_wrong() -> None:
    assert figures(found(0, 0.9, "nut"))["map50"] == 0.0
    assert figures(found(0, 0.9, "bolt", 5))["map50"] == 0.0
