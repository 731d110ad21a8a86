"""The pictures of the worst images, as small JPEGs in data URIs, with the boxes of both models."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from typing import TypeVar, cast

import cv2
import numpy as np

from edgeloc.data import Sample
from edgeloc.errors import DataError
from edgeloc.evaluation.detection import WorstImage
from edgeloc.evaluation.figures import Worst
from edgeloc.loop import draw as drawing
from edgeloc.types import Box, Pixels

__all__ = ["jpeg_uri", "side_by_side", "with_previews"]

_STORED_SIDE = 320  # pixels of the longer side of what is stored
_DRAWN_SIDE = 480  # and of what is drawn on, so that lines stay fine beside a small object
_PREFIX = "data:image/jpeg;base64,"

W = TypeVar("W", Worst, WorstImage)


def with_previews(worst: Sequence[W], samples: Sequence[Sample]) -> tuple[W, ...]:
    """The same worst images, each with a small picture of its sample where that can still be read."""
    by_name = {sample.name: sample for sample in samples}
    return tuple(_with_preview(image, by_name.get(image.name)) for image in worst)


def _with_preview(image: W, sample: Sample | None) -> W:
    if sample is None:
        return image
    try:
        pixels = sample.load()
    except DataError:
        return image
    scale = min(1.0, _STORED_SIDE / max(pixels.shape[:2]))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    return dataclasses.replace(image, preview=jpeg_uri(cast(Pixels, small), 85), preview_scale=scale)


def jpeg_uri(pixels: Pixels, quality: int) -> str:
    """BGR uint8 pixels as a JPEG data URI."""
    written, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise ValueError(f"an image of shape {pixels.shape} cannot be written as JPEG")
    return _PREFIX + base64.b64encode(data.tobytes()).decode("ascii")


def side_by_side(
    image: Worst | WorstImage, truth: Sequence[Box], before: Sequence[Box], after: Sequence[Box]
) -> tuple[str, str] | None:
    """The picture twice, as data URIs: truth with the float boxes, then the quantized ones; None without a preview.

    DataError when the stored preview is no JPEG.
    """
    if image.preview is None:
        return None
    small = _decode(image.preview, image.name)
    grow = _DRAWN_SIDE / max(small.shape[:2])
    large = cast(Pixels, cv2.resize(small, None, fx=grow, fy=grow, interpolation=cv2.INTER_CUBIC))
    scale = grow * image.preview_scale
    pictures = []
    for found, color in ((before, drawing.FLOAT_COLOR), (after, drawing.QUANTIZED_COLOR)):
        # No titles: their plates would cover a small object, and the page names them.
        boxes = [(box.scaled(scale), "", drawing.TRUTH_COLOR) for box in truth]
        boxes += [(box.scaled(scale), "", color) for box in found]
        pictures.append(jpeg_uri(drawing.draw_boxes(large, boxes), 85))
    return pictures[0], pictures[1]


def _decode(uri: str, name: str) -> Pixels:
    try:
        data = np.frombuffer(base64.b64decode(uri.removeprefix(_PREFIX)), dtype=np.uint8)
    except ValueError:  # no base64
        data = np.empty(0, np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if pixels is None:
        raise DataError(f"the result's preview of {name} is no JPEG")
    return cast(Pixels, pixels)
