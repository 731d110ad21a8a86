"""A folder that TensorFlow saved with a signature."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.sources.base import Source
from edgeloc.converters.sources.common import answer_each, refuse_weights
from edgeloc.converters.sources.keras import convert_saved_model
from edgeloc.converters.sources.layout import image_shape
from edgeloc.converters.sources.signature import SERVING
from edgeloc.errors import ModelError, first_line
from edgeloc.quiet import quiet_stderr

__all__ = ["SavedModelSource"]


class SavedModelSource(Source):
    """A SavedModel's signature `serving_default`, or its only one; outputs go by the signature's names."""

    def __init__(self, folder: str | Path) -> None:
        import tensorflow as tf

        self.name, folder = str(folder), Path(folder)
        try:
            with quiet_stderr():
                self._loaded = tf.saved_model.load(str(folder))
        except Exception as error:  # TensorFlow raises errors of many kinds for a damaged folder
            raise ModelError(f"{folder} is no SavedModel that can be read: {first_line(error)}") from error
        self._call = _signature(self.name, self._loaded.signatures)
        self._input, self._spec = _only_input(self.name, self._call)
        self.contract = None
        self.digest = _digest(folder)
        self.tools = {"tensorflow": tf.__version__}

    @classmethod
    def open(cls, path: str, weights: str | None = None) -> SavedModelSource:
        """Load the folder; it holds its weights itself."""
        refuse_weights(path, weights)
        return cls(path)

    def to_tflite(self, spec: InputSpec) -> bytes:
        import tensorflow as tf

        wanted = image_shape(spec)
        if not self._spec.shape.is_compatible_with(wanted):
            raise ModelError(
                f"{self.name} takes {self._spec.shape}, the contract's image is {wanted} with the channels last: "
                "correct the contract's size and colour, or save the network for one image of that size"
            )
        module = tf.Module()
        module.network = self._loaded
        image = tf.TensorSpec(wanted, tf.float32, name=spec.tensor)
        module.serve = tf.function(self._named, input_signature=[image])
        with tempfile.TemporaryDirectory() as folder:
            with quiet_stderr():
                tf.saved_model.save(module, folder, signatures={SERVING: module.serve})
            return convert_saved_model(folder, SERVING)

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        import tensorflow as tf

        return answer_each(images, lambda image: self._named(tf.constant(image)))

    def _named(self, image: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = self._call(**{self._input: image})
        return outputs


def _signature(name: str, signatures: Any) -> Any:
    keys = list(signatures)
    if SERVING in keys:
        return signatures[SERVING]
    if len(keys) == 1:
        return signatures[keys[0]]
    if not keys:
        raise ModelError(f"{name} has no signature: save it with tf.saved_model.save(..., signatures=...)")
    raise ModelError(f"{name} has the signatures {', '.join(keys)} and none named {SERVING}: save it with that one")


def _only_input(name: str, call: Any) -> tuple[str, Any]:
    inputs = call.structured_input_signature[1]
    if len(inputs) != 1:
        raise ModelError(f"{name} has {len(inputs)} inputs ({', '.join(inputs)}): a localizer has one, the image")
    key, spec = next(iter(inputs.items()))
    if spec.dtype.name != "float32":
        raise ModelError(f"{name} takes {spec.dtype.name}: save it with a float32 input")
    return key, spec


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
