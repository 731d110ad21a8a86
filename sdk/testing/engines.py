"""A fake engine that gives prepared answers and fails on demand, and a fake libedgetpu built from C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.backend import split_uri
from edgeloc._support.numbers import number, whole
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, OutputError, UsageError
from edgeloc.model.contract import Contract, OutputSpec
from edgeloc.model.detector import DetectorSpec
from edgeloc.model.file import ModelFile
from edgeloc.model.fit import channels_of, part_sizes
from edgeloc.testing.cameras import parse_events

__all__ = ["FakeEngine", "build_fake_delegate"]

_SOURCE = Path(__file__).with_name("delegate.c")
_GRID = 4
_BINS = 32
_ROWS = 16


class FakeEngine(Engine):
    """`fake://?hang=40:5&fail=60:3&crash=90&nan=120&delay_ms=30`: prepared answers without a model, and faults.

    `contract`: which outputs there are. All are float32; the input is uint8 and takes pixels unconverted where the
    contract's mean and std are one number each.
    `answers`: for each invoke a dict of output name to values; the last is repeated, and an output that is left out
    is zero.
    `delay_s`: how long each invoke takes, in seconds. `delay_ms` in a URI, several with commas between for 1, 2, ...
    threads; the last is also that of more.

    Faults are by the number of the invoke, from 0. In a URI each is NUMBER:VALUE, several with commas between, or a
    dict of number to value in Python. An engine with a deadline counts on through its restarts.

    - `hang`: that invoke takes VALUE seconds more.
    - `fail`: VALUE invokes (1 without a value) raise EngineError; so does the method `fail(after, times)`.
    - `nan`: VALUE invokes (1 without a value) answer NaN.
    - `crash`: that invoke ends the process by SIGSEGV: the whole run's, unless the engine has a deadline. No value.

    `invocations` counts the calls of `invoke`.

        engine = FakeEngine(contract, [{"presence": [[4.0]], "box": [[0.5, 0.5, 0.2, 0.2]]}])
        localizer = Localizer(ModelFile(Path("robot"), b"", "tflite", contract=contract), engine=engine)
    """

    name = "fake"
    version = "1"
    parallel = True

    def __init__(
        self,
        contract: Contract,
        answers: Iterable[Mapping[str, Any]] = (),
        *,
        delay_s: float = 0.0,
        hang: Mapping[int, float] | None = None,
        fail: Mapping[int, int] | None = None,
        nan: Mapping[int, int] | None = None,
        crash: Collection[int] = (),
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
        self._hangs, self._failures, self._nans, self._crashes = hang or {}, dict(fail or {}), nan or {}, crash

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> FakeEngine:
        """A fake of a model with a contract; it answers zeros."""
        return cls.load_at("", model, threads)

    @classmethod
    def load_at(cls, place: str, model: ModelFile, threads: int | None) -> FakeEngine:
        """The same, with the options of a URI."""
        parsers: dict[str, Callable[[str], Any]] = {
            "hang": lambda text: parse_events(text, number(0), None),
            "fail": lambda text: parse_events(text, whole(1), 1),
            "nan": lambda text: parse_events(text, whole(1), 1),
            "crash": lambda text: tuple(whole(0)(one) for one in text.split(",")),
            "delay_ms": lambda text: [number(0)(one) for one in text.split(",")],
        }
        uri = split_uri(f"fake://{place}", "engine")
        uri.require_no_path()
        options = uri.options(parsers)
        if model.contract is None:
            raise EngineError(f"{model.path} has no contract, so the fake engine cannot know its outputs")
        delays_ms = options.pop("delay_ms", [0.0])
        return cls(model.contract, delay_s=delays_ms[min(threads or 1, len(delays_ms)) - 1] / 1000, **options)

    def fail(self, after: int = 0, times: int = 1) -> None:
        """Make `times` invocations raise EngineError, after `after` more that succeed."""
        self._failures[self._number + after] = times

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The next answer, or the fault that is due."""
        number = self._number
        self.invocations += 1
        pause_s = self.delay_s + self._hangs.get(number, 0.0)
        if pause_s:
            time.sleep(pause_s)
        if number in self._crashes:
            os.kill(os.getpid(), signal.SIGSEGV)
        if _is_due(self._failures, number):
            raise EngineError("the fake engine fails, as it was asked to")
        answer = self._answers[min(number, len(self._answers) - 1)]
        if _is_due(self._nans, number):
            return {name: np.full_like(values, np.nan) for name, values in answer.items()}
        return {name: values.copy() for name, values in answer.items()}

    @property
    def _number(self) -> int:
        """The number of the next invoke."""
        return self._begun_before + self.invocations

    def _complete(self, answer: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        unknown = sorted(set(answer) - set(self.outputs))
        if unknown:
            raise UsageError(f"an answer has {unknown[0]!r}; the contract's outputs are {', '.join(self.outputs)}")
        return {
            name: np.array(answer[name], np.float32) if name in answer else np.zeros(info.shape, np.float32)
            for name, info in self.outputs.items()
        }


def _is_due(events: Mapping[int, int], number: int) -> bool:
    """Whether one of these faults, which each last for some invokes, is there at this number."""
    return any(at <= number < at + count for at, count in events.items())


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
    if contract.detector is not None:
        return _detections(contract, contract.detector, output)
    objects, labels = contract.box.objects, len(contract.labels)
    shapes: dict[str, tuple[int, ...]] = {
        "presence": (1, objects),
        "class": (1, objects, labels) if objects > 1 else (1, labels),
        "box": (1, objects, 4) if objects > 1 else (1, 4),
        "vector": (1, objects * len(output.slots)),
        "box-bins": (1, objects * 4, _BINS),
        "grid-weights": (1, _GRID, _GRID, objects),
        "grid-distances": (1, _GRID, _GRID, 4 * objects),
    }
    return shapes[output.role]


def _detections(contract: Contract, spec: DetectorSpec, output: OutputSpec) -> tuple[int, ...]:
    if output.parts == ("count",):
        return (1,)
    channels = channels_of(output, part_sizes(spec, len(contract.labels)))
    counts = spec.locations.counts(contract.input.width, contract.input.height) or [_ROWS]
    rows = sum(counts) if output.level is None else counts[output.level]
    return (1, rows, channels) if output.layout == "channels-last" else (1, channels, rows)
