"""Bias correction before quantization: weights on their int8 grid, then each layer's channel means put back.

Rounding weights shifts the mean of every channel a little, and the shifts add up on the way to the
box. Matching the means to the float network's on some images takes most of that back and costs the
device nothing (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", 2019, section 4.2, with measured means).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

__all__ = ["correct_biases"]

_WEIGHTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
_LEVELS = 127

Array = NDArray[np.float32]


def correct_biases(network: keras.Model, images: Array) -> keras.Model:
    """A copy of `network` whose int8 quantization keeps the channel means of the float original.

    `images` are normalized model inputs, float32 (n, height, width, channels); 64 are enough.
    Works on functional networks of convolutions and dense layers, each with a bias or followed by
    a batch norm; a layer with neither is only rounded.
    """
    corrected = keras.models.clone_model(network)
    corrected.set_weights(network.get_weights())
    pairs = [(layer, _batch_norm_after(layer)) for layer in corrected.layers if isinstance(layer, _WEIGHTED)]
    wanted = _channel_means(network, [(norm or layer).name for layer, norm in pairs], images)
    for layer, norm in pairs:
        _round_weights(layer, norm)
    biases = {(norm or layer).name: norm.beta if norm is not None else layer.bias for layer, norm in pairs}
    biases = {name: bias for name, bias in biases.items() if bias is not None}

    def correct(name: str, output: Any) -> Any:
        # A bias shifts the output by as much, so the layers behind see the corrected one in the same pass.
        shift = wanted[name] - _means(output)
        biases[name].assign_add(shift)
        return output + shift

    with _watched(corrected, list(biases), correct):
        corrected(images, training=False)
    return corrected


def _batch_norm_after(layer: Any) -> Any | None:
    """The batch norm that the converter will fold into `layer`: its only consumer."""
    consumers = [node.operation for node in layer._outbound_nodes]
    if len(consumers) == 1 and isinstance(consumers[0], keras.layers.BatchNormalization):
        return consumers[0]
    return None


def _round_weights(layer: Any, norm: Any | None) -> None:
    """Put the kernel on the grid that it will have once the batch norm is folded into it."""
    kernel = np.asarray(layer.kernel)
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    shape = (*kernel.shape[:2], -1) if depthwise else kernel.shape
    flat = kernel.reshape(shape)
    gain = np.ones(flat.shape[-1], np.float32)
    if norm is not None:
        scale = np.asarray(norm.gamma) if norm.scale else 1.0
        gain = scale / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    folded = flat * gain
    step = np.abs(folded).max(axis=tuple(range(folded.ndim - 1))) / _LEVELS
    usable = (step > 0) & (np.abs(gain) > 0)
    safe_step, safe_gain = np.where(usable, step, 1.0), np.where(usable, gain, 1.0)
    rounded = np.round(folded / safe_step) * safe_step / safe_gain
    layer.kernel.assign(np.where(usable, rounded, flat).reshape(kernel.shape))


def _channel_means(network: keras.Model, names: list[str], images: Array) -> dict[str, Array]:
    """The mean of each named layer's output over images and positions, by channel."""
    means: dict[str, Array] = {}

    def note(name: str, output: Any) -> Any:
        means[name] = _means(output)
        return output

    with _watched(network, names, note):
        network(images, training=False)
    return means


def _means(output: Any) -> Array:
    values = np.asarray(output)
    return np.asarray(values.mean(axis=tuple(range(values.ndim - 1)), dtype=np.float32))


@contextmanager
def _watched(network: keras.Model, names: list[str], visit: Callable[[str, Any], Any]) -> Iterator[None]:
    """Inside, what each named layer adds up goes through `visit(name, output)` before its activation."""
    layers = [network.get_layer(name) for name in names]
    for layer in layers:
        layer.call = _visited(layer, visit)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _visited(layer: Any, visit: Callable[[str, Any], Any]) -> Callable[..., Any]:
    call, activation = layer.call, getattr(layer, "activation", None)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if activation is None:
            return visit(layer.name, call(*args, **kwargs))
        # Behind a ReLU a bias no longer shifts the mean by as much. Past Keras's own setter, which tracks layers.
        object.__setattr__(layer, "activation", None)
        try:
            return activation(visit(layer.name, call(*args, **kwargs)))
        finally:
            object.__setattr__(layer, "activation", activation)

    return wrapper
