"""A PyTorch network that `torch.export` wrote."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.sources.base import Source
from edgeloc.converters.sources.common import refuse_weights
from edgeloc.converters.sources.layout import channels_first, image_shape
from edgeloc.converters.sources.torch_lowering import import_torch, lower, torch_answer, torch_tools
from edgeloc.errors import ModelError, first_line

__all__ = ["ExportSource"]


class ExportSource(Source):
    """A `.pt2` file; where the channels stand is told by the shape it was exported with, outputs as in PytorchSource.

    Export the network in evaluation mode, for one image or an open batch.
    """

    def __init__(self, path: str | Path) -> None:
        import torch

        self.name, self.contract = str(path), None
        self.digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self.tools = torch_tools()
        try:
            program = torch.export.load(str(path))
            self._network: Any = program.module()
        except Exception as error:  # torch raises errors of many kinds for a damaged file
            raise ModelError(f"{path} is no torch.export file that can be read: {first_line(error)}") from error
        self._shape = _shape(self.name, program)

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> ExportSource:
        """Load the file; it holds its weights itself."""
        refuse_weights(path, weights)
        import_torch()
        return cls(path)

    def to_tflite(self, spec: InputSpec) -> bytes:
        first = channels_first(self._shape, image_shape(spec), self.name)
        return lower(self._network, spec, self.name, first=first)

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        first = channels_first(self._shape, (1, *images.shape[1:]), self.name)
        return torch_answer(self._network, images, self.name, first=first)


def _shape(name: str, program: Any) -> tuple[int | None, ...]:
    """The one input's shape, None where a size was left open."""
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise ModelError(f"{name} has {len(inputs)} inputs: a localizer has one, the image")
    value = next(node.meta["val"] for node in program.graph.nodes if node.name == inputs[0])
    return tuple(size if isinstance(size, int) else None for size in value.shape)
