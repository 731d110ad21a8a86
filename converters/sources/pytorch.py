"""A PyTorch network, as a function with weights or as `torch.export` wrote it, lowered through litert-torch."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import pickle
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.lookup import find_own
from edgeloc._support.terminal import quiet_stderr
from edgeloc.converters.sources.base import (
    Source,
    answer_each,
    channels_first,
    image_shape,
    refuse_weights,
    with_channels_last,
)
from edgeloc.converters.sources.tflite import drop_metadata, numbered, replace_padded_pooling, set_signature
from edgeloc.errors import MissingExtra, ModelError, UsageError, first_line
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import pack, tensor_name, unpack

if TYPE_CHECKING:
    import torch

__all__ = ["ExportSource", "PytorchSource", "lower", "require_torch", "torch_answer", "torch_tools"]


def require_torch() -> None:
    """Raise MissingExtra when PyTorch or litert-torch is not installed."""
    for package, distribution in (("torch", "torch"), ("litert_torch", "litert-torch")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(distribution, "torch", "converting a PyTorch network")


def torch_tools() -> dict[str, str]:
    """The versions of what reads and converts a PyTorch network."""
    return {package: importlib.metadata.version(package) for package in ("torch", "litert-torch")}


def lower(network: Any, spec: InputSpec, name: str, *, first: bool, kept: Collection[str] = ()) -> bytes:
    """Convert a module that takes images with the channels `first` or last; the result takes them last.

    Outputs of four dimensions leave with their channels last too, but for the `kept`.

    Raises ModelError when the module does not run on an image of the contract's size, gives
    something else than tensors, or has an operator that cannot be converted.
    """
    import torch

    image = torch.zeros(image_shape(spec))
    names = list(_outputs(_run(network, image, name, first=first), name))
    module = _serving(network, first, kept)
    refusal: Exception | None = None
    with _quiet():
        import litert_torch

        try:
            flatbuffer = bytes(litert_torch.convert(module, (image,)).model_content())
        except Exception as error:  # litert-torch raises errors of torch, of MLIR and its own
            refusal = error
    if refusal is not None:
        raise ModelError(f"litert-torch cannot convert {name}: {first_line(refusal)}") from refusal
    model = unpack(flatbuffer)
    set_signature(model, spec.tensor, names)
    replace_padded_pooling(model)
    drop_metadata(model)
    _shorten_names(model)
    return pack(model)


def torch_answer(
    network: Any, images: NDArray[np.float32], name: str, *, first: bool, kept: Collection[str] = ()
) -> dict[str, NDArray[np.float32]]:
    """The module's outputs on images with the channels last, as the converted network would give them."""
    import torch

    def call(image: NDArray[np.float32]) -> Mapping[str, Any]:
        outputs = _outputs(_run(network, torch.from_numpy(image), name, first=first), name)
        return {key: value.numpy() for key, value in _channels_last(outputs, first, kept).items()}

    return answer_each(images, call)


def _run(network: Any, image: Any, name: str, *, first: bool) -> Any:
    import torch

    image = image.permute(0, 3, 1, 2) if first else image
    try:
        with torch.no_grad():
            return network(image.contiguous())
    except Exception as error:  # the user's own code
        raise ModelError(f"{name} does not run on an image of {tuple(image.shape)}: {first_line(error)}") from error


def _outputs(given: Any, name: str) -> dict[str, Any]:
    """The tensors that a module returned, by name."""
    import torch

    if isinstance(given, torch.Tensor):
        given = (given,)
    if isinstance(given, (tuple, list)):
        given = dict(zip(numbered(len(given)), given, strict=True))
    if not isinstance(given, Mapping) or not all(isinstance(value, torch.Tensor) for value in given.values()):
        raise ModelError(
            f"{name} returns a {type(given).__name__}: it must return a tensor, or a tuple or dict of them"
        )
    return {str(key): value for key, value in given.items()}


def _channels_last(outputs: dict[str, Any], first: bool, kept: Collection[str]) -> dict[str, Any]:
    return with_channels_last(outputs, lambda value: value.permute(0, 2, 3, 1), kept) if first else outputs


def _serving(network: Any, first: bool, kept: Collection[str]) -> Any:
    """The network with channels last at its ends, and its outputs as a tuple."""
    import torch

    class Serving(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.training = False

        def forward(self, image: Any) -> tuple[Any, ...]:
            outputs = _outputs(self.network(image.permute(0, 3, 1, 2) if first else image), "")
            return tuple(_channels_last(outputs, first, kept).values())

    return Serving()


def _shorten_names(model: Any) -> None:
    """Tensors by the names of the modules that wrote them, as in the state_dict; litert-torch spells out all classes.

    One such name is `package.Wrapper/package.Network_network/torch.nn.modules.conv.Conv2d_stem;...;1`.
    """
    seen: set[str] = set()
    for tensor in model.subgraphs[0].tensors:
        parts = tensor_name(tensor).split(";")[0].split("/")[2:]
        short = ".".join(part.rpartition(".")[2].partition("_")[2] for part in parts) or tensor_name(tensor)
        name, count = short, 1
        while name in seen:
            name, count = f"{short};{count}", count + 1
        seen.add(name)
        tensor.name = name.encode()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """litert-torch prints each of its steps on standard output; torch warns of what litert-torch does."""
    with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Under these keys a training script most often keeps the weights beside its optimizer's state.
_NESTED = ("state_dict", "model_state_dict", "model")
# What torch.compile and DataParallel put before every name, the one within the other either way.
_WRAPPERS = ("_orig_mod.", "module.", "_orig_mod.")


class PytorchSource(Source):
    """An `nn.Module` of `package.module:factory` or `file.py:factory`, in evaluation mode, on the CPU, in float32.

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
        require_torch()
        network = _build(path)
        if weights is not None:
            _load(network, path, weights)
        network = network.to("cpu").float().eval()
        return cls(path, network, _digest(path, network))

    def takes_channels_first(self, image: Sequence[int]) -> bool:
        return True

    def to_tflite(self, spec: InputSpec) -> bytes:
        return lower(self.network, spec, self.name, first=True, kept=self.kept)

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return torch_answer(self.network, images, self.name, first=True, kept=self.kept)


def _build(name: str) -> Any:
    import torch

    found = find_own(name)
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


def _load(network: Any, name: str, weights: str) -> None:
    state, own = _state(Path(weights)), network.state_dict()
    for prefix in _WRAPPERS:
        if state.keys() != own.keys():
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lacking, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        odd = [f"{word} {keys[0]}" for word, keys in (("lacks", lacking), ("has in addition", foreign)) if keys]
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


class ExportSource(Source):
    """A `.pt2` file; where the channels stand is read from the shape it was exported with, outputs as in PytorchSource.

    Export the network in evaluation mode, for one image or an open batch.
    """

    def __init__(self, path: str | Path) -> None:
        import torch

        self.name, self.contract = str(path), None
        self.digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self.tools = torch_tools()
        try:
            program = torch.export.load(str(path))
            trains = any(_trains(node) for node in program.graph.nodes)
            self._network: Any = program.module()
        except Exception as error:  # torch raises errors of many kinds for a damaged file
            raise ModelError(f"{path} is no torch.export file that can be read: {first_line(error)}") from error
        if trains:
            message = f"{path} was exported in training mode, where batch norm takes its statistics from each image"
            raise ModelError(message, hint="call network.eval() before torch.export.export")
        self._shape = _shape(self.name, program)

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> ExportSource:
        """Load the file; it holds its weights itself."""
        refuse_weights(path, weights)
        require_torch()
        return cls(path)

    def takes_channels_first(self, image: Sequence[int]) -> bool:
        return channels_first(self._shape, image, self.name)

    def to_tflite(self, spec: InputSpec) -> bytes:
        first = self.takes_channels_first(image_shape(spec))
        return lower(self._network, spec, self.name, first=first, kept=self.kept)

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        first = self.takes_channels_first((1, *images.shape[1:]))
        return torch_answer(self._network, images, self.name, first=first, kept=self.kept)


def _trains(node: Any) -> bool:
    """Whether an exported operator does what it does in training alone."""
    operator = str(node.target)
    if operator.startswith("aten.batch_norm"):
        return node.args[5] is True
    return operator.startswith("aten.dropout") and node.args[2] is True


def _shape(name: str, program: Any) -> tuple[int | None, ...]:
    """The one input's shape, None where a size was left open."""
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise ModelError(f"{name} has {len(inputs)} inputs: a localizer has one, the image")
    value = next(node.meta["val"] for node in program.graph.nodes if node.name == inputs[0])
    return tuple(size if isinstance(size, int) else None for size in value.shape)
