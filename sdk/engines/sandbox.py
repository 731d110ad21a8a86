"""Tries a stranger's model in a process of its own, since a damaged file can end the process that runs it."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys

from edgeloc.errors import EngineError, ModelError
from edgeloc.model.file import ModelFile

__all__ = ["vet_model"]

_TIME_LIMIT_S = 300
_passed: set[tuple[str, str]] = set()


def vet_model(model: ModelFile, program: str, runtime: str) -> None:
    """Run `program` (Python text that reads the model from its standard input) once for each model and runtime.

    Raises ModelError when it dies of a signal and EngineError when it does not end. A program that
    ends by an ordinary exception passes: the same happens here, where it can be reported well.
    """
    key = (hashlib.sha256(model.payload).hexdigest(), runtime)
    if key in _passed or not sys.executable:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], input=model.payload, capture_output=True, timeout=_TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{model.path}: one inference did not end within {_TIME_LIMIT_S} s in {runtime}") from error
    except OSError as error:
        raise EngineError(f"{model.path} cannot be tried in a process of its own: {error}") from error
    if done.returncode < 0:
        raise ModelError(
            f"{model.path} makes {runtime} crash ({signal.Signals(-done.returncode).name}): "
            "the file is damaged or not for this runtime; copy or convert it anew"
        )
    _passed.add(key)
