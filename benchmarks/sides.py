"""The two models of a comparison, each giving its raw answer on an image; pairing them is done in `regression`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeloc.benchmarks.keras_engine import KerasEngine
from edgeloc.contract import Contract, Thresholds
from edgeloc.engines import Engine
from edgeloc.errors import UsageError
from edgeloc.localizer import Localizer
from edgeloc.modelfile import ModelFile, read_keras_contract, read_model
from edgeloc.types import Box, Pixels

__all__ = ["Answer", "Side", "float_side"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says whatever its thresholds: presence 0 to 1, its box in pixels, its most probable label."""

    presence: float
    box: Box | None
    label: str | None


class Side:
    """One model, asked for its raw answer: the box even where its presence is under the threshold.

    `threshold` is the presence from which the model's contract counts an object as found.
    """

    def __init__(self, model: ModelFile, contract: Contract, engine: Engine) -> None:
        self.threshold = contract.thresholds.presence
        self._labels = contract.labels
        open_contract = dataclasses.replace(contract, thresholds=Thresholds(presence=0.0, label=0.0))
        self._localizer = Localizer(model, engine, contract=open_contract)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the model's classes are called."""
        return self._labels

    @property
    def engine(self) -> Engine:
        """What runs the model."""
        return self._localizer.engine

    def answer(self, pixels: Pixels) -> Answer:
        """The answer on a BGR uint8 image (height, width, 3)."""
        result = self._localizer(pixels)
        known = bool(self._labels) and result.class_scores.size == len(self._labels)
        label = self._labels[int(np.argmax(result.class_scores))] if known else None
        return Answer(float(result.presence), result.box, label)


def float_side(path: str | Path, contract: Contract, engine: str = "auto", threads: int | None = None) -> Side:
    """The float model of a `.tflite` or `.keras` file, under its own contract, else under `contract`.

    Raises UsageError for another kind of file, ModelError when the file is bad, ContractError when
    the contract does not fit it, MissingExtra for `.keras` without TensorFlow.
    """
    path = Path(path)
    if path.suffix == ".keras":
        own = read_keras_contract(path) or contract
        model = ModelFile(path, b"", contract=own)
        return Side(model, own, KerasEngine.load(model, threads))
    if path.suffix != ".tflite":
        raise UsageError(f"--against {path}: the float model must be a .tflite or a .keras file")
    model = read_model(path)
    # None lets the Localizer look for the model's own contract, in the file or beside it.
    has_own = model.contract is not None or path.with_suffix(".json").is_file()
    localizer = Localizer(model, engine, threads, None if has_own else contract)
    return Side(model, localizer.contract, localizer.engine)
