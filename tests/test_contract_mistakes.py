"""Contracts with a mistake in them, for detectors that others trained: each is refused, or named on labelled photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.cli import main
from edgeloc.data import Dataset, Sample
from edgeloc.data.images import image_size, read_image
from edgeloc.errors import ContractError
from edgeloc.evaluation.suspicion import try_contract
from edgeloc.localizer import Localizer
from edgeloc.model.arrangement import Asked
from edgeloc.model.contract import Contract
from edgeloc.model.families import contract_like
from edgeloc.model.file import read_model
from edgeloc.models import SHIPPED_INT8
from edgeloc.types import Box, LabelledBox

YOLOX, SSD = "yolox_nano_coco_416_raw.onnx", "ssd_mobilenet_v1_coco_quant.tflite"
PERSON, FACE = "mcunet_person_yolov3_int8.tflite", "rfb320_decoded.onnx"
ANCHORS = {
    8: [(10, 13), (16, 30), (33, 23)],
    16: [(30, 61), (62, 45), (59, 119)],
    32: [(116, 90), (156, 198), (373, 326)],
}
INPUTS = {"input.mean": [127.5], "input.std": [127.5], "input.resize": "stretch"}
TO_128 = {"input.mean": [127], "input.std": [128]}


@pytest.fixture(scope="module")
def detectors(shared_data: Path) -> Path:
    pytest.importorskip("onnxruntime")
    return shared_data / "detectors"


def right(name: str, detectors: Path, changes: dict[str, Any] | None = None) -> Contract:
    """The contract that the model was made for, with some of its fields changed."""
    threshold = json.loads((detectors / "reference_detections.json").read_text())[name]["_threshold"]
    changes = {"thresholds.presence": threshold, **(changes or {})}
    if name == PERSON:
        asked = Asked(("person",), anchors=ANCHORS, changes={**INPUTS, **changes})
        return contract_like("yolo-anchors", detectors / name, asked)
    if name == FACE:
        return contract_like("ssd", detectors / name, Asked(("face",), anchors="none", changes={**TO_128, **changes}))
    lines = "coco_labels_80.txt" if name == YOLOX else "coco_labels_91_with_background.txt"
    labels = tuple((detectors / lines).read_text().splitlines())
    if name == YOLOX:
        return contract_like("yolox", detectors / name, Asked(labels, changes=changes))
    return contract_like("ssd-postprocess", detectors / name, Asked(labels[1:], changes=changes))


def shifted(contract: Contract) -> Contract:
    data = json.loads(contract.to_json())
    data["labels"] = [*data["labels"][1:], data["labels"][0]]
    return Contract.from_json(json.dumps(data))


@pytest.fixture(scope="module")
def labelled(detectors: Path) -> Any:
    """The photos, each with the objects that an independent decoder found."""
    references = json.loads((detectors / "reference_detections.json").read_text())

    def of(name: str) -> Dataset:
        samples = []
        for image, items in references[name].items():
            if image.startswith("_") or not items:
                continue
            path = detectors / "images" / image
            width, height = image_size(path)
            found = []
            for item in items:
                x1, y1, x2, y2 = item["box"]
                box = Box(max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height))
                found.append(LabelledBox(box, item.get("label", "face" if name == FACE else "person")))
            samples.append(Sample(image, tuple(found), read=lambda path=path: read_image(path)))
        return Dataset("photos", "photos", (), tuple(samples))

    return of


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (YOLOX, {"input.layout": "channels-last"}, r"is \(1, 3, 416, 416\), but .* ask for \(1, 416, 416, 3\)"),
        (YOLOX, {"input.width": 320, "input.height": 320}, r"is \(1, 3, 416, 416\)"),
        (YOLOX, {"detector.locations.strides": [8, 16]}, "3,380 locations .* there are 3,549"),
        (YOLOX, {"outputs.0.parts": ["box", "objectness"]}, "80 labels, but no part class"),
        (YOLOX, {"outputs.0.parts": ["box", "class"]}, "84 numbers"),
        (YOLOX, {"outputs.0.role": "box", "outputs.0.parts": []}, "the role box is a localizer's"),
        (YOLOX, {"detector.box.form": "xyxy"}, "edges do not start from a location"),
        (YOLOX, {"detector.box.bins": 8, "detector.box.form": "distances"}, r"113 numbers"),
        (PERSON, {"outputs.0.level": 2, "outputs.2.level": 0}, "a grid of"),
        (SSD, {"outputs.0.parts": ["score"], "outputs.2.parts": ["box"]}, "class-number needs as many rows"),
    ],
)
def test_what_the_file_contradicts_is_refused(name: str, changes: dict[str, Any], words: str, detectors: Path) -> None:
    with pytest.raises(ContractError, match=words):
        right(name, detectors, changes)


def test_one_level_of_a_pyramid_is_no_detector(detectors: Path) -> None:
    data = json.loads(right(PERSON, detectors).to_json())
    data["outputs"] = [{**data["outputs"][0], "level": None}]
    with pytest.raises(ContractError, match="of 1,260 locations .* there are 960"):
        Localizer(detectors / PERSON, contract=Contract.from_json(json.dumps(data)))


@pytest.mark.parametrize("family", ["yolov8", "yolo-anchors-v5", "nanodet", "fastestdet", "ssd-postprocess"])
def test_another_family_is_refused_and_the_right_one_named(family: str, detectors: Path) -> None:
    labels = right(YOLOX, detectors).labels
    with pytest.raises(ContractError, match=f"is no {family}: .*these families fit its tensors: yolox"):
        contract_like(family, detectors / YOLOX, Asked(labels))


def test_contracts_that_are_tried_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["contract", "check", str(SHIPPED_INT8), "--data", "synthetic?count=40"]) == 0
    assert "input-range" not in {record.finding.code for record in caplog.records if hasattr(record, "finding")}


def test_a_wrong_change_is_not_laid_on_the_family(detectors: Path) -> None:
    asked = Asked(right(YOLOX, detectors).labels, changes={"input.color": "blue"})
    with pytest.raises(ContractError, match=r"^(?!.*is no yolox).*color"):
        contract_like("yolox", detectors / YOLOX, asked)


@pytest.mark.parametrize("count", [79, 81])
def test_another_number_of_labels_is_refused(count: int, detectors: Path) -> None:
    with pytest.raises(ContractError, match=f"with {count} label.* {count + 5} "):
        contract_like("yolox", detectors / YOLOX, Asked(tuple(map(str, range(count)))))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (YOLOX, {"input.color": "rgb"}, "with red and blue swapped"),
        (YOLOX, {"input.std": [255]}, r"normalized to 0\.\.255"),
        (YOLOX, {"detector.box.form": "cycxhw"}, "its boxes read as cxcywh"),
        (YOLOX, {"detector.scores.objectness": "sigmoid", "detector.scores.activation": "sigmoid"}, "with none as the"),
        (SSD, {"outputs.1.parts": ["score"], "outputs.2.parts": ["class-number"]}, "exchanged"),
        (SSD, {"detector.box.form": "xyxy"}, "its boxes read as yxyx"),
        (SSD, {"detector.scores.first_class": 1}, "0 as the number of the first class|label moved one back"),
        (SSD, {"detector.box.units": "pixels"}, "its boxes in fraction"),
        (FACE, {"detector.box.form": "cxcywh"}, "its boxes read as xyxy"),
        (FACE, {"detector.scores.background": "last"}, "the background as the first class"),
        (PERSON, {"detector.locations.offset": 0.5}, "with locations at 0 of their cells"),
    ],
)  # fmt: skip
def test_what_the_file_cannot_show_is_named_on_labelled_photos(
    name: str, changes: dict[str, Any], words: str, detectors: Path, labelled: Any
) -> None:
    import re

    model, engine = read_model(detectors / name), "onnxruntime" if name.endswith(".onnx") else "auto"
    trial = try_contract(model, right(name, detectors, changes), labelled(name), engine=engine)
    assert trial is not None and trial.suspicion is not None
    assert re.search(words, trial.suspicion.message), trial.suspicion.message


def test_labels_off_by_one_are_named(detectors: Path, labelled: Any) -> None:
    for name in (YOLOX, SSD):
        model, engine = read_model(detectors / name), "onnxruntime" if name.endswith(".onnx") else "auto"
        trial = try_contract(model, shifted(right(name, detectors)), labelled(name), engine=engine)
        assert trial is not None and trial.suspicion is not None
        assert "with each label moved one back" in trial.suspicion.message


@pytest.mark.parametrize("name", [YOLOX, SSD, PERSON, FACE])
def test_of_a_right_contract_nothing_is_said(name: str, detectors: Path, labelled: Any) -> None:
    model, engine = read_model(detectors / name), "onnxruntime" if name.endswith(".onnx") else "auto"
    trial = try_contract(model, right(name, detectors), labelled(name), engine=engine)
    assert trial is not None and trial.suspicion is None
    assert trial.mean_iou > 0.8 and trial.right > 0.9


def test_a_normalization_that_leaves_half_of_the_input_unused_is_named_on_loading(
    detectors: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Localizer(detectors / SSD, contract=right(SSD, detectors))
    assert not caplog.records
    Localizer(detectors / SSD, contract=right(SSD, detectors, {"input.mean": [0], "input.std": [255]}))
    assert [record.finding.code for record in caplog.records] == ["input-range"]
    assert "pixels become 0 to 1, and the input 'normalized_input_image_tensor' was quantized for -1 to" in caplog.text


def test_what_check_does_not_take_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--output", "q=box"], ["--set", "input.color=bgr"], ["--try", "photo.jpg"]):
        assert main(["contract", "check", str(SHIPPED_INT8), *words]) == 2
        assert f"{words[0]} goes with writing a contract" in capsys.readouterr().err


def test_check_without_a_contract_names_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.tflite").write_bytes(read_model(SHIPPED_INT8).payload)
    assert main(["contract", "check", str(tmp_path / "net.tflite")]) == 2
    said = capsys.readouterr().err
    assert "has no contract" in said and said.endswith("`edgeloc contract MODEL --like FAMILY` writes one\n")
    assert "give contract" not in said


@pytest.mark.parametrize("field", ["input.width.x", "input.color.x"])
def test_a_change_below_a_single_value_is_refused(field: str, detectors: Path) -> None:
    with pytest.raises(ContractError, match="at 'x' there is a single value"):
        right(YOLOX, detectors, {field: 3})


def localizer_line(folder: Path) -> list[str]:
    """The words that write the contract of the shipped localizer's network."""
    (folder / "net.tflite").write_bytes(read_model(SHIPPED_INT8).payload)
    contract = read_model(SHIPPED_INT8).contract
    assert contract is not None
    (folder / "labels.txt").write_text("\n".join(contract.labels))
    return ["contract", str(folder / "net.tflite"), "--like", "localizer", "--labels", str(folder / "labels.txt")]


def test_what_is_read_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = localizer_line(tmp_path)
    photo = tmp_path / "net.jpg"
    cv2.imwrite(str(photo), np.zeros((60, 80, 3), np.uint8))
    before = photo.read_bytes()
    assert main([*line, "--try", str(photo), "--out", str(tmp_path / "net.json")]) == 2
    assert f"cannot write {photo}: it is one of the files that are read" in capsys.readouterr().err
    (tmp_path / "anchors.json").write_text("[]")
    table = str(tmp_path / "anchors.json")
    assert main([*line, "--anchors", table, "--out", table]) == 2
    assert f"cannot write {table}" in capsys.readouterr().err
    assert photo.read_bytes() == before and (tmp_path / "anchors.json").read_text() == "[]"
    assert not (tmp_path / "net.json").exists()


def test_the_command_names_it_and_exits_with_1(
    detectors: Path, labelled: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sample,) = (sample for sample in labelled(SSD) if sample.name == "pets.jpg")
    objects = [{"box": list(box), "label": label} for box, label in sample.objects]
    (tmp_path / "pets.jpg").symlink_to(detectors / "images" / "pets.jpg")
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"image": "pets.jpg", "objects": objects}))
    contract = tmp_path / "wrong.json"
    contract.write_text(right(SSD, detectors, {"detector.box.form": "xyxy"}).to_json())
    line = ["contract", "check", str(detectors / SSD), "--contract", str(contract), "--data", str(tmp_path)]
    assert main(line) == 1
    assert "with its boxes read as yxyx the model is clearly better on 2 labelled objects" in capsys.readouterr().out
    contract.write_text(right(SSD, detectors).to_json())
    assert main(line) == 0
    assert "no other contract is clearly better" in capsys.readouterr().out
