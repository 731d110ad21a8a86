"""Bias correction: weights stand on their int8 grid, and every layer's channel means are the float network's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeloc.converters import bias_correction
from edgeloc.converters.bias_correction import correct_biases


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(2)
    patches = np.clip(rng.normal(0.2, 0.5, (32, 8, 8, 3)), -1, 1).astype(np.float32)
    return patches.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture
def network(make_network: Callable[..., Any]) -> Any:
    """A network whose batch norm has statistics, gains and shifts of its own."""
    built = make_network()
    norm, rng = built.get_layer("stem_bn"), np.random.default_rng(3)
    norm.gamma.assign(rng.uniform(0.5, 2, 16))
    norm.beta.assign(rng.normal(0, 0.5, 16))
    norm.moving_mean.assign(rng.normal(0, 0.2, 16))
    norm.moving_variance.assign(rng.uniform(0.1, 2, 16))
    return built


def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of 3 bits instead of 8, on which rounding does damage that a test can see."""
    monkeypatch.setattr(bias_correction, "_LEVELS", 3)


def channel_means(network: Any, name: str, images: np.ndarray) -> np.ndarray:
    import keras

    part = keras.Model(network.inputs[0], network.get_layer(name).output)
    values = np.asarray(part(images, training=False))
    return values.mean(axis=tuple(range(values.ndim - 1)))


def only_rounded(network: Any, corrected: Any) -> Any:
    """The corrected network with the biases of the original: what rounding alone does."""
    import keras

    plain = keras.models.clone_model(corrected)
    plain.set_weights(corrected.get_weights())
    for layer in network.layers:
        other = plain.get_layer(layer.name)
        if getattr(layer, "bias", None) is not None:
            other.bias.assign(layer.bias)
        if isinstance(layer, keras.layers.BatchNormalization):
            other.beta.assign(layer.beta)
    return plain


def test_channel_means_are_those_of_the_float_network(
    network: Any, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse(monkeypatch)
    corrected = correct_biases(network, images)
    rounded = only_rounded(network, corrected)
    for name in ("stem_bn", "depth", "presence", "class", "box"):
        wanted = channel_means(network, name, images)
        off = np.abs(channel_means(rounded, name, images) - wanted).max()
        left = np.abs(channel_means(corrected, name, images) - wanted).max()
        assert off > 0.002, name
        assert left < 1e-4, name


def test_on_the_grid_of_int8_the_correction_is_small(network: Any, images: np.ndarray) -> None:
    corrected = correct_biases(network, images)
    for name, values in network(images).items():
        assert np.asarray(corrected(images)[name]) == pytest.approx(np.asarray(values), abs=0.05)


@pytest.mark.parametrize(("name", "norm"), [("stem", "stem_bn"), ("depth", None), ("point", None), ("box", None)])
def test_kernels_stand_on_the_grid(network: Any, images: np.ndarray, name: str, norm: str | None) -> None:
    corrected = correct_biases(network, images)
    kernel = np.asarray(corrected.get_layer(name).kernel)
    if name == "depth":
        kernel = kernel.reshape(*kernel.shape[:2], -1)
    if norm is not None:  # as the converter will fold it
        layer = corrected.get_layer(norm)
        kernel = kernel * np.asarray(layer.gamma) / np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
    axes = tuple(range(kernel.ndim - 1))
    steps = kernel / (np.abs(kernel).max(axis=axes) / 127)
    assert steps == pytest.approx(np.round(steps), abs=2e-3)
    original = np.asarray(network.get_layer(name).kernel)
    assert np.asarray(corrected.get_layer(name).kernel) == pytest.approx(
        original, abs=float(np.abs(original).max()) / 100
    )


def test_the_network_itself_is_left_alone(network: Any, images: np.ndarray) -> None:
    before = [np.array(weights) for weights in network.get_weights()]
    outputs = {name: np.array(values) for name, values in network(images).items()}
    correct_biases(network, images)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    assert all(np.array_equal(outputs[name], values) for name, values in network(images).items())


def test_a_layer_without_bias_is_only_rounded(images: np.ndarray) -> None:
    import keras
    from keras import layers

    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(6, 3, use_bias=False, name="bare")(image)
    x = layers.BatchNormalization(center=False, name="flat")(layers.Conv2D(6, 1, name="before")(layers.ReLU()(x)))
    network = keras.Model(image, {"box": layers.Dense(4, name="box")(layers.GlobalAveragePooling2D()(x))})
    corrected = correct_biases(network, images)
    assert corrected.get_layer("bare").bias is None
    assert not np.array_equal(corrected.get_layer("bare").kernel, network.get_layer("bare").kernel)
    assert channel_means(corrected, "box", images) == pytest.approx(channel_means(network, "box", images), abs=1e-4)


def test_a_channel_of_zeros_stays_one(network: Any, images: np.ndarray) -> None:
    kernel = network.get_layer("stem").kernel.numpy()
    kernel[..., 4] = 0
    network.get_layer("stem").kernel.assign(kernel)
    corrected = correct_biases(network, images)
    assert np.isfinite(np.asarray(corrected(images)["box"])).all()
    assert not np.asarray(corrected.get_layer("stem").kernel)[..., 4].any()
