"""Detectors that others trained, by contracts from their families alone, give the boxes that they are known for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeloc.cli import main
from edgeloc.data.images import image_size
from edgeloc.localizer import Localizer
from edgeloc.model.network import read_network
from edgeloc.types import Box

RFB = "8: 10x10 16x16 24x24; 16: 32x32 48x48; 32: 64x64 96x96; 64: 128x128 192x192 256x256"
BLAZE = "8: 128x128 128x128; 16: 128x128 128x128 128x128 128x128 128x128 128x128"
PERSON = "8: 10x13 16x30 33x23; 16: 30x61 62x45 59x119; 32: 116x90 156x198 373x326"
FOOD = "french_fries sausage grilled_chicken fish scrambled_egg pasta lettuce cantaloupe"
TO_128 = ("--set", "input.mean=[127]", "--set", "input.std=[128]")

DETECTORS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "ssd_mobilenet_v1_coco_quant.tflite": ("ssd-postprocess", "coco_labels_91_with_background.txt", ()),
    "tf2_ssd_mobilenet_v2_fpnlite320_food.tflite": ("ssd-postprocess", FOOD, ()),
    "blazeface_short_range.tflite": (
        "ssd",
        "face",
        (
            "--anchors", BLAZE, "--set", "detector.box.units=pixels", "--set", "detector.box.size=none",
            "--set", "detector.box.variances=[1, 1]", "--set", "input.resize=letterbox-padded",
            "--set", "input.pad_value=0", "--set", "detector.selection.iou=0.3",
        ),
    ),
    "rfb320_raw.onnx": ("ssd", "face", ("--anchors", RFB, *TO_128)),
    "rfb320_raw.tflite": ("ssd", "face", ("--anchors", RFB, *TO_128)),
    "rfb320_decoded.onnx": ("ssd", "face", ("--anchors", "none", *TO_128)),
    "mcunet_person_yolov3_int8.tflite": (
        "yolo-anchors",
        "person",
        (
            "--anchors", PERSON, "--set", "input.mean=[127.5]", "--set", "input.std=[127.5]",
            "--set", "input.resize=stretch",
        ),
    ),
    "yolox_nano_coco_416_raw.onnx": ("yolox", "coco_labels_80.txt", ()),
    "fastestdet_coco_352.onnx": ("fastestdet", "coco_labels_80.txt", ("--set", "input.interpolation=area")),
    "seeed_fomo_person_96_int8.tflite": ("fomo", "person", ()),
}  # fmt: skip


@pytest.fixture(scope="module")
def detectors(shared_data: Path) -> Path:
    return shared_data / "detectors"


def write_contract(name: str, detectors: Path, folder: Path, threshold: float) -> Path:
    family, labels, options = DETECTORS[name]
    if name.endswith(".onnx"):
        pytest.importorskip("onnxruntime")
    listed = detectors / labels
    if not labels.endswith(".txt"):
        listed = folder / "labels.txt"
        listed.write_text("\n".join(labels.split()))
    out = folder / f"{name}.json"
    arguments = ["--like", family, "--labels", str(listed), *options, "--threshold", str(threshold), "--out", str(out)]
    assert main(["contract", str(detectors / name), *arguments]) == 0
    return out


@pytest.mark.parametrize("name", DETECTORS)
def test_it_gives_its_boxes(name: str, detectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references: dict[str, Any] = json.loads((detectors / "reference_detections.json").read_text()).get(name, {})
    threshold = references.pop("_threshold", 0.5)
    contract = write_contract(name, detectors, tmp_path, threshold)
    found = tmp_path / "found.jsonl"
    camera, engine = str(detectors / "images"), "onnxruntime" if name.endswith(".onnx") else "auto"
    line = ["run", str(detectors / name), "--contract", str(contract), "--camera", camera, "--engine", engine]
    assert main([*line, "--sink", str(found)]) == 0
    answers = {record["file"]: record["objects"] for record in map(json.loads, found.read_text().splitlines())}
    assert len(answers) == 10
    for image, wanted in references.items():
        for one in wanted:
            if one["score"] >= threshold + 0.05:
                width, height = image_size(detectors / "images" / image)
                x1, y1, x2, y2 = one["box"]
                box = Box(max(x1, 0), max(y1, 0), min(x2, width), min(y2, height))
                same = [item for item in answers[image] if one.get("label") in (None, item["label"])]
                assert max((box.iou(Box(*item["box"])) for item in same), default=0) >= 0.8, (image, one)
    assert sum(map(len, answers.values())) > 0
    capsys.readouterr()


def test_a_compiled_detector_is_read_as_far_as_it_can_be(detectors: Path, tmp_path: Path) -> None:
    network = read_network(detectors / "mediapipe_face_detector_edgetpu.tflite")
    assert (network.width, network.height, list(network.outputs)) == (
        128,
        128,
        ["regressors/concat", "classificators/concat"],
    )
    labels = tmp_path / "labels.txt"
    labels.write_text("face\n")
    line = ["contract", network.path, "--like", "ssd", "--labels", str(labels), "--anchors", BLAZE]
    assert main([*line, "--out", str(tmp_path / "m.json")]) == 0


def test_candidates_are_decoded_alike_whatever_the_threshold(detectors: Path, tmp_path: Path) -> None:
    """Thresholds on raw integers find what decoding everything finds."""
    name = "mcunet_person_yolov3_int8.tflite"
    contract = write_contract(name, detectors, tmp_path, 0.5)
    some = Localizer(detectors / name, contract=contract)
    data = json.loads(contract.read_text())
    data["thresholds"]["presence"] = 0.001
    contract.write_text(json.dumps(data))
    everything = Localizer(detectors / name, contract=contract)
    import cv2

    for image in sorted((detectors / "images").iterdir()):
        pixels = cv2.imread(str(image))
        assert pixels is not None
        expected = [one for one in everything(pixels).objects if one.score >= 0.5]
        assert some(pixels).objects == tuple(expected)
