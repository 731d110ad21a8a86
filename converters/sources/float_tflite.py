"""A `.tflite` that is float32 throughout, as another converter wrote it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec, read_contract
from edgeloc.converters.sources.base import Source
from edgeloc.converters.sources.common import answer_each, refuse_weights
from edgeloc.converters.sources.layout import image_shape
from edgeloc.converters.sources.pooling import mend_pooling
from edgeloc.converters.sources.signature import drop_metadata, set_signature
from edgeloc.editing import pack, unpack
from edgeloc.engines import open_engine
from edgeloc.errors import ModelError
from edgeloc.flatbuffer import TfliteModel, parse_flatbuffer
from edgeloc.modelfile import read_model
from edgeloc.precision import judge

__all__ = ["FloatTfliteSource"]

_FLOAT32 = "float32"


class FloatTfliteSource(Source):
    """A float32 flatbuffer; outputs go by its signature's names, or by their tensors' where it has none.

    The contract is the one inside the file, else that of a `.json` of the same name beside it.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self._file = read_model(path)
        self._model = parse_flatbuffer(self._file.flatbuffer, str(path))
        precision = judge(self._model).precision
        if precision != _FLOAT32:
            raise ModelError(f"{path} is {precision}: convert the float32 model that it was made from")
        self.name, self.tools = str(path), {}
        self.digest = hashlib.sha256(self._file.flatbuffer).hexdigest()
        beside = path.with_suffix(".json")
        self.contract = self._file.contract
        if self.contract is None and beside.is_file():
            self.contract = read_contract(beside)
        self._engine = open_engine("auto", self._file)

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> FloatTfliteSource:
        """Read the file; it holds its weights itself."""
        refuse_weights(path, weights)
        return cls(path)

    def to_tflite(self, spec: InputSpec) -> bytes:
        graph, wanted = self._model.graphs[0], image_shape(spec)
        shape = next(iter(self._engine.inputs.values())).shape
        if shape != wanted:
            raise ModelError(f"{self.name} takes {shape}, the contract's image is {wanted}: correct the contract")
        model = unpack(self._file.flatbuffer)
        set_signature(model, spec.tensor, _names(self._model, graph.outputs))
        mend_pooling(model)
        drop_metadata(model)
        return pack(model)

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return answer_each(images, self._engine.invoke)


def _names(model: TfliteModel, outputs: tuple[int, ...]) -> list[str]:
    """The outputs' names as the engine has them: the signature's, else the tensors'."""
    signature = model.signature
    by_tensor = {index: name for name, index in signature.outputs.items()} if signature else {}
    return [by_tensor.get(index, model.graphs[0].tensors[index].name) for index in outputs]
