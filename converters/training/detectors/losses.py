"""A detector with its losses and its mean average precision, inside the training graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import losses, ops

from edgeloc.converters.training.detectors.matching import match_by_cost, match_by_overlap, match_by_shape
from edgeloc.converters.training.losses import Trainable, box_loss, iou
from edgeloc.decode import Decoder
from edgeloc.decode.places import Places, locate
from edgeloc.errors import ContractError
from edgeloc.evaluation.average_precision import AveragePrecision
from edgeloc.evaluation.detection import below_threshold, match
from edgeloc.model.contract import Contract
from edgeloc.model.detector import DetectorSpec
from edgeloc.preprocess import Placement
from edgeloc.types import Box, Detection, LabelledBox

__all__ = ["TrainableDetector", "best_threshold", "check_detector", "decode_boxes", "read_parts"]

_FORMS = ("cxcywh", "distances")
_SIZES = {
    "none": lambda x: x,
    "exp": ops.exp,
    "sigmoid": ops.sigmoid,
    "squared-sigmoid": lambda x: ops.square(2 * ops.sigmoid(x)),
    "relu": ops.relu,
    "softplus": ops.softplus,
}
_CENTRES = {
    "none": lambda x: x,
    "sigmoid": ops.sigmoid,
    "wide-sigmoid": lambda x: 2 * ops.sigmoid(x) - 0.5,
    "tanh": ops.tanh,
}
# An exponential of more is no box, and its gradient would end the training.
_LARGEST_POWER = 8.0
# How many locations without an object SSD learns from for each one with an object.
_NEGATIVES = 3
_AS_IT_IS = Placement(1.0, 1.0, 0.0, 0.0)


def check_detector(contract: Contract) -> None:
    """Raise ContractError where a detector's description is one that training cannot learn by."""
    spec = contract.detector
    assert spec is not None
    if spec.box.form not in _FORMS or spec.box.bins or not (spec.locations.strides or spec.locations.table):
        raise ContractError(
            f"detector.box.form is {spec.box.form!r}: training learns boxes of {' and '.join(_FORMS)} from locations"
        )
    parts = {part for output in contract.outputs for part in output.parts}
    if not {"box", "class"} <= parts:
        raise ContractError(f"outputs: they hold {', '.join(sorted(parts))}: training needs the parts box and class")
    if any(output.layout != "channels-last" or len(output.parts) > 1 for output in contract.outputs):
        raise ContractError("outputs: training needs each part in an output of its own, channels last")
    if spec.scores.activation == "none" or (spec.scores.activation == "softmax") != (spec.scores.background != "none"):
        raise ContractError("detector.scores: training needs a sigmoid, or a softmax with the background")


def read_parts(outputs: dict[str, Any], contract: Contract) -> dict[str, Any]:
    """The raw `box` (batch, locations, 4), `class` (batch, locations, K) and `objectness` (batch, locations, 1)."""
    spec = contract.detector
    assert spec is not None
    sizes = {"box": 4, "objectness": 1, "class": len(contract.labels) + (spec.scores.background != "none")}
    read: dict[str, list[Any]] = {}
    for output in sorted(contract.outputs, key=lambda output: output.level or 0):
        part = output.parts[0]
        values = outputs[output.tensor]
        count = int(np.prod(values.shape[1:])) // sizes[part]
        read.setdefault(part, []).append(ops.reshape(values, (-1, count, sizes[part])))
    return {part: ops.concatenate(levels, axis=1) for part, levels in read.items()}


def decode_boxes(raw: Any, spec: DetectorSpec, places: Places, side: tuple[int, int]) -> Any:
    """Corners (batch, locations, 4) in pixels of the input, from raw numbers; the formulas are DetectorBox's.

    `side` are the input's width and height.
    """
    box = spec.box

    def unit(name: str) -> Any:
        sizes = {"stride": places.strides, "anchor": places.sizes, "fraction": np.array([side], np.float32)}
        return sizes.get(name, 1.0)

    if box.size == "exp":
        raw = ops.concatenate([raw[..., :2], ops.minimum(raw[..., 2:], _LARGEST_POWER / box.variances[1])], axis=-1)
    if box.form == "distances":
        raw = ops.minimum(raw, _LARGEST_POWER) if box.size == "exp" else raw
        edges = _SIZES[box.size](raw)
        low, high = edges[..., :2] * unit(box.units), edges[..., 2:] * unit(box.units)
        return ops.concatenate([places.centers - low, places.centers + high], axis=-1)
    middle = places.centers + _CENTRES[box.center](raw[..., :2]) * box.variances[0] * unit(box.units)
    size, spread = raw[..., 2:], box.variances[1]
    size = ops.exp(size * spread) if box.size == "exp" else _SIZES[box.size](size) * spread
    half = size * unit(box.size_units or box.units) / 2
    return ops.concatenate([middle - half, middle + half], axis=-1)


def quality_focal(quality: Any, logits: Any) -> Any:
    """Cross-entropy with a quality of 0 to 1 as the target, weighted by how far off the answer is (Li et al. 2020)."""
    off = ops.square(ops.sigmoid(logits) - quality)
    return off * losses.binary_crossentropy(quality[..., None], logits[..., None], from_logits=True)


class TrainableDetector(Trainable):
    """A network with its losses: outputs are read by `contract`, targets are those of `EveryObject`.

    A head with classes alone learns their quality, the IoU of the location's box, and is matched by cost; one with
    objectness learns it there, and is matched by shape; one with a background class learns a softmax with the hardest
    negatives, and is matched by overlap.

    Metrics: both losses, and where it is evaluated `map50`, the mean average precision at an IoU of 0.5, `threshold`,
    the score with the best F1, and `f1`.
    """

    monitor = "map50"
    figures: ClassVar[dict[str, str]] = {"box_loss": "box loss", "class_loss": "class loss", "map50": "mAP50"}

    def __init__(
        self, network: keras.Model, names: tuple[str, ...], contract: Contract, loss_parts: tuple[str, ...]
    ) -> None:
        super().__init__(network, contract, ("box_loss", "class_loss"))
        check_detector(contract)
        assert contract.detector is not None
        self._names, self._spec, self._loss_parts = names, contract.detector, loss_parts
        self._side = contract.input.width, contract.input.height
        places = locate(self._spec.locations, *self._side)
        assert places is not None
        self._places = places
        self._decoder = Decoder(below_threshold(contract))
        self._validate = tf.function(self._answer)

    def call(self, image: Any, training: bool | None = None) -> dict[str, Any]:
        outputs = self._named_outputs(image, self._names, training)
        return {output.tensor: outputs[output.tensor] for output in self.contract.outputs}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Boxes count where an object is, classes everywhere, both divided by the number of matched locations."""
        raw = read_parts(y_pred, self.contract)
        found = decode_boxes(raw["box"], self._spec, self._places, self._side)
        matched = self._match(y, ops.stop_gradient(found), raw)
        positive = ops.cast(matched >= 0, "float32")
        count = ops.maximum(ops.sum(positive), 1.0)
        index = ops.maximum(matched, 0)
        truth = ops.take_along_axis(y["boxes"], index[..., None], axis=1)
        label = ops.take_along_axis(y["labels"], index, axis=1)
        box = ops.sum(self._box_loss(truth, found) * positive) / count
        quality = ops.stop_gradient(_pairs(iou, truth, found)) * positive
        classes = ops.sum(self._class_loss(raw, label, positive, quality)) / count
        for name, value in (("box_loss", box), ("class_loss", classes)):
            self._means[name].update_state(value)
        return box + classes + sum(self.losses)

    def _match(self, y: Any, found: Any, raw: dict[str, Any]) -> Any:
        if self._spec.scores.background != "none":
            return match_by_overlap(y["boxes"], y["labels"], self._places)
        if "objectness" in raw:
            return match_by_shape(y["boxes"], y["labels"], self._places)
        logits = ops.stop_gradient(raw["class"])
        return match_by_cost(y["boxes"], y["labels"], found, logits, self._places)

    def _box_loss(self, truth: Any, found: Any) -> Any:
        """The named losses, with the side of the object as the unit, so that small ones count as much as large ones."""
        size = truth[..., 2:] - truth[..., :2]
        unit = ops.sqrt(ops.maximum(ops.prod(size, axis=-1, keepdims=True), 1.0))
        return _pairs(lambda a, b: box_loss(a, b, self._loss_parts), truth / unit, found / unit)

    def _class_loss(self, raw: dict[str, Any], label: Any, positive: Any, quality: Any) -> Any:
        logits = raw["class"]
        if self._spec.scores.background != "none":
            first = self._spec.scores.background == "first"
            number = label + 1 if first else label
            nothing = 0 if first else logits.shape[-1] - 1
            target = ops.where(positive > 0, number, nothing)
            return _hard_negatives(losses.sparse_categorical_crossentropy(target, logits, from_logits=True), positive)
        own = ops.one_hot(label, logits.shape[-1]) * positive[..., None]
        if "objectness" in raw:
            crossed = losses.binary_crossentropy(own[..., None], logits[..., None], from_logits=True)
            return ops.sum(crossed, axis=-1) * positive + quality_focal(quality, raw["objectness"][..., 0])
        return ops.sum(quality_focal(own * quality[..., None], logits), axis=-1)

    def _answer(self, images: Any, targets: Any) -> Any:
        outputs = self(images, training=False)
        self._loss_tracker.update_state(self.compute_loss(y=targets, y_pred=outputs, training=False))
        return outputs

    def evaluate(self, x: Any, **_kwargs: Any) -> dict[str, float]:
        """The losses and the figures of the objects that the runtime would give, over the validation batches `x`."""
        return evaluate_objects(self, x, self._validate, self._detect)

    def _detect(self, images: Any, row: int, outputs: dict[str, Any]) -> tuple[Detection, ...]:
        return self._decoder(outputs, _AS_IT_IS, self._side).objects


def evaluate_objects(
    model: Any,
    batches: Any,
    answer: Callable[[Any, Any], Any],
    detect: Callable[[Any, int, dict[str, Any]], tuple[Detection, ...]],
) -> dict[str, float]:
    """The losses of a detector in training, and the figures of the objects that the runtime would give.

    Parameters:
        model: has the losses' means as its metrics, and a contract.
        batches: of validation, each (inputs, targets of `EveryObject`).
        answer: the outputs on a batch, by name, after adding its losses to the means.
        detect: the objects of one image, from the batch's inputs, its row and its own outputs (1, ...).
    """
    model.reset_metrics()
    truths: list[list[LabelledBox]] = []
    found: list[tuple[Detection, ...]] = []
    for index in range(len(batches)):
        inputs, targets = batches[index]
        outputs = {name: np.asarray(values) for name, values in answer(inputs, targets).items()}
        here = true_objects(targets, model.contract.labels)
        for row in range(len(here)):
            found.append(detect(inputs, row, {name: values[row : row + 1] for name, values in outputs.items()}))
        truths += here
    results = {name: float(value) for name, value in model.get_metrics_result().items()}
    return results | detection_metrics(truths, found)


def true_objects(targets: dict[str, Any], labels: Sequence[str]) -> list[list[LabelledBox]]:
    """The objects of each image of a batch, from the targets of `EveryObject`."""
    return [
        [LabelledBox(Box(*box), labels[n]) for box, n in zip(boxes.tolist(), numbers.tolist(), strict=True) if n >= 0]
        for boxes, numbers in zip(targets["boxes"], targets["labels"], strict=True)
    ]


def detection_metrics(
    truths: Sequence[Sequence[LabelledBox]], found: Sequence[Sequence[Detection]]
) -> dict[str, float]:
    """`map50`, and the `threshold` of the best F1 with that `f1`, over all images."""
    threshold, f1 = best_threshold(truths, found)
    precision = AveragePrecision(truths, found).figures().ap50
    return {"map50": precision or 0.0, "threshold": threshold, "f1": f1}


def best_threshold(
    truths: Sequence[Sequence[LabelledBox]], found: Sequence[Sequence[Detection]]
) -> tuple[float, float]:
    """The score from which on objects give the best F1, over all images and classes, and that F1; 0.5 without any.

    It lies between the scores of the last object that counts and the next one, so that int8 loses neither by a step.
    """
    hits: list[tuple[float, bool]] = []
    for items, detections in zip(truths, found, strict=True):
        for label in {one.label for one in detections}:
            same = [(one.score, one.box) for one in detections if one.label == label and one.box is not None]
            pairs = match([box for _, box in same], [item.box for item in items if item.label == label])
            hits += [(score, pair is not None) for (score, _), pair in zip(same, pairs, strict=True)]
    there = sum(len(items) for items in truths)
    if not hits or not there:
        return 0.5, 0.0
    hits.sort(key=lambda hit: -hit[0])
    right = np.cumsum([hit for _, hit in hits])
    f1 = 2 * right / (np.arange(1, len(right) + 1) + there)
    best = int(f1.argmax())
    below = hits[best + 1][0] if best + 1 < len(hits) else 0.0
    return (hits[best][0] + below) / 2, float(f1[best])


def _pairs(measure: Any, truth: Any, found: Any) -> Any:
    """What `measure` gives for each pair of boxes, (batch, locations)."""
    flat = measure(ops.reshape(truth, (-1, 4)), ops.reshape(found, (-1, 4)))
    return ops.reshape(flat, (-1, truth.shape[1]))


def _hard_negatives(crossed: Any, positive: Any) -> Any:
    """The loss of locations with an object, and of three times as many without one, those that are the most wrong."""
    negative = ops.where(positive > 0, 0.0, crossed)
    count = ops.cast(_NEGATIVES * ops.maximum(ops.sum(positive, axis=1), 1.0), "int32")
    hardest = -ops.sort(-negative, axis=1)
    limit = ops.take_along_axis(hardest, ops.minimum(count, hardest.shape[1])[:, None] - 1, axis=1)
    return crossed * ops.cast(ops.logical_or(positive > 0, negative >= limit), "float32")
