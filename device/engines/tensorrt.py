"""TensorRT as an engine: builds a plan from the `.onnx` on the device, caches it, runs it through CUDA."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import logging
import re
import time
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.files import atomic_path, cache_folder
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, ModelError, OutputError, first_line
from edgeloc.findings import Finding, report
from edgeloc.model.file import ModelFile

__all__ = ["Cuda", "TensorRtEngine", "plan_path", "read_plan", "write_plan"]

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY = 2
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NON_BLOCKING = 1
_NAME_LENGTH = 256
_DIGEST_SIZE = 32
_OLDEST, _NEWEST_MAJOR = (8, 6), 10
# From here on a network takes its types from the model; before, int8 had to be allowed.
_STRONGLY_TYPED_SINCE = 10
# Not trt.nptype: that of 8.6 fails with the NumPy releases that have no np.bool.
_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "UINT8": np.uint8}


class Cuda:
    """The first GPU, with one stream.

    `name` is the GPU's, `capability` its compute capability such as "8.7", `stream` the handle
    that TensorRT takes. Uses the device's primary context, the one that TensorRT works in too.

    Raises EngineError when there is no driver or no GPU.
    """

    def __init__(self) -> None:
        self._library = _open_library()
        self._call("cuInit", ctypes.c_uint(0))
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        name = ctypes.create_string_buffer(_NAME_LENGTH)
        self._call("cuDeviceGetName", name, ctypes.c_int(_NAME_LENGTH), device)
        self.name = name.value.decode(errors="replace")
        self.capability = ".".join(str(self._attribute(a, device)) for a in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.make_current()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        self.stream = int(stream.value or 0)

    def make_current(self) -> None:
        """Bind the GPU to the calling thread; every thread that uses it must do so once."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU; EngineError when its memory is full."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return int(address.value)

    def free(self, *addresses: int) -> None:
        """Free memory."""
        for address in addresses:
            self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, values: NDArray[Any]) -> None:
        """Start copying a C-contiguous array to the GPU; it must live until `synchronize`."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_size_t(values.nbytes),
            ctypes.c_void_p(self.stream),
        )

    def download(self, values: NDArray[Any], address: int) -> None:
        """Start copying from the GPU into a C-contiguous array; it is filled after `synchronize`."""
        assert values.flags.c_contiguous
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(values.nbytes),
            ctypes.c_void_p(self.stream),
        )

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status == _OUT_OF_MEMORY:
            hint = "end other programs that use it, or take a smaller model"
            raise EngineError("the GPU's memory is full", hint=hint)
        if status:
            raise EngineError(f"the GPU failed: {function} returned {self._error_name(status)}")

    def _error_name(self, status: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
        return text.value.decode() if text.value else f"error {status}"


def plan_path(model: bytes, version: str, gpu: str, capability: str) -> Path:
    """Where the plan of a model lies, for a version of TensorRT and a GPU by name and compute capability.

    In `$XDG_CACHE_HOME/edgeloc/tensorrt`, or `~/.cache/edgeloc/tensorrt`.
    """
    name = "-".join([hashlib.sha256(model).hexdigest(), f"tensorrt{version}", gpu, f"sm{capability}"])
    return cache_folder("tensorrt") / (re.sub(r"[^\w.]+", "-", name) + ".plan")


def read_plan(path: Path) -> bytes | None:
    """A stored plan; None where there is none, or it is not as it was written."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, plan = stored[:_DIGEST_SIZE], stored[_DIGEST_SIZE:]
    return plan if hashlib.sha256(plan).digest() == digest else None


def write_plan(path: Path, plan: bytes) -> None:
    """Store a plan; OutputError when the folder cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(hashlib.sha256(plan).digest() + plan)


class TensorRtEngine(Engine):
    """An ONNX model with Q/DQ pairs on the first NVIDIA GPU, as `edgeloc convert` writes it for the target tensorrt.

    The first load builds the plan, which takes minutes on a Jetson and is logged; later loads take it from the cache.
    A plan that TensorRT no longer accepts is built again.
    """

    name = "tensorrt"

    def __init__(self, model: ModelFile) -> None:
        if model.format != "onnx":
            hint = "`edgeloc convert` writes one for the target tensorrt"
            raise ModelError(f"{model.path} is no ONNX model", hint=hint)
        self._trt = _import_tensorrt()
        self.version = self._trt.__version__
        self._cuda = Cuda()
        # All three are kept: a context does not outlive its engine, nor an engine its runtime.
        self._runtime = _started(self._trt, self._trt.Runtime)
        self._engine = _engine(self._trt, self._runtime, model, self._cuda)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{model.path}: {_reason(self._trt, 'the GPU has no memory left for the model')}")
        self._addresses: dict[str, int] = {}
        self.inputs, self.outputs = self._ports(True), self._ports(False)
        if len(self.inputs) != 1:
            raise ModelError(f"{model.path} has {len(self.inputs)} inputs: it must have one, the image")
        self._place_tensors()

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> TensorRtEngine:
        """Build or fetch the plan and load it; a GPU ignores `threads`."""
        return cls(model)

    @classmethod
    def available(cls) -> bool:
        """Whether TensorRT's Python package is installed."""
        try:
            return importlib.util.find_spec("tensorrt") is not None
        except (ImportError, ValueError):
            return False

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model; raw output arrays by name."""
        (name, info), cuda = next(iter(self.inputs.items())), self._cuda
        if tensor.shape != info.shape or tensor.dtype != info.dtype:
            raise EngineError(f"the input must be {info.dtype} {info.shape}, not {tensor.dtype} {tensor.shape}")
        tensor = np.ascontiguousarray(tensor)
        outputs = {name: np.empty(port.shape, port.dtype) for name, port in self.outputs.items()}
        cuda.make_current()
        cuda.upload(self._addresses[name], tensor)
        if not self._context.execute_async_v3(stream_handle=cuda.stream):
            raise EngineError(f"TensorRT {self.version} failed to run the model: {_reason(self._trt)}")
        for name, values in outputs.items():
            cuda.download(values, self._addresses[name])
        cuda.synchronize()
        return outputs

    def _ports(self, is_input: bool) -> dict[str, TensorInfo]:
        engine, wanted = self._engine, self._trt.TensorIOMode.INPUT
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return {
            name: TensorInfo(name, tuple(engine.get_tensor_shape(name)), _dtype(engine.get_tensor_dtype(name)))
            for name in names
            if (engine.get_tensor_mode(name) == wanted) == is_input
        }

    def _place_tensors(self) -> None:
        """Allocate every input and output on the GPU, for as long as this engine lives."""
        for name, port in {**self.inputs, **self.outputs}.items():
            address = self._cuda.allocate(int(np.prod(port.shape)) * port.dtype.itemsize)
            self._addresses[name] = address
            self._context.set_tensor_address(name, address)
        weakref.finalize(self, self._cuda.free, *self._addresses.values()).atexit = False


def _open_library() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineError(
            "there is no NVIDIA driver here (libcuda.so.1): TensorRT runs on a Jetson or another NVIDIA GPU",
            hint="start a container with `docker run --runtime nvidia`",
        ) from error


def _import_tensorrt() -> Any:
    try:
        trt: Any = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        raise EngineError(
            "TensorRT is not installed for this Python",
            hint="on a Jetson, sudo apt install python3-libnvinfer, and make the virtual environment with "
            "--system-site-packages; elsewhere, the engine onnxruntime runs the model on the CPU: "
            "pip install 'edgeloc[onnxruntime]'",
        ) from error
    except (ImportError, OSError, AttributeError) as error:
        raise EngineError(
            f"TensorRT does not work here ({first_line(error)})", hint="reinstall python3-libnvinfer"
        ) from error
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < _OLDEST or version[0] > _NEWEST_MAJOR:
        hint = "install 8.6 to 10.x (JetPack 6 and 7 bring them)"
        raise EngineError(f"TensorRT {trt.__version__} cannot be used", hint=hint)
    return trt


def _started(trt: Any, kind: Any) -> Any:
    """A Runtime or a Builder, with no errors on record."""
    recorder = _recorder(trt)
    recorder.errors.clear()
    try:
        return kind(recorder)
    except TypeError as error:  # the bindings' way to report that the library made none
        raise EngineError(f"TensorRT {trt.__version__} does not start: {_reason(trt, first_line(error))}") from error


def _engine(trt: Any, runtime: Any, model: ModelFile, cuda: Cuda) -> Any:
    """The loaded engine, from the cache where it has a plan that is still good."""
    path = plan_path(model.payload, trt.__version__, cuda.name, cuda.capability)
    plan = read_plan(path)
    engine = None if plan is None else runtime.deserialize_cuda_engine(plan)
    if engine is None:
        logger.info(
            "building %s for %s with TensorRT %s: some minutes, only once", model.path.name, cuda.name, trt.__version__
        )
        start = time.monotonic()
        plan = _build(trt, model)
        logger.info("built in %.0f s", time.monotonic() - start)
        _keep(path, plan)
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"TensorRT cannot load what it built from {model.path}: {_reason(trt)}")
    return engine


def _keep(path: Path, plan: bytes) -> None:
    try:
        write_plan(path, plan)
    except OutputError as error:
        report(
            logger, Finding("tensorrt-plan-not-cached", "warning", f"the next start will build the plan again: {error}")
        )


def _build(trt: Any, model: ModelFile) -> bytes:
    builder = _started(trt, trt.Builder)
    typed = int(trt.__version__.split(".")[0]) >= _STRONGLY_TYPED_SINCE
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED if typed else flags.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, _recorder(trt))
    if not parser.parse(model.payload):
        raise ModelError(f"{model.path}: TensorRT {trt.__version__} cannot read the model: {_parser_error(parser)}")
    config = builder.create_builder_config()
    if not typed:
        config.set_flag(trt.BuilderFlag.INT8)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{model.path}: TensorRT {trt.__version__} cannot build it: {_reason(trt)}")
    return bytes(plan)


def _parser_error(parser: Any) -> str:
    """The parser's first error, and its node."""
    if not parser.num_errors:
        return "no reason given"
    error = parser.get_error(0)
    # Only TensorRT 10 knows the node's name.
    node = f"{error.node_operator()} {error.node_name()!r}" if hasattr(error, "node_name") else f"node {error.node()}"
    return f"{node}: {first_line(ValueError(error.desc()))}"


def _reason(trt: Any, otherwise: str = "no reason given") -> str:
    """The first error that TensorRT logged since the last call."""
    errors = _recorder(trt).errors
    reason = first_line(ValueError(errors[0])) if errors else otherwise
    full = any("out of memory" in line.lower() or "outofmemory" in line.lower() for line in errors)
    errors.clear()
    return f"the GPU's memory is full, end other programs that use it ({reason})" if full else reason


@lru_cache(maxsize=1)
def _recorder(trt: Any) -> Any:
    """TensorRT's one logger in this process, which keeps only errors."""
    grave = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Recorder(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in grave:
                self.errors.append(msg)

    return Recorder()


def _dtype(kind: Any) -> np.dtype[Any]:
    if kind.name not in _DTYPES:
        raise ModelError(f"the model has an input or output of type {kind.name}: it must be float32 or an integer")
    return np.dtype(_DTYPES[kind.name])
