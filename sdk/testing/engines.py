"""A fake engine that gives prepared answers, and a fake libedgetpu built from C."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, OutputError, UsageError
from edgeloc.model.contract import Contract, OutputSpec
from edgeloc.model.file import ModelFile

__all__ = ["FakeEngine", "build_fake_delegate"]

_SOURCE = Path(__file__).with_name("delegate.c")
_GRID = 4
_BINS = 32
_ANCHORS = 16


class FakeEngine(Engine):
    """An engine that gives prepared answers and runs no model.

    `contract`: which outputs there are. All are float32; the input is uint8 and takes pixels unconverted where the
    contract's mean and std are one number each.
    `answers`: for each invoke a dict of output name to values; the last is repeated, and an output that is left out
    is zero.
    `delay_s`: how long each invoke takes, in seconds.

    `invocations` counts the calls of `invoke`; `fail(after, times)` makes some of them raise EngineError.

        engine = FakeEngine(contract, [{"presence": [[4.0]], "box": [[0.5, 0.5, 0.2, 0.2]]}])
        localizer = Localizer(ModelFile(Path("robot"), b"", "tflite", contract=contract), engine=engine)
    """

    name = "fake"
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
    def load(cls, model: ModelFile, threads: int | None) -> FakeEngine:
        """A fake of a model with a contract; it answers zeros."""
        if model.contract is None:
            raise EngineError(f"{model.path} has no contract, so the fake engine cannot know its outputs")
        return cls(model.contract)

    def fail(self, after: int = 0, times: int = 1) -> None:
        """Make `times` invocations raise EngineError, after `after` more that succeed."""
        start = self.invocations + after
        self._failures = range(start, start + times)

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The next answer; EngineError where `fail` set one."""
        number = self.invocations
        self.invocations += 1
        if self.delay_s:
            time.sleep(self.delay_s)
        if number in self._failures:
            raise EngineError("the fake engine fails, as set by `fail()`")
        answer = self._answers[min(number, len(self._answers) - 1)]
        return {name: values.copy() for name, values in answer.items()}

    def _complete(self, answer: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        unknown = sorted(set(answer) - set(self.outputs))
        if unknown:
            raise UsageError(f"an answer has {unknown[0]!r}; the contract's outputs are {', '.join(self.outputs)}")
        return {
            name: np.array(answer[name], np.float32) if name in answer else np.zeros(info.shape, np.float32)
            for name, info in self.outputs.items()
        }


def build_fake_delegate(folder: str | Path, compiler: str = "cc") -> Path:
    """Compile a fake libedgetpu into `folder` and return its path, to be given as `edgetpu://?library=PATH`.

    It accepts models compiled for the Edge TPU and answers one value, or fails, by options of the URI: see
    delegate.c. Raises OutputError where there is no such folder, EngineError when `compiler` is missing or fails.
    """
    if not Path(folder).is_dir():
        raise OutputError(f"the fake libedgetpu cannot be built in {folder}: there is no such folder", hint="create it")
    library = Path(folder).resolve() / "libedgetpu-fake.so"
    if shutil.which(compiler) is None:
        raise EngineError(f"the fake Edge TPU needs the C compiler {compiler}", hint="sudo apt install gcc libc6-dev")
    command = [compiler, "-shared", "-fPIC", "-O1", "-fvisibility=hidden", "-o", str(library), str(_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"{compiler} cannot compile {_SOURCE.name}: {done.stderr.strip()}")
    return library


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
