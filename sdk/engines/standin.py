"""A stand-in engine that answers what it was told to: for tests of programs that use a localizer, without a runtime."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import Contract, OutputSpec
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError
from edgeloc.modelfile import ModelFile

__all__ = ["StandinEngine"]

_GRID = 4
_BINS = 32
_ANCHORS = 16


class StandinEngine(Engine):
    """Answers a script instead of running a model.

    `contract` says which outputs there are; all are float32, the input is uint8 and takes pixels
    unconverted where the contract's mean and std are one number each. `answers` are dicts of
    output name to values, one for each invoke, the last one repeated; an output that an answer
    leaves out is zero. `delay_s` is how long each invoke takes. `invocations` counts them, and
    `fail(after, times)` makes some of them raise EngineError.

        engine = StandinEngine(contract, [{"presence": [[4.0]], "box": [[0.5, 0.5, 0.2, 0.2]]}])
        localizer = Localizer(ModelFile(Path("robot"), b"", contract=contract), engine=engine)
    """

    name = "standin"
    version = "1"

    def __init__(
        self,
        contract: Contract,
        answers: Iterable[Mapping[str, Any]] = (),
        *,
        delay_s: float = 0.0,
    ) -> None:
        spec = contract.input
        channels = 1 if spec.color == "gray" else 3
        shape, dtype = (1, spec.height, spec.width, channels), np.dtype(np.uint8)
        self.inputs = {spec.tensor: TensorInfo(spec.tensor, shape, dtype, 1 / spec.std[0], round(spec.mean[0]))}
        self.outputs = {
            output.tensor: TensorInfo(output.tensor, _shape(contract, output), np.dtype(np.float32))
            for output in contract.outputs
        }
        self.delay_s = delay_s
        self.invocations = 0
        self._answers = [self._complete(answer) for answer in answers] or [self._complete({})]
        self._failures = range(0)

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> StandinEngine:
        """A stand-in for a model with a contract; it answers zeros."""
        if model.contract is None:
            raise EngineError(f"{model.path} has no contract, so the engine standin cannot know its outputs")
        return cls(model.contract)

    def fail(self, after: int = 0, times: int = 1) -> None:
        """Let `times` invocations fail, once `after` further ones have gone well."""
        start = self.invocations + after
        self._failures = range(start, start + times)

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The next answer of the script."""
        number = self.invocations
        self.invocations += 1
        if self.delay_s:
            time.sleep(self.delay_s)
        if number in self._failures:
            raise EngineError("the stand-in engine fails, as it was told to")
        answer = self._answers[min(number, len(self._answers) - 1)]
        return {name: values.copy() for name, values in answer.items()}

    def _complete(self, answer: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        unknown = sorted(set(answer) - set(self.outputs))
        if unknown:
            raise EngineError(f"an answer has {unknown[0]!r}; the contract's outputs are {', '.join(self.outputs)}")
        return {
            name: np.array(answer[name], np.float32) if name in answer else np.zeros(info.shape, np.float32)
            for name, info in self.outputs.items()
        }


def _shape(contract: Contract, output: OutputSpec) -> tuple[int, ...]:
    """A plausible shape for an output of this role."""
    objects, labels = contract.box.objects, len(contract.labels)
    shapes: dict[str, tuple[int, ...]] = {
        "presence": (1, objects),
        "class": (1, objects, labels) if objects > 1 else (1, labels),
        "box": (1, objects, 4) if objects > 1 else (1, 4),
        "vector": (1, objects * len(output.slots)),
        "box-bins": (1, objects * 4, _BINS),
        "grid-weights": (1, _GRID, _GRID, 1),
        "grid-distances": (1, _GRID, _GRID, 4),
        "ssd-boxes": (1, objects, 4),
        "ssd-classes": (1, objects),
        "ssd-scores": (1, objects),
        "ssd-count": (1,),
        "yolo": (1, 4 + labels, _ANCHORS),
    }
    return shapes[output.role]
