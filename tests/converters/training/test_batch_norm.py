"""Batch-norm statistics that lag behind are noticed, and re-estimated without touching a weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.batch_norm import (
    REESTIMATION_BATCHES,
    batch_norm_lag,
    reestimate_batch_norm,
    set_batch_norm_momentum,
)
from edgeloc.converters.training.backbones import NetworkConfig
from edgeloc.converters.training.network import build_network


def batches(count: int) -> list[np.ndarray]:
    """Normalized images of coarse patches, as different from each other as photos are."""
    rng = np.random.default_rng(0)
    coarse = [rng.normal(0.2, 0.5, (16, 8, 8, 3)).astype(np.float32) for _ in range(count)]
    return [np.clip(patches, -1, 1).repeat(8, axis=1).repeat(8, axis=2) for patches in coarse]


@pytest.fixture(scope="module")
def network() -> Any:
    """The reference network, fresh: its moving statistics are those of no image at all."""
    import keras

    keras.utils.set_random_seed(1)
    built = build_network(NetworkConfig("MobileNetV2", 0.35, 64, "grid", "none"), 3)
    set_batch_norm_momentum(built, 0.999)  # as keras.applications ships it: a short training never catches up
    return built


def momenta(network: Any) -> list[float]:
    import keras

    return [layer.momentum for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]


def test_the_momentum_is_set_everywhere_or_for_each(make_network: Callable[..., Any]) -> None:
    import keras

    built = make_network(keras.layers.BatchNormalization())
    set_batch_norm_momentum(built, 0.9)
    assert momenta(built) == [0.9, 0.9]
    set_batch_norm_momentum(built, [0.5, 0.6])
    assert momenta(built) == [0.5, 0.6]


def flat(outputs: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in outputs.items()}


def test_inference_agrees_with_batch_statistics_after_reestimation(network: Any) -> None:
    images = np.concatenate(batches(4))
    before = batch_norm_lag(network, images)
    weights = [np.asarray(v) for v in network.trainable_variables]
    reestimate_batch_norm(network, batches(REESTIMATION_BATCHES))
    after = batch_norm_lag(network, images)
    assert before > 1
    assert after < before / 2  # fifty random layers magnify what little is left
    assert all(np.array_equal(a, b) for a, b in zip(weights, network.trainable_variables, strict=True))
    assert set(momenta(network)) == {0.999}


def test_statistics_of_another_world_are_forgotten() -> None:
    """A network in the middle of which activations are far smaller, or larger, than its statistics say."""
    import keras

    image = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(8, 3, 4)(image)
    for scale in (0.01, 1.0, 100.0):
        x = keras.layers.Conv2D(
            12, 1, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=scale)
        )(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.999)(x))
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    network = keras.Model(image, {"box": keras.layers.Dense(4)(pooled)})
    images = np.concatenate(batches(8))
    before = batch_norm_lag(network, images)
    reestimate_batch_norm(network, batches(REESTIMATION_BATCHES))
    assert before > 0.6
    assert batch_norm_lag(network, images) < 0.1


def test_measuring_the_lag_changes_nothing(network: Any) -> None:
    images = batches(1)[0]
    before = [np.asarray(v) for v in network.variables]
    settled = flat(network(images, training=False))
    batch_norm_lag(network, images)
    assert all(np.array_equal(a, b) for a, b in zip(before, network.variables, strict=True))
    again = flat(network(images, training=False))
    assert all(np.array_equal(settled[name], again[name]) for name in settled)


@pytest.mark.parametrize("form", ["list", "single"])
def test_networks_with_unnamed_outputs_are_measured_too(form: str, make_network: Callable[..., Any]) -> None:
    images = np.random.default_rng(0).normal(0.5, 0.2, (8, 32, 32, 3)).astype(np.float32)
    assert batch_norm_lag(make_network(form=form), images) > 0


def test_an_output_that_never_changes_has_no_lag(make_network: Callable[..., Any]) -> None:
    images = np.random.default_rng(0).normal(0.5, 0.2, (8, 32, 32, 3)).astype(np.float32)
    assert np.isfinite(batch_norm_lag(make_network(dead=True), images))


def test_a_network_without_batch_norm_does_not_lag() -> None:
    import keras

    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image)))
    assert batch_norm_lag(network, np.random.default_rng(0).random((4, 8, 8, 3), np.float32)) == 0
