"""Coral's Edge TPU: a compiled model in a process of its own, opened again after a failure."""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeloc.device.engines.edgetpu.library import (
    INSTALL,
    LIBRARY,
    EdgeTpuPlace,
    installed_build,
    predict_crash,
    why_not_opened,
)
from edgeloc.engines import AUTO, engine_class, is_for_edge_tpu, open_engine
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.engines.process import ProcessEngine
from edgeloc.engines.tflite import TfliteEngine
from edgeloc.engines.worker import DiedError, HungError
from edgeloc.errors import EngineError, ModelError, first_line
from edgeloc.findings import Finding
from edgeloc.model.file import ModelFile, read_model

__all__ = ["EdgeTpuEngine", "RecoveringEngine", "open_recovering"]

# Python, the runtime and the device's firmware have to be loaded, on the slowest board.
_OPEN_S = 60.0
_DEADLINE_S = 5.0
# A device that has worked this long since its last reopening may be reopened after a failure.
_SETTLED_S = 600.0


class EdgeTpuEngine(ProcessEngine):
    """A compiled model (`*_edgetpu.tflite`) on an Edge TPU.

    libedgetpu aborts when a USB transfer fails, and the device may hang, so it has a process of its own. The `invoke`
    after an EngineError opens the device again.

    `model`: the compiled model.
    `threads`: of the operators that stay on the CPU; None leaves their number to the runtime.
    `place`: which device and library.
    `root`: where sys, dev and dpkg's records are found.
    `deadline_s`: a device that does not answer an inference within this many seconds counts as hung.

    Raises ModelError when the model is not compiled, EngineError when the library is missing or
    does not fit the runtime, or the device does not open.
    """

    name = "edgetpu"
    _lasting = False
    _fix = "plug the device in again, best by a powered hub or a shorter cable"

    def __init__(
        self,
        model: ModelFile,
        threads: int | None = None,
        place: EdgeTpuPlace | None = None,
        root: Path = Path("/"),
        deadline_s: float = _DEADLINE_S,
    ) -> None:
        self._place = place or EdgeTpuPlace()
        if not is_for_edge_tpu(model.payload):
            raise ModelError(
                f"{model.path} is not compiled for the Edge TPU",
                hint="give the file ending in _edgetpu.tflite, which `edgeloc convert` writes for the target edgetpu, "
                "or run this one with {engine} auto",
            )
        self._build = installed_build(root) if self._place.library == LIBRARY else None
        runtime = _runtime(self._build)
        self._package = runtime.package
        library = f"libedgetpu {self._build}" if self._build else self._place.library
        self._libraries = f"{library} and {runtime.package} {runtime.installed_version()}"
        plain = ModelFile(model.path, model.payload, model.format)
        super().__init__("edgetpu", _Loader(plain, runtime.name, threads, self._place, root), deadline_s, _OPEN_S)

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

    def _start(self) -> None:
        super()._start()
        self.version = f"{self._package} {self.version}, libedgetpu {self._build or 'of unknown version'}"

    def _about(self) -> str:
        return str(self._place)

    def _reason(self, error: HungError | DiedError, doing: str, limit_s: float) -> EngineError:
        reason = super()._reason(error, doing, limit_s)
        if not isinstance(error, DiedError) or "USB transfer error" in str(error):
            return reason
        if error.signal == signal.SIGSEGV:
            unfit = f"{self._libraries} do not fit each other, or the model is damaged"
            return EngineError(f"{reason.message}: {unfit}", hint=INSTALL)
        return EngineError(f"{reason.message} ({self._libraries})", hint=self._fix)


class RecoveringEngine(Engine):
    """The engine "auto" for a compiled model; `name` and `version` are those of the engine that answers.

    After a failure the device is opened again and the same tensor is run again. After another failure within ten
    minutes the engine falls back to the CPU for good, or the error is raised. Each step is a finding.

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
            self._notice(Finding("edgetpu-reopened", "warning", f"{failure}; opening it again"))
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
        self._notice(Finding("edgetpu-cpu-fallback", "warning", message))
        self._use(self._cpu)

    def _use(self, engine: Engine) -> None:
        self._engine = engine
        engine.notify = self._notice
        self.name, self.version = engine.name, engine.version
        self.inputs, self.outputs = engine.inputs, engine.outputs


def open_recovering(
    place: str,
    model: ModelFile,
    threads: int | None,
    cpu_model: str | Path | ModelFile | None,
    deadline_ms: float | None = None,
) -> RecoveringEngine:
    """The engine "auto" for a compiled model.

    `place`: as for `EdgeTpuPlace.parse`.
    `model`: the compiled model.
    `threads`: of the operators on the CPU; None leaves their number to the runtime.
    `cpu_model`: the model from before the compiler, to fall back to.
    `deadline_ms`: of an inference; None sets none on the CPU.

    Raises ModelError when `cpu_model` is not the model from before the compiler, and EngineError
    when the Edge TPU does not open and there is no `cpu_model`.
    """
    where = EdgeTpuPlace.parse(place)
    deadline_s = _DEADLINE_S if deadline_ms is None else deadline_ms / 1000
    cpu = _open_cpu(cpu_model, threads, deadline_ms)
    return RecoveringEngine(lambda: EdgeTpuEngine(model, threads, where, deadline_s=deadline_s), cpu)


@dataclass(frozen=True)
class _Loader:
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


def _open_cpu(model: str | Path | ModelFile | None, threads: int | None, deadline_ms: float | None) -> Engine | None:
    if model is None:
        return None
    file = model if isinstance(model, ModelFile) else read_model(model)
    if is_for_edge_tpu(file.payload):
        raise ModelError(
            f"the CPU model {file.path} is compiled for the Edge TPU", hint="give the model from before the compiler"
        )
    return open_engine("auto", file, threads, deadline_ms=deadline_ms)


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
