"""What every kind of trained model must give to become a float `.tflite`, and what several kinds share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import ModelError, UsageError
from edgeloc.model.contract import Contract, InputSpec

__all__ = ["Source", "answer_each", "channels_first", "image_shape", "refuse_weights", "with_channels_last"]

# An array of NumPy or a tensor of PyTorch.
T = TypeVar("T", bound=Any)


class Source(ABC):
    """A trained network as its own framework runs it, before any conversion.

    `name` is what the user called it, `contract` the one that it carries (None for most), `digest`
    the SHA-256 of what was read (weights included), `tools` the versions of the libraries that
    read it, by package name. `kept` are outputs that stay as they are where others get their channels last.
    """

    name: str
    contract: Contract | None
    digest: str
    tools: Mapping[str, str]
    kept: frozenset[str] = frozenset()

    @classmethod
    @abstractmethod
    def open(cls, path: str, weights: str | None = None) -> Source:
        """Read the network at `path`; `weights` is the file of its weights, where it does not hold them.

        Raises ModelError when the file is bad, MissingExtra when the framework is not installed, UsageError for
        weights that it has no use for (see `refuse_weights`).
        """

    @abstractmethod
    def to_tflite(self, spec: InputSpec) -> bytes:
        """The network as a float32 flatbuffer for one image.

        Its signature `serving_default` has the one input, named `spec.tensor`, float32
        (1, height, width, channels) normalized as `spec` says, and the outputs by the names that
        `answer` uses. Raises ModelError with the reason when the network cannot be converted.
        """

    def takes_channels_first(self, image: Sequence[int]) -> bool:
        """Whether the original takes `image`, (1, height, width, channels), with its channels before height and width.

        Raises ModelError when it takes no image of that size.
        """
        return False

    def adopt(self, contract: Contract) -> Contract:
        """Take the contract of the original, and give the one of its `.tflite`, which has its channels last.

        Outputs of four dimensions that the contract has with their channels last already are kept so.
        """
        shape = image_shape(contract.input)
        if not self.takes_channels_first(shape):
            return contract
        detections = [output for output in contract.outputs if output.role == "detections"]
        self.kept = frozenset(output.tensor for output in detections if output.layout == "channels-last")
        answer = self.answer(np.zeros(shape, np.float32)) if detections else {}
        maps = {name for name, values in answer.items() if values.ndim == 4}
        outputs = tuple(
            replace(output, layout="channels-last") if output.tensor in maps else output for output in contract.outputs
        )
        return replace(contract, input=replace(contract.input, layout="channels-last"), outputs=outputs)

    @abstractmethod
    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The original's outputs on `images`, float32 (n, height, width, channels), normalized; by name."""


def refuse_weights(path: str, weights: str | None) -> None:
    """Raise UsageError when a file that holds its own weights was given others."""
    if weights is not None:
        raise UsageError(f"{path} holds its own weights", field="weights", value=weights, hint="leave {weights} out")


def answer_each(
    images: NDArray[np.float32], call: Callable[[NDArray[np.float32]], Mapping[str, Any]]
) -> dict[str, NDArray[np.float32]]:
    """The outputs of `call` on each image, as a batch of one, put together by name: float32 (n, ...)."""
    answers = [call(np.ascontiguousarray(image[np.newaxis])) for image in images]
    return {name: np.concatenate([np.asarray(answer[name], np.float32) for answer in answers]) for name in answers[0]}


def with_channels_last(outputs: Mapping[str, T], transpose: Callable[[T], T], kept: Collection[str]) -> dict[str, T]:
    """Outputs by name, those of four dimensions by `transpose`, which puts their channels last, but for the kept."""
    return {
        name: transpose(value) if value.ndim == 4 and name not in kept else value for name, value in outputs.items()
    }


def image_shape(spec: InputSpec, *, first: bool = False) -> tuple[int, int, int, int]:
    """The shape of one image: (1, height, width, channels), or with `first` (1, channels, height, width)."""
    channels = 1 if spec.color == "gray" else 3
    return (1, channels, spec.height, spec.width) if first else (1, spec.height, spec.width, channels)


def channels_first(shape: Sequence[int | None], image: Sequence[int], name: str) -> bool:
    """Whether the input of `shape` (None where a size is open) takes its channels before height and width.

    `image` is one image as the contract has it, (1, height, width, channels). Raises ModelError
    when the input takes no single image of that size, in either order, and when it would take both.
    """
    last = tuple(image)
    first = (last[0], last[3], last[1], last[2])
    fits_first, fits_last = _fits(shape, first), _fits(shape, last)
    shown = f"({', '.join('?' if size is None else str(size) for size in shape)})"
    if not fits_first and not fits_last:
        raise ModelError(
            f"{name} takes {shown}, the contract's image is {last} or, channels first, {first}: "
            "correct the contract's size and colour, or export the network for one image of that size"
        )
    if fits_first and fits_last:
        raise ModelError(
            f"{name} takes {shown}, in which channels, height and width cannot be distinguished: "
            "export it with these sizes fixed"
        )
    return fits_first


def _fits(shape: Sequence[int | None], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(have in (None, want) for have, want in zip(shape, wanted, strict=True))
