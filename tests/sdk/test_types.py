"""The records that flow through the package: what a result is when something, nothing or several things are there."""

from __future__ import annotations

import pickle
import time

import numpy as np

from edgeloc import Box, Detection, Frame, Localizer, Observation, Result
from edgeloc.models import SHIPPED_INT8

SCORES = np.array([0.25, 0.75], np.float32)


def test_the_properties_of_a_result_are_those_of_its_best_object() -> None:
    best, second = Detection(Box(1, 2, 3, 4), 0.9, "nut", SCORES), Detection(Box(5, 6, 7, 8), 0.6)
    result = Result((best, second))
    assert (result.present, result.presence, result.box, result.label) == (True, 0.9, best.box, "nut")
    assert result.class_scores is SCORES
    assert (best.label_score, second.label_score) == (0.75, None)


def test_a_frame_with_nothing_in_it_still_has_the_presence_of_its_best_candidate() -> None:
    result = Result(rejected=Detection(None, 0.3, None, SCORES))
    assert (result.present, result.presence, result.box, result.label) == (False, 0.3, None, None)
    assert result.class_scores is SCORES
    empty = Result()
    assert (empty.present, empty.presence, empty.box, empty.objects) == (False, 0.0, None, ())
    assert empty.class_scores.shape == (0,)


def test_a_result_goes_to_another_process_with_its_scores() -> None:
    """A model's class scores are computed when they are asked for."""
    localizer = Localizer(SHIPPED_INT8)
    for result in (localizer(np.zeros((48, 64, 3), np.uint8)), Result((Detection(Box(1, 2, 3, 4), 0.9),))):
        there = pickle.loads(pickle.dumps(result))
        assert there == result
        assert there.class_scores.tolist() == result.class_scores.tolist()


def test_results_compare() -> None:
    assert Result((Detection(None, 0.5, "nut", SCORES),)) == Result((Detection(None, 0.5, "nut", SCORES),))
    assert Result((Detection(None, 0.5),)) != Result((Detection(None, 0.6),))


def test_a_frame_grows_older_and_an_observation_does_not() -> None:
    frame = Frame(np.zeros((4, 4, 3), np.uint8), time.monotonic() - 0.5, 7)
    observation = Observation(frame, Result(), age_ms=frame.age_ms)
    assert 500 <= observation.age_ms < 5000
    time.sleep(0.01)
    assert frame.age_ms > observation.age_ms
    assert (observation.sequence, observation.captured_at) == (7, frame.captured_at)


def test_the_center_of_a_box() -> None:
    assert Box(10, 20, 40, 30).center == (25, 25)
