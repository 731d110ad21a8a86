"""Moving statistics of batch norm: bringing them up to date, and telling how far they lag behind."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

__all__ = ["MOMENTUM", "batch_norm_lag", "reestimate_batch_norm", "set_batch_norm_momentum"]

# At 0.95 the statistics forget a batch after about 20 others, so 90 leave 1 % of the first.
MOMENTUM = 0.95
REESTIMATION_BATCHES = 90


def _layers(network: keras.Model) -> list[Any]:
    return [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]


def set_batch_norm_momentum(network: keras.Model, momentum: float | Sequence[float]) -> None:
    """Set the momentum of every batch norm, or one for each: MobileNetV2's 0.999 leaves the statistics behind."""
    layers = _layers(network)
    momenta = momentum if isinstance(momentum, Sequence) else [momentum] * len(layers)
    for layer, value in zip(layers, momenta, strict=True):
        layer.momentum = value


def reestimate_batch_norm(network: keras.Model, batches: Iterable[Any]) -> None:
    """Replace the moving statistics by those of `batches` (normalized images), forward only; weights stay."""
    import tensorflow as tf

    before = [layer.momentum for layer in _layers(network)]
    remaining = iter(batches)
    # The first batch takes the place of what was there: 1 % of a variance of 1 is much where the true one is 0.01.
    set_batch_norm_momentum(network, 0.0)
    for images in itertools.islice(remaining, 1):
        network(tf.convert_to_tensor(images), training=True)
    set_batch_norm_momentum(network, MOMENTUM)
    # Traced anew, because a graph made earlier holds the momentum of then.
    forward = tf.function(lambda images: network(images, training=True))
    for images in remaining:
        forward(tf.convert_to_tensor(images))
    set_batch_norm_momentum(network, before)


def batch_norm_lag(network: keras.Model, images: Any) -> float:
    """How far the outputs in inference mode are from those with the batch's own statistics.

    The mean absolute difference over all outputs, relative to each output's standard deviation
    over the batch: 0.2 to 0.3 for the model that ships, 1.3 for the same one when 30 % of its
    statistics are still those from before training.
    The network's variables come back unchanged.
    """
    kept = [variable.numpy() for variable in network.non_trainable_variables]
    settled = _flat(network(images, training=False))
    fresh = _flat(network(images, training=True))
    for variable, value in zip(network.non_trainable_variables, kept, strict=True):
        variable.assign(value)
    # An output that never changes has no deviation to measure by; the converter refuses it for that.
    gaps = [np.abs(a - b).mean() / b.std() for a, b in zip(settled, fresh, strict=True) if b.std() > 0]
    return float(np.mean(gaps)) if gaps else 0.0


def _flat(outputs: Any) -> list[Any]:
    """Outputs as arrays, whether the network gives one, a list, or a dict by name."""
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]
