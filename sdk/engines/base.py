"""The interface of every inference engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeloc.decode.numbers import Quantization
from edgeloc.errors import UsageError
from edgeloc.findings import Reporting
from edgeloc.model.file import ModelFile
from edgeloc.preprocess import InputMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Engine", "TensorInfo", "blank_input", "noise_input", "quantizations"]


class TensorInfo(NamedTuple):
    """An input or output of a model: real = (q - zero_point) * scale, and `scale` is None for plain numbers.

    Parameters:
        name: the signature's where the model has a signature, else the tensor's own.
        shape: its sizes, the batch first; open ones are below 1.
        dtype: of its numbers.
        scale: the step between two levels; None for plain numbers.
        zero_point: the level that stands for 0; None for plain numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float | None = None
    zero_point: int | None = None


def quantizations(tensors: Mapping[str, TensorInfo]) -> dict[str, Quantization]:
    """How the numbers of each tensor stand for real ones, by name."""
    return {name: Quantization(info.scale, info.zero_point or 0) for name, info in tensors.items()}


_USUAL_SIDE = 224


def blank_input(info: TensorInfo, height: int = _USUAL_SIDE, width: int = _USUAL_SIDE) -> NDArray[Any]:
    """Zeros for an input; sizes that are open become the batch 1, the height, the width and 3 channels."""
    wanted = {1: (1,), 2: (height, width), 3: (1, height, width)}
    sizes = iter(wanted.get(sum(size < 1 for size in info.shape), (1, height, width, 3)))
    return np.zeros([size if size > 0 else next(sizes, 1) for size in info.shape], info.dtype)


def noise_input(info: TensorInfo, height: int = _USUAL_SIDE, width: int = _USUAL_SIDE) -> NDArray[Any]:
    """Noise in the same shape, equal each time: -2 to 2 in float, 0 to 127 in integers."""
    shape, rng = blank_input(info, height, width).shape, np.random.default_rng(0)
    noise = rng.standard_normal(shape, np.float32) if info.dtype.kind == "f" else rng.integers(0, 128, shape, np.uint8)
    return noise.astype(info.dtype, copy=False)


class Engine(Reporting, ABC):
    """One loaded model, ready to run; not for use from two threads at once.

    Attributes:
        name: the one that `open_engine` knows it by.
        version: its runtime's.
        inputs: the model's inputs by name.
        outputs: the model's outputs by name.
        threads: how many it was given; None where that was left to it.
        parallel: whether it computes with so many threads on the CPU, so that it can be measured how many are best.
        memory: where the runtime reads the model's input, for `run`; None where it has none to write to.
        notify: takes each fault when it is noticed; a run sets it, and without one they are logged.
        spent_ms: of a model that is run in stages, how long each took in the last `invoke`, by name in their order.
    """

    name: str = ""
    version: str = ""
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    threads: int | None = None
    parallel: bool = False
    memory: InputMemory | None = None
    spent_ms: Mapping[str, float] = MappingProxyType({})
    # How many inferences were begun by processes of this engine that have ended.
    _begun_before: int = 0

    @classmethod
    @abstractmethod
    def load(cls, model: ModelFile, threads: int | None) -> Engine:
        """Load a model; `threads` None leaves their number to the runtime.

        Raises EngineError when the runtime is missing, broken or too old for the model, ModelError
        when it refuses the model.
        """

    @classmethod
    def load_at(cls, place: str, model: ModelFile, threads: int | None) -> Engine:
        """Load a model into the device that `place` means, what stands behind `NAME://`.

        Raises what `load` raises, and UsageError where the engine has no devices to choose from.
        """
        raise UsageError(f"engine {cls.name}://{place}: {cls.name} has no devices to choose from; write {cls.name}")

    @abstractmethod
    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model on its one input; raw output arrays by name, which later calls leave alone.

        `tensor` has the input's shape and dtype. Raises EngineError when the runtime fails.
        """

    def run(self) -> Mapping[str, NDArray[Any]]:
        """Run the model on what lies in its input's `memory`; raises as `invoke` does.

        Of the outputs those that are read before the next call are the answer.
        """
        raise NotImplementedError(f"{self.name} has no memory to run on")

    @classmethod
    def available(cls) -> bool:
        """Whether the runtime is installed; it may still turn out broken when it loads."""
        return True

    @classmethod
    def installed_version(cls) -> str:
        """The version of the runtime that would be loaded; "" where it cannot be known before."""
        return ""

    @classmethod
    def vet(cls, model: ModelFile) -> None:
        """Make sure, in a process of its own, that the model does not end the one that runs it; else ModelError."""
