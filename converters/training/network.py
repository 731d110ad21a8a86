"""The reference localizer as a Keras network, and what the training of any network starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from keras import layers

from edgeloc.converters.batch_norm import MOMENTUM, set_batch_norm_momentum
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.converters.training.backbones import (
    HEADS,
    NetworkConfig,
    build_backbone,
    conv,
    image_input,
    pyramid,
    separable,
)
from edgeloc.converters.training.detectors.heads import anchors_of, build_detector, detector_contract
from edgeloc.converters.training.detectors.losses import check_detector
from edgeloc.converters.training.detectors.stages import METHODS, build_stages, stages_contract
from edgeloc.converters.training.losses import check_roles
from edgeloc.errors import ContractError, UsageError
from edgeloc.model.contract import BoxEncoding, Contract, OutputSpec

__all__ = [
    "BINS",
    "Start",
    "build_network",
    "network_contract",
    "reference_start",
    "trained_start",
]

BINS = 32
_GRID_CHANNELS = 80
# A softplus of this is 0.15 of the input's side: a plausible distance to an edge to start from.
_DISTANCE_BIAS = -1.82


def network_contract(config: NetworkConfig, labels: tuple[str, ...]) -> Contract:
    """The contract of a network that `build_network` makes: preprocessing, outputs by role, labels."""
    boxes = {
        "grid": (OutputSpec("weights", "grid-weights"), OutputSpec("distances", "grid-distances")),
        "distribution": (OutputSpec("bins", "box-bins"),),
        "vector": (OutputSpec("box", "box", "sigmoid"),),
    }
    forms: dict[str, Any] = {"grid": "grid", "distribution": "distribution", "vector": "cxcywh"}
    classes = (OutputSpec("class", "class", "softmax"),) if labels else ()
    return Contract(
        input=image_input(config),
        outputs=(OutputSpec("presence", "presence", "sigmoid"), *classes, *boxes[config.head]),
        box=BoxEncoding(forms[config.head], objects=config.objects),
        labels=labels,
    )


def build_network(config: NetworkConfig, classes: int) -> keras.Model:
    """Build the float network.

    Input `image`: float32 (batch, height, width, 3), normalized as the contract says. Outputs, all
    logits, for n objects: `presence` (batch, n), `class` (batch, n * classes) when there are classes, and by
    head `weights` (batch, h, w, n) and `distances` (batch, h, w, n * 4); `bins` (batch, n * 4, 32); or `box`
    (batch, n * 4). Raises UsageError for a backbone that cannot be built, DataError for weights that
    do not fit it.
    """
    backbone = build_backbone(config)
    deep = backbone.output
    pooled = layers.GlobalAveragePooling2D(name="pool")(deep)
    boxes, fine = _box_head(config, backbone, deep, pooled)
    outputs = {"presence": _logits("presence", config.objects, pooled, fine, dropout=0.0)}
    if classes:
        outputs["class"] = _logits("class", config.objects * classes, pooled, fine, dropout=0.3)
    return keras.Model(backbone.inputs[0], {**outputs, **boxes}, name="localizer")


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
        return {"box": layers.Dense(4 * config.objects, name="box")(hidden)}, None
    if config.head == "distribution":
        reduced = layers.Flatten(name="box_flat")(conv(deep, 64, "box_reduce"))
        hidden = layers.Dense(128, activation="relu", name="box_hidden")(reduced)
        bins = layers.Dense(4 * config.objects * BINS, name="box_bins")(hidden)
        return {"bins": layers.Reshape((4 * config.objects, BINS), name="bins")(bins)}, None
    merged = pyramid(backbone, _GRID_CHANNELS, "box", "use the {head} distribution or vector")[0]
    fine = separable(merged, _GRID_CHANNELS, "box_block_last")
    strongest = layers.Flatten(name="fine")(layers.MaxPooling2D(fine.shape[1:3], name="fine_max")(fine))
    weights = layers.Conv2D(config.objects, 1, name="weights")(fine)
    start = keras.initializers.Constant(_DISTANCE_BIAS)
    distances = layers.Conv2D(4 * config.objects, 1, bias_initializer=start, name="distances")(fine)
    return {"weights": weights, "distances": distances}, strongest


@dataclass(frozen=True, slots=True)
class Start:
    """A network, the names of its outputs in their order, and the contract that says what they mean.

    `digest` is the SHA-256 of the file that it was read from, empty for a fresh one.
    """

    network: keras.Model
    names: tuple[str, ...]
    contract: Contract
    digest: str = ""


def reference_start(config: NetworkConfig, labels: tuple[str, ...], sizes: Sequence[tuple[float, float]] = ()) -> Start:
    """Build the reference network of the head's task.

    Parameters:
        config: what to build.
        labels: the classes.
        sizes: width and height of the objects to learn from, in input pixels; heads with anchors fit them to these.
    """
    if config.head in METHODS:
        contract = stages_contract(config, labels, anchors_of(sizes) if config.head == "faster-rcnn" else ())
        network = build_stages(config, contract)
    elif config.head in HEADS["detect"]:
        contract = detector_contract(config, labels, () if config.head == "anchor-free" else anchors_of(sizes))
        network = build_detector(config, contract)
    else:
        contract, network = network_contract(config, labels), build_network(config, len(labels))
    set_batch_norm_momentum(network, MOMENTUM)
    return Start(network, tuple(network.output), contract)


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
    if source.contract.stages is not None:
        raise ContractError(f"{path} is a two-stage detector, which is trained in one run")
    if source.contract.detector is None:
        check_roles(source.contract)
    else:
        check_detector(source.contract)
    names = source.output_names
    missing = [output.tensor for output in source.contract.outputs if output.tensor not in names]
    if missing:
        raise ContractError(f"{path}: its contract names the output {missing[0]!r}, it has {', '.join(names)}")
    set_batch_norm_momentum(source.network, MOMENTUM)
    return Start(source.network, names, source.contract, source.digest)
