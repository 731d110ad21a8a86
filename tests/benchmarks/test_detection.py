"""A detector's benchmark: its figures in the result's file, on the terminal and in the report."""

from __future__ import annotations

import base64
import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.benchmarks.commands.bench import closing_table, summary
from edgeloc.benchmarks.peers import networks
from edgeloc.benchmarks.report import render_report
from edgeloc.benchmarks.report.pictures import with_previews
from edgeloc.benchmarks.result import BenchResult, read_result, write_result
from edgeloc.cli import main
from edgeloc.data import Sample
from edgeloc.evaluation.detection import DetectionRow, Found, detection_figures
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model
from edgeloc.types import Box, LabelledBox

pytest.importorskip("pycocotools")


@pytest.fixture
def result(bench_result: BenchResult) -> BenchResult:
    """Two images, of whose four objects the quantized model has lost one."""
    truth = (LabelledBox(Box(10, 10, 50, 50), "nut"), LabelledBox(Box(60, 10, 90, 40), "bolt"))
    found = tuple(Found(box, 0.9, label) for box, label in truth)
    rows = [
        DetectionRow("whole.png", "a", 100, 100, truth, found, found),
        DetectionRow("half.png", "b", 100, 100, truth, found, found[:1]),
    ]
    return dataclasses.replace(bench_result, regression=None, detection=detection_figures(rows, 0.5, 0.5))


def test_the_file_gives_back_every_figure(result: BenchResult, tmp_path: Path) -> None:
    write_result(tmp_path / "r.json", result)
    assert read_result(tmp_path / "r.json") == result


def test_the_terminal_shows_what_was_lost(result: BenchResult) -> None:
    table = closing_table(result, "r.json")
    assert "mAP drop" in table and "float 1.000, quantized 0.7" in table
    assert "found 0.750, of no object 0.000  (threshold 0.50)" in table
    assert "rows" not in summary(result, "r.json")["detection"]
    alone = closing_table(dataclasses.replace(result, against=None), "r.json")
    assert "mAP       0.7" in alone and "drop" not in alone


def test_the_report_has_classes_sizes_and_the_worst_images(result: BenchResult) -> None:
    page = render_report(result)
    assert re.search(r"<th>bolt</th><td data-head=\"objects\">.*>2<.*>1\.000<.*>0\.5", page)
    assert "By object size" in page and "<th>medium</th>" in page
    assert "half.png, group b: 1 of 2 objects lost, mean IoU of the others 1.00" in page
    assert "float, 2 boxes" in page and "quantized, 1 boxes" in page and "resampling 2 images" in page


def test_the_worst_images_are_shown_with_the_boxes_of_both_models(result: BenchResult) -> None:
    assert result.detection is not None
    samples = [Sample(name, read=lambda: np.full((100, 100, 3), 90, np.uint8)) for name in ("whole.png", "half.png")]
    worst = with_previews(result.detection.worst, samples)
    page = render_report(dataclasses.replace(result, detection=dataclasses.replace(result.detection, worst=worst)))
    pictures = re.findall(r'<img alt="(\w+) boxes and truth on half.png" src="data:image/jpeg;base64,([^"]+)"', page)
    assert [name for name, _ in pictures] == ["float", "quantized"]
    before, after = (cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1) for _, data in pictures)
    # The bolt, at 60 to 90 of 100 pixels, has the float model's box and not the quantized one's.
    changed = np.abs(before.astype(int) - after.astype(int)).max(axis=2) > 60
    assert changed[40:200, 280:440].any() and not changed[:, :40].any()


def test_one_model_has_no_drop_and_no_pictures(result: BenchResult) -> None:
    page = render_report(dataclasses.replace(result, against=None))
    assert "AP drop" not in page and "Worst images" not in page and "<th>bolt</th>" in page


def test_a_known_number_of_objects_is_measured_like_a_detectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A localizer of two objects that answers the same two always: one that is there, one that is not."""
    answer = np.array([[[127, -128, -128, 0, 0], [-128, 0, 0, 127, 127]]], np.int8)
    outputs = (OutputSpec("out", "vector", slots=("presence", "x1", "y1", "x2", "y2")),)
    contract = Contract(InputSpec("image", 64, 64, mean=(0.0,), std=(255.0,)), outputs, BoxEncoding("xyxy", objects=2))
    write_model(tmp_path / "two.tflite", networks.yolo(answer, 64, (1 / 255, -128)), contract)
    data, out = "synthetic?count=6&size=64x64&objects=2", tmp_path / "r.json"
    command = ["bench", str(tmp_path / "two.tflite"), "--validation", data, "--frames", "20", "--out", str(out)]
    assert main(command) == 0
    found = read_result(out)
    assert found.accuracy is None and found.detection is not None
    assert found.detection.all.objects > 6 and "mAP " in capsys.readouterr().out
