"""Tiny models for tests of the runtime: one whose outputs are out of order, one with a grid head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc import Box, Contract, Golden, InputSpec, OutputSpec, write_model
from edgeloc.model.contract import BoxEncoding

SIDE = 32
LABELS = ("bolt", "nut", "washer")


@pytest.fixture(scope="session")
def grid_contract() -> Contract:
    """The contract of `grid_model`: 32x32 RGB, letterboxed, three labels."""
    return Contract(
        input=InputSpec("image", SIDE, SIDE),
        outputs=(
            OutputSpec("presence", "presence", "sigmoid"),
            OutputSpec("class", "class", "softmax"),
            OutputSpec("weights", "grid-weights"),
            OutputSpec("distances", "grid-distances"),
        ),
        box=BoxEncoding("grid"),
        labels=LABELS,
    )


@pytest.fixture(scope="session")
def grid_flatbuffer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An int8 model (uint8 in, int8 out) that finds the brightest spot of an image, with a grid head of 8 x 8 cells."""
    tf = pytest.importorskip("tensorflow")

    def network(image: Any) -> dict[str, Any]:
        light = tf.reduce_mean(tf.nn.avg_pool2d(image, 4, 4, "VALID"), axis=-1, keepdims=True)
        brightest = tf.reduce_max(light, axis=[1, 2])
        return {
            "weights": light * 12.0,
            "presence": brightest * 6.0,
            "distances": tf.concat([light * 0.5 - 2.2] * 4, axis=-1),
            "class": tf.concat([brightest * 3.0, brightest, brightest * -2.0], axis=-1),
        }

    rng = np.random.default_rng(3)
    images = [*(_spot(rng) for _ in range(16)), np.full((1, SIDE, SIDE, 3), -1, np.float32)]
    return _convert(tf, network, tmp_path_factory.mktemp("grid"), images)


@pytest.fixture(scope="session")
def grid_model(grid_flatbuffer: bytes, grid_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid model as a file, with its contract and a self-test that it passes."""
    image = np.full((48, 64, 3), 20, np.uint8)
    image[16:24, 32:40] = 250
    golden = Golden(image, 0.997, Box(27, 11, 45, 29), "bolt", box_px=4.0)
    path = tmp_path_factory.mktemp("model") / "grid.tflite"
    write_model(path, grid_flatbuffer, grid_contract, golden=golden)
    return path


@pytest.fixture(scope="session")
def shuffled_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model without a contract whose outputs a, b, c, d are the image's mean plus 1, 2, 3, 4."""
    tf = pytest.importorskip("tensorflow")

    def network(image: Any) -> dict[str, Any]:
        mean = tf.reduce_mean(image, axis=[1, 2, 3], keepdims=False)[:, tf.newaxis]
        return {"c": mean + 3, "a": mean + 1, "d": mean + 4, "b": mean + 2}

    folder = tmp_path_factory.mktemp("shuffled")
    path = folder / "shuffled.tflite"
    path.write_bytes(_convert(tf, network, folder, None))
    return path


def _spot(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    image = np.full((1, SIDE, SIDE, 3), -1, np.float32)
    y, x = rng.integers(0, SIDE - 8, 2)
    image[:, y : y + 8, x : x + 8] = 1
    return image


def _convert(tf: Any, network: Callable[[Any], Any], folder: Path, images: list[Any] | None) -> bytes:
    module = tf.Module()
    module.call = tf.function(network, input_signature=[tf.TensorSpec((1, SIDE, SIDE, 3), tf.float32, "image")])
    tf.saved_model.save(module, str(folder / "saved"), signatures=module.call)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    if images is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.int8
    data: bytes = converter.convert()
    return data
