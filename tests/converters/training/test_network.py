"""The reference network: what each head gives, what its contract says, and what cannot be built."""

from __future__ import annotations

import dataclasses
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.training.backbones import HEADS, NetworkConfig
from edgeloc.converters.training.network import build_network, network_contract
from edgeloc.decode import Decoder
from edgeloc.errors import DataError, UsageError
from edgeloc.model.contract import Thresholds
from edgeloc.model.fit import check_contract
from edgeloc.preprocess import Preprocessor

LABELS = ("bolt", "nut")
SHAPES = {
    "grid": {"weights": (1, 8, 8, 1), "distances": (1, 8, 8, 4)},
    "distribution": {"bins": (1, 4, 32)},
    "vector": {"box": (1, 4)},
}


def tiny(head: str = "grid", weights: str = "none") -> NetworkConfig:
    return NetworkConfig("MobileNetV2", 0.35, 64, head, weights)


@pytest.mark.parametrize("head", HEADS["localize"])
def test_each_head_gives_what_its_contract_says(head: str) -> None:
    network, contract = build_network(tiny(head), len(LABELS)), network_contract(tiny(head), LABELS)
    frame = np.random.default_rng(0).integers(0, 256, (48, 80, 3)).astype(np.uint8)
    tensor, placement = Preprocessor(contract.input, np.dtype(np.float32), None, None)(frame)
    outputs = {name: np.asarray(values) for name, values in network(tensor).items()}
    assert {name: values.shape for name, values in outputs.items()} == {
        "presence": (1, 1),
        "class": (1, 2),
        **SHAPES[head],
    }
    assert {output.tensor for output in contract.outputs} == set(outputs)
    result = Decoder(contract)(outputs, placement, (80, 48))
    assert 0 <= result.presence <= 1
    assert result.class_scores.sum() == pytest.approx(1)


def test_without_labels_there_is_no_class_output() -> None:
    assert set(build_network(tiny("vector"), 0).output) == {"presence", "box"}
    assert network_contract(tiny("vector"), ()).output("class") is None


def test_a_resnet_takes_pixels_as_it_was_trained_on() -> None:
    config = NetworkConfig("ResNet50", None, 64, "vector", "none")
    spec = network_contract(config, LABELS).input
    assert (spec.color, spec.mean, spec.std) == ("bgr", (103.939, 116.779, 123.68), (1.0,))
    assert network_contract(NetworkConfig("ResNet50V2", None), LABELS).input.mean == (127.5,)
    assert set(build_network(config, 2).output) == {"presence", "class", "box"}


def test_alexnet_has_the_maps_that_a_grid_needs_and_a_width() -> None:
    network = build_network(NetworkConfig("AlexNet", 0.25, (96, 64), "grid", "none"), 2)
    assert network.output["distances"].shape[1:] == (8, 12, 4)
    kernels = [layer.kernel.shape for layer in network.layers if layer.name in ("conv_1", "conv_2", "conv_5")]
    assert kernels == [(11, 11, 3, 24), (5, 5, 24, 64), (3, 3, 96, 64)]


@pytest.mark.parametrize("head", HEADS["localize"])
def test_a_known_number_of_objects(head: str) -> None:
    """Its contract fits the network, and the runtime finds as many."""
    config = NetworkConfig("MobileNetV2", 0.35, 64, head, "none", objects=3)
    contract = network_contract(config, LABELS)
    frame = np.random.default_rng(0).integers(0, 256, (48, 80, 3)).astype(np.uint8)
    tensor, placement = Preprocessor(contract.input, np.dtype(np.float32), None, None)(frame)
    outputs = {name: np.asarray(values) for name, values in build_network(config, 2)(tensor).items()}
    certain = dataclasses.replace(contract, thresholds=Thresholds(presence=0.0))
    check_contract(contract, {"image": tensor}, outputs)
    assert len(Decoder(certain)(outputs, placement, (80, 48)).objects) == 3


def test_the_pixel_scale_of_mobilenet_is_minus_one_to_one() -> None:
    spec = network_contract(tiny(), LABELS).input
    assert (spec.color, spec.mean, spec.std, spec.width, spec.height) == ("rgb", (127.5,), (127.5,), 64, 64)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"backbone": "MobilNet"}, "backbone is 'MobilNet'.*such as MobileNetV2 or ResNet50"),
        ({"head": "boxes"}, "head is 'boxes': it must be one of grid, distribution, vector"),
        ({"input_size": 100}, "input_size is 100: it must be a multiple of 32"),
        ({"input_size": 32}, "input_size is 32: .*at least 64"),
        ({"alpha": -1.0}, "alpha is -1: it must be above 0"),
    ],
)
def test_a_setting_that_cannot_be(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        NetworkConfig(**changes)


def test_a_backbone_that_keras_does_not_have() -> None:
    with pytest.raises(UsageError, match="keras.applications has no ResNet9"):
        build_network(NetworkConfig("ResNet9", None, 64, "grid", "none"), 2)


def test_a_width_for_a_backbone_without_widths() -> None:
    with pytest.raises(UsageError, match="ResNet50 has no width multiplier: leave alpha out"):
        build_network(NetworkConfig("ResNet50", 0.35, 64, "grid", "none"), 2)


def test_a_width_without_pretrained_weights() -> None:
    with pytest.raises(UsageError, match=r"MobileNetV2 with the weights imagenet cannot be built: .*alpha"):
        build_network(NetworkConfig("MobileNetV2", 0.4, 96, "grid", "imagenet"), 2)


def test_no_network_to_fetch_weights_from(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import keras

    def offline(*_args: Any, **_kwargs: Any) -> None:
        print("Downloading data from there")
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(keras.src.applications.mobilenet_v2.file_utils, "get_file", offline)
    with pytest.raises(DataError, match="could not download the ImageNet weights .*no route.*as backbone_weights"):
        build_network(NetworkConfig("MobileNetV2", 0.35, 96, "grid", "imagenet"), 2)
    assert capsys.readouterr().out == ""  # `--json` prints there


def test_a_missing_weights_file() -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz: no such file; give a \.keras, \.npz or \.weights\.h5"):
        build_network(tiny(weights="nowhere.npz"), 2)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"hello"])
@pytest.mark.parametrize("name", ["w.npz", "w.weights.h5", "w.keras"])
def test_a_weights_file_that_is_none(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}(:| is no) (\.npz file|Keras network|the weights do not fit)"):
        build_network(tiny("vector", str(tmp_path / name)), 2)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """All weights of a fresh backbone, by `layer/variable`."""
    import keras

    backbone = keras.applications.MobileNetV2(
        include_top=False, weights=None, alpha=0.35, input_tensor=keras.Input((64, 64, 3))
    )
    return {f"{layer.name}/{v.name}": np.asarray(v) for layer in backbone.layers for v in layer.weights}


def test_weights_of_a_file_are_taken(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "w.npz", **arrays)  # type: ignore[arg-type]
    network = build_network(tiny("vector", str(tmp_path / "w.npz")), 2)
    assert np.array_equal(np.asarray(network.get_layer("Conv1").kernel), arrays["Conv1/kernel"])


def test_a_trained_network_is_a_start(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "w.npz", **arrays)  # type: ignore[arg-type]
    build_network(tiny("vector", str(tmp_path / "w.npz")), 2).save(tmp_path / "trained.keras")
    network = build_network(tiny("grid", str(tmp_path / "trained.keras")), 5)
    assert np.array_equal(np.asarray(network.get_layer("block_3_project").kernel), arrays["block_3_project/kernel"])


def test_a_weights_file_that_lacks_a_layer(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    rest = {name: values for name, values in arrays.items() if name != "block_3_project/kernel"}
    np.savez(tmp_path / "w.npz", **rest)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="block_3_project/kernel is missing, the backbone needs"):
        build_network(tiny("vector", str(tmp_path / "w.npz")), 2)


def test_a_weights_file_of_another_width(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "w.npz", **{**arrays, "Conv1/kernel": np.zeros((3, 3, 3, 32))})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"Conv1/kernel has the shape \(3, 3, 3, 32\), the backbone needs"):
        build_network(tiny("vector", str(tmp_path / "w.npz")), 2)
