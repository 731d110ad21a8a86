"""Batch-norm statistics that lag behind the weights: measuring the lag, and re-estimating them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.data import Sample
from edgeloc.data.sample import spread
from edgeloc.errors import DataError
from edgeloc.evaluation.pairing import side_in_memory
from edgeloc.findings import Finding
from edgeloc.model.contract import Contract

__all__ = ["MOMENTUM", "batch_norm_lag", "check_batch_norm", "reestimate_batch_norm", "set_batch_norm_momentum"]

logger = logging.getLogger(__name__)

# At 0.95 the statistics forget a batch after about 20 others, so 90 leave 1 % of the first.
MOMENTUM = 0.95
REESTIMATION_BATCHES = 90
_IMAGES = 64
# Statistics that are up to date give 0.2 to 0.3 here, ones that lag above 1.
_LIMIT = 0.6
_BATCH = 32
_MEASURED = 300


def _layers(network: keras.Model) -> list[Any]:
    """Its batch norms, those of networks within it too."""
    inner = [_layers(layer) if isinstance(layer, keras.Model) else [layer] for layer in network.layers]
    return [layer for found in inner for layer in found if isinstance(layer, keras.layers.BatchNormalization)]


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
        network(tf.nest.map_structure(tf.convert_to_tensor, images), training=True)
    set_batch_norm_momentum(network, MOMENTUM)
    # Traced again, because a graph made earlier holds the momentum of then.
    forward = tf.function(lambda images: network(images, training=True))
    for images in remaining:
        forward(tf.nest.map_structure(tf.convert_to_tensor, images))
    set_batch_norm_momentum(network, before)


def batch_norm_lag(network: keras.Model, images: Any) -> float:
    """How far the outputs in inference mode are from those with the batch's own statistics.

    The mean absolute difference over all outputs, relative to each output's standard deviation
    over the batch: 0.2 to 0.3 for the model that ships, 1.3 for the same one when 30 % of its
    statistics are still those from before training.
    The network's variables come back unchanged.
    """
    kept = [variable.numpy() for variable in network.non_trainable_variables]
    moving = _flat(network(images, training=False))
    own = _flat(network(images, training=True))
    for variable, value in zip(network.non_trainable_variables, kept, strict=True):
        variable.assign(value)
    # An output that never changes has no deviation to measure by; the converter refuses it for that.
    gaps = [np.abs(a - b).mean() / b.std() for a, b in zip(moving, own, strict=True) if b.std() > 0]
    return float(np.mean(gaps)) if gaps else 0.0


def _flat(outputs: Any) -> list[Any]:
    """Outputs as arrays, whether the network gives one, a list, or a dict by name."""
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def check_batch_norm(
    source: KerasSource, contract: Contract, images: NDArray[np.float32], samples: Sequence[Sample], *, repair: bool
) -> Finding | None:
    """Whether the statistics of a network lag behind its weights; with `repair` they are re-estimated.

    Parameters:
        source: the network, which is changed only in memory.
        contract: its contract.
        images: normalized calibration images, from which statistics are taken.
        samples: up to 300 labelled ones measure the mean IoU of the network before and after a repair.
        repair: re-estimate statistics that lag.

    Raises ContractError where the contract's image is not the network's.
    """
    source.check_input(contract.input)
    lag = batch_norm_lag(source.network, images[:_IMAGES])
    if lag <= _LIMIT:
        if repair:
            logger.info("the batch-norm statistics are up to date: they stay as they are")
        return None
    message = (
        f"the batch-norm statistics lag behind the weights (outputs differ by {lag:.2f} standard deviations from "
        "those with the images' own statistics)"
    )
    if not repair:
        fix = "the network is better than it looks: re-estimate them with {repair_batch_norm}"
        return Finding("batch-norm-lags", "warning", message, fix)
    labelled = spread([sample for sample in samples if sample.box is not None], _MEASURED)
    before = _mean_iou(source, contract, labelled)
    rng = np.random.default_rng(0)
    batches = (images[rng.choice(len(images), min(_BATCH, len(images)))] for _ in range(REESTIMATION_BATCHES))
    reestimate_batch_norm(source.network, batches)
    after = _mean_iou(source, contract, labelled)
    message += ", and were re-estimated from the calibration images"
    if before is not None and after is not None:
        figures = f"{before:.3f} before, {after:.3f} after"
        message += f"; mean IoU of the float network on {len(labelled)} labelled images: {figures}"
    return Finding("batch-norm-repaired", "note", message)


def _mean_iou(source: KerasSource, contract: Contract, samples: list[Sample]) -> float | None:
    side = side_in_memory(Path(source.name).name, source.to_tflite(contract.input), contract)
    ious = []
    for sample in samples:
        try:
            box = side.answer(sample.load()).box
        except DataError:
            continue  # reported, or refused, where the images are used
        ious.append(sample.box.iou(box) if sample.box and box else 0.0)
    return float(np.mean(ious)) if ious else None
