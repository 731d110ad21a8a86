"""Tiny networks and drawn images that the tests of converting and training share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.data import Dataset, Sample
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.types import Box, LabelledBox, Pixels

pytest.importorskip("tensorflow")

SIDE = 32
LABELS = ("bolt", "nut", "washer")


def drawn(index: int, size: tuple[int, int] = (96, 64), *, empty: bool = False) -> tuple[Pixels, Box | None]:
    """A dark image (BGR uint8) with one bright rectangle at whole pixels, and its box."""
    rng = np.random.default_rng(index)
    width, height = size
    pixels = rng.integers(0, 40, (height, width, 3)).astype(np.uint8)
    if empty:
        return pixels, None
    w, h = int(rng.integers(width // 6, width // 3)), int(rng.integers(height // 6, height // 3))
    x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
    cv2.rectangle(pixels, (x, y), (x + w - 1, y + h - 1), (235, 235, 235), -1)
    return pixels, Box(x, y, x + w, y + h)


def _pixels(index: int, size: tuple[int, int], empty: bool) -> Pixels:
    return drawn(index, size, empty=empty)[0]


def drawn_sample(index: int, size: tuple[int, int] = (96, 64), *, empty: bool = False, **changes: Any) -> Sample:
    box = drawn(index, size, empty=empty)[1]
    values: dict[str, Any] = {"label": LABELS[index % 3], "group": f"clip{index % 4}", **changes}
    objects = () if box is None else (LabelledBox(box, values["label"]),)
    del values["label"]
    read = values.pop("read", partial(_pixels, index, size, empty))
    return Sample(f"image-{index:03}", objects, read=read, **values)


@pytest.fixture
def make_drawn() -> Callable[..., tuple[Pixels, Box | None]]:
    return drawn


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    return drawn_sample


@pytest.fixture
def samples() -> list[Sample]:
    """Sixteen drawn images in four clips; every eighth holds nothing."""
    return [drawn_sample(i, empty=i % 8 == 7) for i in range(16)]


@pytest.fixture
def dataset(samples: list[Sample]) -> Dataset:
    return Dataset("drawn", "drawn", LABELS, tuple(samples), (), ("train",), "train")


@pytest.fixture
def contract() -> Contract:
    """The contract of the small network: presence, class and box, all logits."""
    return Contract(
        InputSpec("image", SIDE, SIDE),
        (
            OutputSpec("presence", "presence", "sigmoid"),
            OutputSpec("class", "class", "softmax"),
            OutputSpec("box", "box", "sigmoid"),
        ),
        labels=LABELS,
    )


@pytest.fixture
def box_contract() -> Contract:
    """The contract of a network that gives nothing but a box."""
    return Contract(InputSpec("image", SIDE, SIDE), (OutputSpec("box", "box", "sigmoid"),))


def small_network(between: Callable[[Any], Any] = lambda x: x, *, dead: bool = False, form: str = "dict") -> Any:
    """Convolutions with and without batch norm and bias under three heads; `between` goes amid them.

    `form` is how the outputs leave: as a dict, as a list, or the box alone.
    """
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Conv2D(16, 3, 2, "same", use_bias=False, name="stem")(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="stem_bn")(x))
    x = between(layers.DepthwiseConv2D(3, padding="same", name="depth")(x))
    x = layers.Conv2D(96, 1, activation="relu", name="point")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    start = "zeros" if dead else "glorot_uniform"
    outputs = {
        "presence": layers.Dense(1, kernel_initializer=start, name="presence")(x),
        "class": layers.Dense(3, name="class")(x),
        "box": layers.Dense(4, name="box")(x),
    }
    if form == "dict":
        return keras.Model(image, outputs)
    return keras.Model(image, outputs["box"] if form == "single" else list(outputs.values()))


@pytest.fixture
def make_network() -> Callable[..., Any]:
    return small_network


@pytest.fixture
def save_keras(tmp_path: Path, contract: Contract) -> Callable[..., Path]:
    """Save a network with the contract inside, and give the path."""
    from edgeloc.converters.sources.tensorflow import save_network

    def save(network: Any, name: str = "model.keras", changed: Contract | None = None) -> Path:
        save_network(tmp_path / name, network, changed or contract)
        return tmp_path / name

    return save
