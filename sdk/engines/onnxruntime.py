"""ONNX Runtime on the CPU as an engine: detectors as they travel, and what TensorRT will compute."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, MissingExtra, ModelError, first_line
from edgeloc.model.file import ModelFile

__all__ = ["OnnxRuntimeEngine"]

_FATAL = 4
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
# Where ONNX's names of types are not NumPy's.
_DTYPES = {"float": "float32", "double": "float64"}


class OnnxRuntimeEngine(Engine):
    """An ONNX model in ONNX Runtime on the CPU.

    Raises ModelError when ONNX Runtime refuses the model, MissingExtra when it is not installed.
    """

    name = "onnxruntime"
    parallel = True

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", "onnxruntime", "running an ONNX model on the CPU") from error
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = threads or 0
        # A file in which no file can lie: weights beside the model would be read from the current folder.
        options.add_session_config_entry(_EXTERNAL_FOLDER, os.devnull)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base
            raise ModelError(f"ONNX Runtime refuses the model: {first_line(error)}") from error
        self.inputs = {port.name: _info(port) for port in self._session.get_inputs()}
        self.outputs = {port.name: _info(port) for port in self._session.get_outputs()}
        if not self.inputs:
            raise ModelError("the model has no input: it must have one, the image")
        self._input, self._names = next(iter(self.inputs)), list(self.outputs)

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> OnnxRuntimeEngine:
        """Load the ONNX model of a model file."""
        if model.format != "onnx":
            raise ModelError(f"{model.path} is no ONNX model: run it with the engine auto")
        return cls(model.payload, threads)

    @classmethod
    def available(cls) -> bool:
        """Whether the package is installed."""
        return importlib.util.find_spec("onnxruntime") is not None

    @classmethod
    def installed_version(cls) -> str:
        """The package's version."""
        from importlib.metadata import version

        return version("onnxruntime")

    @classmethod
    def vet(cls, model: ModelFile) -> None:
        """Load the model and run it in a process of its own."""
        if model.format != "onnx" or not cls.available():
            return  # which `load` reports
        import onnxruntime

        from edgeloc.model.sandbox import try_engine

        try_engine(model, cls.name, onnxruntime.__version__, "onnxruntime:InferenceSession")

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model on its one input; raw output arrays by name."""
        try:
            return dict(zip(self._names, self._session.run(self._names, {self._input: tensor}), strict=True))
        except Exception as error:  # its errors have no common base
            raise EngineError(f"ONNX Runtime {self.version} failed to run the model: {first_line(error)}") from error


def _info(port: Any) -> TensorInfo:
    """An input or output of the model; a size that is open is a name for ONNX Runtime, and -1 here.

    Raises ModelError for what NumPy has no type for, such as strings.
    """
    shape = tuple(size if isinstance(size, int) else -1 for size in port.shape)
    kind = port.type.removeprefix("tensor(").removesuffix(")")
    try:
        dtype = np.dtype(_DTYPES.get(kind, kind))
    except TypeError as error:
        hint = "export it with float32, uint8 or int8 there"
        raise ModelError(f"its {port.name!r} is {port.type}, which NumPy has no type for", hint=hint) from error
    return TensorInfo(port.name, shape, dtype)
