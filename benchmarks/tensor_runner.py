"""Runs a TFLite model with all its tensors kept, and reads any of them as real numbers; compares nothing."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.engines.vetting import vet_model
from edgeloc.errors import EngineError
from edgeloc.modelfile import ModelFile
from edgeloc.quiet import quiet_stderr

__all__ = ["TensorRunner"]

# Where Interpreter and OpResolverType stand side by side.
_MODULES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite.python.interpreter")
_TRIAL = """
import sys
from {module} import Interpreter, OpResolverType
interpreter = Interpreter(
    model_content=sys.stdin.buffer.read(),
    experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    experimental_preserve_all_tensors=True,
)
interpreter.allocate_tensors()
interpreter.invoke()
"""


class TensorRunner:
    """A loaded model; tensors go by their index in the flatbuffer's main graph.

    The default delegate (XNNPACK) stays off: it fuses operators and keeps what lies between to itself.
    Raises EngineError when no runtime is installed or it refuses the flatbuffer, which must be no
    stranger's: a damaged one can end the process (`open` tries it first).
    """

    def __init__(self, flatbuffer: bytes) -> None:
        module = _module()
        try:
            with quiet_stderr(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._interpreter = module.Interpreter(
                    model_content=flatbuffer,
                    experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                    experimental_preserve_all_tensors=True,
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"the model does not load without XNNPACK: {_short(error)}") from error
        self._details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}

    @classmethod
    def open(cls, model: ModelFile) -> TensorRunner:
        """Load a file; one that is not known to be whole is run in a process of its own first.

        ModelError when it ends that process: other kernels than XNNPACK's can do so with a file that XNNPACK runs.
        """
        if not model.verified:
            name = _module().__name__
            vet_model(model, _TRIAL.format(module=name), f"{name} without XNNPACK")
        return cls(model.flatbuffer)

    def set(self, index: int, values: NDArray[Any]) -> None:
        """Put values of the tensor's own shape and dtype into an input."""
        detail = self._details[index]
        self._interpreter.set_tensor(index, values.astype(detail["dtype"], copy=False).reshape(detail["shape"]))

    def run(self) -> None:
        """Run the model once; EngineError when an operator fails."""
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"the model does not run with all its tensors kept: {_short(error)}") from error

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
        real: NDArray[np.float32] = (values.astype(np.float32) - zeros) * scales.reshape(shape)
        return real

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


def _short(error: Exception, most: int = 200) -> str:
    """The first line: a runtime strings all that it had to say together."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]
