"""The pipeline script: it runs both loops over the same frames, prints the ages beside the rates, and judges."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest

from edgeloc import Localizer
from edgeloc.benchmarks import pipeline
from edgeloc.models import SHIPPED_INT8


def test_it_prints_rates_ages_and_ratio_of_a_file_and_of_a_live_camera(capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline.main(["--rounds", "1", "--frames", "5"]) in (0, 1)
    rows = re.findall(
        r"^(scenes 640x480\.avi|live, newest|live, fresh) +((?:[\d.]+ *){7})$", capsys.readouterr().out, re.M
    )
    assert [name for name, _ in rows] == ["scenes 640x480.avi", "live, newest", "live, fresh"]
    assert all(float(value) > 0 for _, values in rows for value in values.split())


def test_both_loops_answer_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for scene in range(6):
        writer.write(cv2.UMat(48, 64, cv2.CV_8UC3, (scene, 0, 0, 0)).get())
    writer.release()
    way = pipeline.measure(str(path), Localizer(SHIPPED_INT8), 2, 100)
    assert way.name == "clip.avi" and min(way.rates) > 0
    assert way.p50_ms <= way.p99_ms


def test_a_file_that_gains_too_little_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for ratio, status in ((1.16, 0), (1.14, 1)):
        row = pipeline.Way("clip", (100, 114), (9, 18), (12, 20), ratio)
        monkeypatch.setattr(pipeline, "measure", lambda *_, row=row: row)
        assert pipeline.main(["clip.avi", "--no-live"]) == status
    assert "1.140" in capsys.readouterr().err
    assert pipeline.main(["clip.avi", "--model", "absent.tflite"]) == 2
