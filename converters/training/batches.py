"""Labelled samples as batches for Keras: augmented ones to learn from, and fixed ones to validate on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.training.augment import Augmentation, Augmented, augment
from edgeloc.data import Sample
from edgeloc.data.background import background_crop
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Box, Pixels

__all__ = ["TrainingBatches", "ValidationBatches"]

Batch = tuple[NDArray[np.float32], dict[str, NDArray[Any]]]

# Every so many validation images, one also gives a crop without its object.
_NEGATIVE_EVERY = 4


class TrainingBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Augmented batches, drawn with the square root of a class's rarity; the same seed and epoch give the same.

    A batch is float32 images (batch, size, size, 3), normalized, and the targets `box` (batch, 4)
    in fractions of the input, `present` (batch,) and `label` (batch,), the label's index or -1.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: tuple[str, ...],
        spec: InputSpec,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(workers=2, max_queue_size=6)
        self._samples, self._labels, self._spec = samples, labels, spec
        self._batch_size, self._seed = batch_size, seed
        counts = Counter(sample.label for sample in samples)
        rarity = np.array([counts[sample.label] ** -0.5 for sample in samples])
        self._chances = rarity / rarity.sum()
        self.start_epoch(0, Augmentation())

    def start_epoch(self, epoch: int, how: Augmentation) -> None:
        """Draw the batches of this epoch from now on, changed as far as `how` says."""
        self.epoch, self._how = epoch, how

    def __len__(self) -> int:
        return max(1, len(self._samples) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self._seed, self.epoch, index))
        chosen = rng.choice(len(self._samples), self._batch_size, p=self._chances)
        samples = [self._samples[i] for i in chosen]
        views = [augment(s.load(), s.box, self._spec.width, self._how, rng) for s in samples]
        return _batch(views, [s.label for s in samples], self._labels, self._spec)


class ValidationBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Unchanged images through the runtime's own preprocessing, and crops beside the object as negatives."""

    def __init__(
        self, samples: Sequence[Sample], labels: tuple[str, ...], spec: InputSpec, batch_size: int, limit: int
    ) -> None:
        super().__init__(workers=1)
        step = max(1, -(-len(samples) // limit))
        self._samples = [samples[i] for i in range(0, len(samples), step)]
        self._labels, self._spec, self._batch_size = labels, spec, batch_size

    def __len__(self) -> int:
        return -(-len(self._samples) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        first = index * self._batch_size
        views: list[Augmented] = []
        names: list[str | None] = []
        for number, sample in enumerate(self._samples[first : first + self._batch_size], first):
            pixels = sample.load()
            views.append(_fixed_view(pixels, sample.box, self._spec))
            names.append(sample.label)
            if number % _NEGATIVE_EVERY == 0 and sample.box is not None:
                height, width = pixels.shape[:2]
                crop = background_crop(sample.box, width, height, np.random.default_rng(number))
                if crop is not None:
                    x, y, side, _ = crop
                    views.append(_fixed_view(pixels[y : y + side, x : x + side], None, self._spec))
                    names.append(None)
        return _batch(views, names, self._labels, self._spec)


def _fixed_view(pixels: Pixels, box: Box | None, spec: InputSpec) -> Augmented:
    """The input as the runtime would make it, still uint8 BGR, with the box in fractions of it."""

    plain = dataclasses.replace(spec, color="bgr", mean=(0.0,), std=(1.0,))
    tensor, placement = Preprocessor(plain, np.dtype(np.uint8), None, None)(pixels)
    if box is not None:
        x1, y1, x2, y2 = placement.to_input(box)
        box = Box(x1 / spec.width, y1 / spec.height, x2 / spec.width, y2 / spec.height)
    return Augmented(tensor[0].copy(), box)


def _batch(views: list[Augmented], names: Sequence[str | None], labels: tuple[str, ...], spec: InputSpec) -> Batch:
    images = np.stack([view.pixels for view in views])
    if spec.color == "rgb":
        images = images[..., ::-1]
    normalized = (images - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    present = np.array([view.box is not None for view in views], np.float32)
    known = {name: index for index, name in enumerate(labels)}
    label = [known.get(name or "", -1) if view.box else -1 for view, name in zip(views, names, strict=True)]
    box = np.array([view.box or (0.0, 0.0, 1.0, 1.0) for view in views], np.float32)
    return normalized.astype(np.float32), {"box": box, "present": present, "label": np.array(label, np.int32)}
