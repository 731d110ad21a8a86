"""Models in a process of their own: a trial of untrusted ones, which may crash it, and the golden self-test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.errors import EngineError, ModelError
from edgeloc.model.demand import Demand, demand_of
from edgeloc.model.trust import is_trusted, trust

if TYPE_CHECKING:
    from edgeloc.model.file import ModelFile

__all__ = ["Outcome", "SelfTest", "try_engine", "try_self_test", "vet_model"]

Outcome = Literal["passed", "not loaded", "failed", "crashed"]

# Of a whole trial: a slow board takes most of it to load the runtime.
_TIME_LIMIT_S = 120.0
# Of the model alone, in seconds of processor time: a Raspberry Pi 3 loads and computes several times as fast.
_LEAST_S, _MOST_S = 3, 100
_MACS_A_SECOND, _BYTES_A_SECOND = 200_000_000, 20_000_000
# Beside the tensors and copies of the weights: threads, kernels, and the runtime's own tables.
_SPARE_BYTES = 256 * 2**20
# What ONNX Runtime may take beside: sizes in an ONNX file are not counted before.
_ONNX_BYTES = 512 * 2**20
_TRIAL = """
import pkgutil, sys
from pathlib import Path
from edgeloc.engines import engine_class
from edgeloc.engines.base import blank_input, noise_input
from edgeloc.model.file import ModelFile
name, runtime, path, format, *size = sys.argv[1:]
kind = engine_class(name)
try:
    pkgutil.resolve_name(runtime)
except Exception:
    pass  # the engine says why
limit_model()
engine = kind.load(ModelFile(Path(path), sys.stdin.buffer.read(), format), None)
answer(["loaded"])
# A model may behave on an empty image alone.
for make in (blank_input, noise_input):
    engine.invoke(make(next(iter(engine.inputs.values())), *map(int, size)))
answer(["passed"])
"""
# What fails before the model is loaded may be for want of an engine, what fails after is the model's answer.
_SELF_TEST = """
import sys
from edgeloc.localizer import Localizer
localizer = Localizer(sys.argv[1], engine=sys.argv[2])
answer(["loaded"])
localizer.self_test()
answer(["passed"])
"""


def try_engine(model: ModelFile, engine: str, version: str, runtime: str) -> None:
    """Load the model into the engine called `engine`, run it on an empty image and on noise, in a process of its own.

    `version`: of its runtime. `runtime`: what is imported before the model's limits begin, as "module:name". Raises
    what `vet_model` does.
    """
    image = () if model.contract is None else (model.contract.input.height, model.contract.input.width)
    vet_model(model, _TRIAL, f"{engine} {version}", engine, runtime, str(model.path), model.format, *map(str, image))


def vet_model(model: ModelFile, program: str, runtime: str, *arguments: str, keeps_all: bool = False) -> None:
    """Run `program` (Python text that reads the model from its standard input) once for each model and runtime.

    The program calls `limit_model()` before it loads the model, and answers ["loaded"] and ["passed"]. `keeps_all`
    means that it keeps every tensor. What it raises before ["loaded"] as an EngineError is raised here as one.
    Whatever else it ends by is the model's answer, and a ModelError; so are sizes that no sensible model has, which
    are seen before a runtime sees the file.
    """
    if is_trusted(model.digest, runtime):
        return
    demand = demand_of(model.payload, str(model.path)) if model.format == "tflite" else Demand(_ONNX_BYTES, 0, 0)
    space = _SPARE_BYTES + 4 * len(model.payload) + (demand.total if keeps_all else demand.live * 5 // 4)
    seconds = _LEAST_S + demand.macs // _MACS_A_SECOND + len(model.payload) // _BYTES_A_SECOND
    limits = f"def limit_model():\n    limit({space}, {min(seconds, _MOST_S)})\n"
    try:
        run_child(limits + program, *arguments, stdin=model.payload, timeout_s=_TIME_LIMIT_S)
    except ChildFailed as failure:
        raise _judged(failure, model, runtime) from failure
    trust(model.digest, runtime)


def _judged(failure: ChildFailed, model: ModelFile, runtime: str) -> EngineError | ModelError:
    """What a failed trial says of the model or the engine, as the error to raise."""
    loaded = ["loaded"] in failure.answers
    advice = "the file is damaged or not for this runtime; copy or convert it again"
    match failure.ending:
        case "not started":
            return EngineError(f"{model.path} cannot be tried in a process of its own: that {failure}")
        case "timeout":
            return ModelError(f"{model.path}: one inference did not end within {_TIME_LIMIT_S:g} s in {runtime}")
        case "signal" if failure.signal == "SIGXCPU":
            return ModelError(f"{model.path} takes {runtime} far too long for a model of its size: {advice}")
        case "signal" | "no answer":
            how = failure.signal or str(failure)
            return ModelError(f"{model.path} makes {runtime} crash ({how}): {advice}")
    if failure.is_a(MemoryError):
        return ModelError(f"{model.path} takes {runtime} far too much memory for a model of its size: {advice}")
    if failure.is_a(ModelError) and not loaded:
        return ModelError(failure.message)
    if failure.is_a(EngineError) and not loaded:
        return EngineError(failure.message)
    return ModelError(f"{model.path}: {runtime} does not {'run' if loaded else 'load'} it: {_reason(failure)}")


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How a model's self-test ended on one engine; `detail` is why, and empty where it passed.

    "not loaded": the engine does not work here, and engine="auto" goes on to the next. "failed": it computes
    something else than the converter's did, or refuses the model. "crashed": it ends the process, or never ends.
    """

    engine: str
    outcome: Outcome
    detail: str = ""


def try_self_test(
    path: str | Path, engine: str = "auto", *, timeout_s: float = 120.0, interpreter: Sequence[str] = ()
) -> SelfTest:
    """Run the golden self-test that the file carries, in a process of its own; never raises.

    `interpreter` is what runs a Python program given by -c where it is not this Python.
    """
    try:
        run_child(_SELF_TEST, str(path), engine, timeout_s=timeout_s, interpreter=interpreter)
    except ChildFailed as failure:
        if failure.ending != "exception":
            return SelfTest(engine, "crashed", str(failure))
        failed = ["loaded"] in failure.answers or failure.is_a(ModelError)
        return SelfTest(engine, "failed" if failed else "not loaded", _reason(failure))
    return SelfTest(engine, "passed")


def _reason(failure: ChildFailed) -> str:
    """An error of this package is a sentence for the user; of any other the name helps."""
    name = failure.raised[0]
    text = next(iter(failure.message.strip().splitlines()), "")
    return text if name.startswith("edgeloc.") and text else f"{name.rpartition('.')[2]}: {text}"
