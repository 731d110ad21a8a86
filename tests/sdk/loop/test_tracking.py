"""The tracker: what it reports of an object that moves, hides, jumps or is never there, and which noise it assumes."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

from edgeloc import Contract, Localizer, UsageError
from edgeloc.loop.tracking import Tracker, box_noise
from edgeloc.models import SHIPPED_INT8
from edgeloc.observation import Track
from edgeloc.types import Box, Detection, Frame, Result

FPS = 30.0
SIDE = 40.0
PIXELS = np.zeros((480, 640, 3), np.uint8)


def frame(number: int, began_at: float = 0.0) -> Frame:
    return Frame(PIXELS, began_at + number / FPS, number)


def at(x: float, y: float = 200.0, side: float = SIDE) -> Box:
    return Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def shows(*boxes: Box | None) -> Result:
    return Result(tuple(Detection(box, 0.9) for box in boxes))


def center(box: Box | None) -> tuple[float, float]:
    assert box is not None
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2


def follow(tracker: Tracker, numbers: range, speed: float = 120.0) -> list[Track]:
    """The tracks of an object that moves to the right by `speed` pixels a second."""
    return [tracker(frame(number), shows(at(100 + speed * number / FPS))) for number in numbers]


def test_nothing_seen_yet_is_lost() -> None:
    track = Tracker()(frame(3), Result())
    assert track == Track("lost", at=3 / FPS)
    assert track.box_at(5.0) is None


def test_a_measured_track_has_box_velocity_and_the_time_of_capture() -> None:
    track = follow(Tracker(), range(60))[-1]
    assert (track.state, track.id, track.unseen_s, track.at) == ("measured", 1, 0.0, 59 / FPS)
    assert track.velocity == pytest.approx((120, 0), abs=3)
    assert center(track.box) == pytest.approx((100 + 120 * 59 / FPS, 200), abs=1)


def test_noise_is_smoothed() -> None:
    rng = np.random.default_rng(5)
    tracker, raw, smooth = Tracker(noise=0.1), [], []
    for number in range(300):
        measured = at(300 + rng.normal(0, 0.1 * SIDE), 200 + rng.normal(0, 0.1 * SIDE))
        tracked = tracker(frame(number), shows(measured)).box
        raw.append(math.dist(center(measured), (300, 200)))
        smooth.append(math.dist(center(tracked), (300, 200)))
    assert np.mean(smooth[30:]) < 0.6 * np.mean(raw[30:])


def test_a_gap_is_bridged_on_the_objects_way_and_ends_lost() -> None:
    tracker = Tracker(bridge_s=0.51)
    follow(tracker, range(60))
    gap = [tracker(frame(number), Result()) for number in range(60, 80)]
    bridged = [track for track in gap if track.state == "predicted"]
    assert len(bridged) == 15 and all(track.state == "lost" and track.box is None for track in gap[15:])
    assert bridged[-1].unseen_s == pytest.approx(0.5)
    assert center(bridged[-1].box) == pytest.approx((100 + 120 * 74 / FPS, 200), abs=4)
    assert {track.id for track in bridged} == {1}


def test_an_object_found_again_in_time_keeps_its_id_and_a_lost_one_gets_another() -> None:
    tracker = Tracker()
    follow(tracker, range(60))
    assert tracker(frame(85), shows(at(100 + 120 * 85 / FPS))).id == 1
    assert tracker(frame(130), shows(at(100 + 120 * 130 / FPS))).id == 2


def test_gaps_are_measured_in_time_and_not_in_frames() -> None:
    tracker = Tracker()
    follow(tracker, range(0, 60, 6))
    track = tracker(frame(72), Result())
    assert track.state == "predicted" and track.velocity == pytest.approx((120, 0), abs=6)
    assert center(track.box) == pytest.approx((100 + 120 * 72 / FPS, 200), abs=4)


def test_the_box_holds_for_now_and_the_delay() -> None:
    tracker = Tracker(predict_ms=200)
    began_at = time.monotonic() - 60 / FPS - 0.1
    for number in range(60):
        box = at(100 + 120 * number / FPS)
        before = time.monotonic()
        track = tracker(frame(number, began_at), shows(box))
    assert before + 0.2 <= track.at <= time.monotonic() + 0.2
    ahead_s = track.at - (began_at + 59 / FPS)
    assert center(track.box)[0] == pytest.approx(center(box)[0] + 120 * ahead_s, abs=2)


def test_a_track_can_be_asked_for_any_time() -> None:
    track = Track("measured", 10.0, Box(10, 20, 30, 40), (100.0, -50.0), id=1)
    assert track.box_at(10.2) == pytest.approx(Box(30, 10, 50, 30))


def test_a_video_is_followed_by_its_own_time_however_fast_it_is_read() -> None:
    tracker = Tracker(predict_ms=100)
    for number in range(60):
        fast = Frame(PIXELS, 5 + number / 1000, number)
        track = tracker(fast, shows(at(100 + 120 * number / FPS)), seconds=number / FPS)
    assert track.velocity == pytest.approx((120, 0), abs=3)
    assert track.at == pytest.approx(5 + 0.059 + 0.1)
    assert center(track.box)[0] == pytest.approx(100 + 120 * 59 / FPS + 12, abs=1.5)


def test_a_jump_of_the_same_object_is_followed_at_once() -> None:
    tracker = Tracker(noise=0.06)
    for number in range(60):
        tracker(frame(number), shows(at(300)))
    track = tracker(frame(60), shows(at(300 + 0.4 * SIDE)))
    assert track.id == 1 and center(track.box)[0] == pytest.approx(300 + 0.4 * SIDE, abs=0.1 * SIDE)


def test_another_object_elsewhere_is_a_new_track_at_rest() -> None:
    tracker = Tracker(noise=0.06)
    follow(tracker, range(60))
    track = tracker(frame(60), shows(at(600, 400)))
    assert (track.id, track.velocity, track.state) == (2, (0.0, 0.0), "measured")
    assert center(track.box) == (600, 400)


def test_of_several_objects_it_keeps_to_its_own() -> None:
    tracker = Tracker()
    for number in range(60):
        own = at(100 + 120 * number / FPS)
        # The other one has the better score in every second frame.
        both = (own, at(500, 100)) if number % 2 or number == 0 else (at(500, 100), own)
        track = tracker(frame(number), shows(*both))
    assert track.id == 1 and center(track.box) == pytest.approx((100 + 120 * 59 / FPS, 200), abs=1)


def test_many_jumps_leave_the_filter_sound() -> None:
    rng = np.random.default_rng(0)
    tracker = Tracker(noise=0.02)
    for number in range(3000):
        track = tracker(frame(number), shows(at(300 + rng.normal(0, 0.25 * SIDE))))
        assert track.box is not None and abs(center(track.box)[0] - 300) < 5 * SIDE
        assert abs(track.velocity[0]) < FPS * 5 * SIDE


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_a_localizers_broken_number_is_no_measurement(value: float) -> None:
    tracker = Tracker()
    follow(tracker, range(30))
    track = tracker(frame(30), shows(Box(value, 1, 2, 3), None))
    assert track.state == "predicted" and np.isfinite(track.box or value).all()
    assert tracker(Frame(PIXELS, math.nan, 31), Result()).state == "lost"
    assert tracker(frame(32), shows(at(100))).state == "measured"


def test_a_box_without_size_is_followed_as_one_pixel() -> None:
    tracker = Tracker()
    for number in range(10):
        track = tracker(frame(number), shows(Box(50, 60, 50, 60)))
    assert track.id == 1 and center(track.box) == pytest.approx((50, 60))


def test_a_recording_that_starts_over_begins_a_new_track() -> None:
    tracker = Tracker()
    follow(tracker, range(30))
    assert follow(tracker, range(1))[0].id == 2


def test_two_frames_of_the_same_time_are_taken() -> None:
    tracker = Tracker()
    follow(tracker, range(30))
    assert tracker(frame(29), Result()).state == "predicted"
    assert tracker(frame(29), shows(at(100 + 120 * 29 / FPS))).state == "measured"


def contract(measured: dict[str, Any]) -> Contract:
    shipped = Localizer(SHIPPED_INT8).contract
    return Contract(shipped.input, shipped.outputs, measured=measured)


def test_the_noise_is_that_of_the_contracts_validation_by_size() -> None:
    shipped = Localizer(SHIPPED_INT8).contract
    noises = [box_noise(shipped, size) for size in ("small", "medium", "large")]
    assert noises == pytest.approx([0.104, 0.044, 0.036], abs=0.001)


@pytest.mark.parametrize("noise", [0.03, 0.06, 0.1, 0.2])
def test_the_noise_follows_from_the_mean_iou(noise: float) -> None:
    rng = np.random.default_rng(1)
    true = Box(0, 0, 100, 50)
    ious = []
    for x, y, width, height in rng.normal(0, noise, (5000, 4)):
        half = 50 * (1 + width), 25 * (1 + height)
        ious.append(
            true.iou(Box(50 + 100 * x - half[0], 25 + 50 * y - half[1], 50 + 100 * x + half[0], 25 + 50 * y + half[1]))
        )
    measured = {"quantization": {"mean_iou_quantized": float(np.mean(ious))}}
    assert box_noise(contract(measured), "small") == pytest.approx(noise, rel=0.06)


@pytest.mark.parametrize(
    ("measured", "noise"),
    [
        ({}, 0.1),
        ({"training": {"validation": {"box_iou": 0.8}}}, 0.0656),
        ({"quantization": {"mean_iou_quantized": 0.8, "by_size": {"small": {"mean_iou_quantized": None}}}}, 0.0656),
        ({"quantization": {"mean_iou_quantized": math.nan}}, 0.1),
        ({"quantization": "none", "training": {"validation": {"box_iou": "0"}}}, 0.1),
        ({"quantization": {"mean_iou_quantized": 1.0}}, 0.02),
        ({"quantization": {"mean_iou_quantized": 0.01}}, 0.25),
    ],
)
def test_the_noise_of_a_contract_with_other_figures(measured: dict[str, Any], noise: float) -> None:
    assert box_noise(contract(measured), "small") == pytest.approx(noise, abs=0.0001)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise": 0.0},
        {"noise": math.nan},
        {"bridge_s": 0.0},
        {"bridge_s": math.inf},
        {"predict_ms": -1.0},
        {"predict_ms": math.nan},
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Tracker(**wrong)
