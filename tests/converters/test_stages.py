"""Two-stage detectors from their training to one int8 file: what they find, what is in the file, what bench shows."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc import Localizer, cli
from edgeloc.benchmarks import read_result
from edgeloc.converters import ConvertOptions, TrainOptions, convert, train
from edgeloc.converters.training import fit
from edgeloc.converters.training.backbones import NetworkConfig
from edgeloc.converters.training.detectors.stages import METHODS, RegionPool, build_stages, stages_contract
from edgeloc.converters.training.network import trained_start
from edgeloc.data import open_dataset
from edgeloc.decode.regions import crop_regions, pool_regions
from edgeloc.errors import ContractError, ModelError, UsageError
from edgeloc.model.file import HEAD, read_model, write_model
from edgeloc.types import Box

SIDE = 64
STAGES = {
    "rcnn": {"proposals", "regions", "head"},
    "fast-rcnn": {"backbone", "proposals", "regions", "head"},
    "faster-rcnn": {"backbone", "proposals", "regions", "head"},
}


def config(head: str) -> NetworkConfig:
    return NetworkConfig("AlexNet", 0.2, SIDE, head, "none")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one bright square on a dark ground, of 14 to 30 pixels."""
    folder = tmp_path_factory.mktemp("squares")
    rng, rows = np.random.default_rng(0), []
    for number in range(40):
        image = rng.integers(20, 40, (SIDE, SIDE, 3)).astype(np.uint8)
        size = int(rng.integers(14, 30))
        x, y = (int(start) for start in rng.integers(2, SIDE - size - 2, 2))
        image[y : y + size, x : x + size] = (40, 190, 230)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        row = {"file": f"{number}.png", "w": SIDE, "h": SIDE, "cls": "square", "clip": number}
        rows.append({**row, "box_xyxy": [x, y, x + size, y + size]})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(("stride", "side"), [(8, 7), (1, 16)])
def test_regions_are_pooled_in_training_as_on_the_device(stride: int, side: int) -> None:
    rng = np.random.default_rng(0)
    size = SIDE // stride
    features = rng.uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    regions = np.array([[[0, 0, 64, 64], [3.5, 10.2, 31, 24]], [[40, 2, 64, 64], [8, 8, 20, 60]]], np.float32)
    pooled = np.asarray(RegionPool(stride, side)(features, regions)).reshape(2, 2, side, side, 3)
    for image in range(2):
        on_device = (
            crop_regions(features[image], regions[image], side)
            if stride == 1
            else pool_regions(features[image], regions[image], stride, side)
        )
        # OpenCV interpolates in steps of 1/32 of a pixel.
        np.testing.assert_allclose(pooled[image], on_device, atol=16 if stride == 1 else 1e-2)
        assert np.abs(pooled[image] - on_device).mean() < 4


@pytest.mark.parametrize("head", METHODS)
def test_the_networks_of_each_method(head: str) -> None:
    anchors = (((10.0, 10.0),), ((20.0, 20.0),), ((30.0, 20.0),)) if head == "faster-rcnn" else ()
    contract = stages_contract(config(head), ("a", "b"), anchors)
    network = build_stages(config(head), contract)
    inputs = {"image": np.zeros((2, SIDE, SIDE, 3)), "regions": np.tile([4.0, 4, 20, 20], (2, 5, 1))}
    shapes = {name: tuple(values.shape) for name, values in network(inputs).items()}
    proposals = {"proposal_class": (2, 8, 8, 6), "proposal_box": (2, 8, 8, 12)} if head == "faster-rcnn" else {}
    assert shapes == {"class": (10, 3), "box": (10, 4), **proposals}


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", [one if one == "faster-rcnn" else pytest.param(one, marks=pytest.mark.long) for one in METHODS]
)
def test_a_trained_detector_is_one_file_that_finds_the_object(
    head: str,
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fit, "REESTIMATION_BATCHES", 8)
    trained, out = tmp_path / "two.keras", tmp_path / "two.tflite"
    network: dict[str, Any] = {"backbone": "AlexNet", "alpha": 0.2, "input_size": SIDE, "backbone_weights": "none"}
    options = TrainOptions(task="detect", head=head, epochs=15, batch_size=8, upright=True, **network)
    metrics = train([str(squares)], trained, options).metrics
    assert metrics["map50"] > 0.5
    made = convert(trained, out, ConvertOptions(), calibration=open_dataset(squares), validation=None)
    assert made.precision == "int8 (full integer)"
    assert (HEAD in zipfile.ZipFile(out).namelist()) == (head != "rcnn")
    localizer = Localizer(out)
    localizer.self_test()
    ious = []
    for sample in open_dataset(squares):
        objects = localizer(sample.load()).objects
        assert sample.box is not None
        ious.append(sample.box.iou(objects[0].box or Box(0, 0, 0, 0)) if objects else 0.0)
    assert np.median(ious) > 0.5
    assert set(localizer.engine.spent_ms) == STAGES[head]
    assert cli.main(["inspect", str(out)]) == 0
    assert f"two stages: {head}" in capsys.readouterr().out
    words = ["bench", out, "--frames", 3, "--warmup", 1, "--power", "none", "--out", tmp_path / "r.json"]
    assert cli.main([*map(str, words)]) == 0
    latency = read_result(tmp_path / "r.json").latency
    assert STAGES[head] < set(latency)
    for number, invoke in enumerate(latency["invoke"].samples_ms):
        assert sum(latency[stage].samples_ms[number] for stage in STAGES[head]) <= invoke + 0.01
    with pytest.raises(ContractError, match="trained in one run"):
        trained_start(trained)
    with pytest.raises(UsageError, match="converted for the CPU"):
        convert(trained, tmp_path / "t.tflite", ConvertOptions(target="edgetpu"), calibration=open_dataset(squares))
    if head != "rcnn":
        model = read_model(out)
        assert model.contract is not None
        write_model(tmp_path / "headless.tflite", model.payload, model.contract)
        with pytest.raises(ModelError, match="holds no stages/head"):
            Localizer(tmp_path / "headless.tflite")
        assert model.contract.stages is not None
        other = dataclasses.replace(model.contract.stages, side=9)
        changed = dataclasses.replace(model.contract, stages=other)
        with pytest.raises(ModelError, match=r"stages\.side is 9"):
            Localizer(out, contract=changed)
