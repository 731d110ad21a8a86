"""Runs a TFLite model with all its tensors kept, and reads any of them as real numbers; compares nothing."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import EngineError
from edgeloc.quiet import quiet_stderr

__all__ = ["TensorRunner"]

# Where Interpreter and OpResolverType stand side by side.
_MODULES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite.python.interpreter")


class TensorRunner:
    """A loaded model; tensors go by their index in the flatbuffer's main graph.

    The default delegate (XNNPACK) stays off: it fuses operators and keeps what lies between to itself.
    Give it only a model that `open_engine` has loaded before: a damaged one can end the process.
    EngineError when no runtime is installed, or it fails.
    """

    def __init__(self, flatbuffer: bytes) -> None:
        module = _module()
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._interpreter = module.Interpreter(
                model_content=flatbuffer,
                experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            self._interpreter.allocate_tensors()
        self._details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}

    def set(self, index: int, values: NDArray[Any]) -> None:
        """Put values of the tensor's own shape and dtype into an input."""
        detail = self._details[index]
        self._interpreter.set_tensor(index, values.astype(detail["dtype"], copy=False).reshape(detail["shape"]))

    def run(self) -> None:
        """Run the model once; EngineError when an operator fails."""
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"the model does not run with all its tensors kept: {error}") from error

    def real(self, index: int) -> NDArray[np.float32]:
        """A tensor's values as real numbers (float32), in its own shape."""
        values: NDArray[Any] = self._interpreter.get_tensor(index)
        quantization = self._details[index]["quantization_parameters"]
        scales = quantization["scales"]
        if np.issubdtype(values.dtype, np.floating) or not scales.size:
            return values.astype(np.float32, copy=False)
        shape = [1] * values.ndim
        if scales.size > 1:
            shape[quantization["quantized_dimension"]] = scales.size
        zeros = quantization["zero_points"].astype(np.float32).reshape(shape)
        return (values.astype(np.float32) - zeros) * scales.reshape(shape)

    def representable(self, index: int) -> tuple[float, float] | None:
        """The smallest and the largest real number that a quantized tensor can hold; None for a float one."""
        detail = self._details[index]
        scales, zeros = (detail["quantization_parameters"][name] for name in ("scales", "zero_points"))
        if scales.size != 1 or not np.issubdtype(detail["dtype"], np.integer):
            return None
        limits = np.iinfo(detail["dtype"])
        scale, zero = float(scales[0]), int(zeros[0])
        return (limits.min - zero) * scale, (limits.max - zero) * scale


def _module() -> Any:
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise EngineError("comparing layer by layer needs a TFLite runtime: pip install ai-edge-litert")
