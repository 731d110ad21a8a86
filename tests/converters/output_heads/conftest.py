"""Small networks whose one output mixes presence, box and classes, in each way that people join them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from edgeloc.model.contract import Activation, Contract, InputSpec, OutputSpec

pytest.importorskip("tensorflow")

SIDE = 32
LABELS = ("bolt", "nut", "washer")
TEXTBOOK = ("presence", "cx", "cy", "h", "w", "class:0", "class:1", "class:2")


@pytest.fixture
def images() -> np.ndarray:
    patches = np.random.default_rng(0).uniform(-1, 1, (16, 8, 8, 3)).astype(np.float32)
    return patches.repeat(4, axis=1).repeat(4, axis=2)


def vector_contract(
    activation: Activation = "sigmoid", classes: Activation = "softmax", slots: tuple[str, ...] = TEXTBOOK
) -> Contract:
    output = OutputSpec("vector", "vector", activation, slots, classes)
    return Contract(InputSpec("image", SIDE, SIDE), (output,), labels=LABELS)


@pytest.fixture
def make_contract() -> Callable[..., Contract]:
    return vector_contract


def dense(units: int, scale: float = 1.0, **options: Any) -> Any:
    from keras import initializers, layers

    start = initializers.VarianceScaling(scale**2, "fan_avg", "uniform")
    return layers.Dense(units, kernel_initializer=start, bias_initializer=start_bias(), **options)


def start_bias() -> Any:
    from keras import initializers

    return initializers.RandomNormal(stddev=0.3)


def joined_as_logits(pooled: Any, hidden: Any) -> Any:
    return dense(8)(hidden)


def of_three_layers(pooled: Any, hidden: Any) -> Any:
    from keras import layers

    return layers.Concatenate()([dense(1, 30)(pooled), dense(4)(hidden), dense(3, 8)(pooled)])


def activated_slices(pooled: Any, hidden: Any) -> Any:
    from keras import layers

    z = dense(8)(hidden)
    return layers.Concatenate()([layers.Activation("sigmoid")(z[:, :5]), layers.Softmax()(z[:, 5:])])


def activated_layers(pooled: Any, hidden: Any) -> Any:
    from keras import layers

    both = layers.Activation("sigmoid")(layers.Concatenate()([dense(1, 30)(pooled), dense(4)(hidden)]))
    return layers.Concatenate()([both, dense(3, activation="softmax")(pooled)])


def all_sigmoid(pooled: Any, hidden: Any) -> Any:
    return dense(8, activation="sigmoid")(hidden)


def convolved(pooled: Any, hidden: Any) -> Any:
    from keras import layers

    row = layers.Reshape((1, 1, 24))(hidden)
    return layers.Flatten()(layers.Conv2D(8, 1, bias_initializer=start_bias())(row))


def number_by_number(pooled: Any, hidden: Any) -> Any:
    from keras import layers

    return layers.Concatenate()([dense(1)(hidden) for _ in range(8)])


def added(pooled: Any, hidden: Any) -> Any:
    from keras import layers

    return layers.Add()([dense(8)(pooled), dense(8)(hidden)]) * np.linspace(0.5, 2, 8, dtype=np.float32)


# How the vector is made, and what the host applies to presence and box, and to the classes.
HEADS: dict[str, tuple[Callable[[Any, Any], Any], Activation, Activation]] = {
    made.__name__: (made, *activations)
    for made, activations in (
        (joined_as_logits, ("sigmoid", "softmax")),
        (of_three_layers, ("sigmoid", "softmax")),
        (activated_slices, ("none", "none")),
        (activated_layers, ("none", "none")),
        (all_sigmoid, ("none", "none")),
        (convolved, ("sigmoid", "softmax")),
        (number_by_number, ("sigmoid", "softmax")),
        (added, ("sigmoid", "softmax")),
    )
}


def build(outputs: Callable[[Any, Any], dict[str, Any]]) -> Any:
    """A small convolutional network; `outputs(pooled, hidden)` gives what leaves it, by name."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(4)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Conv2D(16, 3, 2, "same", activation="relu")(image)
    x = layers.Conv2D(32, 3, 2, "same", activation="relu")(x)
    pooled = layers.GlobalAveragePooling2D()(x)
    hidden = layers.Dense(24, activation="relu")(pooled)
    return keras.Model(image, outputs(pooled, hidden))


@pytest.fixture
def make_dense() -> Callable[..., Any]:
    return dense


@pytest.fixture
def build_network() -> Callable[..., Any]:
    return build


@pytest.fixture(scope="session")
def to_float(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """A Keras network as a float flatbuffer."""
    from edgeloc.converters.sources.tensorflow import KerasSource

    path = tmp_path_factory.mktemp("heads") / "network.keras"

    def convert(network: Any, side: int = SIDE) -> bytes:
        network.save(path)
        return KerasSource(path, network).to_tflite(InputSpec("image", side, side))

    return convert


@pytest.fixture(scope="session")
def make_head(to_float: Callable[..., bytes]) -> Callable[[str], tuple[bytes, Contract]]:
    """A head of HEADS by its name: the float flatbuffer and its contract."""

    @lru_cache
    def make(name: str) -> tuple[bytes, Contract]:
        head, activation, classes = HEADS[name]
        network = build(lambda pooled, hidden: {"vector": head(pooled, hidden)})
        return to_float(network), vector_contract(activation, classes)

    return make
