"""COCO's average precision (AP) by its own library, over images that may be drawn several times."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import MissingExtra
from edgeloc.types import Box, LabelledBox

__all__ = ["AveragePrecision", "Precisions", "coco_library"]

_MOST = 100
_NAMELESS = "object"


class Scored(Protocol):
    """An object that a model found."""

    @property
    def box(self) -> Box | None:
        """In pixels of the image; without one it counts nowhere."""

    @property
    def score(self) -> float:
        """From 0 to 1."""

    @property
    def label(self) -> str | None:
        """Its class."""


@dataclass(frozen=True, slots=True)
class Precisions:
    """Average precision, 0 to 1: over IoU 0.50 to 0.95, at 0.50, and the first by class; None without an object."""

    ap: float | None = None
    ap50: float | None = None
    by_class: dict[str, float] = field(default_factory=dict)


def coco_library() -> tuple[Any, Any]:
    """The classes of a data set and of its evaluation; MissingExtra without pycocotools."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtra("pycocotools", "bench", "measuring average precision") from error
    return COCO, COCOeval


class AveragePrecision:
    """The detections of one model on labelled images, matched once; figures are made of any draw of the images.

    COCO's definition (Lin et al. 2014, https://cocodataset.org/#detection-eval): ten IoU from 0.50 to 0.95, precision
    at 101 recalls, at most 100 detections an image, all sizes.

    Parameters:
        truths: for each image what it holds.
        found: for each image what the model found, of scores far below its threshold too.

    Raises MissingExtra without pycocotools.
    """

    def __init__(self, truths: Sequence[Sequence[LabelledBox]], found: Sequence[Sequence[Scored]]) -> None:
        library, measure = coco_library()
        self._names = sorted({item.label or _NAMELESS for items in truths for item in items})
        self._images = len(truths)
        self._evaluation: Any = None
        if not self._names:
            return
        numbers = {name: index + 1 for index, name in enumerate(self._names)}
        with redirect_stdout(io.StringIO()):
            coco = library()
            coco.dataset = _truths(truths, numbers)
            coco.createIndex()
            answers = library()
            answers.dataset = {**coco.dataset, "annotations": _answers(found, numbers)}
            answers.createIndex()
            evaluation = measure(coco, answers, "bbox")
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [_MOST]
            evaluation.evaluate()
        self._evaluation, self._matches = evaluation, list(evaluation.evalImgs)

    def figures(self, images: NDArray[np.intp] | None = None) -> Precisions:
        """The average precision over all images, or over those of these numbers, each as often as it is there."""
        if self._evaluation is None:
            return Precisions(None, None, {})
        drawn = np.arange(self._images) if images is None else images
        evaluation = self._evaluation
        evaluation.evalImgs = [
            self._matches[category * self._images + image] for category in range(len(self._names)) for image in drawn
        ]
        evaluation._paramsEval.imgIds = evaluation.params.imgIds = list(range(len(drawn)))
        with redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        precision: NDArray[np.float64] = evaluation.eval["precision"][:, :, :, 0, 0]  # IoU, recall, class
        known = [index for index in range(len(self._names)) if (precision[..., index] > -1).all()]
        if not known:
            return Precisions(None, None, {})
        by_class = {self._names[index]: float(precision[..., index].mean()) for index in known}
        return Precisions(float(precision[..., known].mean()), float(precision[0][..., known].mean()), by_class)


def _truths(truths: Sequence[Sequence[LabelledBox]], numbers: dict[str, int]) -> dict[str, Any]:
    pairs = [(image, item) for image, items in enumerate(truths, 1) for item in items]
    return {
        "images": [{"id": image} for image in range(1, len(truths) + 1)],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "annotations": [
            {**_annotation(number, image, item.box), "category_id": numbers[item.label or _NAMELESS], "iscrowd": 0}
            for number, (image, item) in enumerate(pairs, 1)
        ],
    }


def _answers(found: Sequence[Sequence[Scored]], numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Those of a class that no image holds count nowhere, as COCO has it."""
    pairs = [
        (image, item)
        for image, items in enumerate(found, 1)
        for item in items
        if item.box is not None and (item.label or _NAMELESS) in numbers
    ]
    return [
        {
            **_annotation(number, image, item.box),
            "category_id": numbers[item.label or _NAMELESS],
            "score": item.score,
            "iscrowd": 0,
        }
        for number, (image, item) in enumerate(pairs, 1)
    ]


def _annotation(number: int, image: int, box: Box | None) -> dict[str, Any]:
    assert box is not None
    return {"id": number, "image_id": image, "bbox": [box.x1, box.y1, box.width, box.height], "area": box.area}
