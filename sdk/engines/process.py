"""An engine in a process of its own, which is ended when it does not answer in time, and started again."""

from __future__ import annotations

import logging
import math
import random
import time
import weakref
from typing import Any

from numpy.typing import NDArray

from edgeloc.engines.base import Engine
from edgeloc.engines.worker import DiedError, EngineProcess, HungError, Loader, Word
from edgeloc.errors import EdgelocError, EngineError, UsageError
from edgeloc.findings import Finding
from edgeloc.model.file import ModelFile

__all__ = ["ProcessEngine"]

# Python and the runtime have to be loaded, on the slowest board; where the first time took long, more than that.
_OPEN_S, _LONGER = 60.0, 4
# The pauses before the second start in a row and the longest one, which is also how long Ctrl-C may wait.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 2.0
# What fails after it has worked this long has not failed in a row.
_SETTLED_S = 10.0


class ProcessEngine(Engine):
    """Another engine that runs in a process of its own: its hang or crash is an EngineError of one inference.

    The next `invoke` starts another process, at once after the first failure and after growing pauses while it fails
    again; each restart is a finding. Tensors go through memory that both processes share. The process ends with this
    one, however that ends.

    `name`: the engine's.
    `loader`: loads it there.
    `deadline_s`: an inference that takes longer counts as hung.
    `open_s`: the same for the first loading; None waits for as long as it takes.

    Raises what `loader` raises, and EngineError when the process hangs or dies while loading.
    """

    # Whether the engine is fit for use after an EngineError of its own; where not, it is loaded again.
    _lasting = True
    # What to do about a failure.
    _fix = ""

    def __init__(self, name: str, loader: Loader, deadline_s: float, open_s: float | None = None) -> None:
        self.name, self._loader, self.deadline_s = name, loader, deadline_s
        self._begun = self._failures = 0
        self._failure: EngineError | None = None
        self._started_at = self._start_at = 0.0
        self._open_s = math.inf if open_s is None else open_s
        began_at = time.monotonic()
        self._start()
        self._open_s = max(_OPEN_S, _LONGER * (time.monotonic() - began_at))

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> ProcessEngine:
        """None by itself: a `Loader` says which engine the process runs."""
        raise UsageError("a process is no engine", hint="open one by its name, with {deadline_ms}")

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model; EngineError when it fails, when its process dies, or when it does not answer in time."""
        if not self._process.alive:
            self._restart()
        self._begun += 1
        try:
            return self._process.run(tensor, self.deadline_s)
        except EngineError as error:
            if self._lasting:
                raise
            self._process.close()
            raise self._failed(EngineError(f"{self._about()} failed: {error}", hint=self._fix)) from error
        except (HungError, DiedError) as error:
            raise self._failed(self._reason(error, "an inference", self.deadline_s)) from error

    def close(self) -> None:
        """End the process; also done when the engine is no longer referenced. The next `invoke` starts another."""
        self._process.close()

    def _about(self) -> str:
        """What messages call it."""
        return self.name

    def _reason(self, error: HungError | DiedError, doing: str, limit_s: float) -> EngineError:
        """The sentence for a process that gave no answer."""
        if isinstance(error, DiedError):
            return EngineError(f"{self._about()} failed in {doing}: {error}", hint=self._fix)
        limit = f"{limit_s * 1000:g} ms" if limit_s < 1 else f"{limit_s:g} s"
        fixes = filter(None, (self._fix, "allow more time by {deadline_ms}" if doing != "opening" else ""))
        return EngineError(f"{self._about()} hangs: {doing} did not end within {limit}", hint=", or ".join(fixes))

    def _failed(self, error: EngineError) -> EngineError:
        """The same error, after setting when the next process may start."""
        now = time.monotonic()
        self._failures = 1 if now - self._started_at > _SETTLED_S else self._failures + 1
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(self._failures - 2, 16), _LONGEST_PAUSE_S)
        self._start_at = now + (random.uniform(0.5, 1) * pause_s if self._failures > 1 else 0.0)
        self._failure = error
        return error

    def _restart(self) -> None:
        time.sleep(max(0.0, self._start_at - time.monotonic()))
        began_at = time.monotonic()
        try:
            self._start()
        except EdgelocError as error:
            again = EngineError(f"{self._about()} cannot be started again: {error.message or error}", hint=error.hint)
            raise self._failed(again) from error
        if self._failure is not None:
            took_s = self._started_at - began_at
            message = f"{self._failure.message}; it was started again in {took_s:.1f} s"
            self._notice(Finding("engine-restarted", "warning", message))
            self._failure = None

    def _start(self) -> None:
        # Weakly, so that the process ends as soon as nobody has the engine.
        self._process = EngineProcess(self._loader, self._begun, weakref.WeakMethod(self._heard))
        try:
            opened = self._process.opened(self._open_s)
        except (HungError, DiedError) as error:
            raise self._reason(error, "opening", self._open_s) from error
        self.version, self.inputs, self.outputs = opened.version, opened.inputs, opened.outputs
        self._started_at = time.monotonic()

    def _heard(self, word: Word) -> None:
        """Pass on a finding, or what was logged in the process."""
        finding = word if isinstance(word, Finding) else getattr(word, "finding", None)
        if finding is not None:
            self._notice(finding)
        elif isinstance(word, logging.LogRecord):
            logging.getLogger(word.name).handle(word)
