"""Detectors that others trained and exported to ONNX: as `.tflite` they answer the same on photos."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloc.converters.checks import check_parity
from edgeloc.converters.conversion import ConvertOptions, convert
from edgeloc.converters.sources import open_source
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations, Scores, Selection
from edgeloc.model.flatbuffer import parse_flatbuffer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("onnx2tf")]

PHOTOS = ("face.jpg", "kite_and_cold.jpg")
# Width, height, mean and standard deviation of the input, and the outputs' shapes after conversion.
DETECTORS = {
    "yolox_nano_coco_416_raw.onnx": (416, 416, 0, 1, {"output": (1, 3549, 85)}),
    "fastestdet_coco_352.onnx": (352, 352, 0, 255, {"758": (1, 22, 22, 85)}),
    "rfb320_raw.onnx": (320, 240, 127, 128, {"scores": (1, 4420, 2), "boxes": (1, 4420, 4)}),
    "rfb320_decoded.onnx": (320, 240, 127, 128, {"scores": (1, 4420, 2), "boxes": (1, 4420, 4)}),
}


@pytest.fixture(scope="session")
def detectors(shared_data: Path) -> Path:
    """Genuine detectors, and photos in `images/`."""
    if not (shared_data / "detectors").is_dir():
        pytest.skip("the real data has no folder detectors")
    return shared_data / "detectors"


def _photos(folder: Path, size: tuple[int, int], mean: float, std: float) -> NDArray[np.float32]:
    pixels = [cv2.imread(str(folder / name)) for name in PHOTOS]
    assert all(photo is not None for photo in pixels)
    return np.stack(
        [(cv2.resize(photo, size).astype(np.float32) - mean) / std for photo in pixels if photo is not None]
    )


FASTESTDET = Contract(
    InputSpec("input.1", 352, 352, "bgr", (0, 0, 0), (255, 255, 255), "stretch", layout="channels-first"),
    (OutputSpec("758", "detections", parts=("objectness", "box", "class"), layout="channels-first"),),
    thresholds=Thresholds(presence=0.6),
    detector=DetectorSpec(
        Locations(strides=(16,), offset=0),
        DetectorBox("cxcywh", "stride", "fraction", center="tanh", size="sigmoid"),
        Scores(powers=(0.6, 0.4)),
        Selection(iou=0.45),
    ),
)


def test_a_detector_finds_after_conversion_what_it_found_before(detectors: Path, tmp_path: Path) -> None:
    labels = (detectors / "coco_labels_80.txt").read_text().split("\n")
    contract = dataclasses.replace(FASTESTDET, labels=tuple(label for label in labels if label))
    before = Localizer(detectors / "fastestdet_coco_352.onnx", "onnxruntime", contract=contract)
    convert(before.model.path, tmp_path / "out.tflite", ConvertOptions(recipe="float32"), contract=contract)
    after = Localizer(tmp_path / "out.tflite")
    for photo in PHOTOS:
        pixels = cv2.imread(str(detectors / "images" / photo))
        assert pixels is not None
        expected, found = before(pixels).objects, after(pixels).objects
        assert len(expected) >= 5
        assert [one.label for one in found] == [one.label for one in expected]
        assert np.allclose([one.box for one in found], [one.box for one in expected], atol=0.05)


@pytest.mark.parametrize(
    "name", [one if "yolox" in one else pytest.param(one, marks=pytest.mark.long) for one in DETECTORS]
)
def test_a_converted_detector_answers_photos_as_the_original(name: str, detectors: Path) -> None:
    width, height, mean, std, shapes = DETECTORS[name]
    source, spec = open_source(str(detectors / name)), InputSpec("image", width, height)
    flatbuffer = source.to_tflite(spec)
    model = parse_flatbuffer(flatbuffer, name)
    assert model.signature is not None
    tensors = model.graphs[0].tensors
    assert {output: tensors[index].shape for output, index in model.signature.outputs.items()} == shapes
    check_parity(source, flatbuffer, spec, _photos(detectors / "images", (width, height), mean, std))
