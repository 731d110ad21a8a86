"""Fakes of TensorRT and of the GPU's driver that compute on the CPU, so that the TensorRT engine runs anywhere.

They follow the documented interfaces; names and signatures were compared with the genuine Python bindings of
TensorRT 8.6.1, 10.3.0 and 10.13.3, imported over empty libraries.
"""

from __future__ import annotations

import ctypes
import enum
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

__all__ = ["FakeCudaDriver", "FakeTensorRt", "fake_onnx", "fake_tensorrt"]

Shapes = Mapping[str, Sequence[int]]
Compute = Callable[[bytes, Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
Graph = Callable[[bytes], tuple[Shapes, Shapes]]


def fake_onnx(inputs: Shapes, outputs: Shapes, opset: int = 13) -> bytes:
    """An ONNX model for FakeTensorRt: the outermost fields are genuine, its graph is only the ports' shapes by name."""
    ports = json.dumps({"in": inputs, "out": outputs}).encode()
    return bytes([8, 8, 0x3A, len(ports)]) + ports + bytes([0x42, 2, 0x10, opset])  # ir_version, graph, opset_import


@contextmanager
def fake_tensorrt(
    version: str = "10.3.0", graph: Graph | None = None, compute: Compute | None = None
) -> Iterator[FakeTensorRt]:
    """Put a FakeTensorRt over a FakeCudaDriver in the place of the real ones while the block runs.

    The parameters are those of FakeTensorRt. Plans are cached as the real ones are: in a test, set XDG_CACHE_HOME
    to a folder of its own.
    """
    fake = FakeTensorRt(version, graph, compute)
    driver = mock.patch("edgeloc.device.engines.tensorrt._open_library", return_value=FakeCudaDriver())
    with mock.patch.dict(sys.modules, {"tensorrt": fake}), driver:
        yield fake


class FakeCudaDriver:
    """libcuda.so.1 for one GPU: its memory is the host's, and a copy beyond an allocation is an error.

    `room` is how many bytes one allocation may have, `name` and `capability` are what the GPU reports.
    """

    def __init__(self) -> None:
        self.name, self.capability = b"Orin (fake)", {75: 8, 76: 7}
        self.room = 1 << 30
        self.current = False
        self.blocks: dict[int, Any] = {}

    def cuInit(self, flags: Any) -> int:
        return 0

    def cuDeviceGet(self, device: Any, ordinal: Any) -> int:
        device._obj.value = ordinal.value
        return 0

    def cuDeviceGetName(self, name: Any, length: Any, device: Any) -> int:
        name.value = self.name[: length.value - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> int:
        value._obj.value = self.capability[attribute.value]
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        context._obj.value = 0xC0
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        self.current = context.value == 0xC0
        return 0

    def cuStreamCreate(self, stream: Any, flags: Any) -> int:
        stream._obj.value = 0x57
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:
        return 0 if stream.value == 0x57 else 400

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:
        if size.value > self.room:
            return 2
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        self.blocks[address._obj.value] = block
        return 0

    def cuMemFree_v2(self, address: Any) -> int:
        return 0 if self.blocks.pop(address.value, None) is not None else 1

    def cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(target.value, source.value, size.value, target.value)

    def cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:
        return self._copy(target.value, source.value, size.value, source.value)

    def cuGetErrorName(self, status: Any, text: Any) -> int:
        text._obj.value = {1: b"CUDA_ERROR_INVALID_VALUE", 400: b"CUDA_ERROR_INVALID_HANDLE"}[status.value]
        return 0

    def _copy(self, target: int, source: int, size: int, block: int) -> int:
        if block not in self.blocks or size > len(self.blocks[block]):
            return 1
        ctypes.memmove(target, source, size)
        return 0


class FakeTensorRt(ModuleType):
    """The module `tensorrt` of one version.

    It insists on what that version insists on: 8.6 on an explicit batch and the flag INT8 for Q/DQ models, 10 on
    leaving types to the model.

    `version`: such as "8.6.2" or "10.3.0".
    `graph`: gives the shapes of a model's inputs and of its outputs, by name; it reads those of `fake_onnx`.
    `compute`: gives a model's outputs for its inputs, all float32; what it leaves out stays zero.

    `builds` counts the plans built. `refuse` makes the parser fail, `fail` (a message) the builder, `full` the
    making of a context, and `dead` everything from the start.
    """

    def __init__(self, version: str = "10.3.0", graph: Graph | None = None, compute: Compute | None = None) -> None:
        super().__init__("tensorrt")
        self.__spec__ = ModuleSpec("tensorrt", None)  # by which importlib finds it installed
        self.__version__ = version
        self.new = int(version.split(".")[0]) >= 10
        self.graph, self.compute = graph or _ports, compute or _zeros
        self.builds = 0
        self.refuse = self.full = self.dead = False
        self.fail = ""
        flags = {"EXPLICIT_BATCH": 0, **({"STRONGLY_TYPED": 1} if self.new else {})}
        self.NetworkDefinitionCreationFlag = _enumeration(enum.IntEnum, "NetworkDefinitionCreationFlag", flags)
        self.BuilderFlag = _enumeration(enum.IntEnum, "BuilderFlag", {"FP16": 0, "INT8": 1})
        self.TensorIOMode = _enumeration(enum.Enum, "TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
        self.DataType = _enumeration(
            enum.Enum, "DataType", {"FLOAT": 0, "HALF": 1, "INT8": 2, "INT32": 3, "BOOL": 4, "UINT8": 5}
        )
        self.ILogger = _Logger
        self.Builder = lambda logger: _Builder(self, logger)
        self.OnnxParser = lambda network, logger: _Parser(self, network, logger)
        self.Runtime = lambda logger: _Runtime(self, logger)

    def start(self, logger: Any) -> None:
        """Begin a Builder or a Runtime."""
        if self.dead:
            logger.log(_Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")


class _Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class _Logger:
    Severity = _Severity

    def log(self, severity: _Severity, msg: str) -> None:
        raise NotImplementedError


class _Config:
    def __init__(self) -> None:
        self.flags: set[int] = set()

    def set_flag(self, flag: int) -> None:
        self.flags.add(flag)


class _Network:
    def __init__(self, flags: int) -> None:
        self.flags, self.model = flags, b""


class _Builder:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self.trt, self.logger = trt, logger
        trt.start(logger)
        logger.log(_Severity.INFO, "[MemUsageChange] Init CUDA")

    def create_network(self, flags: int = 0) -> _Network:
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def build_serialized_network(self, network: _Network, config: _Config) -> memoryview | None:
        self.trt.builds += 1
        int8 = self.trt.BuilderFlag.INT8 in config.flags
        typed = bool(network.flags & 2)
        if typed == int8:
            self.logger.log(_Severity.ERROR, "Error Code 4: API Usage Error (int8 flag and typing contradict)")
            return None
        self.logger.log(_Severity.WARNING, "Missing scale for tensor x")
        if self.trt.fail:
            self.logger.log(_Severity.ERROR, self.trt.fail)
            return None
        return memoryview(self.trt.__version__.encode() + b"|" + network.model)


class _Parser:
    def __init__(self, trt: FakeTensorRt, network: _Network, logger: Any) -> None:
        self.trt, self.network = trt, network
        self.num_errors = 0

    def parse(self, model: bytes) -> bool:
        explicit = self.network.flags & (2 if self.trt.new else 1)
        self.num_errors = int(self.trt.refuse or not explicit)
        self.network.model = bytes(model)
        return not self.num_errors

    def get_error(self, index: int) -> Any:
        error = type("ParserError", (), {})()
        error.desc = lambda: "Unsupported operator NonZero"
        error.node = lambda: 17
        if self.trt.new:
            error.node_name, error.node_operator = lambda: "head/where", lambda: "NonZero"
        return error


class _Runtime:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self.trt, self.logger = trt, logger
        trt.start(logger)

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        version, _, model = bytes(plan).partition(b"|")
        if version.decode() != self.trt.__version__:
            self.logger.log(_Severity.ERROR, "Version tag does not match")
            return None
        return _Engine(self.trt, model)


class _Engine:
    def __init__(self, trt: FakeTensorRt, model: bytes) -> None:
        self.trt, self.model = trt, model
        self.inputs, self.outputs = trt.graph(model)
        self.num_io_tensors = len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name in self.inputs else self.trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> list[int]:
        return list({**self.inputs, **self.outputs}[name])

    def get_tensor_dtype(self, name: str) -> Any:
        return self.trt.DataType.FLOAT

    def create_execution_context(self) -> _Context | None:
        return None if self.trt.full else _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self.engine
        if set(self.addresses) != {*engine.inputs, *engine.outputs} or stream_handle != 0x57:
            return False
        inputs = {name: self._view(name, shape).copy() for name, shape in engine.inputs.items()}
        for name, values in engine.trt.compute(engine.model, inputs).items():
            self._view(name, engine.outputs[name])[...] = values
        return True

    def _view(self, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
        size = int(np.prod(shape))
        numbers = (ctypes.c_float * size).from_address(self.addresses[name])
        return np.ctypeslib.as_array(numbers).reshape(tuple(shape))


def _enumeration(kind: Any, name: str, members: Mapping[str, int]) -> Any:
    return kind(name, members)


def _ports(model: bytes) -> tuple[Shapes, Shapes]:
    ports = json.loads(model[4 : 4 + model[3]])
    return ({name: tuple(s) for name, s in ports["in"].items()}, {name: tuple(s) for name, s in ports["out"].items()})


def _zeros(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    return {}
