"""The two models of a comparison, each giving its raw answer on an image; pairing them is done in `regression`."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeloc.benchmarks.keras_engine import KerasEngine
from edgeloc.contract import Contract, Thresholds
from edgeloc.engines import Engine, is_for_edge_tpu, open_engine
from edgeloc.errors import UsageError
from edgeloc.localizer import Localizer
from edgeloc.modelfile import ModelFile, read_keras_contract, read_model
from edgeloc.types import Box, Pixels

__all__ = ["Answer", "RememberingSide", "Side", "float_side", "side_in_memory"]


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


class RememberingSide(Side):
    """A side that runs its model once for each image, however often it is asked: one float model, many quantized."""

    def __init__(self, model: ModelFile, contract: Contract, engine: Engine) -> None:
        super().__init__(model, contract, engine)
        self._answers: dict[tuple[tuple[int, ...], bytes], Answer] = {}

    def answer(self, pixels: Pixels) -> Answer:
        """The answer on a BGR uint8 image (height, width, 3), computed or remembered."""
        key = pixels.shape, hashlib.sha256(pixels.tobytes()).digest()
        if key not in self._answers:
            self._answers[key] = super().answer(pixels)
        return self._answers[key]


def side_in_memory(
    name: str, flatbuffer: bytes, contract: Contract, *, engine: Engine | None = None, remember: bool = False
) -> Side:
    """A model that is no file yet; `name` stands for it in errors. It must be known to load without harm.

    `engine` is one that has it loaded already.

    Raises ContractError when the contract does not fit it, EngineError when the engine is missing or fails.
    """
    model = ModelFile(Path(name), flatbuffer, contract=contract, verified=True)
    kind = RememberingSide if remember else Side
    return kind(model, contract, engine or open_engine("auto", model))


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
    if engine.startswith("edgetpu") and not is_for_edge_tpu(model.flatbuffer):
        engine = "auto"  # the float model never runs there
    localizer = Localizer(model, engine, threads, None if has_own else contract)
    return Side(model, localizer.contract, localizer.engine)
