"""Losses of the localizer and the decoding of its outputs inside the training graph, over keras.ops."""

from __future__ import annotations

from typing import Any

from edgeloc.errors import UsageError

__all__ = ["BOX_LOSSES", "box_loss", "cell_loss", "decode_boxes", "iou", "parse_box_loss"]

# Huber's corner between square and linear, in fractions of the input's side.
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
        raise UsageError(f"--box-loss has {unknown[0]!r}: join some of {', '.join(BOX_LOSSES)} with +")
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
    import numpy as np

    y, x = np.mgrid[:height, :width]
    cx, cy = (x.ravel() + 0.5) / width, (y.ravel() + 0.5) / height
    return np.stack([cx, cy, cx, cy], axis=1).astype(np.float32)


def _grid_boxes(weights: Any, distances: Any) -> Any:
    """The expectation over cells of (centre minus or plus softplus distance)."""
    from keras import ops

    height, width = distances.shape[1:3]
    share = ops.softmax(ops.reshape(weights, (-1, height * width, 1)), axis=1)
    edges = ops.softplus(ops.reshape(distances, (-1, height * width, 4)))
    signs = ops.convert_to_tensor([-1.0, -1.0, 1.0, 1.0])
    return ops.sum(share * (_cell_centres(height, width) + signs * edges), axis=1)


def _distribution_boxes(bins: Any) -> Any:
    """The expectation over bins that stand evenly from 0 to 1."""
    from keras import ops

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
    from keras import ops

    size = ops.abs(difference)
    if kind == "l2":
        size = ops.square(difference)
    elif kind == "huber":
        square = 0.5 * ops.square(size) / _HUBER_DELTA
        size = ops.where(size < _HUBER_DELTA, square, size - 0.5 * _HUBER_DELTA)
    return ops.mean(size, axis=-1)


def _areas(truth: Any, boxes: Any) -> tuple[Any, Any, Any]:
    """Overlap, union and enclosing area of two sets of boxes."""
    from keras import ops

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
    from keras import ops

    centres = (truth[:, :2] + truth[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    hull = ops.maximum(truth[:, 2:], boxes[:, 2:]) - ops.minimum(truth[:, :2], boxes[:, :2])
    return ops.sum(ops.square(centres), axis=-1) / (ops.sum(ops.square(hull), axis=-1) + _EPSILON)


def _aspect_penalty(truth: Any, boxes: Any, plain: Any) -> Any:
    from keras import ops

    def angle(corners: Any) -> Any:
        size = ops.maximum(corners[:, 2:] - corners[:, :2], _EPSILON)
        return ops.arctan2(size[:, 0], size[:, 1])

    aspect = ops.square(angle(truth) - angle(boxes)) * (4.0 / 9.8696044)
    return aspect * ops.stop_gradient(aspect / (1.0 - plain + aspect + _EPSILON))


def cell_loss(truth: Any, outputs: dict[str, Any]) -> Any:
    """Cross-entropy that helps the grid look at the object's cell, or the bins at the true edges; 0 for a vector."""
    from keras import losses, ops

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
