"""Keras networks whose batch-norm statistics lag behind their weights: found before converting, and mended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloc.benchmarks.sides import side_in_memory
from edgeloc.benchmarks.sources import spread
from edgeloc.contract import Contract
from edgeloc.converters.sources.keras import KerasSource
from edgeloc.converters.training.batchnorm import REESTIMATION_BATCHES, batch_norm_lag, reestimate_batch_norm
from edgeloc.data import Sample
from edgeloc.errors import DataError

__all__ = ["check_batch_norm"]

_IMAGES = 64
# Statistics that are up to date give 0.2 to 0.3 here, ones that lag above 1.
_LIMIT = 0.6
_BATCH = 32
_MEASURED = 300


def check_batch_norm(
    source: KerasSource,
    contract: Contract,
    images: NDArray[np.float32],
    samples: Sequence[Sample],
    repair: bool,
    tell: Callable[[str], None],
) -> None:
    """Tell of statistics that lag, and with `repair` take them from `images` (normalized calibration images) anew.

    The mean IoU of the network before and after is measured on up to 300 labelled ones of `samples`.
    Raises ContractError where the contract's image is not the network's.
    """
    source.check_input(contract.input)
    lag = batch_norm_lag(source.network, images[:_IMAGES])
    if lag <= _LIMIT:
        if repair:
            tell("the batch-norm statistics are up to date: --repair-batch-norm left them as they are")
        return
    finding = (
        f"the batch-norm statistics lag behind the weights (outputs differ by {lag:.2f} standard deviations from "
        "those with the images' own statistics)"
    )
    if not repair:
        tell(f"warning: {finding}: the network is better than it looks; --repair-batch-norm takes them anew")
        return
    tell(f"{finding}: they are taken anew from the calibration images")
    labelled = spread([sample for sample in samples if sample.box is not None], _MEASURED)
    before = _mean_iou(source, contract, labelled)
    rng = np.random.default_rng(0)
    batches = (images[rng.choice(len(images), min(_BATCH, len(images)))] for _ in range(REESTIMATION_BATCHES))
    reestimate_batch_norm(source.network, batches)
    after = _mean_iou(source, contract, labelled)
    if before is not None and after is not None:
        tell(
            f"mean IoU of the float network on {len(labelled)} labelled images: {before:.3f} before, {after:.3f} after"
        )


def _mean_iou(source: KerasSource, contract: Contract, samples: list[Sample]) -> float | None:
    side = side_in_memory(Path(source.name).name, source.to_tflite(contract.input), contract)
    ious = []
    for sample in samples:
        try:
            box = side.answer(sample.load()).box
        except DataError:
            continue  # told, or refused, where the images are used
        ious.append(sample.box.iou(box) if sample.box and box else 0.0)
    return float(np.mean(ious)) if ious else None
