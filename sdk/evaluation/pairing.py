"""Every image through the float and the quantized model, paired; a `.keras` model is run by Keras."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeloc.data import Sample
from edgeloc.data.sample import cut_background
from edgeloc.engines import Engine, is_for_edge_tpu, open_engine
from edgeloc.engines.base import TensorInfo
from edgeloc.errors import DataError, EngineError, MissingExtra, ModelError, UsageError, first_line
from edgeloc.evaluation.figures import Row, size_of
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract, InputSpec, Thresholds
from edgeloc.model.file import ModelFile, file_in_memory, own_contract, read_keras_contract, read_model
from edgeloc.types import Box, Pixels

__all__ = [
    "Answer",
    "KerasEngine",
    "Recorder",
    "RegressionRecorder",
    "RememberingSide",
    "Side",
    "float_localizer",
    "image_facts",
    "load_keras",
    "rounded_box",
    "rounded_iou",
    "side_in_memory",
]

# Before it, Keras ran the code of a Lambda layer in an `.h5` (CVE-2025-9905).
_SAFE_KERAS = (3, 11, 3)

R = TypeVar("R")


class KerasEngine(Engine):
    """A `.keras` file in float, one image at a time; the input carries the name that `spec` gives it.

    Outputs are named by the keys of the model's dict, else by its output layers, as they are in
    the signature of the converted file. Raises MissingExtra without TensorFlow, ModelError when
    the file cannot be loaded.
    """

    name = "keras"

    def __init__(self, path: str | Path, spec: InputSpec) -> None:
        network = load_keras(Path(path))
        import keras
        import tensorflow as tf

        self.version = str(keras.__version__)
        if len(network.inputs) != 1:
            raise ModelError(f"{path} has {len(network.inputs)} inputs: a localizer has one")
        channels = 1 if spec.color == "gray" else 3
        have = tuple(network.inputs[0].shape[1:])
        shape = (1, *(size or wanted for size, wanted in zip(have, (spec.height, spec.width, channels), strict=False)))
        dtype = np.dtype(network.inputs[0].dtype)
        self._names = None if isinstance(network.output, dict) else tuple(network.output_names)
        function = tf.function(lambda image: network(image, training=False))
        self._run = function.get_concrete_function(tf.TensorSpec(shape, dtype))
        self.inputs = {spec.tensor: TensorInfo(spec.tensor, shape, dtype)}
        self.outputs = {
            name: TensorInfo(name, tuple(value.shape), np.dtype(np.float32))
            for name, value in self._named(self._run.structured_outputs).items()
        }
        self._constant = tf.constant

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> KerasEngine:
        """The model of a file with a contract; TensorFlow decides on the threads."""
        if model.contract is None:
            raise ModelError(f"{model.path} has no contract, which defines what its input means")
        return cls(model.path, model.contract.input)

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model on one image; float32 arrays by output name."""
        try:
            answer = self._run(self._constant(tensor))
        except Exception as error:  # TensorFlow's errors share no base below it
            raise EngineError(f"keras failed while running the model: {error}") from error
        return {name: np.asarray(value, np.float32) for name, value in self._named(answer).items()}

    def _named(self, values: Any) -> dict[str, Any]:
        if self._names is None:
            return dict(values)
        return dict(zip(self._names, values if isinstance(values, (list, tuple)) else [values], strict=True))


def load_keras(path: Path) -> Any:
    """The network of a `.keras` or `.h5` file; code in it, as of a Lambda layer, does not run.

    Raises ModelError when Keras refuses it, or when this Keras would run the code of an `.h5`.
    """
    try:
        import keras
    except ImportError as error:
        raise MissingExtra("tensorflow", "convert", f"loading {path.name}") from error
    if tuple(map(int, re.findall(r"\d+", keras.__version__)[:3])) < _SAFE_KERAS:
        raise ModelError(
            f"Keras {keras.__version__} can run code that {path} holds", hint="pip install --upgrade 'keras>=3.11.3'"
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError, RecursionError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{path}: Keras cannot load it ({first_line(error)})") from error


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answers whatever its thresholds: presence 0 to 1, its box in pixels, its most probable label."""

    presence: float
    box: Box | None
    label: str | None


class Side:
    """One model and its raw answers: the box even where its presence is under the threshold.

    `threshold` is the presence from which the model's contract counts an object as found.
    """

    def __init__(self, model: ModelFile, contract: Contract, engine: Engine) -> None:
        self.threshold = contract.thresholds.presence
        self._labels = contract.labels
        open_contract = dataclasses.replace(contract, thresholds=Thresholds(presence=0.0, label=0.0))
        self._localizer = Localizer(model, engine, contract=open_contract)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the model's classes."""
        return self._labels

    @property
    def engine(self) -> Engine:
        """What runs the model."""
        return self._localizer.engine

    def answer(self, pixels: Pixels) -> Answer:
        """The answer on a BGR uint8 image (height, width, 3)."""
        result = self._localizer(pixels)
        known = bool(self._labels) and result.class_scores.size == len(self._labels) and result.class_scores.any()
        label = self._labels[int(np.argmax(result.class_scores))] if known else None
        return Answer(float(result.presence), result.box, label)


class RememberingSide(Side):
    """A side that runs its model once for each image, however often it comes: one float model, many quantized."""

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
    name: str, payload: bytes, contract: Contract, *, engine: Engine | None = None, remember: bool = False
) -> Side:
    """A model that is no file yet, and that must be known to load without harm.

    Parameters:
        name: stands for it in errors.
        payload: the model, a flatbuffer or ONNX.
        contract: how its input is made and its outputs are read.
        engine: one that has the model loaded already; None is a new one.
        remember: run the model once for each image, however often the image comes.

    Raises ContractError when the contract does not fit it, EngineError when the engine is missing or fails.
    """
    model = file_in_memory(name, payload, contract)
    kind = RememberingSide if remember else Side
    return kind(model, contract, engine or open_engine("auto", model))


def float_localizer(
    path: str | Path, contract: Contract, engine: str = "auto", threads: int | None = None
) -> Localizer:
    """The float model of a `.tflite` or `.keras` file, under its own contract, else under `contract`.

    `engine`, `threads`: what the quantized model runs on; the float model runs there too where it can, else on the CPU.

    Raises UsageError for another kind of file or of network, ModelError when the file is bad, ContractError when
    the contract does not fit it, MissingExtra for `.keras` without TensorFlow.
    """
    path = Path(path)
    if path.suffix == ".keras":
        own = read_keras_contract(path) or contract
        if own.stages is not None:
            message = f"{path} is a two-stage detector, which runs as a .tflite"
            hint = "convert it with `--recipe float32` and compare with that"
            raise UsageError(message, field="against", value=str(path), hint=hint)
        _require_same_kind(contract, own, path)
        model = ModelFile(path, b"", "keras", contract=own)
        return Localizer(model, KerasEngine.load(model, threads), contract=own)
    if path.suffix != ".tflite":
        raise UsageError(field="against", value=str(path), allowed="a .tflite or a .keras file")
    model = read_model(path)
    if engine in ("tensorrt", "onnxruntime") or (engine.startswith("edgetpu") and not is_for_edge_tpu(model.payload)):
        engine = "auto"  # a float .tflite never runs there
    own = own_contract(model) or contract
    _require_same_kind(contract, own, path)
    return Localizer(model, engine, threads, own)


def _require_same_kind(contract: Contract, other: Contract, path: Path) -> None:
    """UsageError where one model finds one object and the other several: what they differ by is no drop."""
    if contract.finds_one != other.finds_one:
        kind, its = ("one object", "several") if contract.finds_one else ("several objects", "one")
        message = f"{path} answers with {its} and the model with {kind}: it is another network"
        raise UsageError(message, field="against", value=str(path), hint="give the model's own float network")


class Recorder(ABC, Generic[R]):
    """Takes images through one model or two, and keeps every row, so that an interrupted run has what it measured.

    `negatives`: a background crop of each image with an object is taken through, too.
    `skip_bad`: a corrupt image is left out and listed in `skipped`; else it raises DataError.
    """

    def __init__(self, *, negatives: bool = True, skip_bad: bool = False) -> None:
        self._negatives, self._skip_bad = negatives, skip_bad
        self.rows: list[R] = []
        self.skipped: list[str] = []

    def record(self, samples: Iterable[Sample]) -> None:
        """Load every sample once, and take it through."""
        for sample in samples:
            try:
                pixels = sample.load()
            except DataError:
                if not self._skip_bad:
                    raise
                self.skipped.append(sample.name)
                continue
            self.rows += self._rows(sample, pixels)

    def _rows(self, sample: Sample, pixels: Pixels) -> list[R]:
        rows = [self._row(sample, pixels, "empty" if sample.box is None else "object")]
        crop = _background(sample, pixels) if self._negatives else None
        if crop is not None:
            rows.append(self._row(sample, crop, "background"))
        return rows

    @abstractmethod
    def _row(self, sample: Sample, pixels: Pixels, kind: str) -> R:
        """The row of one image, or of a crop of it where `kind` is `background`."""


class RegressionRecorder(Recorder[Row]):
    """Pairs the two models image by image."""

    def __init__(
        self, float_side: Side, quantized_side: Side, *, negatives: bool = True, skip_bad: bool = False
    ) -> None:
        super().__init__(negatives=negatives, skip_bad=skip_bad)
        self._float, self._quantized = float_side, quantized_side

    def _row(self, sample: Sample, pixels: Pixels, kind: str) -> Row:
        facts = image_facts(sample, pixels, kind)
        truth = facts["truth"]
        before, after = self._float.answer(pixels), self._quantized.answer(pixels)
        return Row(
            **facts,
            box_float=rounded_box(before.box),
            box_quantized=rounded_box(after.box),
            iou_float=rounded_iou(truth, before.box) if truth else None,
            iou_quantized=rounded_iou(truth, after.box) if truth else None,
            iou_float_to_quantized=_between(before, after) if truth else None,
            presence_float=round(before.presence, 6),
            presence_quantized=round(after.presence, 6),
            label_float=before.label,
            label_quantized=after.label,
        )


def rounded_iou(truth: Box, box: Box | None) -> float:
    """IoU to six decimals; 0 without a box."""
    return round(truth.iou(box), 6) if box else 0.0


def rounded_box(box: Box | None) -> Box | None:
    """The box to a thousandth of a pixel."""
    return Box(*(round(float(edge), 3) for edge in box)) if box else None


def _background(sample: Sample, pixels: Pixels) -> Pixels | None:
    """A crop beside the objects, the same each time; None without an object or where there is no room beside them."""
    if not sample.objects:
        return None
    rng = np.random.default_rng(zlib.crc32(sample.name.encode()))
    background = cut_background(pixels, sample.objects, rng)
    return background.pixels if background else None


def _between(before: Answer, after: Answer) -> float:
    return rounded_iou(before.box, after.box) if before.box else 0.0


def image_facts(sample: Sample, pixels: Pixels, kind: str) -> dict[str, Any]:
    """The fields of `ImageFacts` for an image, or for a crop of it where `kind` is `background`."""
    height, width = pixels.shape[:2]
    truth = sample.box if kind == "object" else None
    return {
        "name": sample.name,
        "kind": kind,
        "width": width,
        "height": height,
        "group": sample.group,
        "label": sample.label if kind == "object" else None,
        "size": size_of(truth, width, height) if truth else None,
        "truth": truth,
    }
