"""Coral's Edge TPU: a compiled model in a process of its own, opened again after a failure."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from edgeloc._support.children import program_line
from edgeloc.device.engines.edgetpu.library import (
    INSTALL,
    LIBRARY,
    EdgeTpuPlace,
    installed_build,
    predict_crash,
)
from edgeloc.device.engines.edgetpu.worker import Opened, Request
from edgeloc.engines import AUTO, engine_class, is_for_edge_tpu, open_engine
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.engines.tflite import TfliteEngine
from edgeloc.errors import EngineError, ModelError
from edgeloc.findings import Finding, report
from edgeloc.model.file import ModelFile, read_model

__all__ = ["EdgeTpuEngine", "RecoveringEngine", "open_recovering"]

logger = logging.getLogger(__name__)

# Python, the runtime and the device's firmware have to be loaded, on the slowest board.
_OPEN_S = 60.0
_END_S = 2.0
_LONGEST_REASON = 300
_PROGRAM = "from edgeloc.device.engines.edgetpu.worker import serve; serve({descriptor}, {life})"
_FIX = "plug the device in again, best by a powered hub or a shorter cable"
# A device that has worked this long since its last reopening may be reopened after a failure.
_SETTLED_S = 600.0


class EdgeTpuEngine(Engine):
    """A compiled model (`*_edgetpu.tflite`) on an Edge TPU.

    After an EngineError from `invoke` the engine can no longer be used; load it again.

    `model`: the compiled model.
    `threads`: of the operators that stay on the CPU; None leaves their number to the runtime.
    `place`: which device and library.
    `root`: where sys, dev and dpkg's records are found.

    Raises ModelError when the model is not compiled, EngineError when the library is missing or
    does not fit the runtime, or the device does not open.
    """

    name = "edgetpu"

    def __init__(
        self,
        model: ModelFile,
        threads: int | None = None,
        place: EdgeTpuPlace | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._place = place or EdgeTpuPlace()
        if not is_for_edge_tpu(model.payload):
            raise ModelError(
                f"{model.path} is not compiled for the Edge TPU",
                hint="give the file ending in _edgetpu.tflite, which `edgeloc convert` writes for the target edgetpu, "
                "or run this one with {engine} auto",
            )
        build = installed_build(root) if self._place.library == LIBRARY else None
        self._runtime = _runtime(build)
        library = f"libedgetpu {build}" if build else self._place.library
        self._about = f"{library} and {self._runtime.package} {self._runtime.installed_version()}"
        self._process = _Process()
        plain = ModelFile(model.path, model.payload, model.format)
        opened = self._ask(Request(plain, self._runtime.name, threads, self._place, root), _OPEN_S, "opening")
        assert isinstance(opened, Opened)
        self.version = f"{self._runtime.package} {opened.version}, libedgetpu {build or 'of unknown version'}"
        self.inputs, self.outputs = opened.inputs, opened.outputs

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> EdgeTpuEngine:
        """Load a model into any Edge TPU there is."""
        return cls(model, threads)

    @classmethod
    def load_at(cls, place: str, model: ModelFile, threads: int | None) -> EdgeTpuEngine:
        """Load a model into the Edge TPU that `place` means: see `EdgeTpuPlace.parse`."""
        return cls(model, threads, EdgeTpuPlace.parse(place))

    @classmethod
    def available(cls) -> bool:
        """Whether libedgetpu is installed; there may still be no device."""
        try:
            ctypes.CDLL(LIBRARY)
        except OSError:
            return False
        return True

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model; EngineError when the device fails, goes away, or does not answer in time."""
        outputs: dict[str, NDArray[Any]] = self._ask(tensor, self._place.deadline_s, "an inference")
        return outputs

    def close(self) -> None:
        """End the process and release the device; also done when the engine is no longer referenced."""
        self._process.close()

    def _ask(self, message: Any, deadline_s: float, doing: str) -> Any:
        try:
            reply = self._process.ask(message, deadline_s)
        except TimeoutError as error:
            raise EngineError(
                f"{self._place} hangs: {doing} did not end within {deadline_s:g} s; {_FIX}, "
                "or allow more time by edgetpu://?deadline_s=..."
            ) from error
        except _DiedError as error:
            raise EngineError(self._died(error, doing)) from error
        if isinstance(reply, EngineError) and doing != "opening":
            self._process.close()
            raise EngineError(f"{self._place} failed: {reply}; {_FIX}") from reply
        if isinstance(reply, Exception):
            self._process.close()
            raise reply
        return reply

    def _died(self, death: _DiedError, doing: str) -> str:
        about = f"{self._place} failed in {doing}: {death}"
        if "USB transfer error" in str(death):
            return f"{about}; {_FIX}"
        if death.signal == signal.SIGSEGV:
            return f"{about}: {self._about} do not fit each other, or the model is damaged; {INSTALL}"
        return f"{about} ({self._about}); {_FIX}"


class RecoveringEngine(Engine):
    """The engine "auto" for a compiled model; `name` and `version` are those of the engine that answers.

    After a failure the device is opened again and the same tensor is run again. After another failure within ten
    minutes the engine falls back to the CPU for good, or the error is raised. Each step is logged as a finding.

    `opener`: loads the Edge TPU.
    `cpu`: the engine to fall back to, loaded already; None: there is none.
    """

    def __init__(self, opener: Callable[[], Engine], cpu: Engine | None) -> None:
        self._opener, self._cpu = opener, cpu
        self._reopened_at = float("-inf")
        try:
            self._use(opener())
        except EngineError as error:
            self._fall_back(error)
        else:
            if cpu is not None:
                _require_same_ports(self._engine, cpu)

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> RecoveringEngine:
        """For any Edge TPU there is, without a CPU model."""
        return cls(lambda: EdgeTpuEngine.load(model, threads), None)

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model; EngineError when no way is left."""
        try:
            return self._engine.invoke(tensor)
        except EngineError as error:
            if self._engine is self._cpu:
                raise
            return self._again(tensor, error)

    def _again(self, tensor: NDArray[Any], failure: EngineError) -> dict[str, NDArray[Any]]:
        if time.monotonic() - self._reopened_at > _SETTLED_S:
            report(logger, Finding("edgetpu-reopened", "warning", f"{failure}; opening it again"))
            try:
                self._use(self._opener())
                self._reopened_at = time.monotonic()
                return self._engine.invoke(tensor)
            except EngineError as error:
                failure = error
        self._fall_back(failure)
        return self._engine.invoke(tensor)

    def _fall_back(self, failure: EngineError) -> None:
        if self._cpu is None:
            fall_back = "give the model from before the compiler as {cpu_model} to fall back to the CPU"
            hint = f"{failure.hint}; {fall_back}" if failure.hint else fall_back
            raise EngineError(failure.message, hint=hint) from failure
        message = f"{failure}; falling back to the CPU ({self._cpu.name} {self._cpu.version})"
        report(logger, Finding("edgetpu-cpu-fallback", "warning", message))
        self._use(self._cpu)

    def _use(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.version = engine.name, engine.version
        self.inputs, self.outputs = engine.inputs, engine.outputs


def open_recovering(
    place: str, model: ModelFile, threads: int | None, cpu_model: str | Path | ModelFile | None
) -> RecoveringEngine:
    """The engine "auto" for a compiled model.

    `place`: as for `EdgeTpuPlace.parse`.
    `model`: the compiled model.
    `threads`: of the operators on the CPU; None leaves their number to the runtime.
    `cpu_model`: the model from before the compiler, to fall back to.

    Raises ModelError when `cpu_model` is not the model from before the compiler, and EngineError
    when the Edge TPU does not open and there is no `cpu_model`.
    """
    where = EdgeTpuPlace.parse(place)
    return RecoveringEngine(lambda: EdgeTpuEngine(model, threads, where), _open_cpu(cpu_model, threads))


class _DiedError(Exception):
    """The process ended; the text is how, with its own last line."""

    def __init__(self, status: int, words: str) -> None:
        self.signal = -status
        how = f"its process ended by {signal.Signals(-status).name}" if status < 0 else "its process ended"
        super().__init__(f"{how} ({words})" if words else how)


class _Process:
    """A Python process that runs `worker.serve`, with one question and one answer at a time."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        # A file and not a pipe, which would fill up while the process runs.
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # Nothing is ever written to it: it closes with this process.
        life, ours = os.pipe()
        program = _PROGRAM.format(descriptor=theirs.fileno(), life=life)
        try:
            self._process = subprocess.Popen(
                program_line(program),
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=[theirs.fileno(), life],
            )
        except OSError as error:
            os.close(ours)
            raise EngineError(f"a process for the Edge TPU cannot be started: {error}") from error
        finally:
            theirs.close()
            os.close(life)
        self.close = weakref.finalize(self, _end, self._process, self._connection, self._words, ours)

    def ask(self, message: Any, deadline_s: float) -> Any:
        """The answer; TimeoutError when there is none in time, _DiedError when the process has ended."""
        if not self.close.alive:
            raise EngineError("the Edge TPU's process has ended: load the engine again")
        try:
            self._connection.send(message)
            if self._connection.poll(deadline_s):
                return self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        self._process.kill()
        self.close()
        raise TimeoutError

    def _death(self) -> _DiedError:
        _wait(self._process)
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").strip().splitlines()
        self.close()
        return _DiedError(self._process.returncode or 0, lines[-1][-_LONGEST_REASON:] if lines else "")


def _end(process: subprocess.Popen[bytes], connection: Connection[Any, Any], words: IO[bytes], life: int) -> None:
    """Let the process end, which it does when its parent's side is closed; else make it."""
    connection.close()
    words.close()
    _wait(process)
    os.close(life)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Reap the process, killed if need be; one that a driver holds fast in the kernel is left behind."""
    for _ in range(2):
        try:
            process.wait(_END_S)
            return
        except subprocess.TimeoutExpired:
            process.kill()


def _runtime(build: str | None) -> type[TfliteEngine]:
    """The first installed runtime that is not predicted to crash with this libedgetpu."""
    crashes = []
    for name in AUTO:
        kind = engine_class(name)
        if not (issubclass(kind, TfliteEngine) and kind.available()):
            continue
        crash = predict_crash(build, kind.package, kind.installed_version())
        if crash is None:
            return kind
        crashes.append(crash)
    if crashes:
        anyway = f"give {{engine}} as 'edgetpu://?library=/path/to/{LIBRARY}' to try it anyway"
        raise EngineError(crashes[0].message, hint=f"{crashes[0].fix}; {anyway}")
    raise EngineError("no TFLite runtime is installed for the Edge TPU", hint="pip install ai-edge-litert")


def _open_cpu(model: str | Path | ModelFile | None, threads: int | None) -> Engine | None:
    if model is None:
        return None
    file = model if isinstance(model, ModelFile) else read_model(model)
    if is_for_edge_tpu(file.payload):
        raise ModelError(
            f"the CPU model {file.path} is compiled for the Edge TPU", hint="give the model from before the compiler"
        )
    return open_engine("auto", file, threads)


def _require_same_ports(edge_tpu: Engine, cpu: Engine) -> None:
    """Both engines must have the same inputs and outputs, since the localizer prepares for one of them only."""
    for kind in ("inputs", "outputs"):
        before, after = (_ports(getattr(engine, kind).values()) for engine in (cpu, edge_tpu))
        if before != after:
            raise ModelError(
                f"the CPU model is not the one that was compiled for the Edge TPU: its {kind} are {before}, "
                f"the compiled model's {after}",
                hint="give the file from which edgetpu_compiler made it",
            )


def _ports(infos: Any) -> list[str]:
    return sorted(map(_port, infos))


def _port(info: TensorInfo) -> str:
    return f"{info.name} {info.dtype} {info.shape} scale {info.scale} zero point {info.zero_point}"
