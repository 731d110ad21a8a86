"""Models in a process of their own: a trial of untrusted ones, which may crash it, and the golden self-test."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.errors import EngineError, ModelError

if TYPE_CHECKING:
    from edgeloc.model.file import ModelFile

__all__ = ["Outcome", "SelfTest", "try_self_test", "vet_model"]

Outcome = Literal["passed", "not loaded", "failed", "crashed"]

_TIME_LIMIT_S = 300.0
# What fails before the model is loaded may be for want of an engine, what fails after is the model's answer.
_SELF_TEST = """
import sys
from edgeloc.localizer import Localizer
localizer = Localizer(sys.argv[1], engine=sys.argv[2])
answer(["loaded"])
localizer.self_test()
answer(["passed"])
"""
_passed: set[tuple[str, str]] = set()


def vet_model(model: ModelFile, program: str, runtime: str) -> None:
    """Run `program` (Python text that reads the model from its standard input) once for each model and runtime.

    Raises ModelError when it dies of a signal and EngineError when it does not end. A program that ends by an
    ordinary exception passes: the same happens here, where it can be reported well.
    """
    key = (hashlib.sha256(model.payload).hexdigest(), runtime)
    if key in _passed or not sys.executable:
        return
    try:
        run_child(program, stdin=model.payload, timeout_s=_TIME_LIMIT_S)
    except ChildFailed as failure:
        _judge(failure, model, runtime)
    _passed.add(key)


def _judge(failure: ChildFailed, model: ModelFile, runtime: str) -> None:
    match failure.ending:
        case "timeout":
            raise EngineError(
                f"{model.path}: one inference did not end within {_TIME_LIMIT_S:g} s in {runtime}"
            ) from failure
        case "not started":
            raise EngineError(f"{model.path} cannot be tried in a process of its own: that {failure}") from failure
        case "signal":
            raise ModelError(
                f"{model.path} makes {runtime} crash ({failure.signal}): "
                "the file is damaged or not for this runtime; copy or convert it again"
            ) from failure


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
