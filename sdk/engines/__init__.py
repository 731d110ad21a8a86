"""Inference engines by name: finds one and loads a model into it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgeloc._support.lookup import Registry, import_named
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, UsageError
from edgeloc.model.containers import format_of
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, read_model
from edgeloc.model.trust import is_trusted

__all__ = ["AUTO", "ENGINES", "Engine", "TensorInfo", "engine_class", "is_for_edge_tpu", "open_engine"]

ENGINES: Registry[type[Engine]] = Registry(
    "engine",
    "edgeloc.engines",
    {
        "litert": "edgeloc.engines.tflite:LiteRtEngine",
        "tflite-runtime": "edgeloc.engines.tflite:TfliteRuntimeEngine",
        "tensorflow": "edgeloc.engines.tflite:TensorFlowEngine",
        "edgetpu": "edgeloc.device.engines.edgetpu.engine:EdgeTpuEngine",
        "tensorrt": "edgeloc.device.engines.tensorrt:TensorRtEngine",
        "onnxruntime": "edgeloc.engines.onnxruntime:OnnxRuntimeEngine",
        "fake": "edgeloc.testing.engines:FakeEngine",
    },
    maker="load",
    failure=EngineError,
)
# In which order "auto" looks for a runtime: the smaller and newer first.
AUTO = ("litert", "tflite-runtime", "tensorflow")
_RECOVERING = "edgeloc.device.engines.edgetpu.engine:open_recovering"
_MOST_THREADS = 1024


def open_engine(
    name: str,
    model: bytes | str | Path | ModelFile,
    threads: int | None = None,
    cpu_model: str | Path | ModelFile | None = None,
    deadline_ms: float | None = None,
) -> Engine:
    """Load a model into the engine called `name`, or into the first of `AUTO` that is installed and works.

    Parameters:
        name: an engine's; one with several devices takes the device behind it, as in `edgetpu://usb:1`. For an ONNX
            model "auto" is TensorRT where it is installed, else ONNX Runtime on the CPU; for a model compiled for the
            Edge TPU it is "edgetpu", which is opened again after a failure and then falls back to the CPU where there
            is a `cpu_model`.
        model: a file, its path, or the network's bytes. Bytes are loaded as they are. A file that neither ships with
            this package nor was converted on this machine is first tried in a process of its own, once for each version
            of the engine, since a damaged model can end the process that loads it.
        threads: of the engine; None leaves their number to the runtime.
        cpu_model: the model from before the Edge TPU's compiler.
        deadline_ms: an inference that takes longer, in milliseconds, is an EngineError. The engine then runs in a
            process of its own, which is started again after that, and after a crash. None sets no limit, but for the
            Edge TPU's 5 seconds.

    Raises UsageError for an unknown name, a bad number of threads or a bad deadline, EngineError when no engine is
    installed or it fails, ModelError when the model is damaged.
    """
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UsageError(field="threads", value=threads, allowed=f"1 to {_MOST_THREADS}")
    if deadline_ms is not None and not 0 < deadline_ms < math.inf:
        raise UsageError(field="deadline_ms", value=deadline_ms, allowed="above 0")
    file = _as_file(model)
    if file.contract is not None and file.contract.stages is not None:
        return _open_stages(name, file, file.contract, threads, deadline_ms)
    name, _, place = name.partition("://")
    if name == "auto" and is_for_edge_tpu(file.payload):
        opener: Callable[..., Engine] = import_named(_RECOVERING)
        return opener(place, file, threads, cpu_model, deadline_ms)
    if cpu_model is not None:
        raise UsageError(
            f"the CPU model {getattr(cpu_model, 'path', cpu_model)} is of use only with the engine auto "
            f"and a model compiled for the Edge TPU, which {file.path} {_is_or_not(file)}: leave it out"
        )
    if name == "auto" and file.format == "onnx":
        name = _for_onnx()
    if place and name == "auto":
        raise UsageError(f"engine auto://{place}: {file.path} is not compiled for the Edge TPU; write auto")
    if name != "auto":
        return _load(_Loader(name, place, file, threads), deadline_ms)
    return _first_that_works(file, threads, deadline_ms)


def _open_stages(
    name: str, file: ModelFile, contract: Contract, threads: int | None, deadline_ms: float | None
) -> Engine:
    from edgeloc.engines.stages import StagedEngine, networks_of  # most models are one network

    engines = [open_engine(name, network, threads, None, deadline_ms) for network in networks_of(file)]
    return StagedEngine(contract, engines)


def is_for_edge_tpu(payload: bytes) -> bool:
    """Whether a part of the model is compiled for the Edge TPU: only its delegate can run such a model."""
    return b"edgetpu-custom-op" in payload


def _for_onnx() -> str:
    """The first engine for ONNX models that is installed; TensorRT where none is, since its error names both."""
    return next((name for name in ("tensorrt", "onnxruntime") if engine_class(name).available()), "tensorrt")


def _is_or_not(model: ModelFile) -> str:
    return "is" if is_for_edge_tpu(model.payload) else "is not"


def _first_that_works(model: ModelFile, threads: int | None, deadline_ms: float | None) -> Engine:
    failures = []
    for name in AUTO:
        if not engine_class(name).available():
            continue
        try:
            return _load(_Loader(name, "", model, threads), deadline_ms)
        except EngineError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    raise EngineError(
        "no inference engine is installed", hint="pip install ai-edge-litert (or tflite-runtime with 'numpy<2')"
    )


def engine_class(name: str) -> type[Engine]:
    """The class of the engine called `name`; UsageError where there is none, EngineError where it does not load."""
    return ENGINES.find(name, name, ", ".join(("auto", *ENGINES)))


def _as_file(model: bytes | str | Path | ModelFile) -> ModelFile:
    if isinstance(model, bytes):
        return ModelFile(Path("model"), model, format_of(model), trusted=True)
    return model if isinstance(model, ModelFile) else read_model(model)


@dataclass(frozen=True)
class _Loader:
    """What to load and where: the engine called `name`, in the device that `place` means, or "" for its only one."""

    name: str
    place: str
    model: ModelFile
    threads: int | None

    def load(self) -> Engine:
        """Load it."""
        kind = engine_class(self.name)
        if self.place:
            return kind.load_at(self.place, self.model, self.threads)
        return kind.load(self.model, self.threads)


def _load(loader: _Loader, deadline_ms: float | None) -> Engine:
    kind, model = engine_class(loader.name), loader.model
    if not (loader.place or model.trusted or is_trusted(model.digest)):
        kind.vet(model)
    if deadline_ms is None:
        return loader.load()
    from edgeloc.engines.process import ProcessEngine  # an engine in this process is loaded without

    if issubclass(kind, ProcessEngine):
        engine = loader.load()
        assert isinstance(engine, ProcessEngine)
        engine.deadline_s = deadline_ms / 1000
        return engine
    network = ModelFile(model.path, model.payload, model.format, contract=model.contract, trusted=True)
    return ProcessEngine(loader.name, replace(loader, model=network), deadline_ms / 1000)
