"""The reference localizer as a Keras network, and what a training starts from."""

from __future__ import annotations

import contextlib
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from edgeloc.converters.batch_norm import MOMENTUM, set_batch_norm_momentum
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.converters.training.losses import check_roles
from edgeloc.errors import ContractError, DataError, UsageError, first_line
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec

__all__ = [
    "BINS",
    "HEADS",
    "NetworkConfig",
    "Start",
    "build_network",
    "network_contract",
    "reference_start",
    "trained_start",
]

HEADS = ("grid", "distribution", "vector")
BINS = 32
_GRID_CHANNELS = 80
# A softplus of this is 0.15 of the input's side: a plausible distance to an edge to start from.
_DISTANCE_BIAS = -1.82

# Which pixel scale each family of keras.applications was trained with; longest prefix wins.
_TF = ("rgb", (127.5,), (127.5,))
_CAFFE = ("bgr", (103.939, 116.779, 123.68), (1.0,))
_TORCH = ("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_RAW = ("rgb", (0.0,), (1.0,))
_PIXEL_SCALES = {
    "ResNet": _CAFFE, "VGG": _CAFFE, "DenseNet": _TORCH,
    "EfficientNet": _RAW, "ConvNeXt": _RAW, "MobileNetV3": _RAW,
    "MobileNet": _TF, "Inception": _TF, "Xception": _TF, "NASNet": _TF,
    "ResNet50V2": _TF, "ResNet101V2": _TF, "ResNet152V2": _TF,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What to build: the backbone by its keras.applications name, its width, the input's side and the box head.

    `alpha` is the width multiplier of the MobileNet families; None is the backbone's own, and all that others have.
    `backbone_weights` is "imagenet", "none" or a path to `.npz` (keys `layer/variable`) or `.weights.h5`.
    Raises UsageError for a value that is not allowed.
    """

    backbone: str = "MobileNetV2"
    alpha: float | None = 0.35
    input_size: int = 224
    head: str = "grid"
    backbone_weights: str = "imagenet"

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise UsageError(field="head", value=self.head, allowed=f"one of {', '.join(HEADS)}")
        if self.input_size % 32 or self.input_size < 64:
            raise UsageError(field="input_size", value=self.input_size, allowed="a multiple of 32, at least 64")
        if self.alpha is not None and self.alpha <= 0:
            raise UsageError(field="alpha", value=self.alpha, allowed="above 0")
        if _pixel_scale(self.backbone) is None:
            allowed = "a name of keras.applications, such as MobileNetV2 or ResNet50"
            raise UsageError(field="backbone", value=self.backbone, allowed=allowed)


def _pixel_scale(backbone: str) -> tuple[Any, tuple[float, ...], tuple[float, ...]] | None:
    known = [prefix for prefix in _PIXEL_SCALES if backbone.startswith(prefix)]
    return _PIXEL_SCALES[max(known, key=len)] if known else None


def network_contract(config: NetworkConfig, labels: tuple[str, ...]) -> Contract:
    """The contract of a network that `build_network` makes: preprocessing, outputs by role, labels."""
    scale = _pixel_scale(config.backbone)
    assert scale is not None  # NetworkConfig refuses other backbones
    color, mean, std = scale
    boxes = {
        "grid": (OutputSpec("weights", "grid-weights"), OutputSpec("distances", "grid-distances")),
        "distribution": (OutputSpec("bins", "box-bins"),),
        "vector": (OutputSpec("box", "box", "sigmoid"),),
    }
    forms: dict[str, Any] = {"grid": "grid", "distribution": "distribution", "vector": "cxcywh"}
    classes = (OutputSpec("class", "class", "softmax"),) if labels else ()
    return Contract(
        input=InputSpec("image", config.input_size, config.input_size, color=color, mean=mean, std=std),
        outputs=(OutputSpec("presence", "presence", "sigmoid"), *classes, *boxes[config.head]),
        box=BoxEncoding(forms[config.head]),
        labels=labels,
    )


def build_network(config: NetworkConfig, classes: int) -> keras.Model:
    """Build the float network.

    Input `image`: float32 (batch, size, size, 3), normalized as the contract says. Outputs, all
    logits: `presence` (batch, 1), `class` (batch, classes) when there are classes, and by head
    `weights` (batch, h, w, 1) and `distances` (batch, h, w, 4); `bins` (batch, 4, 32); or `box`
    (batch, 4). Raises UsageError for a backbone that cannot be built, DataError for weights that
    do not fit it.
    """
    backbone = _backbone(config)
    deep = backbone.output
    pooled = layers.GlobalAveragePooling2D(name="pool")(deep)
    boxes, fine = _box_head(config, backbone, deep, pooled)
    outputs = {"presence": _logits("presence", 1, pooled, fine, dropout=0.0)}
    if classes:
        outputs["class"] = _logits("class", classes, pooled, fine, dropout=0.3)
    return keras.Model(backbone.inputs[0], {**outputs, **boxes}, name="localizer")


def _backbone(config: NetworkConfig) -> keras.Model:
    maker = getattr(keras.applications, config.backbone, None)
    if maker is None:
        raise UsageError(f"keras.applications has no {config.backbone}", field="backbone", value=config.backbone)
    width = {} if config.alpha is None else {"alpha": config.alpha}
    image = keras.Input((config.input_size, config.input_size, 3), name="image")
    pretrained = "imagenet" if config.backbone_weights == "imagenet" else None
    try:
        # Keras prints the progress of a download on the standard output, which is for results.
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            # Convolutions fit every size: that these were trained at another one is no news.
            warnings.filterwarnings("ignore", "`input_shape` is undefined", UserWarning)
            backbone = maker(include_top=False, weights=pretrained, input_tensor=image, **width)
    except TypeError as error:
        raise UsageError(
            f"{config.backbone} has no width multiplier", field="alpha", value=config.alpha, hint="leave {alpha} out"
        ) from error
    except ValueError as error:
        message = f"{config.backbone} with the weights {config.backbone_weights} cannot be built: {first_line(error)}"
        raise UsageError(message, field="backbone", value=config.backbone) from error
    except Exception as error:  # Keras has no better class for a failed download
        raise DataError(
            f"Keras could not download the ImageNet weights ({first_line(error)})",
            field="backbone_weights",
            value="imagenet",
            hint="give a file or none as {backbone_weights}",
        ) from error
    if config.backbone_weights not in ("imagenet", "none"):
        _load_weights(backbone, Path(config.backbone_weights))
    return backbone


def _load_weights(backbone: keras.Model, path: Path) -> None:
    """Load backbone weights from an `.npz` of `layer/variable` arrays or from Keras's `.weights.h5`."""
    if not path.is_file():
        hint = "give an .npz or .weights.h5 file, imagenet or none as {backbone_weights}"
        raise DataError(f"{path}: no such file", field="backbone_weights", value=path, hint=hint)
    if path.name.endswith(".weights.h5"):
        _load_h5(backbone, path)
        return
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            known = {name.replace("depthwise_kernel", "kernel"): arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no .npz file that can be read", field="backbone_weights", value=path) from error
    for layer in backbone.layers:
        for variable in layer.weights:
            name = f"{layer.name}/{variable.name}"
            value = known.get(name)
            if value is None or value.shape != tuple(variable.shape):
                found = "is missing" if value is None else f"has the shape {value.shape}"
                message = f"{path}: {name} {found}, the backbone needs {tuple(variable.shape)}"
                raise DataError(message, field="backbone_weights", value=path)
            variable.assign(value)


def _load_h5(backbone: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Keras warns of each layer that does not fit, and then raises.
            warnings.simplefilter("ignore", UserWarning)
            backbone.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        message = f"{path}: the weights do not fit the backbone ({first_line(error)})"
        raise DataError(message, field="backbone_weights", value=path) from error


def _logits(name: str, units: int, pooled: Any, fine: Any | None, dropout: float) -> Any:
    """A dense head over the pooled deep features and, where there are any, the strongest fine ones.

    The two are added after their own dense layers instead of being concatenated before one, so
    that after quantization each keeps a scale of its own.
    """

    def dense(features: Any, layer: str) -> Any:
        kept = layers.Dropout(dropout)(features) if dropout else features
        return layers.Dense(units, name=layer)(kept)

    if fine is None:
        return dense(pooled, name)
    return layers.Add(name=name)([dense(pooled, f"{name}_pooled"), dense(fine, f"{name}_fine")])


def _box_head(config: NetworkConfig, backbone: Any, deep: Any, pooled: Any) -> tuple[dict[str, Any], Any | None]:
    if config.head == "vector":
        hidden = layers.Dense(128, activation="relu", name="box_hidden")(pooled)
        return {"box": layers.Dense(4, name="box")(hidden)}, None
    if config.head == "distribution":
        reduced = layers.Flatten(name="box_flat")(_conv(deep, 64, "box_reduce"))
        hidden = layers.Dense(128, activation="relu", name="box_hidden")(reduced)
        bins = layers.Dense(4 * BINS, name="box_bins")(hidden)
        return {"bins": layers.Reshape((4, BINS), name="bins")(bins)}, None
    fine, strongest = _pyramid(backbone, deep, config.input_size)
    weights = layers.Conv2D(1, 1, name="weights")(fine)
    start = keras.initializers.Constant(_DISTANCE_BIAS)
    distances = layers.Conv2D(4, 1, bias_initializer=start, name="distances")(fine)
    return {"weights": weights, "distances": distances}, strongest


def _pyramid(backbone: Any, deep: Any, input_size: int) -> tuple[Any, Any]:
    """Features at stride 8 with the deep ones added top-down, and their strongest value by channel.

    Small objects need the fine cells: an object of 15 pixels does not fill one at stride 16.
    """
    merged = _conv(deep, _GRID_CHANNELS, "box_deep")
    for stride in (16, 8):
        side = input_size // stride
        lateral = _conv(_last_layer_of_side(backbone, side), _GRID_CHANNELS, f"box_lateral_{stride}")
        up = layers.UpSampling2D(2, interpolation="bilinear", name=f"box_up_{stride}")(merged)
        merged = _separable(layers.Add(name=f"box_merge_{stride}")([lateral, up]), f"box_block_{stride}")
    merged = _separable(merged, "box_block_last")
    return merged, layers.Flatten(name="fine")(layers.MaxPooling2D(input_size // 8, name="fine_max")(merged))


def _separable(features: Any, name: str) -> Any:
    return _conv(_conv(features, None, f"{name}_depthwise"), _GRID_CHANNELS, f"{name}_project")


def _last_layer_of_side(backbone: Any, side: int) -> Any:
    """The deepest feature map with `side` rows."""
    for layer in reversed(backbone.layers):
        shape = layer.output.shape
        if len(shape) == 4 and shape[1] == side:
            return layer.output
    raise UsageError(
        f"{backbone.name} has no feature map of {side}x{side} cells",
        field="backbone",
        value=backbone.name,
        hint="use the {head} distribution or vector",
    )


def _conv(features: Any, channels: int | None, name: str) -> Any:
    """A 1x1 convolution to `channels`, or a 3x3 depthwise one for None, with batch norm and ReLU6."""
    if channels is None:
        features = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=name)(features)
    else:
        features = layers.Conv2D(channels, 1, use_bias=False, name=name)(features)
    return layers.ReLU(6.0, name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(features))


@dataclass(frozen=True, slots=True)
class Start:
    """A network, the names of its outputs in their order, and the contract that says what they mean.

    `digest` is the SHA-256 of the file that it was read from, empty for a fresh one.
    """

    network: keras.Model
    names: tuple[str, ...]
    contract: Contract
    digest: str = ""


def reference_start(config: NetworkConfig, labels: tuple[str, ...]) -> Start:
    """Build the reference network."""
    network = build_network(config, len(labels))
    set_batch_norm_momentum(network, MOMENTUM)
    return Start(network, tuple(network.output), network_contract(config, labels))


def trained_start(path: str | Path) -> Start:
    """Load a trained `.keras` network with its contract.

    Raises UsageError for another kind of file, ModelError when it cannot be read or has no fixed graph, and
    ContractError where it carries no contract, or one that training cannot learn by.
    """
    if Path(path).suffix != ".keras":
        raise UsageError(field="resume", value=str(path), allowed="a trained network, MODEL.keras")
    source = KerasSource(path)
    if source.contract is None:
        raise ContractError(f"{path} carries no contract: training must know what its outputs mean")
    check_roles(source.contract)
    names = source.output_names
    missing = [output.tensor for output in source.contract.outputs if output.tensor not in names]
    if missing:
        raise ContractError(f"{path}: its contract names the output {missing[0]!r}, it has {', '.join(names)}")
    set_batch_norm_momentum(source.network, MOMENTUM)
    return Start(source.network, names, source.contract, source.digest)
