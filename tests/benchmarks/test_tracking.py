"""The tracker's benchmark: its figures on real clips, the cost of a frame, and what it does with bad labels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from edgeloc import SceneGenerator
from edgeloc.benchmarks import tracking
from edgeloc.benchmarks.tracking import Clip, Detector, last_box, read_clips, score, tracked, untracked
from edgeloc.models import SHIPPED_INT8
from edgeloc.types import Box

MOVING = Clip(640, 480, tuple(Box(100 + 4 * n, 200, 140 + 4 * n, 230) for n in range(90)))


@pytest.mark.parametrize(("bursts", "now", "later"), [(False, 0.985, 0.789), (True, 0.872, 0.653)])
def test_drones_are_followed_as_documented(videos: Path, bursts: bool, now: float, later: float) -> None:
    share = score(read_clips(videos / "drone" / "labels.json"), tracked(0.06), Detector(0.06, bursts))
    assert share.now >= now and share.later >= later


def test_tracking_is_better_than_the_last_box_and_that_than_none() -> None:
    shares = [score([MOVING], method, Detector(0.06, bursts=True)) for method in (untracked, last_box, tracked(0.06))]
    assert shares[0].now < shares[1].now < shares[2].now
    assert shares[0].later < shares[2].later


def test_a_frame_costs_microseconds() -> None:
    assert 0 < tracking.cost_us(MOVING, MOVING.boxes) < 1000


def test_the_script_prints_a_row_for_each_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.json"
    boxes = [None, *([10 + n, 20, 30, 20] for n in range(20))]
    labels.write_text(json.dumps([{"w": 320, "h": 256, "boxes": boxes}]))
    assert tracking.main([str(labels)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n| ") == 8 and "us a frame" in out


def test_with_a_model_following_is_measured_on_the_clips_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = SceneGenerator(seed=5, size=(320, 240)).scene(8)
    assert scene.box is not None
    video = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (320, 240))
    for _ in range(30):
        video.write(scene.pixels)
    video.release()
    boxes = [[scene.box.x1, scene.box.y1, scene.box.width, scene.box.height]] * 30
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([{"w": 320, "h": 240, "boxes": boxes, "video": "elsewhere/clip.avi"}]))
    assert tracking.main([str(labels), "--model", str(SHIPPED_INT8)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2] for row in rows[:3]] == list(tracking.MODES)
    assert all(row[1] == "1" and row[3:] == ["1.000 / 1.000", "1.000 / 1.000", "0.000 |"] for row in rows[:3])
    assert tracking.main([str(labels), str(labels), "--model", str(SHIPPED_INT8)]) == 2
    assert "1 --model for 2 files of labels" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "3", '[{"w": 3}]', '[{"w": 3, "h": 3, "boxes": [[1]]}]', None])
def test_bad_labels_are_one_line_and_status_2(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.json"
    if text is not None:
        labels.write_text(text)
    assert tracking.main([str(labels)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
