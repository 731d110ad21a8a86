"""What each head builds is what its contract says, and anchors are of the shapes that the data has."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from edgeloc.converters.training.backbones import HEADS, NetworkConfig
from edgeloc.converters.training.detectors.heads import STRIDES, anchors_of, build_detector
from edgeloc.errors import UsageError
from edgeloc.model.contract import Contract
from edgeloc.model.fit import check_contract


@pytest.mark.parametrize("head", HEADS["detect"])
def test_each_head_gives_what_its_contract_says(
    head: str, make_contract: Callable[[str], Contract], make_config: Callable[[str], NetworkConfig]
) -> None:
    contract = make_contract(head)
    network = build_detector(make_config(head), contract)
    outputs = {name: SimpleNamespace(shape=(1, *values.shape[1:])) for name, values in network.output.items()}
    check_contract(contract, {"image": SimpleNamespace(shape=(1, *network.inputs[0].shape[1:]))}, outputs)
    assert len(outputs) == len(STRIDES) * (3 if head == "yolo" else 2)
    assert contract == Contract.from_json(contract.to_json())


@pytest.mark.parametrize(("backbone", "alpha"), [("AlexNet", 0.25), ("ResNet50", None)])
def test_a_detector_stands_on_the_textbook_s_backbones(
    backbone: str, alpha: float | None, make_contract: Callable[[str], Contract]
) -> None:
    contract = make_contract("anchor-free")
    network = build_detector(NetworkConfig(backbone, alpha, (128, 96), "anchor-free", "none"), contract)
    assert network.output["class_8"].shape[1:3] == (12, 16)
    assert network.output["box_32"].shape[1:] == (3, 4, 4)


def test_alexnet_has_no_pretrained_weights(make_contract: Callable[[str], Contract]) -> None:
    with pytest.raises(UsageError, match="AlexNet has no ImageNet weights in Keras: give none, or a file"):
        build_detector(NetworkConfig("AlexNet", 1.0, 64, "anchor-free"), make_contract("anchor-free"))


def test_anchors_are_the_shapes_of_the_objects() -> None:
    rng = np.random.default_rng(0)
    shapes = [(12, 10), (100, 40), (40, 100), (60, 60)]
    sizes = [tuple(np.array(shape) * rng.uniform(0.97, 1.03, 2)) for shape in shapes for _ in range(50)]
    levels = anchors_of(sizes)
    assert [len(level) for level in levels] == [3, 3, 3]
    anchors = [anchor for level in levels for anchor in level]
    assert anchors == sorted(anchors, key=lambda anchor: anchor[0] * anchor[1])
    for width, height in shapes:
        assert any(abs(w / width - 1) < 0.05 and abs(h / height - 1) < 0.05 for w, h in anchors)


def test_objects_of_one_size_give_anchors_too() -> None:
    anchors = anchors_of([(20.0, 20.0)] * 5)
    assert anchors == (((20.0, 20.0),) * 3,) * 3
