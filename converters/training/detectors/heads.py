"""Detectors as Keras networks: a pyramid over a backbone under an anchor-free, an SSD or a YOLO head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from edgeloc.converters.training.backbones import NetworkConfig, build_backbone, image_input, pyramid, separable
from edgeloc.model.contract import Contract, OutputSpec
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations, Scores, Selection

__all__ = ["STRIDES", "anchors_of", "build_detector", "detector_contract"]

STRIDES = (8, 16, 32)
_CHANNELS = 80
_BLOCKS = 2
_ANCHORS_PER_CELL = 3
_ROUNDS = 100
# Objects are rare among the locations: classes start at a probability of 0.01 (Lin et al. 2017, RetinaNet).
_RARE = -math.log(99)
# Boxes start four strides wide.
_TWO_STRIDES = math.log(2)
_SELECTION = Selection(nms="by-class", iou=0.6)

Anchors = tuple[tuple[tuple[float, float], ...], ...]


def detector_contract(config: NetworkConfig, labels: tuple[str, ...], anchors: Anchors = ()) -> Contract:
    """The contract of a network that `build_detector` makes; `anchors` are those of `anchors_of`."""
    parts = {"class": "class", "box": "box"} | ({"objectness": "objectness"} if config.head == "yolo" else {})
    outputs = [
        OutputSpec(f"{name}_{stride}", "detections", parts=(part,), level=level)
        for level, stride in enumerate(STRIDES)
        for name, part in parts.items()
    ]
    return Contract(
        input=image_input(config), outputs=tuple(outputs), labels=labels, detector=_described(config.head, anchors)
    )


def _described(head: str, anchors: Anchors) -> DetectorSpec:
    if head == "anchor-free":
        return DetectorSpec(
            Locations(STRIDES),
            DetectorBox("distances", units="stride", size="exp"),
            Scores("sigmoid"),
            _SELECTION,
        )
    if head == "ssd":
        return DetectorSpec(
            Locations(STRIDES, anchors=anchors),
            DetectorBox("cxcywh", units="anchor", size="exp", variances=(0.1, 0.2)),
            Scores("softmax", background="first"),
            _SELECTION,
        )
    return DetectorSpec(
        Locations(STRIDES, offset=0.0, anchors=anchors),
        DetectorBox("cxcywh", units="stride", size_units="anchor", center="wide-sigmoid", size="squared-sigmoid"),
        Scores("sigmoid", objectness="sigmoid"),
        _SELECTION,
    )


def build_detector(config: NetworkConfig, contract: Contract) -> keras.Model:
    """Build the float network of a contract of `detector_contract`.

    Input `image`: float32 (batch, height, width, 3), normalized as the contract says. Outputs, all raw, for each stride
    s and the anchors A of a cell: `class_s` (batch, h, w, A * classes), `box_s` (batch, h, w, A * 4) and of a YOLO
    `objectness_s` (batch, h, w, A). Raises UsageError for a backbone that cannot be built or has no such strides,
    DataError for weights that do not fit it.
    """
    spec = contract.detector
    assert spec is not None
    backbone = build_backbone(config)
    classes = len(contract.labels) + (spec.scores.background != "none")
    outputs: dict[str, Any] = {}
    for level, features in enumerate(pyramid(backbone, _CHANNELS, "fpn", "take another {backbone}")):
        stride, anchors = STRIDES[level], spec.locations.per_cell(level)
        towers = dict.fromkeys(("class", "box"), features)
        for name in towers:
            for block in range(_BLOCKS):
                towers[name] = separable(towers[name], _CHANNELS, f"{name}_{stride}_block_{block}")
        biases = _biases(config.head)
        for name, tower, numbers in (("class", "class", classes), ("box", "box", 4), ("objectness", "box", 1)):
            if name in biases:
                start = keras.initializers.Constant(biases[name])
                layer = layers.Conv2D(anchors * numbers, 1, bias_initializer=start, name=f"{name}_{stride}")
                outputs[f"{name}_{stride}"] = layer(towers[tower])
    return keras.Model(backbone.inputs[0], {output.tensor: outputs[output.tensor] for output in contract.outputs})


def _biases(head: str) -> dict[str, float]:
    """What each part of a head starts from."""
    if head == "anchor-free":
        return {"class": _RARE, "box": _TWO_STRIDES}
    if head == "ssd":
        return {"class": 0.0, "box": 0.0}
    return {"class": 0.0, "box": 0.0, "objectness": _RARE}


def anchors_of(sizes: Sequence[tuple[float, float]]) -> Anchors:
    """Three anchors for each level, from the widths and heights of the objects to learn from, in input pixels.

    They are the centres of k-means with 1 - IoU as the distance (Redmon and Farhadi 2017), the smallest at the finest
    level. Of fewer sizes than anchors the same ones return, a little larger.
    """
    found = np.unique(np.array(sizes, np.float64), axis=0)
    count = _ANCHORS_PER_CELL * len(STRIDES)
    by_area = found[np.argsort(found.prod(axis=1), kind="stable")]
    centres = by_area[np.linspace(0, len(by_area) - 1, count).round().astype(int)]
    for _ in range(_ROUNDS):
        nearest = _size_iou(found, centres).argmax(axis=1)
        groups = [found[nearest == i] for i in range(count)]
        moved = np.array([group.mean(axis=0) if len(group) else centres[i] for i, group in enumerate(groups)])
        if np.allclose(moved, centres):
            break
        centres = moved
    rows = sorted(((round(float(w), 1), round(float(h), 1)) for w, h in centres), key=math.prod)
    return tuple(tuple(rows[i : i + _ANCHORS_PER_CELL]) for i in range(0, count, _ANCHORS_PER_CELL))


def _size_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (n, m) of boxes with one centre, from their widths and heights."""
    overlap = np.minimum(first[:, None], second[None]).prod(axis=2)
    iou: NDArray[np.float64] = overlap / (first.prod(axis=1)[:, None] + second.prod(axis=1)[None] - overlap)
    return iou
