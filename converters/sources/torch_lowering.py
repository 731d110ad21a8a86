"""A PyTorch module as a float32 flatbuffer, through litert-torch; where the module comes from is decided elsewhere."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.sources.common import answer_each
from edgeloc.converters.sources.layout import image_shape
from edgeloc.converters.sources.pooling import mend_pooling
from edgeloc.converters.sources.signature import drop_metadata, numbered, set_signature
from edgeloc.editing import pack, tensor_name, unpack
from edgeloc.errors import MissingExtra, ModelError, first_line
from edgeloc.quiet import quiet_stderr

__all__ = ["import_torch", "lower", "torch_answer", "torch_tools"]


def import_torch() -> None:
    """Raise MissingExtra when PyTorch or litert-torch is not installed."""
    for package, distribution in (("torch", "torch"), ("litert_torch", "litert-torch")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(distribution, "torch", "converting a PyTorch network")


def torch_tools() -> dict[str, str]:
    """The versions of what reads and converts a PyTorch network."""
    return {package: importlib.metadata.version(package) for package in ("torch", "litert-torch")}


def lower(network: Any, spec: InputSpec, name: str, *, first: bool) -> bytes:
    """Convert a module that takes images with the channels `first` or last; the result takes them last.

    Raises ModelError when the module does not run on an image of the contract's size, gives
    something else than tensors, or has an operator that cannot be converted.
    """
    import torch

    image = torch.zeros(image_shape(spec))
    names = list(_outputs(_run(network, image, name, first=first), name))
    module = _serving(network, first)
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
    mend_pooling(model)
    drop_metadata(model)
    _shorten_names(model)
    return pack(model)


def torch_answer(
    network: Any, images: NDArray[np.float32], name: str, *, first: bool
) -> dict[str, NDArray[np.float32]]:
    """What the module says of images with the channels last, as the converted network would."""
    import torch

    def call(image: NDArray[np.float32]) -> Mapping[str, Any]:
        outputs = _outputs(_run(network, torch.from_numpy(image), name, first=first), name)
        return {key: _channels_last(value, first).numpy() for key, value in outputs.items()}

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


def _channels_last(value: Any, first: bool) -> Any:
    return value.permute(0, 2, 3, 1) if first and value.ndim == 4 else value


def _serving(network: Any, first: bool) -> Any:
    """The network with channels last at its ends, and its outputs as a tuple."""
    import torch

    class Serving(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.training = False

        def forward(self, image: Any) -> tuple[Any, ...]:
            outputs = _outputs(self.network(image.permute(0, 3, 1, 2) if first else image), "")
            return tuple(_channels_last(value, first) for value in outputs.values())

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
    """litert-torch tells each of its steps on standard output; torch warns of what litert-torch does."""
    with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
