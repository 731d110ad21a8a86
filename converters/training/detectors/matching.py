"""Which location of a detector answers for which object while it is trained.

Every function takes `boxes` (batch, objects, 4), corners in pixels of the input, and `labels` (batch, objects), -1
where there is no object; and gives for each location the number of its object, int32 (batch, locations), -1 for none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from edgeloc.decode.places import Places

__all__ = ["match_by_cost", "match_by_overlap", "match_by_shape", "pairwise_iou"]

_EPSILON = 1e-7
_NEVER = 1e9
# SimOTA: how many locations an object has at most, how near to its centre in strides, and what the overlap weighs
# beside the class.
_MOST, _RADIUS, _OVERLAP_COST = 10, 1.5, 3.0
_LEAST_IOU = 0.5
# YOLO: how far an object's sides may be from an anchor's.
_LARGEST_RATIO = 4.0


def pairwise_iou(first: Any, second: Any) -> Any:
    """Intersection over union (batch, n, m) of corners (batch, n, 4) and (batch, m, 4)."""
    first, second = first[:, :, None], second[:, None]
    low, high = ops.maximum(first[..., :2], second[..., :2]), ops.minimum(first[..., 2:], second[..., 2:])
    overlap = ops.prod(ops.maximum(high - low, 0.0), axis=-1)
    areas = [ops.prod(ops.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1) for boxes in (first, second)]
    return overlap / (areas[0] + areas[1] - overlap + _EPSILON)


def match_by_cost(boxes: Any, labels: Any, found: Any, logits: Any, places: Places) -> Any:
    """The assignment of YOLOX, SimOTA (Ge et al. 2021): the cheapest locations near each object's centre, by what
    they answer.

    An object gets as many locations as the ten best of its IoUs add up to, at least one.

    Parameters:
        found: the corners that each location answers now (batch, locations, 4).
        logits: its classes, before the sigmoid (batch, locations, K).
        places: where the locations are.
    """
    middle = (boxes[..., :2] + boxes[..., 2:])[:, :, None] / 2
    near = ops.max(ops.abs(places.centers - middle) / places.strides, axis=-1) < _RADIUS
    possible = ops.logical_and(near, (labels >= 0)[:, :, None])
    iou = ops.where(possible, pairwise_iou(boxes, found), 0.0)
    own = ops.take_along_axis(ops.transpose(logits, (0, 2, 1)), ops.maximum(labels, 0)[:, :, None], axis=1)
    cost = ops.sum(ops.softplus(logits), axis=-1)[:, None] - own - _OVERLAP_COST * ops.log(iou + _EPSILON)
    cost = ops.where(possible, cost, _NEVER)
    most = min(_MOST, cost.shape[-1])
    count = ops.maximum(ops.cast(ops.sum(ops.top_k(iou, most)[0], axis=-1), "int32"), 1)
    cheapest = -ops.top_k(-cost, most)[0]
    limit = ops.take_along_axis(cheapest, count[:, :, None] - 1, axis=-1)
    return _cheapest(ops.where(ops.logical_and(cost <= limit, possible), cost, _NEVER))


def _cheapest(cost: Any) -> Any:
    """The cheapest object of each location, -1 where every one is out of the question."""
    best = ops.cast(ops.argmin(cost, axis=1), "int32")
    return ops.where(ops.min(cost, axis=1) < _NEVER, best, -1)


def match_by_overlap(boxes: Any, labels: Any, places: Places) -> Any:
    """The assignment of SSD (Liu et al. 2016): anchors with an IoU of 0.5 or more, and the best one of each object."""
    anchors = _anchor_corners(places)[None]
    present = (labels >= 0)[:, :, None]
    iou = ops.where(present, pairwise_iou(boxes, anchors), 0.0)
    best = ops.logical_and(iou >= ops.max(iou, axis=-1, keepdims=True), iou > 0)
    # The best one of an object is its own, however much it overlaps another object.
    return _cheapest(ops.where(ops.logical_or(iou >= _LEAST_IOU, best), -iou - ops.cast(best, "float32"), _NEVER))


def _anchor_corners(places: Places) -> NDArray[np.float32]:
    half = places.sizes / 2
    return np.concatenate([places.centers - half, places.centers + half], axis=1)


def match_by_shape(boxes: Any, labels: Any, places: Places) -> Any:
    """The assignment of YOLOv5: anchors of about the object's shape, in the cell of its centre and the two next to it.

    No side is more than four times the other, and the anchor that fits best is always taken. `places` are the top left
    corners of their cells, as YOLO's centres start there.
    """
    size = (boxes[..., 2:] - boxes[..., :2])[:, :, None]
    ratio = ops.maximum(size / places.sizes, places.sizes / ops.maximum(size, _EPSILON))
    worst = ops.max(ratio, axis=-1)
    fits = ops.logical_or(worst < _LARGEST_RATIO, worst <= ops.min(worst, axis=-1, keepdims=True))
    middle = (boxes[..., :2] + boxes[..., 2:])[:, :, None] / 2
    away = ops.abs((middle - places.centers) / places.strides - 0.5)
    close = ops.logical_and(ops.max(away, axis=-1) < 1.0, ops.min(away, axis=-1) <= 0.5)
    usable = ops.logical_and(ops.logical_and(fits, close), (labels >= 0)[:, :, None])
    return _cheapest(ops.where(usable, worst, _NEVER))
