"""ONNX Runtime as an engine, to check on the workstation what TensorRT will compute; devices do not use it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.engines import Engine, TensorInfo
from edgeloc.errors import MissingExtra, ModelError, first_line
from edgeloc.model.file import ModelFile

__all__ = ["OnnxRuntimeEngine"]

_FATAL = 4


class OnnxRuntimeEngine(Engine):
    """An ONNX model, float in and float out, in ONNX Runtime on the CPU.

    Raises ModelError when ONNX Runtime refuses the model, MissingExtra when it is not installed.
    """

    name = "onnxruntime"

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", "tensorrt", "checking a model for TensorRT") from error
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common base
            raise ModelError(f"ONNX Runtime refuses the model: {first_line(error)}") from error
        self.inputs = {port.name: _info(port) for port in self._session.get_inputs()}
        self.outputs = {port.name: _info(port) for port in self._session.get_outputs()}
        self._input = next(iter(self.inputs))

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> OnnxRuntimeEngine:
        """Load the ONNX model of a model file."""
        return cls(model.payload, threads)

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model on its one input; float32 arrays by name."""
        return dict(zip(self.outputs, self._session.run(None, {self._input: tensor}), strict=True))


def _info(port: Any) -> TensorInfo:
    return TensorInfo(port.name, tuple(int(size) for size in port.shape), np.dtype(np.float32))
