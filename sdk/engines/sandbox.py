"""Runs an untrusted model in a process of its own, since a damaged file can end the process that runs it."""

from __future__ import annotations

import hashlib
import sys

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.errors import EngineError, ModelError
from edgeloc.model.file import ModelFile

__all__ = ["vet_model"]

_TIME_LIMIT_S = 300.0
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
