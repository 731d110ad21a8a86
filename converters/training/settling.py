"""What follows the weights without being learnt: batch-norm statistics, or the grids of fake quantization."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

from edgeloc.contract import InputSpec
from edgeloc.converters.training.batches import TrainingBatches, ValidationBatches
from edgeloc.converters.training.batchnorm import REESTIMATION_BATCHES, reestimate_batch_norm
from edgeloc.data import Sample

__all__ = ["BatchNormSettling", "GridSettling", "Settling"]

# As many as the converter calibrates on.
_IMAGES, _BATCH = 200, 16


class Settling(Protocol):
    """Brings a network up to date with its weights when called, and by `at_epoch` before each epoch."""

    def __call__(self, network: Any) -> None: ...

    def at_epoch(self, network: Any) -> None: ...


class BatchNormSettling:
    """Re-estimates the moving statistics at the end; within an epoch every batch moves them."""

    def __init__(self, batches: TrainingBatches) -> None:
        self._batches = batches

    def __call__(self, network: Any) -> None:
        numbers = itertools.islice(itertools.cycle(range(len(self._batches))), REESTIMATION_BATCHES)
        reestimate_batch_norm(network, (self._batches[i][0] for i in numbers))

    def at_epoch(self, network: Any) -> None:
        pass


class GridSettling:
    """Measures a twin's grids on unchanged images, as the converter's calibration does; they stand within an epoch."""

    def __init__(self, samples: Sequence[Sample], labels: tuple[str, ...], spec: InputSpec) -> None:
        batches = ValidationBatches(samples, labels, spec, _BATCH, _IMAGES)
        self._images = [batches[i][0] for i in range(len(batches))]

    def __call__(self, network: Any) -> None:
        network.measure_ranges(self._images)

    def at_epoch(self, network: Any) -> None:
        self(network)
