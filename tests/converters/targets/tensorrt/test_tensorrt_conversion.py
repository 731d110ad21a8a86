"""The whole way to the `.onnx` file, and the check that it passes or fails."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloc.converters.quantization.quantize import recipe
from edgeloc.converters.targets.tensorrt import Agreement, check_onnx, convert_tensorrt, to_qdq_onnx
from edgeloc.engines.onnxruntime import OnnxRuntimeEngine
from edgeloc.errors import MissingExtra, ModelError, UsageError
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.model.file import read_model

for package in ("tf2onnx", "onnx", "onnxruntime"):
    pytest.importorskip(package, reason=f"the extra tensorrt is not installed: {package} is missing")

Images = NDArray[np.float32]


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    return {}


@pytest.fixture
def model(made: dict[str, bytes], flatbuffer: bytes, contract: Contract, images: Images) -> bytes:
    if not made:
        made["model"] = to_qdq_onnx(flatbuffer, contract, images)
    return made["model"]


def drawn(images: Images) -> Any:
    return SimpleNamespace(images=images, manifest={"count": len(images), "dataset": "drawn"}, digest="a1")


def test_the_file_holds_all_that_a_device_needs(
    tmp_path: Path, flatbuffer: bytes, contract: Contract, images: Images
) -> None:
    contract = dataclasses.replace(contract, hashes={"float_model": "f0"}, tools={"keras": "3"})
    report = convert_tensorrt(flatbuffer, contract, drawn(images), tmp_path / "robot.onnx")
    file = read_model(tmp_path / "robot.onnx")
    assert file.contract is not None
    assert file.contract.recipe == "int8-qdq"
    assert file.contract.hashes.keys() == {"float_model", "calibration", "payload"}
    assert file.contract.tools.keys() == {"keras", "edgeloc", "tf2onnx", "onnx", "onnxruntime"}
    assert file.contract.measured["onnx_to_float"] == report.agreement.to_dict()
    assert file.calibration == {"count": 24, "dataset": "drawn"}
    assert file.labels == ("bolt", "nut", "washer")
    localizer = Localizer(file, engine=OnnxRuntimeEngine(file.payload))
    localizer.self_test()
    assert report.size == (tmp_path / "robot.onnx").stat().st_size
    assert report.int8 == report.weighted > 5
    assert f"in {report.int8} of {report.weighted}" in str(report)
    assert report.to_dict()["agreement"]["images"] == 24


def test_boxes_agree_with_the_float_model_and_with_int8_tflite(
    model: bytes, flatbuffer: bytes, contract: Contract, images: Images
) -> None:
    from edgeloc.converters.quantization.quantize import quantize

    tflite = quantize(flatbuffer, recipe("int8"), contract.input, images)
    for other in (flatbuffer, tflite):
        agreement = check_onnx(model, other, contract, images)
        assert agreement.images == 24
        assert agreement.boxes > 0
        assert agreement.iou is not None
        assert agreement.iou > 0.95
        assert agreement.box_px_p95 is not None
        assert agreement.box_px_p95 < 1
        assert agreement.presence_max < 0.05


def test_a_model_against_itself_differs_in_nothing(flatbuffer: bytes, contract: Contract, images: Images) -> None:
    from edgeloc.converters.targets.tensorrt.onnx import to_onnx

    model = to_onnx(flatbuffer, contract, images[:1]).SerializeToString()
    agreement = check_onnx(model, flatbuffer, contract, images[:4])
    assert agreement.iou == pytest.approx(1, abs=1e-3)
    assert agreement.box_px_max == pytest.approx(0, abs=1e-2)


def test_ranges_from_other_images_cost_the_boxes(flatbuffer: bytes, contract: Contract, images: Images) -> None:
    """What the check is for: calibrated on nothing like its work, the model must not pass as good."""
    grey = to_qdq_onnx(flatbuffer, contract, images * 0.02)
    good = to_qdq_onnx(flatbuffer, contract, images)
    worse, better = (check_onnx(each, flatbuffer, contract, images) for each in (grey, good))
    assert worse.box_px_p95 is not None
    assert better.box_px_p95 is not None
    assert worse.box_px_p95 > 2 * better.box_px_p95


def test_other_boxes_are_refused(
    model: bytes, flatbuffer: bytes, contract: Contract, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = OnnxRuntimeEngine.invoke

    def elsewhere(engine: OnnxRuntimeEngine, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {**answer(engine, tensor), "box": np.array([[-4, -4, -4, -4]], np.float32)}

    monkeypatch.setattr(OnnxRuntimeEngine, "invoke", elsewhere)
    with pytest.raises(ModelError, match=r"finds other boxes than the original \(mean IoU 0\.0"):
        check_onnx(model, flatbuffer, contract, images)


def test_without_a_box_only_presence_is_compared(
    model: bytes, flatbuffer: bytes, contract: Contract, images: Images
) -> None:
    never = dataclasses.replace(contract, thresholds=dataclasses.replace(contract.thresholds, presence=1.0))
    agreement = check_onnx(model, flatbuffer, never, images[:3])
    assert agreement.iou is None
    assert "no box among them" in str(agreement)


def test_boxes_that_went_missing_count_as_none_shared(
    model: bytes, flatbuffer: bytes, contract: Contract, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = OnnxRuntimeEngine.invoke

    def blind(engine: OnnxRuntimeEngine, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {**answer(engine, tensor), "presence": np.array([[-20]], np.float32)}

    monkeypatch.setattr(OnnxRuntimeEngine, "invoke", blind)
    with pytest.raises(ModelError, match="mean IoU 0"):
        check_onnx(model, flatbuffer, contract, images)


def test_a_file_of_another_kind_is_not_written(
    tmp_path: Path, flatbuffer: bytes, contract: Contract, images: Images
) -> None:
    with pytest.raises(UsageError, match=r"give it the suffix \.onnx"):
        convert_tensorrt(flatbuffer, contract, drawn(images), tmp_path / "robot.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_told_before_any_work(
    tmp_path: Path, contract: Contract, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> dict[str, str]:
        raise MissingExtra("tf2onnx", "tensorrt", "converting for TensorRT")

    monkeypatch.setattr("edgeloc.converters.targets.tensorrt.require_extra", absent)
    with pytest.raises(MissingExtra, match=r"edgeloc\[tensorrt\]"):
        convert_tensorrt(b"not looked at", contract, drawn(images), tmp_path / "robot.onnx")


def test_figures_of_an_agreement_read_as_a_sentence() -> None:
    text = str(Agreement(50, 38, 0.947, 0.62, 1.41, 1.8, 0.03))
    assert text.startswith(
        "boxes share 0.947 (mean IoU), their edges differ by 0.6 pixels (median; 95 %: 1.4, most: 1.8)"
    )
    assert text.endswith("38 of 50 images")


def test_boxes_that_move_are_a_finding() -> None:
    """Without labelled data nothing else shows it."""
    moved = Agreement(50, 38, 0.62, 4.0, 9.0, 14.0, 0.2).finding(0.85)
    assert moved is not None
    assert (moved.code, moved.severity) == ("quantized-boxes-move", "warning")
    assert "share only 0.62 with the float model's" in moved.message
    assert Agreement(50, 38, 0.9, 4.0, 9.0, 14.0, 0.2).finding(0.85) is None
    assert Agreement(50, 0, None, None, None, None, 0.2).finding(0.85) is None
