"""The localizer's outputs by role, its losses and metrics, inside the training graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import losses, ops
from numpy.typing import NDArray

from edgeloc.decode.heads import BOX_PARTS, vector_columns
from edgeloc.errors import ContractError, UsageError
from edgeloc.model.contract import Contract

__all__ = [
    "BOX_LOSSES",
    "Trainable",
    "TrainableLocalizer",
    "assign_slots",
    "box_loss",
    "cell_loss",
    "check_roles",
    "decode_boxes",
    "iou",
    "parse_box_loss",
    "read_roles",
]

_READ = {"presence", "class", "box", "vector", "grid-weights", "grid-distances", "box-bins"}
_KEYS = {"grid-weights": "weights", "grid-distances": "distances", "box-bins": "bins"}
# The columns that put x before y and width before height, for the forms that have them the other way round.
_ORDER = {"yxyx": (1, 0, 3, 2), "cxcyhw": (0, 1, 3, 2)}
# How near to 0 and 1 a probability may come, so that its logit stays finite.
_MARGIN = 1e-6


def check_roles(contract: Contract) -> None:
    """Raise ContractError where the outputs have a role that training cannot read, or none of them is a box."""
    for output in contract.outputs:
        if output.role not in _READ:
            raise ContractError(f"outputs[{output.tensor}].role is {output.role!r}: training cannot learn from it")
    vector = contract.output("vector")
    columns = {} if vector is None else vector_columns(vector, contract)
    if "box" not in columns and not {output.role for output in contract.outputs} & {"box", *_KEYS}:
        raise ContractError("outputs: no output holds a box: training has nothing to measure")


def read_roles(outputs: dict[str, Any], contract: Contract) -> dict[str, Any]:
    """What the losses take, from the network's outputs by tensor name; a row is an object of an image.

    `presence` (rows, 1) and `class` (rows, K) as logits, where there are any; the box as
    `weights` and `distances`, as `bins`, or as `corners` (rows, 4), x1, y1, x2, y2 in fractions.
    """
    read: dict[str, Any] = {}
    for output in contract.outputs:
        values = _by_object(outputs[output.tensor], output.role, contract.box.objects)
        if output.role == "vector":
            read |= _vector(values, output, contract)
        elif output.role in ("presence", "class"):
            flat = _flat(values)
            read[output.role] = flat if output.activation != "none" else _logits(flat, output.role)
        elif output.role == "box":
            read["corners"] = _corners(_flat(values), output.activation, contract.box.form, contract)
        else:
            read[_KEYS[output.role]] = values
    return read


def _by_object(values: Any, role: str, objects: int) -> Any:
    """An output (batch, ...) with each object of each image as a row."""
    if objects == 1:
        return values
    if role.startswith("grid-"):
        height, width, channels = values.shape[1:]
        parts = ops.reshape(values, (-1, height, width, objects, channels // objects))
        return ops.reshape(ops.transpose(parts, (0, 3, 1, 2, 4)), (-1, height, width, channels // objects))
    if role == "box-bins":
        return ops.reshape(values, (-1, 4, math.prod(values.shape[1:]) // (4 * objects)))
    return ops.reshape(values, (-1, math.prod(values.shape[1:]) // objects))


def _vector(values: Any, output: Any, contract: Contract) -> dict[str, Any]:
    read, values = {}, _flat(values)
    for role, columns in vector_columns(output, contract).items():
        part = ops.take(values, columns, axis=-1)
        activation = output.class_activation if role == "class" else output.activation
        if role == "box":
            form = BOX_PARTS[tuple(output.slots[i] for i in columns)]
            read["corners"] = _corners(part, activation, form, contract)
        else:
            read[role] = part if activation != "none" else _logits(part, role)
    return read


def _flat(values: Any) -> Any:
    return ops.reshape(values, (-1, math.prod(values.shape[1:])))


def _logits(probabilities: Any, role: str) -> Any:
    """The logits of which a sigmoid, or for classes a softmax, gives these probabilities."""
    safe = ops.clip(probabilities, _MARGIN, 1 - _MARGIN)
    return ops.log(safe) if role == "class" else ops.log(safe) - ops.log(1 - safe)


def _corners(numbers: Any, activation: str, form: str, contract: Contract) -> Any:
    numbers = ops.sigmoid(numbers) if activation == "sigmoid" else numbers
    numbers = ops.take(numbers, _ORDER.get(form, (0, 1, 2, 3)), axis=-1)
    if form not in ("xyxy", "yxyx"):
        start, size = ops.split(numbers, 2, axis=-1)
        start = start if form == "xywh" else start - size / 2
        numbers = ops.concatenate([start, start + size], axis=-1)
    if contract.box.units == "fraction":
        return numbers
    return numbers / ops.convert_to_tensor((contract.input.width, contract.input.height) * 2, "float32")


# Where Huber's loss turns from square to linear, in fractions of the input's side.
_HUBER_DELTA = 0.05
_REGRESSION_WEIGHT = 5.0
_OVERLAP_WEIGHT = 2.0
_EPSILON = 1e-7

BOX_LOSSES = ("l1", "l2", "huber", "giou", "ciou")


def parse_box_loss(text: str) -> tuple[str, ...]:
    """Split a name such as `huber+giou` into its parts; UsageError for an unknown part."""
    parts = tuple(text.split("+"))
    unknown = [part for part in parts if part not in BOX_LOSSES]
    if unknown:
        raise UsageError(field="box_loss", value=text, allowed=f"some of {', '.join(BOX_LOSSES)}, joined with +")
    return parts


def decode_boxes(outputs: dict[str, Any]) -> Any:
    """Boxes (batch, 4) as x1, y1, x2, y2 in fractions of the input, by whichever box head `read_roles` found."""
    if "distances" in outputs:
        return _grid_boxes(outputs["weights"], outputs["distances"])
    if "bins" in outputs:
        return _distribution_boxes(outputs["bins"])
    return outputs["corners"]


def _cell_centres(height: int, width: int) -> Any:
    """Centres (height * width, 4) of a feature map's cells as cx, cy, cx, cy in fractions."""
    y, x = np.mgrid[:height, :width]
    cx, cy = (x.ravel() + 0.5) / width, (y.ravel() + 0.5) / height
    return np.stack([cx, cy, cx, cy], axis=1).astype(np.float32)


def _grid_boxes(weights: Any, distances: Any) -> Any:
    """The expectation over cells of (centre minus or plus softplus distance)."""
    height, width = distances.shape[1:3]
    share = ops.softmax(ops.reshape(weights, (-1, height * width, 1)), axis=1)
    edges = ops.softplus(ops.reshape(distances, (-1, height * width, 4)))
    signs = ops.convert_to_tensor([-1.0, -1.0, 1.0, 1.0])
    return ops.sum(share * (_cell_centres(height, width) + signs * edges), axis=1)


def _distribution_boxes(bins: Any) -> Any:
    """The expectation over bins that stand evenly from 0 to 1."""
    positions = ops.linspace(0.0, 1.0, bins.shape[-1])
    return ops.sum(ops.softmax(bins, axis=-1) * positions, axis=-1)


def box_loss(truth: Any, boxes: Any, parts: tuple[str, ...]) -> Any:
    """The sum of the named losses for each image, (batch,); boxes (batch, 4) as corners in fractions.

    Coordinate losses are weighted 5 and averaged over the corners; overlap losses are weighted 2.
    """
    total = 0.0
    for part in parts:
        if part in ("giou", "ciou"):
            total = total + _OVERLAP_WEIGHT * (1.0 - _overlap(truth, boxes, part))
        else:
            total = total + _REGRESSION_WEIGHT * _coordinate_loss(truth - boxes, part)
    return total


def _coordinate_loss(difference: Any, kind: str) -> Any:
    size = ops.abs(difference)
    if kind == "l2":
        size = ops.square(difference)
    elif kind == "huber":
        square = 0.5 * ops.square(size) / _HUBER_DELTA
        size = ops.where(size < _HUBER_DELTA, square, size - 0.5 * _HUBER_DELTA)
    return ops.mean(size, axis=-1)


def _areas(truth: Any, boxes: Any) -> tuple[Any, Any, Any]:
    """Overlap, union and enclosing area of two sets of boxes."""

    def area(low: Any, high: Any) -> Any:
        return ops.prod(ops.maximum(high - low, 0.0), axis=-1)

    overlap = area(ops.maximum(truth[:, :2], boxes[:, :2]), ops.minimum(truth[:, 2:], boxes[:, 2:]))
    union = area(truth[:, :2], truth[:, 2:]) + area(boxes[:, :2], boxes[:, 2:]) - overlap
    hull = area(ops.minimum(truth[:, :2], boxes[:, :2]), ops.maximum(truth[:, 2:], boxes[:, 2:]))
    return overlap, union, hull


def iou(truth: Any, boxes: Any) -> Any:
    """Intersection over union for each pair, (batch,)."""
    overlap, union, _ = _areas(truth, boxes)
    return overlap / (union + _EPSILON)


def _overlap(truth: Any, boxes: Any, kind: str) -> Any:
    """Generalized IoU (Rezatofighi et al. 2019) or complete IoU (Zheng et al. 2020), -1 to 1."""
    overlap, union, hull = _areas(truth, boxes)
    plain = overlap / (union + _EPSILON)
    if kind == "giou":
        return plain - (hull - union) / (hull + _EPSILON)
    return plain - _centre_penalty(truth, boxes) - _aspect_penalty(truth, boxes, plain)


def _centre_penalty(truth: Any, boxes: Any) -> Any:
    centres = (truth[:, :2] + truth[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    hull = ops.maximum(truth[:, 2:], boxes[:, 2:]) - ops.minimum(truth[:, :2], boxes[:, :2])
    return ops.sum(ops.square(centres), axis=-1) / (ops.sum(ops.square(hull), axis=-1) + _EPSILON)


def _aspect_penalty(truth: Any, boxes: Any, plain: Any) -> Any:
    def angle(corners: Any) -> Any:
        size = ops.maximum(corners[:, 2:] - corners[:, :2], _EPSILON)
        return ops.arctan2(size[:, 0], size[:, 1])

    aspect = ops.square(angle(truth) - angle(boxes)) * (4.0 / math.pi**2)
    return aspect * ops.stop_gradient(aspect / (1.0 - plain + aspect + _EPSILON))


def cell_loss(truth: Any, outputs: dict[str, Any]) -> Any:
    """Cross-entropy of the grid's weights with the object's cell, or of the bins with the true edges; 0 without either.

    `truth` are corners (batch, 4) in fractions of the input; the loss is for each image, (batch,).
    """
    if "weights" in outputs:
        height, width = outputs["weights"].shape[1:3]
        column = ops.clip((truth[:, 0] + truth[:, 2]) / 2 * width, 0, width - 1)
        row = ops.clip((truth[:, 1] + truth[:, 3]) / 2 * height, 0, height - 1)
        cell = ops.cast(row, "int32") * width + ops.cast(column, "int32")
        logits = ops.reshape(outputs["weights"], (-1, height * width))
        return losses.sparse_categorical_crossentropy(cell, logits, from_logits=True)
    if "bins" in outputs:
        bins = outputs["bins"]
        nearest = ops.cast(ops.round(ops.clip(truth, 0, 1) * (bins.shape[-1] - 1)), "int32")
        return ops.mean(losses.sparse_categorical_crossentropy(nearest, bins, from_logits=True), axis=-1)
    return ops.zeros_like(truth[:, 0])


def _rows(values: Any) -> Any:
    return ops.reshape(values, (-1,))


def assign_slots(y: dict[str, Any], boxes: Any, logits: Any | None) -> dict[str, Any]:
    """The targets of each image in the order of the outputs that fit them best (Carion et al. 2020).

    The assignment with the least sum of the corners' distance, five times their mean, and of the class's negative log
    probability is found on the host; slots for which no object is left keep none.

    Parameters:
        y: targets of `ObjectSlots`.
        boxes: the corners that the network answers now (batch * objects, 4), in fractions.
        logits: its classes (batch * objects, K); None where it has none.
    """
    import tensorflow as tf

    objects = y["box"].shape[1]
    found = ops.reshape(ops.stop_gradient(boxes), (-1, objects, 1, 4))
    cost = _REGRESSION_WEIGHT * ops.mean(ops.abs(found - y["box"][:, None]), axis=-1)
    if logits is not None:
        chances = ops.reshape(ops.log_softmax(ops.stop_gradient(logits), axis=-1), (-1, objects, logits.shape[-1]))
        wanted = ops.one_hot(y["label"], logits.shape[-1])  # of no label: nothing
        cost = cost - ops.matmul(chances, ops.transpose(wanted, (0, 2, 1)))
    order = tf.numpy_function(_least_cost, [cost * y["present"][:, None]], tf.int32)
    order = ops.reshape(order, (-1, objects))
    return {
        "box": ops.take_along_axis(y["box"], order[..., None], axis=1),
        "present": ops.take_along_axis(y["present"], order, axis=1),
        "label": ops.take_along_axis(y["label"], order, axis=1),
    }


def _least_cost(cost: NDArray[np.float32]) -> NDArray[np.int32]:
    """For each image and row of (batch, n, n) the column that is assigned to it."""
    from scipy.optimize import linear_sum_assignment

    return np.stack([linear_sum_assignment(np.nan_to_num(one, nan=1e6))[1] for one in cost]).astype(np.int32)


_WEIGHTS = {"box": 1.0, "cell": 0.25, "presence": 0.5, "class": 0.5}
_LABEL_SMOOTHING = 0.1


class Trainable(keras.Model):  # type: ignore[misc]
    """A network under training. `compute_loss` puts what it finds on `_means`, which are reported beside the loss.

    Parameters:
        network: what is trained.
        contract: how its outputs are read.
        means: the names of the metrics.
    """

    def __init__(self, network: keras.Model, contract: Contract, means: Iterable[str]) -> None:
        super().__init__(name="training")
        self.network, self.contract = network, contract
        self._means = {name: keras.metrics.Mean(name=name) for name in means}

    def _named_outputs(self, image: Any, names: Sequence[str], training: bool | None) -> dict[str, Any]:
        """The network's outputs by name; of one that gives a list `names` are theirs."""
        outputs = self.network(image, training=training)
        return outputs if isinstance(outputs, dict) else dict(zip(names, keras.tree.flatten(outputs), strict=True))

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        results: dict[str, Any] = self.get_metrics_result()
        return results

    @property
    def metrics(self) -> list[Any]:
        return [self._loss_tracker, *self._means.values()]


class TrainableLocalizer(Trainable):
    """A network with its losses: outputs are read by the roles of `contract`, targets are those of `ObjectSlots`.

    Of several objects each learns the target of its own slot where the network's slots go `by_label`; else each image's
    targets are assigned to its outputs as they fit best. Metrics: `box_iou`, the mean IoU over objects;
    `presence_accuracy`; `label_accuracy` over objects with a label.
    """

    monitor = "box_iou"
    figures: ClassVar[dict[str, str]] = {
        "box_iou": "mean IoU", "presence_accuracy": "presence accuracy", "label_accuracy": "label accuracy",
    }  # fmt: skip

    def __init__(
        self,
        network: keras.Model,
        names: tuple[str, ...],
        contract: Contract,
        loss_parts: tuple[str, ...],
        *,
        by_label: bool = False,
    ) -> None:
        super().__init__(network, contract, ("box_loss", "presence_loss", "class_loss", *self.figures))
        self._names, self._loss_parts = names, loss_parts
        self._assigned = contract.box.objects > 1 and not by_label

    def call(self, image: Any, training: bool | None = None) -> dict[str, Any]:
        return read_roles(self._named_outputs(image, self._names, training), self.contract)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The weighted sum; box and class count only where an object is, each as the mean over those objects."""
        boxes = decode_boxes(y_pred)
        if self._assigned:
            y = assign_slots(y, boxes, y_pred.get("class"))
        truth, present, label = ops.reshape(y["box"], (-1, 4)), _rows(y["present"]), _rows(y["label"])
        labelled = ops.cast(label >= 0, "float32")
        box = self._masked("box_loss", box_loss(truth, boxes, self._loss_parts), present)
        cell = ops.sum(cell_loss(truth, y_pred) * present) / ops.maximum(ops.sum(present), 1.0)
        self._masked("box_iou", iou(truth, boxes), present)
        total = _WEIGHTS["box"] * box + _WEIGHTS["cell"] * cell
        if "presence" in y_pred:
            total = total + _WEIGHTS["presence"] * self._presence_loss(present, y_pred["presence"])
        if "class" in y_pred:
            total = total + _WEIGHTS["class"] * self._class_loss(label, y_pred["class"], labelled)
        return total + sum(self.losses)

    def _presence_loss(self, present: Any, logits: Any) -> Any:
        everywhere = ops.ones_like(present)
        right = ops.equal(logits[:, 0] > 0, present > 0.5)
        self._masked("presence_accuracy", ops.cast(right, "float32"), everywhere)
        loss = losses.binary_crossentropy(present[:, None], logits, from_logits=True)
        return self._masked("presence_loss", loss, everywhere)

    def _class_loss(self, label: Any, logits: Any, labelled: Any) -> Any:
        target = ops.one_hot(ops.maximum(label, 0), logits.shape[-1])
        # Written out, because Keras warns of a single class, which is fine here.
        target = target * (1 - _LABEL_SMOOTHING) + _LABEL_SMOOTHING / logits.shape[-1]
        loss = -ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1)
        right = ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(label, "int64")), "float32")
        self._masked("label_accuracy", right, labelled)
        return self._masked("class_loss", loss, labelled)

    def _masked(self, name: str, values: Any, mask: Any) -> Any:
        """The mean of `values` where `mask` is 1, also put on the metric `name`."""
        self._means[name].update_state(values, sample_weight=mask)
        return ops.sum(values * mask) / ops.maximum(ops.sum(mask), 1.0)
