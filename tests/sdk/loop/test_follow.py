"""Following: a small object is kept by looking closer, and the whole frame is looked at where that is called for."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from edgeloc import Contract, Follower, Localizer, Tracker, UsageError
from edgeloc.models import SHIPPED_INT8
from edgeloc.observation import Track
from edgeloc.preprocess import frame_geometry
from edgeloc.types import Box, Detection, Frame, Pixels, Result

FPS = 30.0
WIDTH, HEIGHT = 1280, 960
CONTRACT = Localizer(SHIPPED_INT8).contract
INPUT = CONTRACT.input.width


class Eyes:
    """Finds what is white, if it is two pixels wide in the model's input; `views` are the sizes of what it saw."""

    def __init__(self, contract: Contract = CONTRACT) -> None:
        self.contract = contract
        self.views: list[tuple[int, int]] = []

    def __call__(self, frame: Frame) -> Result:
        height, width = frame.pixels.shape[:2]
        self.views.append((width, height))
        placement = frame_geometry(self.contract.input, width, height).placement
        rows, columns = (np.flatnonzero(frame.pixels[:, :, 0].max(axis=axis) == 255) for axis in (1, 0))
        if not len(rows) or len(columns) / placement.scale_x < 2:
            return Result(rejected=Detection(None, 0.1))
        # The input's pixels are as exact as it gets.
        scale = placement.scale_x
        edges = [float(round(edge / scale) * scale) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
        return Result((Detection(Box(*edges), 0.9, "white"),))

    @property
    def looked_closer(self) -> list[bool]:
        return [view != (WIDTH, HEIGHT) for view in self.views]


def picture(*boxes: Box) -> Pixels:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        cv2.rectangle(pixels, (round(x1), round(y1)), (round(x2) - 1, round(y2) - 1), (255, 255, 255), -1)
    return pixels


def at(x: float, y: float, side: float) -> Box:
    return Box(*(float(round(edge)) for edge in (x - side / 2, y - side / 2, x + side / 2, y + side / 2)))


def receding(number: int) -> Box:
    """An object that moves to the right and gets smaller, from 40 to 8 pixels in two seconds."""
    return at(200 + 8 * number, 300, max(8.0, 40 - 32 * number / 60))


def see(eyes: Eyes, follow: bool, *scenes: Pixels) -> list[Track]:
    tracker = Tracker(noise=0.05)
    look = Follower(eyes, tracker) if follow else eyes
    frames = [Frame(pixels, number / FPS, number) for number, pixels in enumerate(scenes)]
    return [tracker(frame, look(frame)) for frame in frames]


def test_an_object_that_gets_small_is_kept_by_looking_closer() -> None:
    scenes = [picture(receding(number)) for number in range(100)]
    without, following = (see(Eyes(), follow, *scenes) for follow in (False, True))
    assert without[-1].state == "lost"
    # Every eleventh frame is looked at as a whole, and does not show it.
    assert {track.id for track in following} == {1}
    assert sum(track.state == "measured" for track in following[-22:]) == 20
    assert min(receding(n).iou(following[n].box or Box(0, 0, 0, 0)) for n in range(70, 100)) > 0.5


def test_boxes_of_a_small_object_are_more_exact() -> None:
    truth = [at(300 + 5 * number, 400, 16) for number in range(60)]
    scenes = [picture(box) for box in truth]
    ious = [
        np.mean([box.iou(track.box or Box(0, 0, 0, 0)) for box, track in zip(truth, tracks, strict=True)][10:])
        for tracks in (see(Eyes(), False, *scenes), see(Eyes(), True, *scenes))
    ]
    assert ious[1] > ious[0] + 0.05


def test_the_whole_frame_is_looked_at_first_and_now_and_then() -> None:
    eyes = Eyes()
    see(eyes, True, *[picture(at(600, 500, 16))] * 25)
    assert eyes.looked_closer == ([False] + [True] * 10) * 2 + [False] + [True] * 2


def test_a_view_is_never_smaller_than_the_input_and_a_twelfth_holds_the_object() -> None:
    eyes = Eyes()
    see(eyes, True, *[picture(at(600, 500, 12))] * 3)
    see(eyes, True, *[picture(at(600, 500, 40))] * 3)
    assert eyes.views[1:3] == [(INPUT, INPUT)] * 2
    width, height = eyes.views[5]
    assert width == height and width == pytest.approx(12 * 40, rel=0.1)


def test_a_large_object_is_looked_at_in_the_whole_frame() -> None:
    eyes = Eyes()
    see(eyes, True, *[picture(at(600, 500, 90))] * 5)
    assert not any(eyes.looked_closer)


@pytest.mark.parametrize("corner", [(12, 12), (WIDTH - 12, 12), (12, HEIGHT - 12), (WIDTH - 12, HEIGHT - 12)])
def test_a_view_stays_inside_the_frame(corner: tuple[float, float]) -> None:
    eyes, box = Eyes(), at(*corner, 16)
    track = see(eyes, True, *[picture(box)] * 8)[-1]
    assert all(eyes.looked_closer[1:]) and set(eyes.views[1:]) == {(INPUT, INPUT)}
    assert track.box is not None and box.iou(track.box) > 0.8


def test_after_a_view_without_the_object_the_whole_frame_finds_it_elsewhere() -> None:
    eyes, elsewhere = Eyes(), at(1000, 800, 30)
    scenes = [picture(at(200, 200, 30))] * 5 + [picture(elsewhere)] * 3
    tracks = see(eyes, True, *scenes)
    assert eyes.looked_closer[5:] == [True, False, True]
    assert [track.id for track in tracks[5:]] == [1, 2, 2]
    assert elsewhere.iou(tracks[-1].box or Box(0, 0, 0, 0)) > 0.8


def test_what_is_lost_is_searched_in_the_whole_frame() -> None:
    eyes = Eyes()
    tracks = see(eyes, True, *[picture(at(200, 200, 30))] * 5, *[picture()] * 45)
    assert tracks[-1].state == "lost" and not any(eyes.looked_closer[-12:])


def test_a_track_of_something_else_ends_with_a_look_at_the_whole_frame() -> None:
    class Distracted(Eyes):
        """Takes anything for the object in a close view, and finds the true one in a whole frame."""

        def __call__(self, frame: Frame) -> Result:
            found = super().__call__(frame)
            if self.looked_closer[-1] and not found.present:
                return Result((Detection(at(frame.pixels.shape[1] / 2, frame.pixels.shape[0] / 2, 30), 0.9),))
            return found

    true = at(1000, 800, 30)
    tracks = see(Distracted(), True, *[picture(at(200, 200, 30))] * 5, *[picture(true)] * 20)
    assert math.dist((tracks[9].box or true).center, true.center) > 500
    assert true.iou(tracks[-1].box or Box(0, 0, 0, 0)) > 0.8


def test_answers_keep_their_scores_and_labels_and_what_was_rejected() -> None:
    eyes, tracker = Eyes(), Tracker(noise=0.05)
    follower = Follower(eyes, tracker)
    for number in range(3):
        result = follower(Frame(picture(at(700, 600, 20)), number / FPS, number))
        tracker(Frame(picture(), number / FPS, number), result)
    assert eyes.looked_closer[-1] and (result.label, result.presence) == ("white", 0.9)
    assert at(700, 600, 20).iou(result.box or Box(0, 0, 0, 0)) > 0.9
    rejected = follower(Frame(picture(), 4 / FPS, 4))
    assert eyes.looked_closer[-1] and rejected == Result(rejected=Detection(None, 0.1))


def test_a_localizer_without_a_contract_is_refused() -> None:
    with pytest.raises(UsageError, match="no contract"):
        Follower(lambda frame: Result(), Tracker())
