"""What the host does between the networks of a two-stage detector: propose regions, pool them, refine their boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.decode.detector import DetectorReader
from edgeloc.decode.numbers import Array, Quantization, dequantized
from edgeloc.errors import EngineError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.model.detector import Stages
from edgeloc.types import Pixels

__all__ = [
    "FEATURES",
    "SAMPLES",
    "RegionStages",
    "crop_regions",
    "encode_boxes",
    "pool_regions",
    "proposal_contract",
    "propose_by_contrast",
    "refine_boxes",
]

FEATURES = "features"
"""The output of the first network that regions are pooled from."""
SAMPLES = 2
"""How many points along each side of a cell are averaged."""
_BLUR, _RANKS = 1.0, np.linspace(4, 96, 12)
# Which sides are no object's, and how much of its box a region fills at least.
_LEAST_SIDE, _LARGEST_SHARE, _LEAST_FILLED = 4, 0.95, 0.25
# Proposals that overlap by more are one.
_SAME = 0.7
_MOST_FOUND = 1500
_BLOCK = 64
# An exponential of more is no box.
_LARGEST_POWER = 8.0


def proposal_contract(contract: Contract) -> Contract:
    """The contract of a first network that proposes regions: a detector of the one class `object`."""
    stages = contract.stages
    assert stages is not None
    return Contract(
        input=contract.input,
        outputs=tuple(
            OutputSpec(f"proposal_{part}", "detections", parts=(part,), level=0) for part in ("class", "box")
        ),
        labels=("object",),
        thresholds=Thresholds(stages.threshold),
        detector=stages.proposals,
    )


def propose_by_contrast(image: Pixels, most: int) -> Array:
    """Corners (n, 4) of at most `most` regions that stand out from what is around them, the most stable first.

    They are the connected components above and below several thresholds, in lightness, two axes of colour and
    saturation. A region counts as the more stable, the more of those found are about the same, as in maximally stable
    extremal regions (Matas et al. 2002); of these one is kept. Objects that touch come out as one.

    Parameters:
        image: BGR or grey, uint8 (height, width, channels).
        most: how many regions.
    """
    height, width = image.shape[:2]
    found = [_components(channel) for channel in _channels(cv2.GaussianBlur(image, (0, 0), _BLUR))]
    corners = np.unique(np.concatenate(found), axis=0)
    sides = corners[:, 2:] - corners[:, :2]
    fits = (sides >= _LEAST_SIDE).all(axis=1) & (sides < _LARGEST_SHARE * np.array([width, height])).any(axis=1)
    corners = corners[fits]
    corners = corners[:: max(1, len(corners) // _MOST_FOUND)]
    if not len(corners):
        return _whole(width, height)
    votes: Any = _votes(corners).tolist()
    sized: Any = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).astype(np.float64)
    kept = np.asarray(cv2.dnn.NMSBoxes(sized, votes, 0.0, _SAME), np.int64).reshape(-1)
    return corners[kept[:most]]


def _whole(width: int, height: int) -> Array:
    """The one region where nothing is proposed: the whole picture."""
    return np.array([[0, 0, width, height]], np.float32)


def _channels(image: NDArray[Any]) -> list[NDArray[np.uint8]]:
    if image.ndim < 3 or image.shape[2] == 1:
        return [image.reshape(image.shape[:2])]
    return [*cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2LAB)), image.max(axis=2) - image.min(axis=2)]


def _components(channel: NDArray[np.uint8]) -> Array:
    """Corners (n, 4) of the connected components above and below thresholds at evenly spaced ranks of the pixels."""
    boxes = []
    for threshold in np.unique(np.percentile(channel[::2, ::2], _RANKS).astype(np.uint8)):
        for mask in (channel <= threshold, channel > threshold):
            stats = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)[2][1:]
            box, area = stats[:, :4], stats[:, cv2.CC_STAT_AREA]
            # A frame around something is no object.
            boxes.append(box[area >= _LEAST_FILLED * box[:, 2] * box[:, 3]])
    found = np.concatenate(boxes).astype(np.float32)
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)


def _votes(corners: Array) -> NDArray[np.int64]:
    """How many regions are about the same as each, itself included: (n,)."""
    x1, y1, x2, y2 = corners.T
    areas = (x2 - x1) * (y2 - y1)
    votes = np.empty(len(corners), np.int64)
    # A few at a time: what a block needs stays in the caches.
    for begin in range(0, len(corners), _BLOCK):
        own = slice(begin, begin + _BLOCK)
        shared = np.minimum(x2[own, None], x2) - np.maximum(x1[own, None], x1)
        high = np.minimum(y2[own, None], y2) - np.maximum(y1[own, None], y1)
        np.maximum(shared, 0, out=shared)
        shared *= np.maximum(high, 0, out=high)
        votes[own] = np.count_nonzero(shared > _SAME * (areas[own, None] + areas - shared), axis=1)
    return votes


def pool_regions(features: NDArray[Any], regions: Array, stride: int, side: int) -> Array:
    """RoIAlign (He et al. 2017): float32 (n, side, side, channels), what a feature map holds in each region.

    A region is cut into side x side cells; a cell is the mean of four points, each interpolated between the map's
    cells. Points beyond the middle of the map's outermost cells take their value.

    Parameters:
        features: the map, (height, width, channels).
        regions: corners (n, 4), in pixels of the input.
        stride: of the map, in such pixels.
        side: how many cells.
    """
    height, width, channels = features.shape
    down = _weights(np.asarray(regions[:, 1::2] / stride, np.float32), side, height)
    across = _weights(np.asarray(regions[:, 0::2] / stride, np.float32), side, width)
    rows = down.reshape(-1, height) @ features.astype(np.float32, copy=False).reshape(height, -1)
    rows = rows.reshape(len(regions), side, width, channels)
    return np.asarray(across[:, None] @ rows, np.float32)


def _weights(edges: Array, side: int, cells: int) -> Array:
    """What each of `cells` counts in each of a region's `side` parts along one axis: (n, side, cells)."""
    shares = (np.arange(side * SAMPLES, dtype=np.float32) + np.float32(0.5)) / np.float32(side * SAMPLES)
    points = edges[:, :1] + (edges[:, 1:] - edges[:, :1]) * shares - np.float32(0.5)
    points = np.clip(points, 0, cells - 1)
    near = np.maximum(0, 1 - np.abs(points[:, :, None] - np.arange(cells, dtype=np.float32)))
    return np.asarray(near.reshape(len(edges), side, SAMPLES, cells).mean(axis=2), np.float32)


def crop_regions(image: NDArray[Any], regions: Array, side: int) -> NDArray[Any]:
    """Each region warped to side x side pixels, whatever its shape: (n, side, side, channels), of the image's dtype."""
    signed = image.dtype == np.int8  # which OpenCV does not warp
    pixels = image.view(np.uint8) ^ 0x80 if signed else image
    crops = np.empty((len(regions), side, side, image.shape[2]), pixels.dtype)
    for crop, (x1, y1, x2, y2) in zip(crops, regions.tolist(), strict=True):
        scale_x, scale_y = (x2 - x1) / side, (y2 - y1) / side
        # Whole numbers are the centres of pixels.
        matrix = np.array([[scale_x, 0, x1 + scale_x / 2 - 0.5], [0, scale_y, y1 + scale_y / 2 - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(pixels, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        crop[:] = warped.reshape(crop.shape)
    return (crops ^ 0x80).view(np.int8) if signed else crops


def encode_boxes(boxes: Array, regions: Array, variances: tuple[float, float]) -> Array:
    """The numbers (n, 4) by which `refine_boxes` makes `boxes` of `regions`, both corners (n, 4)."""
    size, wanted = (np.maximum(corners[:, 2:] - corners[:, :2], 1e-3) for corners in (regions, boxes))
    shift = (boxes[:, :2] + boxes[:, 2:] - regions[:, :2] - regions[:, 2:]) / 2 / size
    return np.asarray(np.concatenate([shift / variances[0], np.log(wanted / size) / variances[1]], axis=1), np.float32)


def refine_boxes(numbers: Array, regions: Array, variances: tuple[float, float]) -> Array:
    """Corners (n, 4) of the head's boxes, from its numbers (n, 4) and the regions' corners (Girshick et al. 2014)."""
    size, middle = regions[:, 2:] - regions[:, :2], (regions[:, :2] + regions[:, 2:]) / 2
    middle = middle + numbers[:, :2] * np.float32(variances[0]) * size
    half = size * np.exp(np.minimum(numbers[:, 2:] * np.float32(variances[1]), _LARGEST_POWER)) / 2
    return np.asarray(np.concatenate([middle - half, middle + half], axis=1), np.float32)


class RegionStages:
    """The host's steps between the networks of one contract.

    Parameters:
        contract: one with `stages`.
        image: what the integers of the input stand for.
        outputs: likewise those of the first network, by tensor.
    """

    def __init__(self, contract: Contract, image: Quantization, outputs: Mapping[str, Quantization]) -> None:
        assert contract.stages is not None
        self.stages: Stages = contract.stages
        self._spec, self._labels = contract.input, len(contract.labels)
        self._image, self._features = image, outputs.get(FEATURES, image)
        proposes = self.stages.proposals is not None
        self._reader = DetectorReader(proposal_contract(contract), outputs) if proposes else None

    def propose(self, image: NDArray[Any], outputs: Mapping[str, NDArray[Any]]) -> Array:
        """Corners (n, 4) of regions within the input, n from 1 to `stages.regions`.

        Parameters:
            image: the input tensor (1, height, width, channels).
            outputs: the first network's.

        Raises EngineError where a proposal is not a finite number.
        """
        if self._reader is None:
            pixels = _pixels(dequantized(image[0], self._image), self._spec)
            found: Any = propose_by_contrast(pixels, self.stages.regions)
        else:
            found = self._reader(outputs).corners
            if found is None:
                found = _whole(self._spec.width, self._spec.height)
        if not np.isfinite(found).all():
            raise EngineError(
                "a proposed region is not a finite number: the file is damaged, or this engine cannot run it"
            )
        sides = np.array([self._spec.width, self._spec.height] * 2, np.float32)
        low = np.clip(found[:, :2], 0, sides[:2] - 1)
        return np.concatenate([low, np.clip(found[:, 2:], low + 1, sides[2:])], axis=1).astype(np.float32)

    def pool(self, image: NDArray[Any], outputs: Mapping[str, NDArray[Any]], regions: Array) -> Array:
        """What the head takes, real numbers (n, side, side, channels): crops of the image, or of the feature map."""
        side, stride = self.stages.side, self.stages.stride
        if stride == 1:
            return dequantized(crop_regions(image[0], regions, side), self._image)
        pooled = pool_regions(outputs[FEATURES][0], regions, stride, side)
        return dequantized(pooled, self._features)

    def join(self, regions: Array, classes: Array, numbers: Array) -> dict[str, Array]:
        """The outputs that the contract describes, from the head's classes (n, labels + 1) and numbers (n, 4).

        Rows behind the last region hold nothing but the background.
        """
        most = self.stages.regions
        boxes = np.zeros((1, most, 4), np.float32)
        logits = np.zeros((1, most, self._labels + 1), np.float32)
        logits[..., 1:] = -100.0
        boxes[0, : len(regions)] = refine_boxes(numbers, regions, self.stages.variances)
        logits[0, : len(regions)] = classes
        return {"class": logits, "box": boxes}


def _pixels(normalized: Array, spec: InputSpec) -> Pixels:
    """The BGR or grey pixels, uint8 (height, width, channels) of an input image."""
    real = normalized * np.array(spec.std, np.float32) + np.array(spec.mean, np.float32)
    pixels = np.clip(np.rint(real), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)) if spec.color == "rgb" else pixels
