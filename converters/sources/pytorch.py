"""A PyTorch network, as a function that builds it and a file of weights."""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.sources.base import Source
from edgeloc.converters.sources.torch_lowering import import_torch, lower, torch_answer, torch_tools
from edgeloc.errors import ModelError, UsageError, first_line

if TYPE_CHECKING:
    import torch

__all__ = ["PytorchSource"]

# Under these keys a training script most often keeps the weights beside its optimizer's state.
_NESTED = ("state_dict", "model_state_dict")
_PARALLEL = "module."


class PytorchSource(Source):
    """An `nn.Module` of `package.module:factory`, in evaluation mode, on the CPU, in float32.

    The module is looked for as `python -m` does, in the current folder first. It takes images
    (n, channels, height, width). Outputs go by their keys where it returns a dict, else as
    output_0, output_1 ... in their order; one with four dimensions leaves with its channels last.
    """

    def __init__(self, name: str, network: torch.nn.Module, digest: str) -> None:
        self.name, self.contract, self.digest = name, None, digest
        self.network = network
        self.tools = torch_tools()

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> PytorchSource:
        """Build the network and put the weights in.

        Raises UsageError when the factory cannot be called or gives no network, and ModelError when
        the weights cannot be read or are those of another network.
        """
        import_torch()
        network = _build(path)
        if weights is not None:
            _load(network, path, weights)
        network = network.to("cpu").float().eval()
        return cls(path, network, _digest(path, network))

    def to_tflite(self, spec: InputSpec) -> bytes:
        return lower(self.network, spec, self.name, first=True)

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return torch_answer(self.network, images, self.name, first=True)


def _build(name: str) -> Any:
    import torch

    found = _find(name)
    if isinstance(found, torch.nn.Module):
        return found
    try:
        network = found()
    except (Exception, SystemExit) as error:  # the user's own code
        raise UsageError(
            f"{name} does not build a network when called without arguments ({first_line(error)}): "
            "give a function that does"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise UsageError(f"{name} gives a {type(network).__name__}: it must give a torch.nn.Module")
    return network


def _find(name: str) -> Any:
    """What the module holds under this name."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        where = "" if error.name != module.partition(".")[0] else f"; run from the folder that holds {error.name}"
        raise UsageError(f"{name}: there is no module {error.name}{where}") from error
    except (Exception, SystemExit) as error:  # the user's own code
        raise UsageError(
            f"{name}: the module {module} cannot be imported ({type(error).__name__}: {first_line(error)}): "
            "it must import without doing anything else"
        ) from error
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UsageError(f"{name}: {first_line(error)}") from error
    return found


def _load(network: Any, name: str, weights: str) -> None:
    # DataParallel puts a word before every name.
    state = {key.removeprefix(_PARALLEL): value for key, value in _state(Path(weights)).items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        own = network.state_dict()
        lacking, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        odd = [f"{word} {keys[0]}" for word, keys in (("lacks", lacking), ("has besides", foreign)) if keys]
        reason = f"it {' and '.join(odd)}" if odd else " ".join(str(error).split())
        raise ModelError(f"{weights} holds the weights of another network than {name}: {reason}") from error


def _state(path: Path) -> Mapping[str, Any]:
    """The tensors of a file by name, read without running any code that it may hold."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: Mapping[str, Any] = load_file(path)
            return tensors
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; give the weights as .pt, .pth or .safetensors") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than weights, and reading it would run its code: "
            "save the weights alone with torch.save(network.state_dict(), ...)"
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds for a damaged file
        raise ModelError(f"{path} cannot be read as weights: {first_line(error)}") from error
    if isinstance(state, dict):
        state = next((state[key] for key in _NESTED if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ModelError(f"{path} is no state_dict: save one with torch.save(network.state_dict(), ...)")
    return state


def _digest(name: str, network: Any) -> str:
    digest = hashlib.sha256(name.encode())
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"\0{key}\0{tuple(value.shape)}\0".encode() + value.numpy().tobytes())
    return digest.hexdigest()
