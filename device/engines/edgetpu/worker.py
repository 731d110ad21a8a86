"""The process in which the Edge TPU's engine runs: loads the model, answers, ends with its parent.

A driver that aborts (libedgetpu does so when a USB transfer fails), crashes or hangs takes only
this process with it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgeloc.device.engines.edgetpu.library import INSTALL, EdgeTpuPlace, why_not_opened
from edgeloc.engines import engine_class
from edgeloc.engines.tflite import TfliteEngine
from edgeloc.errors import EdgelocError, EngineError, ModelError, first_line
from edgeloc.model.file import ModelFile

__all__ = ["Opened", "Request", "serve"]


@dataclass(frozen=True)
class Request:
    """What to load, and with what.

    `model`: the compiled model.
    `runtime`: the name of an engine.
    `threads`: of the operators on the CPU; None leaves their number to the runtime.
    `place`: which device and library.
    `root`: where sys and dev are found.
    """

    model: ModelFile
    runtime: str
    threads: int | None
    place: EdgeTpuPlace
    root: Path

    def load(self) -> TfliteEngine:
        """The runtime's engine with the delegate; EngineError or ModelError where that fails."""
        kind = engine_class(self.runtime)
        assert issubclass(kind, TfliteEngine)
        delegate = _delegate(kind, self.place, self.root)
        try:
            return kind(self.model, self.threads, [delegate])
        except ModelError as error:
            raise _refusal(error, self.place) from error


@dataclass(frozen=True)
class Opened:
    """A loaded engine's version, inputs and outputs."""

    version: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def serve(descriptor: int, life: int) -> None:
    """Load the `Request` that comes first, then answer each tensor with outputs or an error until the end.

    `descriptor`: the connection to the parent. `life`: a pipe that closes with the parent, while a device hangs too.
    """
    # Ctrl-C and a service's stop go to all processes; this one is needed until its parent has ended.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with Connection(descriptor) as connection:
        try:
            _converse(connection, _Parent(life))
        except (EOFError, OSError):
            return


class _Parent:
    """Inside, the kernel kills this process when its parent ends: a driver that hangs lets no Python run that would.

    A signal for the parent's death (PR_SET_PDEATHSIG) comes already when the thread ends that started this process.
    Outside, the process closes the device and ends by itself, since its connection ends.
    """

    def __init__(self, life: int) -> None:
        self._life = life
        fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)

    def __enter__(self) -> None:
        fcntl.fcntl(self._life, fcntl.F_SETFL, os.O_ASYNC)
        if select.select([self._life], [], [], 0)[0]:  # it has ended before
            raise EOFError

    def __exit__(self, *_: object) -> None:
        fcntl.fcntl(self._life, fcntl.F_SETFL, 0)


def _converse(connection: Connection[Any, Any], parent: _Parent) -> None:
    request: Request = connection.recv()
    try:
        with parent:
            engine = request.load()
    except EdgelocError as error:
        connection.send(error)
        return
    connection.send(Opened(engine.version, dict(engine.inputs), dict(engine.outputs)))
    while True:
        tensor = connection.recv()
        try:
            with parent:
                answer = engine.invoke(tensor)
        except EngineError as error:
            connection.send(error)
        else:
            connection.send(answer)


def _delegate(kind: type[TfliteEngine], place: EdgeTpuPlace, root: Path) -> Any:
    try:
        # The runtime's own loader is left half made by a library that does not load.
        library = ctypes.CDLL(place.library)
    except OSError as error:
        raise _not_loaded(place.library, error) from error
    if not hasattr(library, "tflite_plugin_create_delegate"):
        raise _no_delegate(place.library)
    try:
        return kind.load_delegate(place.library, place.delegate_options())
    except ValueError as error:
        detail = " ".join(str(error).splitlines()[1:]).strip()
        reason = why_not_opened(place, root)
        raise EngineError(f"{place} did not open: {f'{detail}; ' if detail else ''}{reason}") from error


def _not_loaded(library: str, error: OSError) -> EngineError:
    reason = first_line(error)
    if reason.startswith(f"{library}: cannot open shared object file: No such"):
        return EngineError(f"the Edge TPU's library {library} is not installed", hint=INSTALL)
    return EngineError(f"the Edge TPU's library {library} does not load ({reason})", hint=INSTALL)


def _refusal(error: ModelError, place: EdgeTpuPlace) -> EngineError | ModelError:
    # What the runtime itself reported: it has no other way to tell these apart.
    reported = str(error.__cause__ or error)
    if "runtime version" in reported:
        return EngineError(f"{error}; the model is compiled for a newer libedgetpu", hint=INSTALL)
    if "edgetpu-custom-op" in reported:
        return _no_delegate(place.library)
    return error


def _no_delegate(library: str) -> EngineError:
    return EngineError(f"the library {library} is no delegate for the Edge TPU", hint=INSTALL)
