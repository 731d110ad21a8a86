"""Several objects: each keeps its identity, one is kept to, and what is below the threshold only continues a track."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from edgeloc import Follower, Localizer
from edgeloc.loop.draw import TRACK_COLOR, draw
from edgeloc.loop.run import run
from edgeloc.loop.tracking import Tracker, _assign
from edgeloc.models import SHIPPED_INT8
from edgeloc.observation import Observation, Track
from edgeloc.types import Box, Detection, Frame, Result

FPS = 30.0
SIDE = 40.0
PIXELS = np.zeros((480, 640, 3), np.uint8)


def at(x: float, y: float = 200.0) -> Box:
    return Box(x - SIDE / 2, y - SIDE / 2, x + SIDE / 2, y + SIDE / 2)


def found(*boxes: Box, label: str | None = None, score: float = 0.9) -> tuple[Detection, ...]:
    return tuple(Detection(box, score, label) for box in boxes)


def tracks(results: Sequence[Result], tracker: Tracker | None = None) -> list[tuple[Track, ...]]:
    """All tracks of each frame, that which is kept to first."""
    tracker = tracker or Tracker(noise=0.06)
    answers = [tracker(Frame(PIXELS, number / FPS, number), result) for number, result in enumerate(results)]
    return [() if one.id is None else (one, *one.others) for one in answers]


def ids(answers: Sequence[tuple[Track, ...]]) -> list[list[int | None]]:
    return [[one.id for one in answer] for answer in answers]


def nearest(answer: Sequence[Track], box: Box) -> int | None:
    return max(answer, key=lambda one: (one.box or at(-1e4)).iou(box)).id


def crossing(number: int) -> tuple[Box, Box]:
    """One goes to the right and one to the left, on one line; they meet after a second and a half."""
    return at(140 + 4 * number), at(500 - 4 * number, 204)


@pytest.mark.parametrize("hidden", [False, True])
def test_two_that_cross_keep_their_identities(hidden: bool) -> None:
    results = []
    for number in range(90):
        front, behind = crossing(number)
        both = (front,) if hidden and front.iou(behind) > 0.1 else (front, behind)
        # Their order says nothing.
        results.append(Result(found(*both[:: 1 - 2 * (number % 2)])))
    answers = tracks(results)
    first, last = answers[5], answers[-1]
    for which in (0, 1):
        assert nearest(first, crossing(5)[which]) == nearest(last, crossing(89)[which])
    assert {identity for answer in ids(answers) for identity in answer} == {1, 2}


def test_others_are_there_from_the_second_frame_and_numbered_as_they_were_found() -> None:
    here = Result(found(at(100), at(300), at(500)))
    assert ids(tracks([here] * 3)) == [[1], [1, 2, 3], [1, 2, 3]]


def test_a_false_alarm_of_one_frame_is_no_track() -> None:
    here, alarm = Result(found(at(100))), Result(found(at(100), at(400)))
    assert ids(tracks([here, alarm, here, here])) == [[1]] * 4


def test_the_one_kept_to_stays_while_it_is_hidden_and_the_next_follows_when_it_is_lost() -> None:
    both, other = Result(found(at(100), at(400))), Result(found(at(400)))
    answers = tracks([both] * 10 + [other] * 40)
    assert [answer[0].id for answer in answers[:39]] == [1] * 39
    assert (answers[20][0].state, [one.state for one in answers[20][1:]]) == ("predicted", ["measured"])
    assert [one.id for one in answers[-1]] == [2] and answers[-1][0].state == "measured"


def test_after_a_false_alarm_while_it_was_hidden_it_is_kept_to_again() -> None:
    both, alarm = Result(found(at(100), at(400))), Result(found(at(400), at(600, 400)))
    answers = tracks([both] * 10 + [alarm, both, both])
    assert [answer[0].id for answer in answers] == [1] * 10 + [3, 1, 1]
    assert ids(answers)[-1] == [1, 2]


def test_something_new_that_stays_is_the_same_one_elsewhere() -> None:
    both, moved = Result(found(at(100), at(400))), Result(found(at(400), at(600, 400)))
    answers = tracks([both] * 10 + [moved] * 40)
    assert [answer[0].id for answer in answers] == [1] * 10 + [3] * 40
    assert ids(answers)[-1] == [3, 2]


def test_a_false_alarm_that_came_first_gives_way() -> None:
    answers = tracks([Result(found(at(500), at(100)))] + [Result(found(at(100)))] * 5)
    assert ids(answers) == [[1]] + [[2]] * 5


def test_what_is_below_the_threshold_continues_a_track_and_begins_none() -> None:
    faint = Result(candidates=found(at(102), at(400), score=0.3))
    answers = tracks([Result(found(at(100)))] * 5 + [faint] * 40)
    assert ids(answers) == [[1]] * 45
    assert (answers[-1][0].state, answers[-1][0].score) == ("measured", 0.3)
    assert ids(tracks([faint] * 3)) == [[]] * 3


def test_what_is_below_the_threshold_has_to_overlap_by_half() -> None:
    answers = tracks([Result(found(at(100)))] * 5 + [Result(candidates=found(at(120), score=0.3))])
    assert answers[-1][0].state == "predicted"


def test_the_label_is_by_vote_and_another_class_counts_against_a_detection() -> None:
    bolt, nut = found(at(100), label="bolt"), found(at(100), label="nut", score=0.6)
    answers = tracks([Result(bolt)] * 3 + [Result(nut)] * 2)
    assert {one.label for answer in answers for one in answer} == {"bolt"} and ids(answers)[-1] == [1]
    # Between two that fit about as well the class decides.
    apart = Result((Detection(at(100), 0.9, "bolt"), Detection(at(120), 0.9, "nut")))
    mixed = Result((Detection(at(109), 0.9, "nut"), Detection(at(111), 0.9, "bolt")))
    first, *_, last = tracks([apart] * 5 + [mixed])
    assert first[0].label == "bolt"
    boxes = {one.label: one.box for one in last}
    assert boxes["bolt"] is not None and boxes["nut"] is not None and boxes["bolt"].x1 > 85 > at(100).x1
    assert all(one.state == "measured" for one in last)


def test_every_object_is_predicted_for_the_same_time() -> None:
    results = [Result(found(at(100 + 3 * n), at(600 - 3 * n, 400))) for n in range(60)]
    tracker = Tracker(predict_ms=100)
    for number, result in enumerate(results):
        track = tracker(Frame(PIXELS, number / FPS, number), result, seconds=number / FPS)
    (other,) = track.others
    assert track.at == other.at == pytest.approx(59 / FPS + 0.1)
    assert track.box is not None and track.box.center[0] == pytest.approx(100 + 3 * 62, abs=2)
    assert other.box is not None and other.box.center[0] == pytest.approx(600 - 3 * 62, abs=2)


def test_what_is_no_longer_followed_is_not_remembered() -> None:
    tracker = Tracker()
    for number in range(300):
        result = Result(found(at(100), at(300 + number % 2), at(40 * (number // 3 % 15), 440)))
        tracker(Frame(PIXELS, number / FPS, number), result)
    assert len(tracker._beside) < 20


def test_an_assignment_has_the_least_sum_of_costs() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in itertools.product((1, 2, 4), (1, 3, 5)):
        costs = rng.random((rows, columns)).round(2)
        pairs = _assign(costs, 0.6)
        assert all(costs[pair] < 0.6 for pair in pairs.items()) and len(set(pairs.values())) == len(pairs)
        few, many = sorted((costs.shape, costs.shape[::-1]))[0]
        clipped = np.minimum(costs if rows == few else costs.T, 0.6)
        least = min(
            sum(clipped[row, column] for row, column in enumerate(order))
            for order in itertools.permutations(range(many), few)
        )
        assert sum(costs[pair] for pair in pairs.items()) + 0.6 * (few - len(pairs)) == pytest.approx(least, abs=1e-4)
    assert _assign(np.zeros((3, 2)), 0.6).keys() <= {0, 1, 2} and len(_assign(np.zeros((3, 2)), 0.6)) == 2
    assert _assign(np.full((3, 2), 0.6), 0.6) == {}
    assert _assign(np.array([[math.nan, 0.1], [-0.1, math.inf]]), 0.6) == {0: 1, 1: 0}


def test_a_hundred_objects_keep_their_identities() -> None:
    rng = np.random.default_rng(1)
    places = [(60.0 * (n % 10) + 40, 45.0 * (n // 10) + 20) for n in range(100)]
    results = []
    for _ in range(30):
        boxes = [at(x + rng.normal(0, 2), y + rng.normal(0, 2)) for x, y in places]
        results.append(Result(found(*(boxes[n] for n in rng.permutation(100) if rng.random() > 0.1))))
    answers = tracks(results)
    assert {one.id for answer in answers for one in answer} == set(range(1, len(answers[-1]) + 1))
    assert len(answers[-1]) == 100
    for one in answers[-1]:
        assert one.box is not None
        assert min(math.dist(one.box.center, place) for place in places) < 0.25 * SIDE


def test_a_run_has_all_tracks_and_draws_and_hides_them() -> None:
    boxes = at(100), at(400)
    seen: list[Observation] = []
    images = []

    class Sink:
        def __call__(self, observation: Observation) -> None:
            seen.append(observation)
            images.append(draw(observation.frame.pixels, observation.result, track=observation.track))

    camera = "synthetic://?seed=1&size=640x480&frames=3&live=0"
    run(camera, lambda frame: Result(found(*boxes)), Sink(), tracker=Tracker(), blur="outside")
    assert [len(one.tracks) for one in seen] == [1, 2, 2] and seen[-1].tracks[0] == seen[-1].track
    edges = [images[-1][200, round(box.x1)].tolist() for box in boxes]
    assert all(np.abs(np.subtract(edge, TRACK_COLOR)).max() < 40 for edge in edges)
    assert Observation(seen[0].frame, Result(), track=Track("lost", 0.0)).tracks == ()


def test_hidden_is_what_a_predicted_track_covers_too() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    shown = iter([(at(100), at(400))] * 3 + [(at(100),)])

    def localize(frame: Frame) -> Result:
        frame.pixels[:] = noise
        return Result(found(*next(shown)))

    pixels = []
    camera = "synthetic://?seed=1&size=640x480&frames=4&live=0"
    run(camera, localize, lambda one: pixels.append(one.frame.pixels), tracker=Tracker(), blur="inside")
    within = np.s_[185:215, 385:415]
    assert pixels[-1][within].std() < 0.2 * noise[within].std()


def test_candidates_of_a_closer_view_are_in_pixels_of_the_whole_frame() -> None:
    class Faint:
        """Finds a small object, in a closer view below the threshold."""

        contract = Localizer(SHIPPED_INT8).contract

        def __call__(self, frame: Frame) -> Result:
            height, width = frame.pixels.shape[:2]
            if width == 1280:
                return Result(found(Box(690, 590, 710, 610)))
            return Result(candidates=found(Box(width / 2 - 10, height / 2 - 10, width / 2 + 10, height / 2 + 10)))

    tracker = Tracker()
    follower = Follower(Faint(), tracker)
    for number in range(2):
        frame = Frame(np.zeros((960, 1280, 3), np.uint8), number / FPS, number)
        result = follower(frame)
        tracker(frame, result)
    assert result.candidates[0].box == pytest.approx((690, 590, 710, 610), abs=1)
