"""The gate of detectors: what int8 loses of the objects of many is held against its limits."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.converters.gate import DetectorGate, GateLimits, GateRefused, choose_recipe
from edgeloc.converters.gate.limits import about_the_interval
from edgeloc.converters.gate.report import report_lines, require_passed, trial_lines
from edgeloc.converters.quantization.quantize import recipe
from edgeloc.data import Dataset, Sample
from edgeloc.errors import DataError
from edgeloc.evaluation.detection import DetectionRow, Found, detection_figures
from edgeloc.model.contract import Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations, Selection
from edgeloc.types import Box, LabelledBox, Pixels

tf = pytest.importorskip("tensorflow")
pytest.importorskip("pycocotools")

SIDE, CELL = 64, 8
CONTRACT = Contract(
    InputSpec("image", SIDE, SIDE, mean=(0.0,), std=(255.0,), resize="stretch"),
    (OutputSpec("score", "detections", parts=("class",)), OutputSpec("box", "detections", parts=("box",))),
    labels=("square",),
    thresholds=Thresholds(0.5),
    detector=DetectorSpec(Locations((CELL,)), DetectorBox("distances", "pixels"), selection=Selection("over-all")),
)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Scores a cell by its brightness, and boxes it as it is."""
    folder = tmp_path_factory.mktemp("detector")
    return network(folder, 1.0, 4.0)


def network(folder: Path, gain: float, distance: float) -> bytes:
    def run(image: Any) -> dict[str, Any]:
        cells = tf.nn.avg_pool2d(image, CELL, CELL, "VALID")
        score = tf.clip_by_value(tf.reduce_mean(cells, -1, keepdims=True) * gain, 0.0, 1.0)
        return {"score": score, "box": tf.zeros_like(score) + tf.fill([1, 1, 1, 4], distance)}

    module = tf.Module()
    module.call = tf.function(run, input_signature=[tf.TensorSpec((1, SIDE, SIDE, 3), tf.float32, "image")])
    tf.saved_model.save(module, str(folder), signatures=module.call)
    flatbuffer: bytes = tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert()
    return flatbuffer


def cells(index: int) -> list[tuple[int, int]]:
    """Three cells of which no two touch."""
    rng = np.random.default_rng(index)
    places = [(x, y) for x in range(0, 8, 2) for y in range(0, 8, 2)]
    return [places[int(i)] for i in rng.permutation(len(places))[:3]]


def picture(index: int) -> Pixels:
    pixels = np.full((SIDE, SIDE, 3), 20, np.uint8)
    for x, y in cells(index):
        cv2.rectangle(pixels, (x * CELL, y * CELL), (x * CELL + CELL - 1, y * CELL + CELL - 1), (230, 230, 230), -1)
    return pixels


@pytest.fixture(scope="module")
def photos() -> Dataset:
    samples = [
        Sample(
            f"{index}.png",
            tuple(
                LabelledBox(Box(x * CELL, y * CELL, x * CELL + CELL, y * CELL + CELL), "square")
                for x, y in cells(index)
            ),
            f"clip{index % 4}",
            read=partial(picture, index),
        )
        for index in range(24)
    ]
    return Dataset("squares", "squares", ("square",), tuple(samples))


def test_a_model_as_good_as_its_float_one_passes(detector: bytes, photos: Dataset) -> None:
    report = DetectorGate(detector, CONTRACT, photos).judge(detector, CONTRACT)
    assert report.passed and report.regression.precision_float.ap == 1
    assert report.regression.all.objects == 72
    lines = "\n".join(report_lines(report))
    assert "the gate on squares: 24 images with 72 objects" in lines
    assert "the gate is passed: average precision may drop by 0.01" in lines
    measured = report.written_into(CONTRACT).measured["quantization"]
    assert (measured["map_drop"], measured["by_class"]["square"]["recall_quantized"]) == (0, 1)


def test_a_model_that_loses_objects_is_refused(detector: bytes, photos: Dataset, tmp_path: Path) -> None:
    dim = network(tmp_path / "dim", 0.5, 4.0)
    gate = DetectorGate(detector, CONTRACT, photos)
    report = gate.judge(dim, CONTRACT)
    assert {check.option for check in report.failures} == {"max_recall_drop"}
    with pytest.raises(GateRefused, match=r"objects found is 0\.000, it must be at least 0\.980") as refused:
        require_passed(report, gate.samples, tmp_path / "m.tflite", head_repaired=False)
    assert refused.value.exit_status == 1
    assert len(list((tmp_path / "m-worst").glob("*.jpg"))) == 12


def test_a_model_that_moves_boxes_is_refused(detector: bytes, photos: Dataset, tmp_path: Path) -> None:
    large = network(tmp_path / "large", 1.0, 5.0)
    report = DetectorGate(detector, CONTRACT, photos).judge(large, CONTRACT)
    assert {"max_map_drop", "min_box_iou"} <= {check.option for check in report.failures}
    generous = GateLimits(max_map_drop=1, min_box_iou=0.5, min_box_iou_by_size=0.5)
    assert DetectorGate(detector, CONTRACT, photos, limits=generous).judge(large, CONTRACT).passed


def test_without_labels_the_float_models_objects_are_the_truth(detector: bytes, photos: Dataset) -> None:
    bare = tuple(dataclasses.replace(sample, objects=(), labelled=False) for sample in photos)
    report = DetectorGate(detector, CONTRACT, dataclasses.replace(photos, samples=bare)).judge(detector, CONTRACT)
    assert [finding.code for finding in report.findings] == ["gate-no-labels"]
    assert report.regression.all.objects == 72


def test_an_interval_around_the_limit_is_reported() -> None:
    """Of eight images the quantized model loses one object of sixteen."""
    truth = tuple(LabelledBox(Box(x, 10, x + 20, 30), "square") for x in (10, 60))
    found = tuple(Found(item.box, 0.9, item.label) for item in truth)
    rows = [DetectionRow(f"{i}.png", None, 100, 100, truth, found, found[: 1 if i == 0 else 2]) for i in range(8)]
    interval = detection_figures(rows, 0.5, 0.5).drop_ci95
    (finding,) = about_the_interval(interval, 0.05, 8, "image")
    assert finding.code == "gate-inconclusive" and "includes the limit 0.05: 8 images cannot show" in finding.message
    assert not list(about_the_interval(interval, 0.9, 8, "image"))


def test_the_table_of_recipes_has_average_precision(detector: bytes, photos: Dataset) -> None:
    gate = DetectorGate(detector, CONTRACT, photos)
    choice = choose_recipe([recipe("float32")], lambda _: detector, lambda payload: gate.judge(payload, CONTRACT))
    head, float32 = trial_lines(choice.trials)
    assert "average precision drop" in head and "0.0000" in float32 and "kept" in float32


def test_nothing_to_find_is_no_gate(detector: bytes, photos: Dataset) -> None:
    dark = (Sample("dark.png", labelled=False, read=lambda: np.zeros((SIDE, SIDE, 3), np.uint8)),)
    with pytest.raises(DataError, match="no image has a labelled object, nor does the float model find one"):
        DetectorGate(detector, CONTRACT, dataclasses.replace(photos, samples=dark)).judge(detector, CONTRACT)
