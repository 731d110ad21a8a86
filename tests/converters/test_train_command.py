"""`edgeloc train` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.cli import main
from edgeloc.converters.sources.tensorflow import save_network
from edgeloc.converters.training import fit
from edgeloc.converters.training.backbones import NetworkConfig
from edgeloc.converters.training.network import network_contract
from edgeloc.labelling.images import images_of, labels_beside
from edgeloc.labelling.labels import LabelFile
from edgeloc.labelling.proposals import Proposal
from edgeloc.labelling.session import LabelSession
from edgeloc.model.file import read_keras_contract

SHORT = ["--backbone-weights", "none", "--input-size", "64", "--epochs", "1", "--batch-size", "4"]
# TensorFlow takes a second for each ten layers, to no end here.
SMALL = [*SHORT, "--backbone", "AlexNet", "--alpha", "0.1"]
DATA = [
    "--training",
    "synthetic?count=8&size=96x64&objects=2",
    "--validation",
    "synthetic?count=4&size=96x64&objects=2",
]


@pytest.mark.slow
def test_train_writes_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "REESTIMATION_BATCHES", 2)
    out = tmp_path / "m.keras"
    assert main(["train", *DATA, *SMALL, "--head", "vector", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    printed = shown.out
    assert "8 images to learn from, 4 to validate on" in shown.err
    assert "epoch 1/1: loss " in shown.err
    assert shown.err.count("images hold several objects, of which a localizer takes the largest") == 1
    assert f"wrote {out}: validation mean IoU 0." in printed
    assert out.is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", ["anchor-free", *(pytest.param(one, marks=pytest.mark.long) for one in ("ssd", "yolo"))]
)
def test_train_writes_a_detector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(fit, "REESTIMATION_BATCHES", 2)
    out = tmp_path / "m.keras"
    line = [*DATA, *SMALL, "--task", "detect", "--input-size", "96x64", "--head", head, "--out", str(out)]
    assert main(["train", *line]) == 0
    shown = capsys.readouterr()
    assert "mAP50 0." in shown.err and "several objects" not in shown.err
    assert f"wrote {out}: validation mAP50 0." in shown.out
    contract = read_keras_contract(out)
    assert contract is not None
    assert contract.detector is not None
    assert (contract.input.width, contract.input.height) == (96, 64)
    assert contract.thresholds.presence == pytest.approx(
        contract.measured["training"]["validation"]["threshold"], abs=5e-4
    )


@pytest.mark.slow
def test_train_writes_a_localizer_of_several_objects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "REESTIMATION_BATCHES", 2)
    monkeypatch.setattr(fit, "_FEW_SHOT_VIEWS", 12)
    out = tmp_path / "m.keras"
    assert main(["train", *DATA, *SMALL, "--objects", "2", "--upright", "--few-shot", "--out", str(out)]) == 0
    assert f"wrote {out}: validation mean IoU 0." in capsys.readouterr().out
    contract = read_keras_contract(out)
    assert contract is not None
    assert (contract.box.form, contract.box.objects) == ("grid", 2)
    assert contract.measured["training"]["settings"]["few_shot"]


def test_ctrl_c_shows_how_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> None:
        folder = tmp_path / "m.training"
        if (folder / "once").exists():
            (folder / "epoch-00001.weights.h5").touch()
        (folder / "once").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "_fit", interrupted)
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **_: None)
    line = ["train", *DATA, *SMALL, "--head", "vector", "--out", str(tmp_path / "m.keras")]
    assert main(line) == 130
    assert "nothing was learned yet" in capsys.readouterr().err
    assert main(line) == 130
    assert "run again with --resume" in capsys.readouterr().err
    assert not (tmp_path / "m.keras").exists()


def small_keras(path: Path) -> None:
    """A network of one class, with its contract."""
    import keras
    from keras import layers

    image = keras.Input((64, 64, 3), name="image")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, 4, activation="relu")(image))
    outputs = {"presence": layers.Dense(1)(x), "class": layers.Dense(1)(x), "box": layers.Dense(4)(x)}
    save_network(
        path, keras.Model(image, outputs), network_contract(NetworkConfig(input_size=64, head="vector"), ("disc",))
    )


def test_qat_of_a_trained_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, out = tmp_path / "m.keras", tmp_path / "m-qat.keras"
    small_keras(start)
    line = ["train", *DATA, "--epochs", "1", "--batch-size", "4", "--resume", str(start), "--qat", "--out", str(out)]
    assert main(line) == 0
    shown = capsys.readouterr()
    printed = shown.out
    assert "warning: the network has no class " in shown.err
    assert f"wrote {out}: validation mean IoU 0." in printed
    assert " with fake quantization (0." in printed
    assert read_keras_contract(out) is not None
    assert main([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["path"], result["folder"]) == (str(out), str(tmp_path / "m-qat.training"))
    assert (result["images"], result["validation_images"]) == (8, 4)
    assert {"box_iou", "box_iou_at_start"} <= set(result["metrics"])
    assert "labels-unknown" in {finding["code"] for finding in result["findings"]}
    assert main([*line, "--head", "grid"]) == 2
    assert (
        "is a network already, and what shapes a new one does not go with it: leave --head out"
        in capsys.readouterr().err
    )
    assert main([*line[:-1], str(start)]) == 2
    assert "is the network to start from: give another name with --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            ["--out", "m.keras", "--qat"],
            "starts from a trained network: name it with --resume MODEL.keras",
        ),
        (["--out", "m.keras", "--qat", "--resume"], "fake quantization starts from a trained network"),
        (["--out", "m.h5"], "the name must end in .keras"),
        (["--out", "m.keras", "--head", "boxes"], "--head is 'boxes'"),
        (["--out", "m.keras", "--head", "ssd"], "must be one of grid, distribution, vector for the task localize"),
        (
            ["--out", "m.keras", "--task", "detect", "--head", "grid"],
            "yolo, rcnn, fast-rcnn, faster-rcnn for the task detect",
        ),
        (
            ["--out", "m.keras", "--task", "detect", "--objects", "3"],
            "finds any number of objects: leave --objects out",
        ),
        (["--out", "m.keras", "--task", "find"], "--task is 'find': it must be one of localize, detect"),
        (["--out", "m.keras", "--input-size", "1x2x3"], "must be a number of pixels or WIDTHxHEIGHT"),
        (["--out", "m.keras", "--input-size", "96x70"], "must be a multiple of 32, at least 64"),
        (["--out", "m.keras", "--epochs", "0"], "--epochs: '0' must be a whole number from 1"),
        (["--out", "m.keras", "--box-loss", "iou"], "--box-loss is 'iou'"),
        (["--out", "m.keras", "--training", "nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *DATA, *SMALL, *changes]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_was_labelled_in_the_page_is_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "REESTIMATION_BATCHES", 2)
    photos, out = tmp_path / "photos", tmp_path / "m.keras"
    photos.mkdir()
    for name in "abcdef":
        pixels = np.full((60, 80, 3), 90, np.uint8)
        pixels[20:50, 10:40] = 220 if name != "f" else 90
        cv2.imwrite(str(photos / f"{name}.png"), pixels)
    labels = labels_beside(photos)
    page = LabelSession(
        LabelFile(labels, ("nut",)), images_of(photos, labels), lambda image, pixels: Proposal((), 0.5), ()
    )
    for name in "abcdef":
        page.save(f"{name}.png", [{"box": [10, 20, 40, 50], "label": "nut"}] if name != "f" else [])
    assert main(["train", "--training", str(labels), *SMALL, "--head", "vector", "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["images"] + made["validation_images"], made["labels"]) == (6, ["nut"])
    contract = read_keras_contract(out)
    assert contract is not None and contract.labels == ("nut",)
