"""The Localizer: contract, preprocessing, engine and decoding of one model in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeloc.decode import Decoder
from edgeloc.engines import FASTEST, Engine, Threads, open_engine
from edgeloc.engines.base import TensorInfo, quantizations
from edgeloc.errors import ContractError, EngineError, ModelError, UsageError
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, contract_for, read_model
from edgeloc.model.fit import check_contract, check_input_range
from edgeloc.preprocess import Placement, Preprocessor
from edgeloc.types import Frame, Pixels, Result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeloc.model.golden import Golden

__all__ = ["Localizer"]


class Localizer:
    """A loaded model that answers, for each frame, whether the object is there, where, and of which class.

        localizer = Localizer("model.tflite")
        result = localizer(cv2.imread("photo.jpg"))

    Parameters:
        model: a model file, or its path.
        engine: a name that `open_engine` knows, or an engine that has the model loaded. "fastest" is the fastest of
            those installed that passes the model's self-test; it is measured once, and remembered.
        threads: how many threads the engine uses; None leaves it to the engine. "auto" is the fastest number, which is
            measured once, in under a second for a model of up to 25 ms, and remembered.
        contract: the model's contract, or its JSON file. None takes the one inside the model file, else that of a JSON
            file beside it with the same name (`model.json`).
        cpu_model: what the engine "auto" falls back to when a model compiled for the Edge TPU fails there.
        deadline_ms: an inference that takes longer, in milliseconds, is an EngineError; see `open_engine`.
        candidates_from: for a tracker of several objects: what a model that finds several scores from here on up to the
            contract's presence threshold goes to `Result.candidates`; None for nothing.

    Not for use from two threads at once.

    Raises ModelError when the file cannot be used, ContractError when it has no contract or one that does not fit
    it, EngineError when the engine is missing or fails.
    """

    def __init__(
        self,
        model: str | Path | ModelFile,
        engine: str | Engine = "auto",
        threads: Threads = None,
        contract: Contract | str | Path | None = None,
        cpu_model: str | Path | ModelFile | None = None,
        deadline_ms: float | None = None,
        candidates_from: float | None = None,
    ) -> None:
        if candidates_from is not None and not 0 <= candidates_from <= 1:
            raise UsageError(field="candidates_from", value=candidates_from, allowed="0 to 1")
        self.model = model if isinstance(model, ModelFile) else read_model(model)
        self.contract = contract_for(self.model, contract)
        with _naming(self.model.path):
            Decoder(self.contract)  # before an engine is loaded for nothing
        if isinstance(engine, str):
            own = self.contract is self.model.contract
            described = self.model if own else dataclasses.replace(self.model, contract=self.contract)
            if engine == FASTEST and self.model.golden is None:
                hint = "name an {engine}, or convert the model with `edgeloc convert` to add one"
                raise ModelError(f"{self.model.path} has no self-test for the engine fastest to pass", hint=hint)
            engine = open_engine(engine, described, threads, cpu_model, deadline_ms, self._passes)
        elif deadline_ms is not None:
            raise UsageError("only an engine given by its name can have a deadline", hint="leave out {deadline_ms}")
        self.engine = engine
        with _naming(self.model.path):
            check_contract(self.contract, engine.inputs, engine.outputs)
            lowered = _lowered(self.contract, candidates_from)
            self._decoder = Decoder(lowered, quantizations(engine.outputs))
            self._has_candidates = lowered is not self.contract
        tensor = engine.inputs[self.contract.input.tensor]
        _report_input_range(self.contract, tensor)
        self.preprocessor = Preprocessor(self.contract.input, tensor.dtype, tensor.scale, tensor.zero_point)

    def __call__(self, frame: Frame | Pixels) -> Result:
        """Localize in one frame, or in an image, BGR uint8 (height, width, 3).

        Raises UsageError when the array is not such an image, EngineError when the engine fails.
        """
        pixels = frame.pixels if isinstance(frame, Frame) else frame
        memory = self.engine.memory
        if memory is not None and self.preprocessor.writes_pixels:
            # Where the runtime reads them, pixels need not be copied to.
            placement = self.preprocessor.write(pixels, memory)
            raw: Mapping[str, NDArray[Any]] = self.engine.run()
        else:
            tensor, placement = self.preprocessor(pixels)
            raw = self.engine.invoke(tensor)
        height, width = pixels.shape[:2]
        result = self._decoder(raw, placement, (width, height))
        return _above(self.contract.thresholds.presence, result) if self._has_candidates else result

    def preprocess(self, pixels: Pixels) -> tuple[NDArray[Any], Placement]:
        """First stage: the input tensor of a frame, in memory that the next call reuses, and its placement."""
        return self.preprocessor(pixels)

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Second stage: raw output arrays by name."""
        return self.engine.invoke(tensor)

    def decode(self, raw: Mapping[str, NDArray[Any]], placement: Placement, frame_size: tuple[int, int]) -> Result:
        """Third stage: the result in pixels of the frame.

        Parameters:
            raw: the engine's output arrays by name.
            placement: where the frame lies in the model's input.
            frame_size: the frame's (width, height) in pixels.

        Raises EngineError when an output that matters is not a finite number.
        """
        result = self._decoder(raw, placement, frame_size)
        return _above(self.contract.thresholds.presence, result) if self._has_candidates else result

    def _passes(self, engine: Engine) -> None:
        """Raise EngineError where the self-test fails on an engine."""
        Localizer(self.model, engine, contract=self.contract).self_test()

    def self_test(self) -> None:
        """Run the golden image of the model file and compare the answer with the expected one.

        Raises ModelError when the file has none, EngineError naming what differs: then this engine, on this machine,
        does not compute what the converter's did.
        """
        golden = self.model.golden
        if golden is None:
            raise ModelError(f"{self.model.path} has no self-test", hint="convert it with `edgeloc convert` to add one")
        difference = _difference(golden, self(golden.image))
        if difference:
            raise EngineError(
                f"{self.model.path} fails its self-test on {self.engine.name} {self.engine.version}: {difference}",
                hint="try another {engine}",
            )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the model in an error of its contract."""
    try:
        yield
    except ContractError as error:
        raise ContractError(f"{path} and its contract do not fit: {error}", hint="correct the contract") from error


def _report_input_range(contract: Contract, tensor: TensorInfo) -> None:
    finding = check_input_range(contract.input, tensor.dtype, tensor.scale, tensor.zero_point or 0)
    if finding is not None:
        import logging  # most models load without anything to log

        from edgeloc.findings import report

        report(logging.getLogger(__name__), finding)


def _lowered(contract: Contract, presence: float | None) -> Contract:
    """The contract with a lower presence threshold, where its model finds several objects."""
    if presence is None or presence >= contract.thresholds.presence or not _finds_several(contract):
        return contract
    return dataclasses.replace(contract, thresholds=dataclasses.replace(contract.thresholds, presence=presence))


def _finds_several(contract: Contract) -> bool:
    if contract.detector is None:
        return contract.box.objects > 1
    selection = contract.detector.selection
    # Where cells are merged, those below the threshold would make objects larger.
    return selection.objects > 1 and selection.nms != "merge"


def _above(presence: float, result: Result) -> Result:
    """The result with what does not reach the presence threshold as candidates."""
    objects = result.objects
    if not objects or objects[-1].score >= presence:
        return result
    present = sum(one.score >= presence for one in objects)
    rejected = None if present else dataclasses.replace(objects[0], box=None, label=None)
    return Result(objects[:present], rejected, objects[present:])


def _difference(golden: Golden, result: Result) -> str:
    """How the result differs from the golden answer; empty where it is within the tolerances."""
    if abs(result.presence - golden.presence) > golden.presence_tolerance:
        return f"presence is {result.presence:.3f}, expected {golden.presence:.3f} ± {golden.presence_tolerance:g}"
    if (result.box is None) != (golden.box is None):
        return f"box is {result.box}, expected {golden.box}"
    if result.box is not None and golden.box is not None:
        worst = max(abs(a - b) for a, b in zip(result.box, golden.box, strict=True))
        if not worst <= golden.box_px:
            return f"the box is off by {worst:.1f} pixels, allowed are {golden.box_px:g}"
    if result.label != golden.label:
        return f"label is {result.label!r}, expected {golden.label!r}"
    return ""
