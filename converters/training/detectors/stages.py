"""Two-stage detectors as Keras networks, the regions that they learn from, and their losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import layers, losses, ops
from numpy.typing import NDArray

from edgeloc.converters.sources.tensorflow import save_network
from edgeloc.converters.training.backbones import NetworkConfig, build_backbone, image_input, pyramid, separable
from edgeloc.converters.training.batches import TrainingBatches, ValidationBatches
from edgeloc.converters.training.detectors.heads import Anchors
from edgeloc.converters.training.detectors.losses import TrainableDetector, evaluate_objects
from edgeloc.converters.training.losses import Trainable
from edgeloc.decode import Decoder
from edgeloc.decode.numbers import REAL, Array
from edgeloc.decode.regions import FEATURES, SAMPLES, RegionStages, encode_boxes, proposal_contract
from edgeloc.model.contract import Contract, OutputSpec, Thresholds
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations, Scores, Selection, Stages
from edgeloc.preprocess import Placement
from edgeloc.types import Detection

__all__ = [
    "METHODS",
    "RegionBatches",
    "RegionPool",
    "TrainableStages",
    "build_stages",
    "save_stages",
    "stages_contract",
]

METHODS = ("rcnn", "fast-rcnn", "faster-rcnn")
_CHANNELS = 80
_STRIDE, _SIDE, _CROP = 8, 7, 64
# A network proposes better regions than contrast does: it needs fewer.
_REGIONS = {"rcnn": 100, "fast-rcnn": 100, "faster-rcnn": 64}
_SELECTION = Selection(nms="by-class", iou=0.5)
# How many regions of an image are learned from, and how many of them are around its objects.
_DRAWN, _AROUND = 32, 16
_LEAST_IOU = 0.5
_LEAST_SCORE = 0.01
_AS_IT_IS = Placement(1.0, 1.0, 0.0, 0.0)


def stages_contract(config: NetworkConfig, labels: tuple[str, ...], anchors: Anchors = ()) -> Contract:
    """The contract of the networks that `build_stages` makes; `anchors` are those of `anchors_of`."""
    proposals = DetectorSpec(
        Locations((_STRIDE,), anchors=(sum(anchors, ()),) if anchors else ()),
        DetectorBox("cxcywh", units="anchor", size="exp", variances=(0.1, 0.2)),
        Scores("softmax", background="first"),
        Selection(nms="over-all", iou=0.7, candidates=300, objects=_REGIONS["faster-rcnn"]),
    )
    crops = config.head == "rcnn"
    return Contract(
        input=image_input(config),
        outputs=(
            OutputSpec("class", "detections", parts=("class",)),
            OutputSpec("box", "detections", parts=("box",)),
        ),
        labels=labels,
        detector=DetectorSpec(
            box=DetectorBox("xyxy", units="pixels"),
            scores=Scores("softmax", background="first"),
            selection=_SELECTION,
        ),
        stages=Stages(
            method=config.head,  # type: ignore[arg-type]
            regions=_REGIONS[config.head],
            side=_CROP if crops else _SIDE,
            stride=1 if crops else _STRIDE,
            proposals=proposals if config.head == "faster-rcnn" else None,
        ),
    )


@keras.saving.register_keras_serializable("edgeloc")
class RegionPool(layers.Layer):  # type: ignore[misc]
    """What a feature map, or an image, holds in each region, as `pool_regions` and `crop_regions` compute it.

    Takes the map (batch, height, width, channels) and corners (batch, regions, 4) in pixels of the input; gives
    (batch * regions, side, side, channels).
    """

    def __init__(self, stride: int, side: int, **options: Any) -> None:
        super().__init__(**options)
        self._stride, self._side = stride, side

    def call(self, features: Any, regions: Any) -> Any:
        samples = SAMPLES if self._stride > 1 else 1
        points = self._side * samples
        shape = ops.shape(features)
        # Points beyond the middle of the outermost cells take their value.
        padded = ops.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="symmetric")
        flat = ops.reshape(regions, (-1, 4)) / self._stride
        low, size = flat[:, :2], flat[:, 2:] - flat[:, :2]
        first = low + size * 0.5 / points + 0.5
        last = low + size * (points - 0.5) / points + 0.5
        cells = ops.cast(ops.stack([shape[2], shape[1]]), "float32") + 1.0
        x1, y1, x2, y2 = ops.split(ops.concatenate([first / cells, last / cells], axis=1), 4, axis=1)
        image = ops.repeat(ops.arange(shape[0]), ops.shape(regions)[1])
        crops = tf.image.crop_and_resize(padded, ops.concatenate([y1, x1, y2, x2], axis=1), image, (points, points))
        if samples > 1:
            crops = ops.average_pool(crops, samples)
        return ops.reshape(crops, (-1, self._side, self._side, features.shape[-1]))

    def compute_output_shape(self, features_shape: Any, regions_shape: Any) -> tuple[Any, ...]:
        return (None, self._side, self._side, features_shape[-1])


def build_stages(config: NetworkConfig, contract: Contract) -> keras.Model:
    """Build the float networks of a contract of `stages_contract`, joined into one to train.

    Inputs: `image`, float32 (batch, height, width, 3), normalized as the contract says, and `regions`, corners (batch,
    n, 4) in its pixels. Outputs: `class` (batch * n, labels + 1), `box` (batch * n, 4), and of faster-rcnn
    `proposal_class` and `proposal_box`; all raw. Its layer `head` is the network of one region, and its layer `first`
    the one before it, where there is one. Raises what `build_detector` raises.
    """
    stages = contract.stages
    assert stages is not None
    image = keras.Input((contract.input.height, contract.input.width, 3), name="image")
    regions = keras.Input((None, 4), name="regions")
    pool = RegionPool(stages.stride, stages.side, name="pool_regions")
    classes = len(contract.labels) + 1
    if stages.method == "rcnn":
        backbone = build_backbone(dataclasses.replace(config, input_size=stages.side))
        head = _head(backbone.inputs[0], layers.GlobalAveragePooling2D()(backbone.output), classes)
        return keras.Model({"image": image, "regions": regions}, head(pool(image, regions)))
    first = _first(config, stages)
    region = keras.Input((stages.side, stages.side, _CHANNELS), name="regions")
    x = region
    for number in range(2):
        x = layers.Conv2D(_CHANNELS, 3, activation="relu", name=f"head_conv_{number}")(x)
    head = _head(region, layers.Flatten()(x), classes)
    outputs = dict(first(image))
    answers = head(pool(outputs.pop(FEATURES), regions))
    return keras.Model({"image": image, "regions": regions}, {**answers, **outputs})


def _first(config: NetworkConfig, stages: Stages) -> keras.Model:
    """One feature map, and where regions are proposed from it their scores and boxes."""
    backbone = build_backbone(config)
    merged = pyramid(backbone, _CHANNELS, "fpn", "take another {backbone}")[0]
    outputs = {FEATURES: separable(merged, _CHANNELS, "features_block")}
    if stages.proposals is not None:
        anchors = stages.proposals.locations.per_cell(0)
        tower = separable(outputs[FEATURES], _CHANNELS, "proposal_block")
        for part, numbers in (("class", 2), ("box", 4)):
            name = f"proposal_{part}"
            outputs[name] = layers.Conv2D(anchors * numbers, 1, name=name)(tower)
    return keras.Model(backbone.inputs[0], outputs, name="first")


def _head(region: Any, features: Any, classes: int) -> keras.Model:
    hidden = layers.Dense(128, activation="relu", name="head_hidden")(features)
    outputs = {name: layers.Dense(numbers, name=name)(hidden) for name, numbers in (("class", classes), ("box", 4))}
    return keras.Model(region, outputs, name="head")


def save_stages(path: str | Path, network: keras.Model, contract: Contract) -> None:
    """Write the networks and their contract into one `.keras` file: the head beside the one before it."""
    assert contract.stages is not None
    head = network.get_layer("head")
    if contract.stages.method == "rcnn":
        save_network(path, head, contract)
    else:
        save_network(path, network.get_layer("first"), contract, head)


class RegionBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches with regions to learn from: around the objects, and anywhere; the same seed and epoch give the same.

    Images become `image` and `regions` (batch, n, 4), corners in pixels of the input. Targets gain `region_label` int32
    (batch, n), 0 for the background and else the label's index + 1, and `region_box` (batch, n, 4), by which
    `refine_boxes` makes the object of the region. A region is of the object that it overlaps most, by half at least.
    """

    def __init__(self, batches: TrainingBatches | ValidationBatches, contract: Contract) -> None:
        super().__init__(workers=2, max_queue_size=6)
        assert contract.stages is not None
        self._batches, self._variances = batches, contract.stages.variances
        self._side = contract.input.width, contract.input.height
        self._epoch = 0

    def start_epoch(self, epoch: int, how: Any) -> None:
        """Draw the batches and the regions of this epoch from now on."""
        assert isinstance(self._batches, TrainingBatches)
        self._epoch = epoch
        self._batches.start_epoch(epoch, how)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[Any]]]:
        images, targets = self._batches[index]
        rng = np.random.default_rng((self._epoch, index))
        rows = [
            _draw(boxes[labels >= 0], labels[labels >= 0], self._side, self._variances, rng)
            for boxes, labels in zip(targets["boxes"], targets["labels"], strict=True)
        ]
        regions, numbers, wanted = (np.stack(column) for column in zip(*rows, strict=True))
        return {"image": images, "regions": regions}, {**targets, "region_label": numbers, "region_box": wanted}


def _draw(
    boxes: Array,
    labels: NDArray[np.int32],
    side: tuple[int, int],
    variances: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Array, NDArray[np.int32], Array]:
    """Regions (n, 4) of one image, their labels (n,), and what their boxes should be (n, 4)."""
    whole = np.array(side, np.float32)
    if len(boxes):
        chosen = boxes[rng.integers(len(boxes), size=_DRAWN)]
        size, middle = chosen[:, 2:] - chosen[:, :2], (chosen[:, :2] + chosen[:, 2:]) / 2
    else:
        size, middle = rng.uniform(0.05, 0.5, (_DRAWN, 2)) * whole, np.zeros((_DRAWN, 2))
    spread = np.where(np.arange(_DRAWN) < _AROUND, 0.15, 0.5)[:, None]
    middle = middle + rng.normal(0, 1, (_DRAWN, 2)) * spread * size
    middle[_AROUND:] = np.where(rng.random((_DRAWN - _AROUND, 1)) < 0.5, middle[_AROUND:], 0)
    anywhere = (middle == 0).all(axis=1)
    middle[anywhere] = rng.uniform(0, 1, (int(anywhere.sum()), 2)) * whole
    half = size * np.exp(rng.normal(0, 1, (_DRAWN, 2)) * spread) / 2
    low = np.clip(middle - half, 0, whole - 2)
    regions = np.concatenate([low, np.clip(middle + half, low + 2, whole)], axis=1).astype(np.float32)
    if not len(boxes):
        return regions, np.zeros(_DRAWN, np.int32), np.zeros((_DRAWN, 4), np.float32)
    shared_low = np.maximum(regions[:, None, :2], boxes[None, :, :2])
    shared = np.maximum(np.minimum(regions[:, None, 2:], boxes[None, :, 2:]) - shared_low, 0).prod(axis=2)
    areas = [(corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (regions, boxes)]
    iou = shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-6)
    best = iou.argmax(axis=1)
    found = iou.max(axis=1) >= _LEAST_IOU
    return regions, np.where(found, labels[best] + 1, 0).astype(np.int32), encode_boxes(boxes[best], regions, variances)


class TrainableStages(Trainable):
    """The networks of `build_stages` with their losses: the head's on the regions of the batch, and the proposals'.

    The head learns a softmax over the classes and the background, and the box of regions that hold an object by a Huber
    loss; proposals learn as an SSD of one class does. Metrics are those of `TrainableDetector`.
    """

    monitor = "map50"
    figures: ClassVar[dict[str, str]] = TrainableDetector.figures

    def __init__(self, network: keras.Model, contract: Contract, loss_parts: tuple[str, ...]) -> None:
        super().__init__(network, contract, ("box_loss", "class_loss"))
        self._side = contract.input.width, contract.input.height
        self._steps = RegionStages(contract, REAL, {})
        self._decoder = Decoder(dataclasses.replace(contract, thresholds=Thresholds(_LEAST_SCORE)))
        self._proposing = None
        if contract.stages is not None and contract.stages.proposals is not None:
            proposing = proposal_contract(contract)
            names = tuple(output.tensor for output in proposing.outputs)
            self._proposing = TrainableDetector(network.get_layer("first"), names, proposing, loss_parts)
        self._head = tf.function(lambda regions: network.get_layer("head")(regions, training=False))
        self._validate = tf.function(self._answer)

    def build(self, shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.network(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        label = ops.reshape(y["region_label"], (-1,))
        there = ops.cast(label > 0, "float32")
        classes = ops.mean(losses.sparse_categorical_crossentropy(label, y_pred["class"], from_logits=True))
        off = losses.huber(ops.reshape(y["region_box"], (-1, 4)), y_pred["box"])
        box = ops.sum(off * there) / ops.maximum(ops.sum(there), 1.0)
        for name, value in (("box_loss", box), ("class_loss", classes)):
            self._means[name].update_state(value)
        total = box + classes
        if self._proposing is not None:
            objects = {"boxes": y["boxes"], "labels": ops.minimum(y["labels"], 0)}
            outputs = {output.tensor: y_pred[output.tensor] for output in self._proposing.contract.outputs}
            total = total + self._proposing.compute_loss(y=objects, y_pred=outputs, training=training)
        return total

    def _answer(self, inputs: Any, targets: Any) -> Any:
        outputs = self(inputs, training=False)
        self._loss_tracker.update_state(self.compute_loss(y=targets, y_pred=outputs, training=False))
        method = self._steps.stages.method
        return {} if method == "rcnn" else self.network.get_layer("first")(inputs["image"], training=False)

    def evaluate(self, x: Any, **_kwargs: Any) -> dict[str, float]:
        """The losses, and the figures of the boxes that the runtime would give, over the validation batches `x`."""
        return evaluate_objects(self, x, self._validate, self._detect)

    def _detect(self, inputs: Any, row: int, outputs: dict[str, NDArray[Any]]) -> tuple[Detection, ...]:
        image = inputs["image"][row : row + 1]
        regions = self._steps.propose(image, outputs)
        pooled = self._steps.pool(image, outputs, regions)
        # One shape for all images, so that the head is traced once.
        filled = np.zeros((self._steps.stages.regions, *pooled.shape[1:]), np.float32)
        filled[: len(regions)] = pooled
        answers = {name: np.asarray(values)[: len(regions)] for name, values in self._head(filled).items()}
        joined = self._steps.join(regions, answers["class"], answers["box"])
        return self._decoder(joined, _AS_IT_IS, self._side).objects
