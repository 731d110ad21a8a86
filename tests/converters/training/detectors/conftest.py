"""A contract for each head, and outputs that say given boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.training.backbones import NetworkConfig
from edgeloc.converters.training.detectors.heads import anchors_of, detector_contract
from edgeloc.decode.places import Places, locate
from edgeloc.model.contract import Contract

LABELS = ("bolt", "nut", "washer")
WIDTH, HEIGHT = 128, 96
SIZES = [(10, 12), (14, 9), (20, 20), (24, 30), (30, 22), (40, 44), (50, 40), (60, 64), (90, 70)]


def tiny(head: str) -> NetworkConfig:
    return NetworkConfig("MobileNetV2", 0.35, (WIDTH, HEIGHT), head, "none")


@pytest.fixture
def make_contract() -> Callable[[str], Contract]:
    def make(head: str) -> Contract:
        return detector_contract(tiny(head), LABELS, () if head == "anchor-free" else anchors_of(SIZES))

    return make


@pytest.fixture
def make_config() -> Callable[[str], NetworkConfig]:
    return tiny


def places_of(contract: Contract) -> Places:
    assert contract.detector is not None
    places = locate(contract.detector.locations, contract.input.width, contract.input.height)
    assert places is not None
    return places


@pytest.fixture
def find_places() -> Callable[[Contract], Places]:
    return places_of


def logit(values: np.ndarray) -> np.ndarray:
    return np.log(values / (1 - values))


def encoded(contract: Contract, location: int, box: np.ndarray) -> np.ndarray:
    """The four raw numbers with which a location says `box`, by the inverse of each head's own formulas."""
    places = places_of(contract)
    center, size, stride = places.centers[location], places.sizes[location], places.strides[location]
    middle, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    assert contract.detector is not None
    if contract.detector.box.form == "distances":
        return np.log(np.concatenate([center - box[:2], box[2:] - center]) / stride)
    if contract.detector.box.center == "none":  # SSD
        return np.concatenate([(middle - center) / size / 0.1, np.log(sides / size) / 0.2])
    return np.concatenate([logit(((middle - center) / stride + 0.5) / 2), logit(np.sqrt(sides / size) / 2)])


@pytest.fixture
def answer() -> Callable[..., dict[str, np.ndarray]]:
    """Outputs, by tensor, of a detector that finds the given (location, box, class) and nothing else."""

    def make(contract: Contract, found: list[tuple[int, np.ndarray, int]]) -> dict[str, np.ndarray]:
        spec = contract.detector
        assert spec is not None
        background = spec.scores.background == "first"
        count = len(places_of(contract).centers)
        whole = {
            "box": np.zeros((count, 4)),
            "class": np.full((count, 3), -12.0),
            "objectness": np.full((count, 1), -12.0),
        }
        if background:
            whole["class"] = np.tile([12.0, -6, -6, -6], (count, 1))
        for location, box, number in found:
            whole["box"][location] = encoded(contract, location, box)
            whole["class"][location] = -6
            whole["class"][location, number + background] = 6
            whole["objectness"][location] = 6
        starts = np.cumsum([0, *spec.locations.counts(contract.input.width, contract.input.height)])
        outputs = {}
        for output in contract.outputs:
            stride = spec.locations.strides[output.level or 0]
            rows = whole[output.parts[0]][starts[output.level] : starts[output.level + 1]]
            outputs[output.tensor] = rows.reshape(1, HEIGHT // stride, WIDTH // stride, -1).astype(np.float32)
        return outputs

    return make


@pytest.fixture
def make_network() -> Callable[[Contract], Any]:
    return small


def small(contract: Contract) -> Any:
    """A network with the outputs of the contract and hardly any layers."""
    import keras
    from keras import layers

    image = keras.Input((96, 128, 3), name="image")
    x, outputs = image, {}
    sizes: dict[str, int] = {"box": 4, "objectness": 1}
    spec = contract.detector
    assert spec is not None
    sizes["class"] = 3 + (spec.scores.background != "none")
    for stride, channels in ((2, 16), (4, 24), (8, 48), (16, 64), (32, 64)):
        x = layers.Conv2D(channels, 3, 2, "same", activation="relu")(x)
        for output in contract.outputs:
            if spec.locations.strides[output.level or 0] == stride:
                part = output.parts[0]
                numbers = sizes[part] * spec.locations.per_cell(output.level or 0)
                start = keras.initializers.Constant(-3.0 if part == "objectness" else 0.0)
                y = layers.Conv2D(48, 3, padding="same", activation="relu")(x)
                outputs[output.tensor] = layers.Conv2D(numbers, 1, bias_initializer=start)(y)
    return keras.Model(image, {output.tensor: outputs[output.tensor] for output in contract.outputs})
