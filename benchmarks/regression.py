"""Each image through the float and the quantized model, paired; the figures of all images are in `figures`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np

from edgeloc.benchmarks.figures import size_of
from edgeloc.benchmarks.result import Row
from edgeloc.benchmarks.sides import Answer, Side
from edgeloc.data import Sample
from edgeloc.data.background import cut_background
from edgeloc.errors import DataError
from edgeloc.types import Box, Pixels

__all__ = ["RegressionRecorder"]


class RegressionRecorder:
    """Pairs the two models image by image and keeps every row, so that an interrupted run still has what it measured.

    Every image is loaded once and goes through both. With `negatives`, a background crop of each
    image with an object goes through both too. A corrupt image raises DataError, or with
    `skip_bad` is left out and listed in `skipped`.
    """

    def __init__(
        self, float_side: Side, quantized_side: Side, *, negatives: bool = True, skip_bad: bool = False
    ) -> None:
        self._float, self._quantized = float_side, quantized_side
        self._negatives, self._skip_bad = negatives, skip_bad
        self.rows: list[Row] = []
        self.skipped: list[str] = []

    def record(self, samples: Iterable[Sample]) -> None:
        """Take every sample through both models."""
        for sample in samples:
            try:
                pixels = sample.load()
            except DataError:
                if not self._skip_bad:
                    raise
                self.skipped.append(sample.name)
                continue
            self.rows += self._rows(sample, pixels)

    def _rows(self, sample: Sample, pixels: Pixels) -> list[Row]:
        rows = [self._row(sample, pixels, "empty" if sample.box is None else "object")]
        crop = self._crop(sample, pixels) if self._negatives else None
        if crop is not None:
            rows.append(self._row(sample, crop, "background"))
        return rows

    def _crop(self, sample: Sample, pixels: Pixels) -> Pixels | None:
        if sample.box is None:
            return None
        rng = np.random.default_rng(zlib.crc32(sample.name.encode()))
        background = cut_background(pixels, sample.box, rng)
        return background.pixels if background else None

    def _row(self, sample: Sample, pixels: Pixels, kind: str) -> Row:
        height, width = pixels.shape[:2]
        before, after = self._float.answer(pixels), self._quantized.answer(pixels)
        truth = sample.box if kind == "object" else None
        return Row(
            name=sample.name,
            kind=kind,
            width=width,
            height=height,
            group=sample.group,
            label=sample.label if kind == "object" else None,
            size=size_of(truth, width, height) if truth else None,
            truth=truth,
            box_float=_rounded(before.box),
            box_quantized=_rounded(after.box),
            iou_float=_iou(truth, before.box) if truth else None,
            iou_quantized=_iou(truth, after.box) if truth else None,
            iou_float_to_quantized=_between(before, after) if truth else None,
            presence_float=round(before.presence, 6),
            presence_quantized=round(after.presence, 6),
            label_float=before.label,
            label_quantized=after.label,
        )


def _iou(truth: Box, box: Box | None) -> float:
    return round(truth.iou(box), 6) if box else 0.0


def _between(before: Answer, after: Answer) -> float:
    return _iou(before.box, after.box) if before.box else 0.0


def _rounded(box: Box | None) -> Box | None:
    return Box(*(round(float(edge), 3) for edge in box)) if box else None
