"""Bias correction: weights stand on their int8 grid, and every layer's channel means are the float network's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.quantization import bias_correction
from edgeloc.converters.quantization.bias_correction import WEIGHTED, correct_biases
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.engines import open_engine
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import constant, operator_name, pack, set_constant, tensor_name, unpack

SPEC = InputSpec("image", 32, 32)


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(2)
    patches = np.clip(rng.normal(0.2, 0.5, (32, 8, 8, 3)), -1, 1).astype(np.float32)
    return patches.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture
def to_float(tmp_path: Path) -> Callable[[Any], bytes]:
    def convert(network: Any) -> bytes:
        network.save(tmp_path / "m.keras")
        return KerasSource(tmp_path / "m.keras").to_tflite(SPEC)

    return convert


@pytest.fixture
def flatbuffer(make_network: Callable[..., Any], to_float: Callable[[Any], bytes]) -> bytes:
    """A network whose batch norm has statistics, gains and shifts of its own."""
    built = make_network()
    norm, rng = built.get_layer("stem_bn"), np.random.default_rng(3)
    norm.gamma.assign(rng.uniform(0.5, 2, 16))
    norm.beta.assign(rng.normal(0, 0.5, 16))
    norm.moving_mean.assign(rng.normal(0, 0.2, 16))
    norm.moving_variance.assign(rng.uniform(0.1, 2, 16))
    return to_float(built)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of 3 bits instead of 8, on which rounding does damage that a test can see."""
    monkeypatch.setattr(bias_correction, "_LEVELS", 3)


def answers(flatbuffer: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    engine = open_engine("auto", flatbuffer)
    rows = [engine.invoke(image[np.newaxis]) for image in images]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def layers(flatbuffer: bytes) -> list[tuple[str, np.ndarray, np.ndarray | None, int]]:
    """Of each layer with weights: the operator, its weights, its bias, and the axis that has a scale each."""
    model, found = unpack(flatbuffer), []
    for operator in model.subgraphs[0].operators:
        name = operator_name(model, operator)
        if name in WEIGHTED:
            weights, bias, axis = WEIGHTED[name]
            values = constant(model, int(operator.inputs[bias])) if len(operator.inputs) > bias else None
            kernel = constant(model, int(operator.inputs[weights]))
            assert kernel is not None
            found.append((name, kernel, values, axis))
    return found


def _channels(model: Any, operator: Any, position: int) -> int:
    return int(model.subgraphs[0].tensors[int(operator.inputs[position])].shape[0])


def only_rounded(original: bytes, corrected: bytes) -> bytes:
    """The corrected model with the biases of the original: what rounding alone does."""
    before, after = unpack(original), unpack(corrected)
    for old, new in zip(before.subgraphs[0].operators, after.subgraphs[0].operators, strict=True):
        name = operator_name(before, old)
        if name in WEIGHTED:
            position = WEIGHTED[name][1]
            values = constant(before, int(old.inputs[position])) if len(old.inputs) > position else None
            # The converter leaves a bias of zeros out.
            set_constant(
                after,
                int(new.inputs[position]),
                np.zeros(_channels(after, new, position)) if values is None else values,
            )
    return pack(after)


@pytest.mark.usefixtures("coarse")
def test_channel_means_are_those_of_the_float_network(flatbuffer: bytes, images: np.ndarray) -> None:
    corrected = correct_biases(flatbuffer, images)
    wanted, got = answers(flatbuffer, images), answers(corrected, images)
    rounded = answers(only_rounded(flatbuffer, corrected), images)
    for name in ("presence", "class", "box"):
        off = np.abs(rounded[name].mean(axis=0) - wanted[name].mean(axis=0)).max()
        left = np.abs(got[name].mean(axis=0) - wanted[name].mean(axis=0)).max()
        assert off > 0.002, name
        assert left < 1e-4, name


def test_on_the_grid_of_int8_the_correction_is_small(flatbuffer: bytes, images: np.ndarray) -> None:
    corrected = answers(correct_biases(flatbuffer, images), images)
    for name, values in answers(flatbuffer, images).items():
        assert corrected[name] == pytest.approx(values, abs=0.05)


def test_weights_stand_on_the_grid(flatbuffer: bytes, images: np.ndarray) -> None:
    corrected = layers(correct_biases(flatbuffer, images))
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"} <= {name for name, *_ in corrected}
    for (_, original, _, axis), (name, weights, _, _) in zip(layers(flatbuffer), corrected, strict=True):
        others = tuple(number for number in range(weights.ndim) if number != axis)
        steps = weights / (np.abs(weights).max(axis=others, keepdims=True) / 127)
        assert steps == pytest.approx(np.round(steps), abs=2e-3), name
        assert weights == pytest.approx(original, abs=float(np.abs(original).max()) / 100), name


def test_a_layer_that_stays_in_float_is_left_alone(flatbuffer: bytes, images: np.ndarray) -> None:
    model = unpack(flatbuffer)
    kept = {tensor_name(model.subgraphs[0].tensors[int(index)]) for index in model.subgraphs[0].outputs}
    corrected = layers(correct_biases(flatbuffer, images, kept.__contains__))
    for (_, before, _, _), (_, after, _, _) in zip(layers(flatbuffer)[-3:], corrected[-3:], strict=True):
        assert np.array_equal(before, after)
    assert not np.array_equal(layers(flatbuffer)[0][1], corrected[0][1])


@pytest.mark.usefixtures("coarse")
def test_each_use_of_a_shared_layer_is_corrected(images: np.ndarray, to_float: Callable[[Any], bytes]) -> None:
    """As in a detector with one head over several levels."""
    import keras

    keras.utils.set_random_seed(4)
    image, shared = keras.Input((32, 32, 3)), keras.layers.Conv2D(6, 3, name="shared")
    levels = [keras.layers.Conv2D(8, 3, s, activation="relu6")(image) for s in (1, 2, 4)]
    flatbuffer = to_float(keras.Model(image, {f"level{n}": shared(level) for n, level in enumerate(levels)}))
    model = unpack(flatbuffer)
    kernels = [int(op.inputs[1]) for op in model.subgraphs[0].operators]
    assert len(set(kernels)) < len(kernels)
    wanted, got = answers(flatbuffer, images), answers(correct_biases(flatbuffer, images), images)
    for name, values in wanted.items():
        assert np.abs(got[name].mean(axis=(0, 1, 2)) - values.mean(axis=(0, 1, 2))).max() < 1e-4, name


def test_two_layers_that_share_their_bias_get_one_each(images: np.ndarray, to_float: Callable[[Any], bytes]) -> None:
    import keras

    image = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3, name="stem")(image))
    outputs = {name: keras.layers.Dense(4, name=name, bias_initializer="ones")(x) for name in ("first", "second")}
    model = unpack(to_float(keras.Model(image, outputs)))
    dense = [op for op in model.subgraphs[0].operators if operator_name(model, op) == "FULLY_CONNECTED"]
    dense[1].inputs = [dense[1].inputs[0], dense[1].inputs[1], dense[0].inputs[2]]
    shared = pack(model)
    wanted, got = answers(shared, images), answers(correct_biases(shared, images), images)
    for name in ("first", "second"):
        assert got[name].mean(axis=0) == pytest.approx(wanted[name].mean(axis=0), abs=1e-5), name


def test_a_channel_of_zeros_stays_one(
    make_network: Callable[..., Any], to_float: Callable[[Any], bytes], images: np.ndarray
) -> None:
    network = make_network()
    kernel = network.get_layer("stem").kernel.numpy()
    kernel[..., 4] = 0
    network.get_layer("stem").kernel.assign(kernel)
    corrected = correct_biases(to_float(network), images)
    assert all(np.isfinite(values).all() for values in answers(corrected, images).values())
    assert not layers(corrected)[0][1][4].any()


@pytest.mark.parametrize("kind", ["Multiply", "Add"])
def test_an_operator_that_takes_one_tensor_twice(
    kind: str, make_network: Callable[..., Any], to_float: Callable[[Any], bytes], images: np.ndarray
) -> None:
    from keras import layers

    flatbuffer = to_float(make_network(lambda x: getattr(layers, kind)()([x, x])))
    before, after = (answers(model, images) for model in (flatbuffer, correct_biases(flatbuffer, images)))
    assert np.abs(before["box"] - after["box"]).max() < 0.1 * np.ptp(before["box"])
