"""A network with everything that the way to TensorRT must get right, as a float flatbuffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloc.model.contract import InputSpec

SIDE = 32


@pytest.fixture(scope="session")
def flatbuffer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Residual sums of both kinds, depthwise and strided convolutions, a resize, a dense layer behind a fused reshape.

    In: `image` (1, 32, 32, 3). Out: `presence` (1, 1), `class` (1, 3), `box` (1, 4), all logits, the class's
    the sum of two layers.
    """
    tensorflow = pytest.importorskip("tensorflow")
    path = tmp_path_factory.mktemp("network") / "network.keras"
    network = _network()
    network.save(path)
    del tensorflow
    from edgeloc.converters.sources.tensorflow import KerasSource

    return KerasSource(path).to_tflite(InputSpec("image", SIDE, SIDE))


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    """Normalized inputs with smooth shapes in them, (24, 32, 32, 3)."""
    rng = np.random.default_rng(4)
    coarse = rng.uniform(-0.8, 0.8, (24, 4, 4, 3))
    return np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.float32)


def _network() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(11)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(16, 3, 2, "same", use_bias=False)(image)))
    y = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same")(x))
    x = layers.Add()([x, layers.Conv2D(16, 1, bias_initializer="normal")(y)])
    x = layers.Add()([layers.Conv2D(24, 1)(x), layers.Conv2D(24, 3, padding="same")(x)])
    small = layers.Conv2D(24, 3, 2, "same", activation="relu")(x)
    x = layers.Add()([x, layers.UpSampling2D(2, interpolation="bilinear")(small)])
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(32, 1, activation="relu")(x))
    peak = layers.Flatten()(layers.MaxPooling2D(16)(x))
    classes = layers.Add(name="class")([layers.Dense(3)(pooled), layers.Dense(3, bias_initializer="ones")(peak)])
    outputs = {
        "presence": layers.Dense(1, bias_initializer="ones", name="presence")(peak),
        "class": classes,
        "box": layers.Dense(4, name="box")(pooled),
    }
    return keras.Model(image, outputs)
