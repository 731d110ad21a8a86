"""The presence threshold on quantized scores: it follows the float model's decisions, and otherwise stays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from edgeloc.converters.gate import PresenceFit, fit_presence
from edgeloc.evaluation.figures import Row


def row(kind: str, before: float, after: float) -> Row:
    nothing = (None,) * 3
    return Row("image", kind, 60, 60, *nothing, None, None, None, None, None, None, before, after, None, None)


def fitted(objects: Sequence[tuple[float, float]], negatives: Sequence[tuple[float, float]], old: float) -> PresenceFit:
    rows = [*(row("object", *pair) for pair in objects), *(row("background", *pair) for pair in negatives)]
    return fit_presence(rows, 0.5, old)


def in_steps(probability: float, shift: float, scale: float = 0.2) -> float:
    """What an int8 output of this scale says of a probability, its logit shifted."""
    logit = math.log(probability / (1 - probability)) + shift
    return round(1 / (1 + math.exp(-round(logit / scale) * scale)), 6)


def shifted(shift: float) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    rng = np.random.default_rng(1)
    objects = [(p, in_steps(p, shift)) for p in rng.uniform(0.3, 0.99, 200)]
    return objects, [(p, in_steps(p, shift)) for p in rng.uniform(0.01, 0.6, 200)]


@pytest.mark.parametrize("shift", [-2.0, -0.7, 0.7, 2.0])
def test_a_shift_of_the_scores_is_followed(shift: float) -> None:
    fit = fitted(*shifted(shift), old=0.5)
    assert fit.moved and fit.reason == ""
    expected = 1 / (1 + math.exp(-shift))
    assert abs(fit.after - expected) < 0.06
    assert fit.agreement_before is not None and fit.agreement_after is not None
    assert fit.agreement_after > max(0.94, fit.agreement_before)


def test_scores_that_did_not_move_leave_it_within_a_step() -> None:
    assert abs(fitted(*shifted(0.0), old=0.5).after - 0.5) < 0.03


def test_the_same_decisions_leave_it_alone() -> None:
    fit = fitted([(0.9, 0.7)] * 20, [(0.1, 0.3)] * 20, old=0.6)
    assert (fit.after, fit.moved, fit.agreement_after) == (0.6, False, 1.0)
    assert fit.reason


def test_a_single_image_moves_nothing() -> None:
    objects = [(0.9, 0.9)] * 49 + [(0.9, 0.4)]
    assert not fitted(objects, [(0.1, 0.1)] * 50, old=0.5).moved
    assert fitted([*objects, (0.9, 0.4), (0.9, 0.4)], [(0.1, 0.1)] * 50, old=0.5).moved


def test_two_images_of_a_thousand_move_nothing() -> None:
    assert not fitted([(0.9, 0.9)] * 998 + [(0.9, 0.4)] * 2, [(0.1, 0.1)] * 1000, old=0.5).moved


def test_the_nearest_to_the_old_one_is_taken() -> None:
    # Whether the step at 0.25 counts as present is wrong for one image either way: both sides of it are as good.
    objects = [(0.9, 0.4)] * 10 + [(0.9, 0.25), (0.4, 0.25)]
    assert 0.25 < fitted(objects, [(0.1, 0.1)] * 10, old=0.6).after < 0.4
    assert 0.1 < fitted(objects, [(0.1, 0.1)] * 10, old=0.05).after < 0.25


def test_few_images_of_one_kind_weigh_as_much_as_many_of_the_other() -> None:
    # Of many objects some are only found below the score of the negatives: those must not all become false alarms.
    objects = [(0.9, 0.9)] * 900 + [(0.9, 0.3)] * 50
    fit = fitted(objects, [(0.1, 0.4)] * 20, old=0.5)
    assert fit.after > 0.4


def test_it_is_a_short_number_inside_the_step() -> None:
    fit = fitted([(0.9, 0.43)] * 20, [(0.1, 0.4213)] * 20, old=0.5)
    assert 0.4213 < fit.after < 0.43
    assert len(str(fit.after)) <= 5


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_it_stays_between_0_and_1(score: float) -> None:
    fit = fitted([(0.9, score)] * 20, [(0.9, score)] * 20 + [(0.1, score)] * 5, old=0.5)
    assert 0 < fit.after < 1


@pytest.mark.parametrize(
    ("objects", "negatives", "reason"),
    [
        ([(0.9, 0.2)] * 9, [], "the data has no image without an object"),
        ([], [(0.1, 0.9)] * 9, "the data has no image with an object"),
    ],
)
def test_one_kind_of_image_is_not_enough(
    objects: list[tuple[float, float]], negatives: list[tuple[float, float]], reason: str
) -> None:
    fit = fitted(objects, negatives, old=0.5)
    assert (fit.after, fit.reason, fit.agreement_after) == (0.5, reason, None)


def test_a_presence_that_was_switched_off_stays_so() -> None:
    fit = fitted([(0.9, 0.4)] * 20, [(0.1, 0.2)] * 20, old=0.0)
    assert fit.after == 0.0
    assert "switches presence off" in fit.reason
