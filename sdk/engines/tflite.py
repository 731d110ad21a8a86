"""The three packages that bring TensorFlow Lite's Interpreter, behind one engine."""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeloc._support.terminal import quiet_stderr
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, ModelError, first_line
from edgeloc.model.file import ModelFile
from edgeloc.preprocess import InputMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LiteRtEngine", "TensorFlowEngine", "TfliteEngine", "TfliteRuntimeEngine"]

_MAIN_SIGNATURE = "serving_default"
# The interpreter does not run while somebody holds a view of its memory. A sampling profiler, which every Dask worker
# has, keeps the frame of the function that wrote the input, and its view with it, for a moment longer.
_IN_USE, _TRIES = "reference to internal data", 100


class _Answers(Mapping[str, "NDArray[Any]"]):
    """The outputs of a run, each copied out of the interpreter when it is first asked for."""

    __slots__ = ("_copies", "_engine")

    def __init__(self, engine: TfliteEngine) -> None:
        self._engine = engine
        self._copies: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name in self._copies:
            return self._copies[name]
        engine = self._engine
        try:
            copy: NDArray[Any] = engine._interpreter.get_tensor(engine._outputs[name])
        except (ValueError, RuntimeError) as error:
            raise engine._failed(error) from error
        self._copies[name] = copy
        return copy

    def __iter__(self) -> Iterator[str]:
        return iter(self._engine._outputs)

    def __len__(self) -> int:
        return len(self._engine._outputs)


class TfliteEngine(Engine):
    """A model in an Interpreter; subclasses name the package that it comes from."""

    package = ""
    module = ""
    attribute = "Interpreter"
    delegate_loader = "load_delegate"
    parallel = True
    newest = False
    """Whether no other package runs a model that this one is too old for: then the engine "auto" tries none."""

    def __init__(self, model: ModelFile, threads: int | None = None, delegates: Sequence[Any] = ()) -> None:
        # XNNPACK announces itself on stderr; TensorFlow warns that its interpreter moves to ai-edge-litert, which is
        # looked for first.
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._interpreter = self._open(model, threads, delegates)
            try:
                inputs, outputs = self._details()
                self.inputs = {name: _info(name, detail) for name, detail in inputs.items()}
                self.outputs = {name: _info(name, detail) for name, detail in outputs.items()}
            except (ValueError, RuntimeError, TypeError, KeyError, IndexError, OverflowError) as error:
                raise self._refused(model, error) from error
        if len(inputs) != 1:
            raise ModelError(
                f"{model.path} has {len(inputs)} inputs ({', '.join(inputs)}): it must have one, the image"
            )
        self._input = next(iter(inputs.values()))["index"]
        if not delegates and all(size > 0 for size in next(iter(self.inputs.values())).shape):
            self.memory = InputMemory(self._interpreter.tensor(self._input))
        # Read once: get_output_details() costs more than the rest of this engine's own work.
        self._outputs = {name: detail["index"] for name, detail in outputs.items()}

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> TfliteEngine:
        """Load a model into this package's interpreter."""
        return cls(model, threads)

    @classmethod
    def available(cls) -> bool:
        """Whether the package is installed."""
        try:
            return importlib.util.find_spec(cls.module) is not None
        except (ImportError, ValueError):
            return False

    @classmethod
    def vet(cls, model: ModelFile) -> None:
        """Load the model and run it in a process of its own."""
        from edgeloc.model.sandbox import try_engine  # a trusted model, the usual one, is loaded without

        try_engine(model, cls.name, cls.installed_version(), f"{cls.module}:{cls.attribute}")

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model; raw output arrays by name, copied out of the interpreter."""
        if self.memory is not None:
            self.memory.border = None
        try:
            self._interpreter.set_tensor(self._input, tensor)
        except (ValueError, RuntimeError) as error:
            raise self._failed(error) from error
        return dict(self.run())

    def run(self) -> Mapping[str, NDArray[Any]]:
        """Run the model on what lies in its input's memory; each output is copied when it is first asked for."""
        for left in reversed(range(_TRIES)):
            try:
                self._interpreter.invoke()
                break
            except (ValueError, RuntimeError) as error:
                if _IN_USE not in str(error) or not left:
                    raise self._failed(error) from error
            time.sleep(0.001)
        return _Answers(self)

    def _failed(self, error: Exception) -> EngineError:
        return EngineError(f"{self.name} {self.version} failed to run the model: {first_line(error)}")

    def _open(self, model: ModelFile, threads: int | None, delegates: Sequence[Any]) -> Any:
        kind = self._interpreter_class()
        options = {"experimental_delegates": list(delegates)} if delegates else {}
        try:
            interpreter = kind(model_content=model.payload, num_threads=threads, **options)
            interpreter.allocate_tensors()
        except (SystemError, AttributeError, ImportError) as error:
            raise self._broken(error) from error
        except (ValueError, RuntimeError) as error:
            raise self._refused(model, error) from error
        return interpreter

    @cached_property
    def version(self) -> str:  # type: ignore[override]
        """The package's version, looked up when it is first used: that takes as long as loading a small model."""
        return self.installed_version()

    @classmethod
    def installed_version(cls) -> str:
        """The package's version; "of unknown version" where it cannot be found out."""
        return _version(cls.package)

    @classmethod
    def load_delegate(cls, library: str, options: Mapping[str, str]) -> Any:
        """A delegate out of a shared library; ValueError when it does not open, OSError when there is no library."""
        return cls._find(cls.delegate_loader)(library, dict(options))

    def _interpreter_class(self) -> Any:
        return self._find(self.attribute)

    @classmethod
    def _find(cls, attribute: str) -> Any:
        """Something of the package, by its dotted name."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            found: Any = importlib.import_module(cls.module)
            for name in attribute.split("."):
                found = getattr(found, name)
        except ModuleNotFoundError as error:
            if not cls.available():
                raise EngineError(f"the engine {cls.name} is not installed: pip install {cls._pip_name()}") from error
            raise cls._broken(error) from error
        except (ImportError, AttributeError, SystemError, OSError) as error:
            raise cls._broken(error) from error
        return found

    @classmethod
    def _pip_name(cls) -> str:
        return f"{cls.package} 'numpy<2'" if cls.package == "tflite-runtime" else cls.package

    @classmethod
    def _broken(cls, error: BaseException) -> EngineError:
        """The package is there but does not work; most often it was built for another NumPy."""
        about = f"{cls.package} {_version(cls.package)} does not work here"
        if cls.package == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:
            return EngineError(f"{about} with NumPy {np.__version__}: pip install 'numpy<2', or ai-edge-litert instead")
        return EngineError(f"{about} ({first_line(error)}): pip install --force-reinstall {cls._pip_name()}")

    def _refused(self, model: ModelFile, error: BaseException) -> EngineError | ModelError:
        text = str(error)
        if "edgetpu-custom-op" in text:
            return ModelError(
                f"{model.path} is compiled for the Edge TPU, which the engine {self.name} cannot use",
                hint="use the engine edgetpu, or give the model from before edgetpu_compiler",
            )
        if "Didn't find op for builtin opcode" in text:
            about = f"{model.path} needs a newer runtime than {self.package} {self.version} ({first_line(error)})"
            if self.newest:
                return ModelError(f"{about}, or is damaged: pip install --upgrade {self.package}")
            return EngineError(f"{about}: pip install --upgrade {self.package}, or pip install ai-edge-litert")
        return ModelError(f"{model.path}: {self.name} {self.version} does not load it: {first_line(error)}")

    def _details(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tensor details by name; the signature's names where it has the tensors that invoke() computes."""
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        signatures = self._interpreter.get_signature_list()
        for key in sorted(signatures, key=lambda key: key != _MAIN_SIGNATURE):
            named = self._signature_details(key)
            fits = _indices(named[0].values()) == _indices(inputs)
            if fits and _indices(named[1].values()) <= _indices(outputs):
                return named
        return {detail["name"]: detail for detail in inputs}, {detail["name"]: detail for detail in outputs}

    def _signature_details(self, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
        # The runner must be gone before the interpreter's own invoke(), which refuses beside a living one.
        runner = self._interpreter.get_signature_runner(key)
        return runner.get_input_details(), runner.get_output_details()


class LiteRtEngine(TfliteEngine):
    """LiteRT, TensorFlow Lite's successor: the package ai-edge-litert."""

    name = "litert"
    package = "ai-edge-litert"
    module = "ai_edge_litert.interpreter"
    newest = True


class TfliteRuntimeEngine(TfliteEngine):
    """The interpreter alone, for older systems: the package tflite-runtime, which needs NumPy 1."""

    name = "tflite-runtime"
    package = "tflite-runtime"
    module = "tflite_runtime.interpreter"


class TensorFlowEngine(TfliteEngine):
    """The interpreter within TensorFlow: large and slow to start, there wherever models are converted."""

    name = "tensorflow"
    package = "tensorflow"
    module = "tensorflow"
    attribute = "lite.Interpreter"
    delegate_loader = "lite.experimental.load_delegate"


def _info(name: str, detail: dict[str, Any]) -> TensorInfo:
    scale, zero_point = detail["quantization"]
    # Until the model runs, an open size stands in "shape" as 1.
    signature = detail.get("shape_signature", ())
    sizes = signature if len(signature) and -1 in signature else detail["shape"]
    shape, dtype = tuple(int(size) for size in sizes), np.dtype(detail["dtype"])
    if not scale:
        return TensorInfo(name, shape, dtype)
    return TensorInfo(name, shape, dtype, float(scale), int(zero_point))


def _indices(details: Any) -> set[int]:
    return {detail["index"] for detail in details}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
