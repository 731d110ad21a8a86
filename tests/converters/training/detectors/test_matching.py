"""Which location answers for which object, in cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloc.converters.training.detectors.matching import (
    match_by_cost,
    match_by_overlap,
    match_by_shape,
    pairwise_iou,
)
from edgeloc.decode.places import Places, locate
from edgeloc.model.detector import Locations

NOTHING = [0.0, 0, 0, 0]


def places(locations: Locations) -> Places:
    found = locate(locations, 64, 64)
    assert found is not None
    return found


def given(*boxes: list[float], labels: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    numbers = labels or [0 if box is not NOTHING else -1 for box in boxes]
    return np.array([boxes], np.float32), np.array([numbers], np.int32)


def test_iou_of_pairs() -> None:
    first = np.array([[[0, 0, 10, 10], [0, 0, 20, 20]]], np.float32)
    second = np.array([[[0, 0, 10, 10], [5, 0, 15, 10], [30, 30, 40, 40]]], np.float32)
    expected = [[[1, 1 / 3, 0], [0.25, 0.25, 0]]]
    assert np.asarray(pairwise_iou(first, second)) == pytest.approx(np.array(expected), abs=1e-5)


def cost_matches(found: np.ndarray, logits: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.asarray(match_by_cost(boxes, labels, found[None], logits[None], places(Locations((8,)))))[0]


def test_an_object_gets_the_cells_that_answer_it_best() -> None:
    where = places(Locations((8,)))
    found = np.concatenate([where.centers - 2, where.centers + 2], axis=1).astype(np.float32)
    logits = np.full((64, 2), -4, np.float32)
    boxes, labels = given([16, 16, 32, 32], NOTHING)
    inside = [18, 19, 26, 27]  # cells (2, 2) to (3, 3) of eight a row
    found[inside] = [16, 16, 32, 32]
    matched = cost_matches(found, logits, boxes, labels)
    assert np.flatnonzero(matched >= 0).tolist() == inside  # four IoUs of 1 make four
    found[inside] = [[16, 16, 32, 20], [16, 16, 32, 21], [16, 16, 32, 22], [16, 16, 32, 19]]
    matched = cost_matches(found, logits, boxes, labels)
    assert np.flatnonzero(matched >= 0).tolist() == [26]  # IoUs that add up to less than two make one, the best


def test_the_class_decides_between_cells_of_equal_boxes() -> None:
    where = places(Locations((8,)))
    found = np.concatenate([where.centers - 2, where.centers + 2], axis=1).astype(np.float32)
    logits = np.full((64, 2), -4, np.float32)
    found[[18, 27]] = [16, 16, 32, 24]
    logits[27, 1] = 3
    boxes, labels = given([16, 16, 32, 32], labels=[1])
    matched = cost_matches(found, logits, boxes, labels)
    assert matched[27] == 0


def test_a_cell_answers_for_one_object_and_a_small_one_gets_one() -> None:
    where = places(Locations((8,)))
    found = np.concatenate([where.centers - 4, where.centers + 4], axis=1).astype(np.float32)
    logits = np.full((64, 1), -4, np.float32)
    # The first holds no cell's centre at all, and lies in the second.
    boxes, labels = given([14.5, 14.5, 18, 18], [8, 8, 56, 56], NOTHING)
    matched = cost_matches(found, logits, boxes, labels)
    assert set(matched.tolist()) == {-1, 0, 1}


def test_without_objects_no_location_matches() -> None:
    found, logits = np.zeros((64, 4), np.float32), np.zeros((64, 2), np.float32)
    boxes, labels = given(NOTHING, NOTHING)
    assert (cost_matches(found, logits, boxes, labels) == -1).all()
    anchored = places(Locations((8,), anchors=(((16, 16),),)))
    assert (np.asarray(match_by_overlap(boxes, labels, anchored)) == -1).all()
    assert (np.asarray(match_by_shape(boxes, labels, anchored)) == -1).all()


def test_ssd_takes_anchors_that_overlap_and_the_best_of_each_object() -> None:
    where = places(Locations((16,), anchors=(((16, 16), (32, 16)),)))
    boxes, labels = given([16, 16, 32, 32], [36, 36, 40, 40], [0, 48, 32, 64])
    matched = np.asarray(match_by_overlap(boxes, labels, where))[0]
    assert matched[2 * 5] == 0  # cell (1, 1), its square
    assert matched[2 * 5 + 1] == 0  # IoU 0.5
    assert (matched == 1).sum() == 1  # far from 0.5 with any, but one is the best
    assert matched[2 * 10] == 1  # cell (2, 2)
    assert {2 * 12 + 1, 2 * 13 + 1} & set(np.flatnonzero(matched == 2).tolist())


def test_yolo_takes_the_cell_of_the_centre_and_two_beside_it() -> None:
    where = places(Locations((16,), offset=0.0, anchors=(((10, 10), (100, 100)),)))
    boxes, labels = given([18, 18, 30, 28], NOTHING)  # its centre (24, 23) is in cell (1, 1), the upper half
    matched = np.asarray(match_by_shape(boxes, labels, where))[0].reshape(4, 4, 2)
    assert matched[1, 1, 0] == 0
    assert matched[0, 1, 0] == 0  # the cell above is nearer than the one below
    assert matched[2, 1, 0] == -1
    assert (matched[..., 1] == -1).all()  # the large anchor is more than four times as large


def test_yolo_takes_the_best_anchor_where_none_fits() -> None:
    where = places(Locations((16,), offset=0.0, anchors=(((2, 2), (4, 4)),)))
    boxes, labels = given([4, 4, 60, 60])
    matched = np.asarray(match_by_shape(boxes, labels, where))[0].reshape(4, 4, 2)
    assert (matched[..., 1] == 0).any()
    assert (matched[..., 0] == -1).all()
