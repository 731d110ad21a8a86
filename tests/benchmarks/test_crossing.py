"""The benchmark of crossing objects: association keeps identities, on straight ways and on those of real clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeloc.benchmarks import crossing
from edgeloc.benchmarks.crossing import by_last_box, by_score, drawn, meetings, score, score_seen, straight, tracked
from edgeloc.benchmarks.tracking import read_clips


def test_association_keeps_identities_where_without_it_they_are_confused() -> None:
    crossings = [straight(seed) for seed in range(40)]
    unordered, last, followed = (score(crossings, method, 0.06) for method in (by_score, by_last_box, tracked(0.06)))
    assert unordered.switches > 10 > 1 > last.switches > 0.2 > followed.switches
    assert followed.kept >= 0.95 > last.kept and followed.covered > 0.98 > last.covered


def test_the_ways_of_real_objects_cross_as_documented(videos: Path) -> None:
    crossings = list(meetings(read_clips(videos / "drone" / "labels.json")))[::3]
    last, followed = (score(crossings, method, 0.06) for method in (by_last_box, tracked(0.06)))
    assert followed.switches <= 0.4 and followed.kept >= 0.78
    assert last.switches >= 0.8 and last.kept <= 0.55


def test_the_tracker_keeps_what_a_real_detector_sees_apart() -> None:
    seen = list(drawn(4))
    assert len(seen) >= 3
    unordered, followed = (score_seen(seen, method) for method in (by_score, tracked(None)))
    assert unordered.switches > 5 > 2 > followed.switches and followed.covered >= unordered.covered


def test_what_is_below_the_threshold_keeps_boxes_of_hidden_objects() -> None:
    crossings = [straight(seed) for seed in range(60)]
    one, both = (score(crossings, tracked(0.1, second_step=step), 0.1) for step in (False, True))
    assert both.covered > one.covered


def test_the_script_prints_a_row_for_each_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossing, "_SYNTHETIC", 3)
    monkeypatch.setattr(crossing, "_CLIPS", 1)
    clips = [{"w": 640, "h": 480, "boxes": [[*at(n), 30, 20] for n in range(90)]} for at in (_right, _down)]
    leaping = {"w": 640, "h": 480, "boxes": [[90 * (n // 40), 9, 30, 20] for n in range(90)]}
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([*clips, leaping, {**clips[0], "w": 320}]))
    assert crossing.main([str(labels)]) == 0
    out = capsys.readouterr().out
    assert "us a frame with 50" in out
    for row in ("straight, 3", "labelled, 2", "straight, two classes, 3", "labelled, two classes, 2"):
        assert out.count(f"| {row} |") == 3
    assert "| drawn, 1 | the model's |" in out
    assert crossing.main([str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def _right(number: int) -> tuple[int, int]:
    return 4 * number, 100


def _down(number: int) -> tuple[int, int]:
    return 300, 3 * number
