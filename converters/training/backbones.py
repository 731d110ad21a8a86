"""Which network to build, and its backbone: of keras.applications or AlexNet, with pretrained weights."""

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

from edgeloc.errors import DataError, UsageError, first_line
from edgeloc.model.contract import Color, InputSpec

__all__ = ["HEADS", "NetworkConfig", "build_backbone", "conv", "image_input", "pyramid", "separable"]

_PixelScale = tuple[Color, tuple[float, ...], tuple[float, ...]]
_ALEXNET = "AlexNet"
# Channels, kernel and stride of its convolutions.
_ALEXNET_LAYERS = ((96, 11, 4), (256, 5, 1), (384, 3, 1), (384, 3, 1), (256, 3, 1))
# Which pixel scale each family of keras.applications was trained with; longest prefix wins.
_TF: _PixelScale = ("rgb", (127.5,), (127.5,))
_CAFFE: _PixelScale = ("bgr", (103.939, 116.779, 123.68), (1.0,))
_TORCH: _PixelScale = ("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_RAW: _PixelScale = ("rgb", (0.0,), (1.0,))
_PIXEL_SCALES = {
    "ResNet": _CAFFE, "VGG": _CAFFE, "DenseNet": _TORCH,
    "EfficientNet": _RAW, "ConvNeXt": _RAW, "MobileNetV3": _RAW,
    "MobileNet": _TF, "Inception": _TF, "Xception": _TF, "NASNet": _TF,
    "ResNet50V2": _TF, "ResNet101V2": _TF, "ResNet152V2": _TF, _ALEXNET: _TF,
}  # fmt: skip


HEADS = {
    "localize": ("grid", "distribution", "vector"),
    "detect": ("anchor-free", "ssd", "yolo", "rcnn", "fast-rcnn", "faster-rcnn"),
}
"""The heads of each task, the default first."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What to build.

    Parameters:
        backbone: its keras.applications name, or AlexNet.
        alpha: the width multiplier of AlexNet and the MobileNet families; None is the backbone's own, and all that
            others have.
        input_size: the input's side in pixels, or its (width, height).
        head: what follows the backbone, one of HEADS.
        backbone_weights: "imagenet", "none" or a path: a trained network `.keras` with the same backbone, `.npz` (keys
            `layer/variable`) or `.weights.h5`.
        objects: how many objects a localizer finds in each image.

    Raises UsageError for a value that is not allowed.
    """

    backbone: str = "MobileNetV2"
    alpha: float | None = 0.35
    input_size: int | tuple[int, int] = 224
    head: str = "grid"
    backbone_weights: str = "imagenet"
    objects: int = 1

    def __post_init__(self) -> None:
        heads = [head for heads in HEADS.values() for head in heads]
        if self.head not in heads:
            raise UsageError(field="head", value=self.head, allowed=f"one of {', '.join(heads)}")
        if any(side % 32 or side < 64 for side in self.size):
            raise UsageError(field="input_size", value=self.input_size, allowed="a multiple of 32, at least 64")
        if self.objects < 1:
            raise UsageError(field="objects", value=self.objects, allowed="at least 1")
        if self.alpha is not None and self.alpha <= 0:
            raise UsageError(field="alpha", value=self.alpha, allowed="above 0")
        if not any(self.backbone.startswith(prefix) for prefix in _PIXEL_SCALES):
            allowed = "a name of keras.applications, such as MobileNetV2 or ResNet50, or AlexNet"
            raise UsageError(field="backbone", value=self.backbone, allowed=allowed)

    @property
    def size(self) -> tuple[int, int]:
        """The input's width and height in pixels."""
        return (self.input_size, self.input_size) if isinstance(self.input_size, int) else self.input_size


def image_input(config: NetworkConfig) -> InputSpec:
    """The contract's input of a network with this backbone."""
    prefix = max((prefix for prefix in _PIXEL_SCALES if config.backbone.startswith(prefix)), key=len)
    color, mean, std = _PIXEL_SCALES[prefix]
    return InputSpec("image", *config.size, color=color, mean=mean, std=std)


def build_backbone(config: NetworkConfig) -> keras.Model:
    """Build the backbone, with one input `image`: float32 (batch, height, width, 3), in its pixel scale.

    Raises UsageError for a backbone that cannot be built, DataError for weights that do not fit it.
    """
    width, height = config.size
    image = keras.Input((height, width, 3), name="image")
    backbone = _alexnet(config, image) if config.backbone == _ALEXNET else _application(config, image)
    if config.backbone_weights not in ("imagenet", "none"):
        _load_weights(backbone, Path(config.backbone_weights))
    return backbone


def _alexnet(config: NetworkConfig, image: Any) -> keras.Model:
    """The five convolutions of Krizhevsky et al. 2012, with batch norm in place of local response normalization.

    Padding is the same everywhere, so that the maps have strides 4, 8, 16 and 32; the dense layers are left out.
    """
    if config.backbone_weights == "imagenet":
        message = "AlexNet has no ImageNet weights in Keras"
        raise UsageError(message, field="backbone_weights", value="imagenet", hint="give none, or a file")
    x = image
    for number, (channels, kernel, stride) in enumerate(_ALEXNET_LAYERS):
        if number in (1, 2):
            x = layers.MaxPooling2D(3, 2, "same", name=f"pool_{number}")(x)
        channels = max(8, round(channels * (config.alpha or 1.0) / 8) * 8)
        x = layers.Conv2D(channels, kernel, stride, "same", use_bias=False, name=f"conv_{number + 1}")(x)
        x = layers.BatchNormalization(name=f"conv_{number + 1}_bn")(x)
        x = layers.ReLU(name=f"conv_{number + 1}_relu")(x)
    return keras.Model(image, layers.MaxPooling2D(3, 2, "same", name="pool_3")(x), name=_ALEXNET)


def _application(config: NetworkConfig, image: Any) -> keras.Model:
    maker = getattr(keras.applications, config.backbone, None)
    if maker is None:
        raise UsageError(f"keras.applications has no {config.backbone}", field="backbone", value=config.backbone)
    width = {} if config.alpha is None else {"alpha": config.alpha}
    pretrained = "imagenet" if config.backbone_weights == "imagenet" else None
    try:
        # Keras prints the progress of a download on the standard output, which is for results.
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            # Convolutions fit every size: that these were trained at another one is no news.
            warnings.filterwarnings("ignore", "`input_shape` is undefined", UserWarning)
            return maker(include_top=False, weights=pretrained, input_tensor=image, **width)
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


def _load_weights(backbone: keras.Model, path: Path) -> None:
    """Load them from a trained network, from an `.npz` of `layer/variable` arrays or from Keras's `.weights.h5`."""
    if not path.is_file():
        hint = "give a .keras, .npz or .weights.h5 file, imagenet or none as {backbone_weights}"
        raise DataError(f"{path}: no such file", field="backbone_weights", value=path, hint=hint)
    if path.name.endswith(".weights.h5"):
        _load_h5(backbone, path)
        return
    known = _of_network(path) if path.suffix == ".keras" else _of_arrays(path)
    for layer in backbone.layers:
        for variable in layer.weights:
            name = f"{layer.name}/{variable.name}"
            value = known.get(name)
            if value is None or value.shape != tuple(variable.shape):
                found = "is missing" if value is None else f"has the shape {value.shape}"
                message = f"{path}: {name} {found}, the backbone needs {tuple(variable.shape)}"
                raise DataError(message, field="backbone_weights", value=path)
            variable.assign(value)


def _of_network(path: Path) -> dict[str, Any]:
    try:
        network = keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile) as error:
        message = f"{path} is no Keras network that can be read ({first_line(error)})"
        raise DataError(message, field="backbone_weights", value=path) from error
    layers_of = (layer for layer in network.layers for layer in getattr(layer, "layers", [layer]))
    return {f"{layer.name}/{one.name}": one.numpy() for layer in layers_of for one in layer.weights}


def _of_arrays(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {name.replace("depthwise_kernel", "kernel"): arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no .npz file that can be read", field="backbone_weights", value=path) from error


def _load_h5(backbone: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # Keras warns of each layer that does not fit, and then raises.
            warnings.simplefilter("ignore", UserWarning)
            backbone.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        message = f"{path}: the weights do not fit the backbone ({first_line(error)})"
        raise DataError(message, field="backbone_weights", value=path) from error


def _feature_map(backbone: keras.Model, stride: int, hint: str) -> Any:
    """The deepest feature map of this stride; UsageError with the `hint` where there is none."""
    height, width = (-(-side // stride) for side in backbone.inputs[0].shape[1:3])
    for layer in reversed(backbone.layers):
        shape = layer.output.shape
        if len(shape) == 4 and tuple(shape[1:3]) == (height, width):
            return layer.output
    message = f"{backbone.name} has no feature map of {width}x{height} cells"
    raise UsageError(message, field="backbone", value=backbone.name, hint=hint)


def pyramid(backbone: keras.Model, channels: int, name: str, hint: str) -> list[Any]:
    """Features at strides 8, 16 and 32, the deeper ones added top-down (Lin et al. 2017).

    Small objects need the fine cells: an object of 15 pixels does not fill one at stride 16.
    """
    levels = [conv(_feature_map(backbone, 32, hint), channels, f"{name}_deep")]
    for stride in (16, 8):
        lateral = conv(_feature_map(backbone, stride, hint), channels, f"{name}_lateral_{stride}")
        up = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_up_{stride}")(levels[0])
        merged = layers.Add(name=f"{name}_merge_{stride}")([lateral, up])
        levels.insert(0, separable(merged, channels, f"{name}_block_{stride}"))
    return levels


def separable(features: Any, channels: int, name: str) -> Any:
    """A 3x3 depthwise and a 1x1 convolution."""
    return conv(conv(features, None, f"{name}_depthwise"), channels, f"{name}_project")


def conv(features: Any, channels: int | None, name: str) -> Any:
    """A 1x1 convolution to `channels`, or a 3x3 depthwise one for None, with batch norm and ReLU6."""
    if channels is None:
        features = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=name)(features)
    else:
        features = layers.Conv2D(channels, 1, use_bias=False, name=name)(features)
    return layers.ReLU(6.0, name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(features))
