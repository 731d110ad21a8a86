"""Mean average precision at an IoU of 0.5 and the score with the best F1, fast enough to be shown while training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeloc.types import Box, Detection

__all__ = ["Precision"]

_IOU = 0.5
_RECALLS = np.linspace(0, 1, 101)


class Precision:
    """Gathers what was found in each image against what is there; `figures` sums it up."""

    def __init__(self, classes: int) -> None:
        self._found: list[list[tuple[float, bool]]] = [[] for _ in range(classes)]
        self._there = np.zeros(classes, int)

    def add(
        self,
        objects: Sequence[Detection],
        labels: Sequence[str],
        boxes: NDArray[np.float32],
        numbers: NDArray[np.int32],
    ) -> None:
        """Count one image.

        Parameters:
            objects: what was found, best first.
            labels: the names of the classes.
            boxes: the true corners (n, 4), in the pixels of the found ones.
            numbers: their classes (n,).
        """
        self._there += np.bincount(numbers, minlength=len(labels))
        free = {number: [Box(*corners) for corners in boxes[numbers == number].tolist()] for number in set(numbers)}
        for found in objects:
            if found.box is None or found.label is None:
                continue
            number = labels.index(found.label)
            rest = free.get(number, [])
            ious = [found.box.iou(box) for box in rest]
            right = bool(ious) and max(ious) >= _IOU
            if right:
                rest.pop(int(np.argmax(ious)))
            self._found[number].append((found.score, right))

    def figures(self) -> dict[str, float]:
        """`map50`, averaged over the classes that are there; `threshold`, and the `f1` that it gives."""
        precisions = [
            _average(np.array(found, float).reshape(-1, 2), count)
            for found, count in zip(self._found, self._there, strict=True)
            if count
        ]
        everything = np.array([row for found in self._found for row in found], float).reshape(-1, 2)
        threshold, f1 = _best_f1(everything, int(self._there.sum()))
        return {"map50": float(np.mean(precisions)) if precisions else 0.0, "threshold": threshold, "f1": f1}


def _counted(found: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores, best first, and how many of those down to each are right."""
    order = np.argsort(-found[:, 0], kind="stable")
    return found[order, 0], np.cumsum(found[order, 1])


def _average(found: NDArray[np.float64], there: int) -> float:
    """The precision at 101 recalls, as COCO interpolates it."""
    _, right = _counted(found)
    precision = right / np.arange(1, len(right) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(right / there, _RECALLS, side="left")].mean())


def _best_f1(found: NDArray[np.float64], there: int) -> tuple[float, float]:
    if not len(found) or not there:
        return 0.5, 0.0
    scores, right = _counted(found)
    f1 = 2 * right / (np.arange(1, len(right) + 1) + there)
    best = int(f1.argmax())
    return float(scores[best]), float(f1[best])
