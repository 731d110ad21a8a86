"""Networks that Keras saved, `.keras` and `.h5`."""

from __future__ import annotations

import hashlib
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.keras_file import load_network
from edgeloc.converters.sources.base import Source
from edgeloc.converters.sources.common import refuse_weights
from edgeloc.converters.sources.layout import image_shape
from edgeloc.errors import ContractError, ModelError, first_line
from edgeloc.modelfile import read_keras_contract
from edgeloc.quiet import quiet_stderr

if TYPE_CHECKING:
    import keras

__all__ = ["KerasSource", "convert_saved_model"]


class KerasSource(Source):
    """A Keras network; its outputs go by their keys where it gives a dict, else by their layers' names."""

    def __init__(self, path: str | Path, network: keras.Model | None = None) -> None:
        import keras
        import tensorflow as tf

        self.name, path = str(path), Path(path)
        self.network = load_network(path) if network is None else network
        # An .h5 is no archive and carries nothing.
        self.contract = read_keras_contract(path) if zipfile.is_zipfile(path) else None
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.tools = {"keras": keras.__version__, "tensorflow": tf.__version__}
        if len(self.network.inputs) != 1:
            raise ContractError(f"{path} has {len(self.network.inputs)} inputs: a contract speaks of one image")

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> KerasSource:
        """Load the file; it holds its weights itself."""
        refuse_weights(path, weights)
        return cls(path)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names its outputs will have in the signature."""
        structure = self.network.output
        return tuple(structure) if isinstance(structure, dict) else tuple(self.network.output_names)

    def check_input(self, spec: InputSpec) -> None:
        """Raise ContractError where the network takes no image of the contract's size and colour."""
        wanted, shape = image_shape(spec)[1:], tuple(self.network.inputs[0].shape[1:])
        if len(shape) != 3 or any(have not in (None, want) for have, want in zip(shape, wanted, strict=True)):
            raise ContractError(
                f"the contract's input is {wanted} (height, width, channels), the model's is {shape}: "
                "correct the contract's size and colour"
            )

    def to_tflite(self, spec: InputSpec) -> bytes:
        import keras
        import tensorflow as tf

        self.check_input(spec)
        image = tf.TensorSpec(image_shape(spec), tf.float32, name=spec.tensor)
        with tempfile.TemporaryDirectory() as folder:
            with quiet_stderr():
                archive = keras.export.ExportArchive()
                archive.track(self.network)
                archive.add_endpoint("serve", self._named, input_signature=[image])
                archive.write_out(folder, verbose=False)
            return convert_saved_model(folder, "serving_default")

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {name: np.asarray(values) for name, values in self._named(images).items()}

    def _named(self, image: Any) -> dict[str, Any]:
        outputs = self.network(image, training=False)
        if isinstance(outputs, dict):
            return outputs
        return dict(zip(self.output_names, outputs if isinstance(outputs, (list, tuple)) else [outputs], strict=True))


def convert_saved_model(folder: str, signature: str) -> bytes:
    """A SavedModel's signature as a float32 flatbuffer; ModelError with the converter's reason when it refuses it."""
    import tensorflow as tf

    with quiet_stderr():
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[signature])
        try:
            flatbuffer: bytes = converter.convert()
            return flatbuffer
        except Exception as error:  # the converter raises bare Exceptions of several modules
            refusal = error
    # Outside, because what the converter wrote on the terminal is shown when an error leaves the silence.
    raise ModelError(f"TensorFlow's converter refused the model: {_reason(refusal)}") from refusal


def _reason(error: Exception) -> str:
    """The sentence for a user within pages of the compiler's locations."""
    operators = sorted(set(re.findall(r"'tf\.(\w+)\\?' op is neither a custom op nor a flex op", str(error))))
    if operators:
        return f"TFLite has no operator {', '.join(operators)}"
    return first_line(error)
