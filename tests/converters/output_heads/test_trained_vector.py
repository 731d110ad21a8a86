"""The textbook vector, trained as one output of logits: what int8 costs it before and after its head is repaired."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.output_heads.diagnosis import diagnose
from edgeloc.converters.output_heads.repair import repair_head
from edgeloc.converters.quantization.quantize import quantize, recipe
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Box, Pixels

SIDE = 64
TRAIN, HELD_OUT = 1200, 300
Drawn = list[tuple[Pixels, Box | None]]


def arrays(drawings: Drawn, contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """Images as the model sees them, and the targets [pc, cx, cy, h, w, class]."""
    preprocess = Preprocessor(contract.input, np.dtype(np.float32), None, None)
    images, targets = [], []
    for index, (pixels, box) in enumerate(drawings):
        tensor, placement = preprocess(pixels)
        images.append(tensor[0].copy())
        x1, y1, x2, y2 = (0.0,) * 4 if box is None else np.array(placement.to_input(box)) / SIDE
        targets.append([box is not None, (x1 + x2) / 2, (y1 + y2) / 2, y2 - y1, x2 - x1, index % 3])
    return np.stack(images), np.array(targets, np.float32)


def trained(images: np.ndarray, targets: np.ndarray) -> Any:
    import keras
    from keras import layers, ops

    def loss(wanted: Any, got: Any) -> Any:
        presence = ops.binary_crossentropy(wanted[:, :1], got[:, :1], from_logits=True)[:, 0]
        box = ops.sum(ops.abs(wanted[:, 1:5] - ops.sigmoid(got[:, 1:5])), axis=-1)
        label = ops.sparse_categorical_crossentropy(ops.cast(wanted[:, 5], "int32"), got[:, 5:], from_logits=True)
        # The object is easy to see: presence grows sure, and its logits with it.
        return 3 * presence + wanted[:, 0] * (10 * box + 0.1 * label)

    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    x = image
    for channels in (12, 24, 32):
        x = layers.Conv2D(channels, 3, 2, "same", activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    network = keras.Model(image, {"vector": layers.Dense(8, name="vector")(x)})
    network.compile(keras.optimizers.Adam(2e-3), loss={"vector": loss})
    network.fit(images, {"vector": targets}, batch_size=32, epochs=12, verbose=0)
    network.optimizer.learning_rate.assign(2e-4)
    network.fit(images, {"vector": targets}, batch_size=32, epochs=4, verbose=0)
    return network


def mean_iou(flatbuffer: bytes, contract: Contract, drawings: Drawn) -> float:
    shown = dataclasses.replace(contract, thresholds=dataclasses.replace(contract.thresholds, presence=0.0))
    localizer = Localizer(ModelFile(Path("memory"), flatbuffer, "tflite", contract=shown, trusted=True))
    ious = []
    for pixels, truth in drawings:
        if truth is not None:
            box = localizer(pixels).box
            assert box is not None
            ious.append(truth.iou(box))
    return float(np.mean(ious))


@pytest.mark.slow
def test_a_repaired_head_keeps_at_most_a_fifth_of_the_drop(
    make_drawn: Callable[..., tuple[Pixels, Box | None]],
    make_contract: Callable[..., Contract],
    to_float: Callable[..., bytes],
) -> None:
    contract = make_contract()
    contract = dataclasses.replace(contract, input=dataclasses.replace(contract.input, width=SIDE, height=SIDE))
    drawings = [make_drawn(i, (128, 128), empty=i % 4 == 3) for i in range(TRAIN + HELD_OUT)]
    images, targets = arrays(drawings[:TRAIN], contract)
    flatbuffer = to_float(trained(images, targets), SIDE)
    held_out = drawings[TRAIN:]
    exact = mean_iou(flatbuffer, contract, held_out)
    assert exact > 0.6

    def drop(model: bytes, described: Contract) -> float:
        quantized = quantize(model, recipe("int8"), described.input, images[:100])
        return exact - mean_iou(quantized, described, held_out)

    finding = diagnose(flatbuffer, contract, images[:100])[0].finding
    before = drop(flatbuffer, contract)
    repaired, described, _ = repair_head(flatbuffer, contract, images)
    after = drop(repaired, described)
    assert finding.code == "head-shares-scale"
    assert before > 0.003
    assert after <= before / 5
