"""Equalization: channels that int8 would round to nothing keep their values, and the float network its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.quantization.equalization import bound_ranges, equalize
from edgeloc.converters.quantization.quantize import quantize, recipe
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.engines import open_engine
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import operator_name, pack, parse_flatbuffer, schema, unpack

SPEC = InputSpec("image", 16, 16)
# Half of the channels are a thousandth of the others, and the last layer makes up for it.
SHARES = np.tile([1.0, 0.001], 8).astype(np.float32)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(2).uniform(-1, 1, (24, 16, 16, 3)).astype(np.float32)


def scale(built: Any, layer: str, factor: Any) -> None:
    """Multiply the weights of a layer."""
    weights, bias = built.get_layer(layer).get_weights()
    built.get_layer(layer).set_weights([weights * factor, bias])


def network(activation: str, depthwise: bool) -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, activation=None if activation == "silu" else activation, name="uneven")(image)
    if activation == "silu":
        x = layers.Multiply()([x, layers.Activation("sigmoid")(x)])
    last = layers.DepthwiseConv2D(3, name="last") if depthwise else layers.Conv2D(4, 1, name="last")
    built = keras.Model(image, {"out": last(x)})
    scale(built, "uneven", 20 * SHARES)
    scale(built, "last", 1 / SHARES[:, np.newaxis])
    return built


@pytest.fixture(scope="module")
def make_uneven(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    path = tmp_path_factory.mktemp("uneven") / "m.keras"

    def make(activation: str, depthwise: bool) -> bytes:
        built = network(activation, depthwise)
        built.save(path)
        return KerasSource(path, built).to_tflite(SPEC)

    return make


def answers(flatbuffer: bytes, images: np.ndarray) -> np.ndarray:
    engine = open_engine("auto", flatbuffer)
    info, output = engine.inputs["image"], engine.outputs["out"]
    rows = []
    for image in images:
        values = image[np.newaxis]
        if info.scale is not None:
            values = np.clip(np.rint(values / info.scale) + (info.zero_point or 0), 0, 255).astype(np.uint8)
        rows.append(engine.invoke(values)["out"].astype(np.float32))
    made = np.concatenate(rows)
    return made if output.scale is None else (made - (output.zero_point or 0)) * output.scale


def assert_small_channels_survive(flatbuffer: bytes, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equalized, the float network answers the same, and int8 comes out at least twice as near to it."""
    wanted = answers(flatbuffer, images)
    equalized = equalize(flatbuffer, images)
    assert answers(equalized, images) == pytest.approx(wanted, rel=1e-3, abs=1e-3 * float(np.abs(wanted).max()))
    after = answers(quantize(flatbuffer, recipe("int8"), SPEC, images), images)
    monkeypatch.setattr("edgeloc.converters.quantization.quantize.equalize", lambda flatbuffer, images: flatbuffer)
    before = answers(quantize(flatbuffer, recipe("int8"), SPEC, images), images)
    assert np.abs(after - wanted).mean() < 0.5 * np.abs(before - wanted).mean()


@pytest.mark.parametrize("activation", ["relu", "linear", "silu"])
@pytest.mark.parametrize("depthwise", [True, False], ids=["depthwise", "dense"])
def test_small_channels_survive(
    make_uneven: Callable[..., bytes], images: np.ndarray, activation: str, depthwise: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert_small_channels_survive(make_uneven(activation, depthwise), images, monkeypatch)


def shuffled() -> Any:
    """Uneven channels beside even ones, shuffled as in ShuffleNet, half of them on a way around a layer."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, activation="relu", padding="same", name="uneven")(image)
    y = layers.Conv2D(16, 1, activation="relu", name="even")(image)
    both = layers.Concatenate()([x, y])
    apart = layers.Reshape((256, 2, 16))(both)
    both = layers.Reshape((16, 16, 32))(layers.Permute((1, 3, 2))(apart))
    pooled = layers.MaxPooling2D(2)(both)
    built = keras.Model(image, {"out": layers.Conv2D(4, 1, name="last")(pooled)})
    scale(built, "uneven", 20 * SHARES)
    scale(built, "last", 1 / np.stack([SHARES, np.ones(16, np.float32)], axis=1).reshape(-1, 1))
    return built


def twice() -> Any:
    """x * sigmoid(x) of uneven channels, by a layer that reads uneven channels itself."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(6)
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, activation="relu", name="uneven")(image)
    x = layers.Conv2D(16, 1, name="product")(x)
    x = layers.Multiply()([x, layers.Activation("sigmoid")(x)])
    built = keras.Model(image, {"out": layers.DepthwiseConv2D(3, name="last")(x)})
    scale(built, "uneven", 20 * SHARES)
    scale(built, "product", SHARES / SHARES[:, np.newaxis])
    scale(built, "last", 1 / SHARES[:, np.newaxis])
    return built


@pytest.mark.parametrize("build", [shuffled, twice])
def test_small_channels_survive_wherever_they_go(
    build: Callable[[], Any], tmp_path: Any, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build()
    built.save(tmp_path / "m.keras")
    flatbuffer = KerasSource(tmp_path / "m.keras", built).to_tflite(SPEC)
    assert_small_channels_survive(flatbuffer, images, monkeypatch)


def test_even_channels_stay_as_they_are(make_network: Callable[..., Any], tmp_path: Any, images: np.ndarray) -> None:
    built = make_network()
    built.save(tmp_path / "m.keras")
    flatbuffer = KerasSource(tmp_path / "m.keras", built).to_tflite(InputSpec("image", 32, 32))
    before = [operator.name for operator in parse_flatbuffer(flatbuffer, "memory").graphs[0].operators]
    after = equalize(flatbuffer, images.repeat(2, axis=1).repeat(2, axis=2))
    assert [operator.name for operator in parse_flatbuffer(after, "memory").graphs[0].operators] == before


def test_a_sigmoid_gets_no_levels_for_what_it_makes_one_of(make_uneven: Callable[..., bytes]) -> None:
    model = unpack(make_uneven("silu", True))
    for tensor in model.subgraphs[0].tensors:
        tensor.quantization = schema().QuantizationParametersT()
        tensor.quantization.min, tensor.quantization.max = [-90.0], [100.0]
    bounded = unpack(bound_ranges(pack(model)))
    ranges = {
        operator_name(bounded, operator): bounded.subgraphs[0].tensors[int(operator.outputs[0])].quantization
        for operator in bounded.subgraphs[0].operators
    }
    assert (ranges["CONV_2D"].min[0], ranges["CONV_2D"].max[0]) == (-8, 100)
    assert (ranges["MUL"].min[0], ranges["MUL"].max[0]) == (-90, 100)


def test_a_sum_under_a_relu_gets_no_levels_for_what_comes_out_as_0(tmp_path: Any) -> None:
    import keras
    from keras import layers

    image = keras.Input((16, 16, 3), name="image")
    total = layers.Add()([layers.Conv2D(4, 1, name="first")(image), layers.Conv2D(4, 3, padding="same")(image)])
    built = keras.Model(image, {"out": layers.Conv2D(2, 1)(layers.ReLU()(total))})
    built.save(tmp_path / "m.keras")
    model = unpack(KerasSource(tmp_path / "m.keras", built).to_tflite(SPEC))
    graph = model.subgraphs[0]
    (summed,) = (operator for operator in graph.operators if operator_name(model, operator) == "ADD")
    low, high = map(int, summed.inputs)
    for tensor, range_ in ((low, (-90.0, 3.0)), (high, (-2.0, 7.0))):
        graph.tensors[tensor].quantization = schema().QuantizationParametersT()
        graph.tensors[tensor].quantization.min, graph.tensors[tensor].quantization.max = [range_[0]], [range_[1]]
    bounded = unpack(bound_ranges(pack(model))).subgraphs[0].tensors
    assert (bounded[low].quantization.min[0], bounded[low].quantization.max[0]) == (-7, 3)
    assert (bounded[high].quantization.min[0], bounded[high].quantization.max[0]) == (-2, 7)
