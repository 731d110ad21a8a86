"""Inference engines by name: finds one and loads a model into it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from edgeloc._support.lookup import Registry, entry_points, import_named
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, UsageError
from edgeloc.model.containers import format_of
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, read_model
from edgeloc.model.trust import is_trusted

__all__ = [
    "AUTO",
    "ENGINES",
    "FASTEST",
    "Engine",
    "TensorInfo",
    "Threads",
    "engine_class",
    "is_for_edge_tpu",
    "open_engine",
]

Threads = int | Literal["auto"] | None

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
_FOR_ONNX = ("tensorrt", "onnxruntime")
FASTEST = "fastest"
"""Stands for the fastest of the engines that can run a model here and pass its self-test."""

_RECOVERING = "edgeloc.device.engines.edgetpu.engine:open_recovering"
_MOST_THREADS = 1024
_INSTALL = "pip install ai-edge-litert (or tflite-runtime with 'numpy<2')"


def open_engine(
    name: str,
    model: bytes | str | Path | ModelFile,
    threads: Threads = None,
    cpu_model: str | Path | ModelFile | None = None,
    deadline_ms: float | None = None,
    passes: Callable[[Engine], None] | None = None,
) -> Engine:
    """Load a model into the engine called `name`, or into the first of `AUTO` that is installed and works.

    Parameters:
        name: an engine's; one with several devices takes the device behind it, as in `edgetpu://usb:1`. For an ONNX
            model "auto" is TensorRT where it is installed, else ONNX Runtime on the CPU; for a model compiled for the
            Edge TPU it is "edgetpu", which is opened again after a failure and then falls back to the CPU where there
            is a `cpu_model`. "fastest" is the fastest of those installed that passes, which is measured once.
        model: a file, its path, or the network's bytes. Bytes are loaded as they are. A file that neither ships with
            this package nor was converted on this machine is first tried in a process of its own, once for each version
            of the engine, since a damaged model can end the process that loads it.
        threads: of the engine; None leaves their number to the runtime. "auto" is the number that is the fastest on the
            cores that this thread may run on, which is measured once; an accelerator is left its own.
        cpu_model: the model from before the Edge TPU's compiler.
        deadline_ms: an inference that takes longer, in milliseconds, is an EngineError. The engine then runs in a
            process of its own, which is started again after that, and after a crash. None sets no limit, but for the
            Edge TPU's 5 seconds.
        passes: of "fastest": raises EngineError for an engine whose answers are wrong, as a Localizer's self-test does.

    What was measured is remembered in the user's cache folder, for this model, these engines and their versions, these
    cores and this machine.

    Raises UsageError for an unknown name, a bad number of threads or a bad deadline, EngineError when no engine is
    installed or it fails, ModelError when the model is damaged.
    """
    if threads not in (None, "auto") and not (isinstance(threads, int) and 1 <= threads <= _MOST_THREADS):
        raise UsageError(field="threads", value=threads, allowed=f"a whole number, 1 to {_MOST_THREADS}, or auto")
    if deadline_ms is not None and not 0 < deadline_ms < math.inf:
        raise UsageError(field="deadline_ms", value=deadline_ms, allowed="above 0")
    file = _as_file(model)
    if name == FASTEST or threads == "auto":
        return _open_chosen(name, file, threads, cpu_model, deadline_ms, passes)
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


def _open_chosen(
    name: str,
    file: ModelFile,
    threads: Threads,
    cpu_model: str | Path | ModelFile | None,
    deadline_ms: float | None,
    passes: Callable[[Engine], None] | None,
) -> Engine:
    # Only here: most models have their engine and threads named.
    from edgeloc.engines.choice import Way, choose, thread_counts, usable_cores

    if name == FASTEST and passes is None:
        raise UsageError("the engine fastest is chosen by a Localizer, which tests each engine's answers")
    names, absent = _candidates(file) if name == FASTEST else ((name,), ())
    if not names:
        raise EngineError(f"none of the engines {', '.join(absent)} is installed", hint=_INSTALL)
    ways = []
    for one in names:
        measured = threads == "auto" and all(engine_class(behind).parallel for behind in _behind(one, file))
        own = threads if isinstance(threads, int) else None
        ways += [Way(one, count) for count in (thread_counts(len(usable_cores())) if measured else [own])]
    versions = (engine_class(behind).installed_version() for one in names for behind in _behind(one, file))
    return choose(
        str(file.path),
        ways,
        lambda way: open_engine(way.engine, file, way.threads, cpu_model, deadline_ms),
        (file.digest, *versions, str(deadline_ms is None)),
        passes if name == FASTEST else None,
        absent,
    )


def _candidates(file: ModelFile) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The engines to choose the fastest of: those that are installed, and those that are not."""
    if is_for_edge_tpu(file.payload):
        return ("auto",), ()
    known = _FOR_ONNX if file.format == "onnx" else AUTO
    names = dict.fromkeys((*known, *(entry.name for entry in entry_points(ENGINES.group))))
    there = tuple(name for name in names if engine_class(name).available())
    return there, tuple(name for name in names if name not in there)


def _behind(name: str, file: ModelFile) -> tuple[str, ...]:
    """The engines that a name may stand for with this model."""
    if name != "auto":
        return (name.partition("://")[0],)
    if is_for_edge_tpu(file.payload):
        return ("edgetpu",)
    return (_for_onnx(),) if file.format == "onnx" else tuple(one for one in AUTO if engine_class(one).available())


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
    return next((name for name in _FOR_ONNX if engine_class(name).available()), "tensorrt")


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
    raise EngineError("no inference engine is installed", hint=_INSTALL)


def engine_class(name: str) -> type[Engine]:
    """The class of the engine called `name`; UsageError where there is none, EngineError where it does not load."""
    return ENGINES.find(name, name, ", ".join(("auto", FASTEST, *ENGINES)))


def _as_file(model: bytes | str | Path | ModelFile) -> ModelFile:
    if isinstance(model, bytes):
        return ModelFile(Path("model"), model, format_of(model), trusted=True)
    return model if isinstance(model, ModelFile) else read_model(model)


class _Loader(NamedTuple):
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
    engine = loader.load() if deadline_ms is None else _with_deadline(kind, loader, deadline_ms / 1000)
    engine.threads = loader.threads
    return engine


def _with_deadline(kind: type[Engine], loader: _Loader, deadline_s: float) -> Engine:
    from edgeloc.engines.process import ProcessEngine  # an engine in this process is loaded without

    if issubclass(kind, ProcessEngine):
        engine = loader.load()
        assert isinstance(engine, ProcessEngine)
        engine.deadline_s = deadline_s
        return engine
    model = loader.model
    network = ModelFile(model.path, model.payload, model.format, contract=model.contract, trusted=True)
    return ProcessEngine(loader.name, loader._replace(model=network), deadline_s)
