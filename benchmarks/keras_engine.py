"""A Keras model behind the interface of an inference engine, so that it is measured by the same code; no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, MissingExtra, ModelError, first_line
from edgeloc.modelfile import ModelFile

__all__ = ["KerasEngine"]


class KerasEngine(Engine):
    """A `.keras` file in float, one image at a time; the input carries the name that `spec` gives it.

    Outputs are named by the keys of the model's dict, else by its output layers, as they are in
    the signature of the converted file. Raises MissingExtra without TensorFlow, ModelError when
    the file cannot be loaded.
    """

    name = "keras"

    def __init__(self, path: str | Path, spec: InputSpec) -> None:
        network = _load(Path(path))
        import keras
        import tensorflow as tf

        self.version = str(keras.__version__)
        if len(network.inputs) != 1:
            raise ModelError(f"{path} has {len(network.inputs)} inputs: a localizer has one")
        channels = 1 if spec.color == "gray" else 3
        have = tuple(network.inputs[0].shape[1:])
        shape = (1, *(size or wanted for size, wanted in zip(have, (spec.height, spec.width, channels), strict=False)))
        dtype = np.dtype(network.inputs[0].dtype)
        self._names = None if isinstance(network.output, dict) else tuple(network.output_names)
        function = tf.function(lambda image: network(image, training=False))
        self._run = function.get_concrete_function(tf.TensorSpec(shape, dtype))
        self.inputs = {spec.tensor: TensorInfo(spec.tensor, shape, dtype)}
        self.outputs = {
            name: TensorInfo(name, tuple(value.shape), np.dtype(np.float32))
            for name, value in self._named(self._run.structured_outputs).items()
        }
        self._constant = tf.constant

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> KerasEngine:
        """The model of a file with a contract; TensorFlow decides on the threads."""
        if model.contract is None:
            raise ModelError(f"{model.path} has no contract, so nobody knows what its input means")
        return cls(model.path, model.contract.input)

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the model on one image; float32 arrays by output name."""
        try:
            answer = self._run(self._constant(tensor))
        except Exception as error:  # TensorFlow's errors share no base below it
            raise EngineError(f"keras failed while running the model: {error}") from error
        return {name: np.asarray(value, np.float32) for name, value in self._named(answer).items()}

    def _named(self, values: Any) -> dict[str, Any]:
        if self._names is None:
            return dict(values)
        return dict(zip(self._names, values if isinstance(values, (list, tuple)) else [values], strict=True))


def _load(path: Path) -> Any:
    try:
        import keras
    except ImportError as error:
        raise MissingExtra("tensorflow", "convert", f"comparing with {path.name}") from error
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise ModelError(f"{path}: Keras cannot load it ({first_line(error)})") from error
