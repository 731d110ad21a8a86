"""What every kind of trained model must give to become a float `.tflite`; each kind lives in its own module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import Contract, InputSpec

__all__ = ["Source"]


class Source(ABC):
    """A trained network as its own framework runs it, before any conversion.

    `name` is what the user called it, `contract` the one that it carries (None for most), `digest`
    the SHA-256 of what was read (weights included), `tools` the versions of the libraries that
    read it, by package name.
    """

    name: str
    contract: Contract | None
    digest: str
    tools: Mapping[str, str]

    @abstractmethod
    def to_tflite(self, spec: InputSpec) -> bytes:
        """The network as a float32 flatbuffer for one image.

        Its signature `serving_default` has the one input, named `spec.tensor`, float32
        (1, height, width, channels) normalized as `spec` says, and the outputs by the names that
        `answer` uses. Raises ModelError with the reason when the network cannot be converted.
        """

    @abstractmethod
    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """What the original says of `images`, float32 (n, height, width, channels), normalized; outputs by name."""
