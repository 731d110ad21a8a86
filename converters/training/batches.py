"""Labelled samples as batches for Keras: augmented ones to learn from, and fixed ones to validate on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.training.augment import Augmentation, augment
from edgeloc.data import Sample
from edgeloc.data.background import cut_background
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Box, Pixels

__all__ = ["TrainingBatches", "ValidationBatches"]

Batch = tuple[NDArray[np.float32], dict[str, NDArray[Any]]]

# Every so many validation images, one also gives a crop without its object.
_NEGATIVE_EVERY = 4


class _View(NamedTuple):
    """One image of a batch, BGR, with its box in pixels of it; None for a negative."""

    pixels: Pixels
    box: Box | None
    label: str | None


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
        size = self._spec.width
        views = []
        for number in rng.choice(len(self._samples), self._batch_size, p=self._chances):
            sample = self._samples[number]
            view = augment(sample.load(), sample.box, size, self._how, rng)
            box = None if view.box is None else Box(*(edge * size for edge in view.box))
            views.append(_View(view.pixels, box, sample.label))
        return _batch(views, self._labels, self._spec)


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
        views = []
        for number, sample in enumerate(self._samples[first : first + self._batch_size], first):
            pixels = sample.load()
            views.append(_View(pixels, sample.box, sample.label))
            if number % _NEGATIVE_EVERY == 0 and sample.box is not None:
                background = cut_background(pixels, sample.box, np.random.default_rng(number))
                if background is not None:
                    views.append(_View(background.pixels, None, None))
        return _batch(views, self._labels, self._spec)


def _batch(views: Sequence[_View], labels: tuple[str, ...], spec: InputSpec) -> Batch:
    """The views through the runtime's preprocessing, and their targets."""
    preprocess = Preprocessor(spec, np.dtype(np.float32), None, None)  # of this call: batches are made in threads
    known = {name: index for index, name in enumerate(labels)}
    images, boxes, label = [], [], []
    for view in views:
        tensor, placement = preprocess(view.pixels)
        images.append(tensor[0].astype(np.float32))
        corners = np.array(placement.to_input(view.box) if view.box else (0, 0, spec.width, spec.height))
        boxes.append(corners / (spec.width, spec.height, spec.width, spec.height))
        label.append(known.get(view.label or "", -1) if view.box else -1)
    targets = {
        "box": np.array(boxes, np.float32),
        "present": np.array([view.box is not None for view in views], np.float32),
        "label": np.array(label, np.int32),
    }
    return np.stack(images), targets
