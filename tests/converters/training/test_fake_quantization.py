"""The fake-quantized network answers as the int8 file does, and its weights learn to live with rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.converters.training import fake_quantization
from edgeloc.converters.training.fake_quantization import FakeQuantizedNetwork
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import pack, unpack

SIDE = 32


def images(count: int = 48, seed: int = 0) -> np.ndarray:
    """Patches of full contrast: black and white are among them, as in every calibration."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (count, 8, 8, 3)).astype(np.float32).repeat(4, axis=1).repeat(4, axis=2)
    coarse[:, 0, 0], coarse[:, -1, -1] = -1, 1
    return coarse


def shaken(network: Any) -> Any:
    """Batch norm as after a training: no factor is 1, no mean 0, some channels far larger than others."""
    import keras

    rng = np.random.default_rng(3)
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = (tuple(weight.shape) for weight in layer.weights)
            layer.set_weights(
                [
                    rng.uniform(0.3, 2, gamma),
                    rng.normal(0, 0.5, beta),
                    rng.normal(0, 0.2, mean),
                    rng.uniform(0.02, 2, variance),
                ]
            )
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
    return network


def inverted_residuals() -> Any:
    """As MobileNetV2: folded batch norms, fused ReLU6, a padded stride, a sum."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(2)
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(16, 3, 2, "same", use_bias=False)(image)
    short = x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(48, 1, use_bias=False)(x)))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
    x = layers.BatchNormalization()(layers.Conv2D(16, 1, use_bias=False)(x))
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(layers.Add()([short, x]))
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, 2, depth_multiplier=2)(x))
    x = layers.GlobalAveragePooling2D()(layers.Activation("relu6")(x))
    return keras.Model(image, {"box": layers.Dense(4)(layers.Dropout(0.5)(layers.Dense(16, "relu")(x)))})


def residuals_inside() -> Any:
    """A backbone as one layer: sums with a ReLU behind, batch norm that folds into nothing; sigmoid and softmax."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(4)
    x = inner = keras.Input((SIDE, SIDE, 3))
    x = layers.MaxPooling2D(2)(layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(24, 3, 2)(x))))
    y = layers.Conv2D(24, 3, padding="same", activation="relu")(x)
    y = layers.BatchNormalization()(layers.Conv2D(24, 3, padding="same")(y))
    backbone = keras.Model(inner, layers.BatchNormalization()(layers.ReLU()(layers.Add()([x, y]))))
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Flatten()(layers.AveragePooling2D(3)(backbone(image)))
    return keras.Model(image, [layers.Dense(3, "softmax")(x), layers.Dense(4, "sigmoid")(x)])


def pyramid() -> Any:
    """Maps of two sizes brought together, and an output that is a map."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(6)
    image = keras.Input((SIDE, SIDE, 3))
    fine = layers.Conv2D(16, 3, 2, "same", activation="relu")(image)
    deep = layers.Conv2D(16, 3, 2, "same", activation="relu")(fine)
    up = layers.UpSampling2D(2, interpolation="bilinear")(deep)
    both = layers.Concatenate()([up, layers.LeakyReLU(0.1)(layers.Conv2D(8, 1)(fine))])
    merged = layers.Conv2D(4, 1)(both)
    return keras.Model(image, {"distances": merged, "half": merged * 0.5 + layers.Conv2D(4, 1)(fine)})


def int8_answers(network: Any, seen: np.ndarray, asked: np.ndarray, folder: Path) -> list[np.ndarray]:
    """What TensorFlow's own quantizer makes of the network: its outputs in their flat order."""
    import keras
    from ai_edge_litert.interpreter import Interpreter
    from tensorflow.lite.python.convert import mlir_quantize

    outputs = {f"out{i}": output for i, output in enumerate(keras.tree.flatten(network.output))}
    keras.Model(network.inputs, outputs).save(folder / "m.keras")
    plain = KerasSource(folder / "m.keras").to_tflite(InputSpec("image", SIDE, SIDE))
    runner = Interpreter(model_content=mlir_quantize(calibrated(plain, seen))).get_signature_runner("serving_default")
    answers = [runner(image=image[np.newaxis]) for image in asked]
    return [np.concatenate([answer[name] for answer in answers]) for name in outputs]


def calibrated(flatbuffer: bytes, seen: np.ndarray) -> bytes:
    """The model with the range of every tensor in it.

    TensorFlow's calibrator alone notes the range of a sum for a tensor that the sum overwrites in
    place; so each is looked at in an interpreter that keeps them all.
    """
    from ai_edge_litert.interpreter import Interpreter
    from tensorflow.lite.python.optimize.calibrator import Calibrator, add_intermediate_tensors

    model = unpack(Calibrator(add_intermediate_tensors(flatbuffer)).calibrate(lambda: ([i[np.newaxis]] for i in seen)))
    interpreter = Interpreter(model_content=pack(model), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    kept: dict[int, list[np.ndarray]] = {}
    for image in seen:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis])
        interpreter.invoke()
        for index, tensor in enumerate(model.subgraphs[0].tensors):
            if tensor.quantization is not None and tensor.quantization.min is not None:
                kept.setdefault(index, []).append(interpreter.get_tensor(index))
    for index, values in kept.items():
        quantization = model.subgraphs[0].tensors[index].quantization
        quantization.min, quantization.max = np.array([np.min(values)]), np.array([np.max(values)])
    return pack(model)


def flat(outputs: Any) -> list[np.ndarray]:
    import keras

    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


# Interpolating gives many ties, halfway between two steps, and int8 rounds them to another side.
@pytest.mark.parametrize(("build", "share"), [(inverted_residuals, 0.25), (residuals_inside, 0.5), (pyramid, 0.75)])
def test_the_twin_answers_as_int8_does(build: Callable[[], Any], share: float, tmp_path: Path) -> None:
    network = shaken(build())
    seen, asked = images(), images(24, seed=1)
    fake = FakeQuantizedNetwork(network)
    assert fake.unquantized == ()
    fake.round_kernels()
    fake.measure_ranges([seen[:20], seen[20:]])
    integer = int8_answers(network, seen, asked, tmp_path)
    for plain, alike, wanted in zip(flat(network(asked)), flat(fake(asked)), integer, strict=True):
        assert alike.shape == wanted.shape
        assert np.abs(alike - wanted).mean() < share * np.abs(plain - wanted).mean()


def test_rounded_kernels_stay_on_their_grids() -> None:
    network = shaken(inverted_residuals())
    fake, asked = FakeQuantizedNetwork(network), images(8)
    fake.measure_ranges([asked])
    before = flat(fake(asked))[0]

    def round_once_more() -> float:
        kept = network.get_weights()
        fake.round_kernels()
        return max(float(np.abs(a - b).max()) for a, b in zip(kept, network.get_weights(), strict=True))

    assert round_once_more() > 1e-3
    assert round_once_more() < 1e-6
    assert flat(fake(asked))[0] == pytest.approx(before, abs=1e-3)


def test_statistics_stand_still_and_everything_else_learns() -> None:
    import tensorflow as tf

    network = shaken(inverted_residuals())
    fake, asked = FakeQuantizedNetwork(network), images(8)
    fake.measure_ranges([asked])
    fixed = [np.asarray(variable) for variable in fake.non_trainable_variables if "seed" not in variable.path]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(fake(asked, training=True)["box"]))
    gradients = tape.gradient(loss, fake.trainable_variables)
    assert len(gradients) == len(network.trainable_variables)
    assert all(gradient is not None and np.abs(gradient).max() > 0 for gradient in gradients)
    learning = [np.asarray(fake(asked, training=True)["box"]) for _ in range(2)]
    assert not np.array_equal(*learning)  # dropout, whose seed moves
    still = [variable for variable in fake.non_trainable_variables if "seed" not in variable.path]
    assert fixed
    assert all(np.array_equal(a, b) for a, b in zip(fixed, still, strict=True))


def test_a_network_learns_to_live_with_few_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of seven levels: rounding a trained network costs much, and training it further takes that back."""
    import keras
    from keras import layers

    monkeypatch.setattr(fake_quantization, "_LEVELS", 3)
    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(12, 3, 2, "same", use_bias=False)(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.Dense(24, "relu")(layers.Flatten()(layers.MaxPooling2D(4)(x)))
    network = keras.Model(image, layers.Dense(2)(x))
    rng = np.random.default_rng(0)
    corners = rng.integers(0, SIDE - 8, (256, 2))
    pixels = np.full((256, SIDE, SIDE, 3), -0.8, np.float32)
    for picture, (top, left) in zip(pixels, corners, strict=True):
        picture[top : top + 8, left : left + 8] = 0.9
    truth = (corners / SIDE).astype(np.float32)

    def train(model: Any, rate: float, epochs: int) -> None:
        model.compile(keras.optimizers.Adam(rate), "mse")
        model.fit(pixels, truth, batch_size=32, epochs=epochs, verbose=0)

    def error(model: Any) -> float:
        return float(np.square(np.asarray(model(pixels)) - truth).mean())

    train(network, 3e-3, 30)
    fake = FakeQuantizedNetwork(network)
    fake.measure_ranges([pixels])
    trained, rounded = error(network), error(fake)
    train(fake, 1e-3, 15)
    fake.measure_ranges([pixels])
    assert rounded > 2 * trained
    assert error(fake) < 0.5 * rounded


def test_a_layer_that_is_not_known_is_left_in_float_and_named() -> None:
    import keras
    from keras import layers

    image = keras.Input((8, 8, 3))
    x = layers.Conv2DTranspose(4, 3, name="up")(layers.Conv2D(4, 3)(image))
    fake = FakeQuantizedNetwork(keras.Model(image, layers.Lambda(lambda values: values * 2, name="twice")(x)))
    assert fake.unquantized == ("up", "twice")
    pixels = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    fake.measure_ranges([pixels])
    assert np.asarray(fake(pixels)).shape == (4, 8, 8, 4)
