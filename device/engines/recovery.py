"""An Edge TPU engine that outlives a failure: opened once more, then the CPU where a model for it was given."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeloc.device.engines.edgetpu import EdgeTpuEngine
from edgeloc.device.engines.libedgetpu import EdgeTpuPlace
from edgeloc.engines import is_for_edge_tpu, open_engine
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, ModelError
from edgeloc.modelfile import ModelFile, read_model

__all__ = ["RecoveringEngine", "open_recovering"]

# A device that has worked this long since it was opened anew may fail, and be opened, once more.
_SETTLED_S = 600.0


class RecoveringEngine(Engine):
    """What `--engine auto` is for a compiled model; `name` and `version` are those of the engine that answers.

    `opener` loads the Edge TPU, `cpu` is the engine to fall back on, loaded already, or None.
    After a failure the device is opened once and the same tensor run again; a failure within ten
    minutes of that ends it: the CPU takes over for good, or the error is raised. Each such step
    is told on standard error.
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
            _tell(f"{failure}; opening it once more")
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
            raise EngineError(
                f"{failure} (to go on on the CPU after a failure, give the model from before the compiler: "
                "--cpu-model FILE.tflite)"
            ) from failure
        _tell(f"{failure}; going on on the CPU ({self._cpu.name} {self._cpu.version})")
        self._use(self._cpu)

    def _use(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.version = engine.name, engine.version
        self.inputs, self.outputs = engine.inputs, engine.outputs


def open_recovering(
    place: str, model: ModelFile, threads: int | None, cpu_model: str | Path | ModelFile | None
) -> RecoveringEngine:
    """The engine "auto" for a compiled model, at the `place` that `EdgeTpuPlace.parse` reads.

    Raises ModelError when `cpu_model` is not the model from before the compiler, and EngineError
    when the Edge TPU does not open and there is no `cpu_model`.
    """
    where = EdgeTpuPlace.parse(place)
    return RecoveringEngine(lambda: EdgeTpuEngine(model, threads, where), _open_cpu(cpu_model, threads))


def _open_cpu(model: str | Path | ModelFile | None, threads: int | None) -> Engine | None:
    if model is None:
        return None
    file = model if isinstance(model, ModelFile) else read_model(model)
    if is_for_edge_tpu(file.flatbuffer):
        raise ModelError(f"the CPU model {file.path} is compiled for the Edge TPU: give the model from before that")
    return open_engine("auto", file, threads)


def _require_same_ports(edge_tpu: Engine, cpu: Engine) -> None:
    """The localizer has prepared for the one's inputs and outputs; the other's must be read the same way."""
    for kind in ("inputs", "outputs"):
        before, after = (_ports(getattr(engine, kind).values()) for engine in (cpu, edge_tpu))
        if before != after:
            raise ModelError(
                f"the CPU model is not the one that was compiled for the Edge TPU: its {kind} are {before}, "
                f"the compiled model's {after}; give the file that edgetpu_compiler was given"
            )


def _ports(infos: Any) -> list[str]:
    return sorted(map(_port, infos))


def _port(info: TensorInfo) -> str:
    return f"{info.name} {info.dtype} {info.shape} scale {info.scale} zero point {info.zero_point}"


def _tell(line: str) -> None:
    print(f"edgeloc: {line}", file=sys.stderr, flush=True)
