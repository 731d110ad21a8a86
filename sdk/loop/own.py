"""A localizer of the user's own on the command line: a function or a class, by the name of its code."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from edgeloc._support.lookup import OWN_CODE, find_own
from edgeloc.errors import EdgelocError, EngineError, UsageError, first_line
from edgeloc.types import Frame, Result

__all__ = ["OwnLocalizer", "is_own_code", "require_no_options"]

# What is said of a model; each is None, or this, where it was not given.
_OF_MODELS = {"engine": "auto", "threads": None, "cpu_model": None, "deadline_ms": None, "contract": None}


def is_own_code(model: str) -> bool:
    """Whether `package.module:name` or `path/to/file.py:name` was given, and no file of that name."""
    return re.fullmatch(OWN_CODE, model) is not None and not os.path.exists(model)


def require_no_options(model: str, options: dict[str, Any]) -> None:
    """UsageError where one of the options, by name, is of use with a model file alone."""
    given = [name for name, unset in _OF_MODELS.items() if options[name] != unset]
    if given:
        raise UsageError(f"{model} is code of your own, which takes no such option", hint=f"leave out {{{given[0]}}}")


class OwnLocalizer:
    """The function from a Frame to a Result that `package.module:name` or `path/to/file.py:name` names.

    Of a class, one object is made, without arguments. What the function raises is an EngineError of that frame; errors
    of this package stay what they are. Raises UsageError when there is no such function, or no object can be made.
    """

    def __init__(self, reference: str) -> None:
        self._name = reference
        found = find_own(reference)
        if isinstance(found, type):
            found = self._made(found)
        if not callable(found):
            raise UsageError(f"{reference} is a {type(found).__name__}: it must be a function from a frame to a result")
        self._function: Callable[[Frame], Result] = found
        # Of a Localizer that the code has made.
        self.engine, self.contract = getattr(found, "engine", None), getattr(found, "contract", None)

    def __call__(self, frame: Frame) -> Result:
        """Localize in one frame."""
        try:
            return self._function(frame)
        except EdgelocError:
            raise
        except Exception as error:
            raise EngineError(f"{self._name} raised {type(error).__name__}: {first_line(error)}") from error

    def _made(self, kind: type) -> Any:
        try:
            return kind()
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UsageError(f"{self._name} cannot be made without arguments ({reason})") from error
