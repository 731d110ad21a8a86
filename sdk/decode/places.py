"""Where a detector looks, and how the numbers of a location become a box in the input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeloc.decode.numbers import Array, activate, corners_of, softplus
from edgeloc.model.detector import DetectorBox, DetectorUnits, Locations

__all__ = ["BoxDecoder", "Places", "box_decoder", "locate"]

BoxDecoder = Callable[[Array, NDArray[np.int64]], Array]


class Places(NamedTuple):
    """The locations of a detector in input pixels: centres (n, 2), sizes (n, 2), strides (n, 1), all float32."""

    centers: Array
    sizes: Array
    strides: Array


def locate(locations: Locations, width: int, height: int) -> Places | None:
    """The locations in an input of `width` x `height` pixels, in the outputs' order; None where there are none."""
    if locations.table:
        rows = np.array(locations.table, np.float32) * np.array([width, height, width, height], np.float32)
        return Places(rows[:, :2], rows[:, 2:], np.ones((len(rows), 1), np.float32))
    if not locations.strides:
        return None
    levels = [_level(locations, index, width, height) for index in range(len(locations.strides))]
    return Places(*(np.concatenate(columns) for columns in zip(*levels, strict=True)))


def _level(locations: Locations, index: int, width: int, height: int) -> Places:
    stride = locations.strides[index]
    anchors = np.array(locations.anchors[index] if locations.anchors else [(stride, stride)], np.float32)
    y, x = np.mgrid[: math.ceil(height / stride), : math.ceil(width / stride)]
    cells = (np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32) + locations.offset) * stride
    if locations.order == "cells-first":
        centers, sizes = np.repeat(cells, len(anchors), axis=0), np.tile(anchors, (len(cells), 1))
    else:
        centers, sizes = np.tile(cells, (len(anchors), 1)), np.repeat(anchors, len(cells), axis=0)
    return Places(centers, sizes, np.full((len(centers), 1), stride, np.float32))


def box_decoder(box: DetectorBox, places: Places | None, width: int, height: int) -> BoxDecoder:
    """From the numbers of boxes (n, numbers) and their locations (n,) to corners (n, 4) in input pixels."""

    def unit(which: DetectorUnits, rows: NDArray[np.int64]) -> Array:
        if which == "anchor" and places is not None:
            return places.sizes[rows]
        if which == "stride" and places is not None:
            return np.repeat(places.strides[rows], 2, axis=1)
        return np.array([[width, height] if which == "fraction" else [1, 1]], np.float32)

    def own(values: Array, rows: NDArray[np.int64]) -> Array:
        assert places is not None
        half = places.sizes[rows] * np.float32(0.5)
        return np.concatenate([places.centers[rows] - half, places.centers[rows] + half], axis=1)

    def distances(values: Array, rows: NDArray[np.int64]) -> Array:
        assert places is not None
        if box.bins:
            by_edge = activate(values.reshape(len(values), 4, box.bins), "softmax")
            values = np.asarray(by_edge @ np.arange(box.bins, dtype=np.float32), np.float32)
        else:
            values = _size(values, box.size)
        values = values * np.tile(unit(box.units, rows), 2)
        centers = places.centers[rows]
        return np.concatenate([centers - values[:, :2], centers + values[:, 2:]], axis=1)

    def centered(values: Array, rows: NDArray[np.int64]) -> Array:
        if box.form == "cycxhw":
            values = values[:, (1, 0, 3, 2)]
        center = _center(values[:, :2], box.center) * np.float32(box.variances[0]) * unit(box.units, rows)
        size, spread = values[:, 2:], np.float32(box.variances[1])
        size = _size(size * spread, "exp") if box.size == "exp" else _size(size, box.size) * spread
        size = size * unit(box.size_units or box.units, rows) * np.float32(0.5)
        if places is not None:
            center = center + places.centers[rows]
        return np.concatenate([center - size, center + size], axis=1)

    def edges(values: Array, rows: NDArray[np.int64]) -> Array:
        assert box.form in ("xyxy", "yxyx", "xywh")
        return corners_of(box.form, values) * np.tile(unit(box.units, rows), 2)

    return {"cell": own, "distances": distances, "cxcywh": centered, "cycxhw": centered}.get(box.form, edges)


def _center(values: Array, activation: str) -> Array:
    if activation == "wide-sigmoid":
        return np.asarray(2 * activate(values, "sigmoid") - np.float32(0.5), np.float32)
    if activation == "tanh":
        return np.asarray(np.tanh(values), np.float32)
    return activate(values, "sigmoid" if activation == "sigmoid" else "none")


def _size(values: Array, activation: str) -> Array:
    if activation == "exp":
        return np.asarray(np.exp(values), np.float32)
    if activation == "squared-sigmoid":
        return np.asarray(np.square(2 * activate(values, "sigmoid")), np.float32)
    if activation == "relu":
        return np.asarray(np.maximum(values, 0), np.float32)
    if activation == "softplus":
        return np.asarray(softplus(values), np.float32)
    return activate(values, "sigmoid" if activation == "sigmoid" else "none")
