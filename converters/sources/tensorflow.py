"""Networks that Keras or TensorFlow saved: `.keras` with its contract, `.h5`, SavedModel folders."""

from __future__ import annotations

import hashlib
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.files import atomic_path
from edgeloc._support.terminal import quiet_stderr
from edgeloc.converters.sources.base import Source, answer_each, image_shape, refuse_weights
from edgeloc.converters.sources.tflite import SERVING
from edgeloc.errors import ContractError, ModelError, first_line
from edgeloc.evaluation.pairing import load_keras
from edgeloc.model.contract import Contract, InputSpec
from edgeloc.model.file import CONTRACT, read_keras_contract

if TYPE_CHECKING:
    import keras

__all__ = ["KerasSource", "SavedModelSource", "load_head", "load_network", "save_network", "to_flatbuffer"]

KERAS_HEAD = "stages/head.keras"


def save_network(path: str | Path, network: keras.Model, contract: Contract, head: keras.Model | None = None) -> None:
    """Write the network and its contract, of a two-stage detector the head too; nothing half-written stays behind."""
    with atomic_path(path) as temporary:
        network.save(temporary)
        if head is not None:
            beside = temporary.with_suffix(".head.keras")
            head.save(beside)
            with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.write(beside, KERAS_HEAD)
            beside.unlink()
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(CONTRACT, contract.to_json())


def load_head(path: str | Path) -> keras.Model:
    """Load the head of a two-stage detector out of a `.keras` file; ModelError where there is none."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        if KERAS_HEAD not in archive.namelist():
            raise ModelError(f"{path} holds no {KERAS_HEAD}, which its contract runs", hint="train it again")
        return load_network(archive.extract(KERAS_HEAD, folder))


def load_network(path: str | Path) -> keras.Model:
    """Load the network of a `.keras` file for inference; ModelError when it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give a .keras or .h5 model")
    if path.suffix not in (".keras", ".h5"):
        raise ModelError(f"{path} is no trained network: give a .keras or .h5 file, as Keras saves them")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is no .keras file, or was cut off: save or copy it again")
    return _plain(path, load_keras(path))


def _plain(path: Path, network: keras.Model) -> keras.Model:
    """The same layers as a functional network that is called with one tensor; a Sequential has no names of outputs."""
    import keras

    inputs = getattr(network, "inputs", None)
    if not inputs:
        raise ModelError(f"{path}: the network has no fixed inputs; save it as a functional or Sequential model")
    outputs = network.outputs[0] if isinstance(network, keras.Sequential) else network.output
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=network.name)


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
            raise ContractError(f"{path} has {len(self.network.inputs)} inputs: a localizer has one, the image")

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
        import tensorflow as tf

        self.check_input(spec)
        return self.to_flatbuffer(tf.TensorSpec(image_shape(spec), tf.float32, name=spec.tensor))

    def to_flatbuffer(self, image: Any) -> bytes:
        """The network as a float32 flatbuffer for an input of this TensorSpec, whatever that is."""
        return to_flatbuffer(self._named, image)

    def answer(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {name: np.asarray(values) for name, values in self._named(images).items()}

    def _named(self, image: Any) -> dict[str, Any]:
        outputs = self.network(image, training=False)
        if isinstance(outputs, dict):
            return outputs
        return dict(zip(self.output_names, outputs if isinstance(outputs, (list, tuple)) else [outputs], strict=True))


def to_flatbuffer(network: Callable[[Any], dict[str, Any]], image: Any) -> bytes:
    """A function of an image, a TensorSpec, as a float32 flatbuffer whose signature names the outputs by their keys.

    Raises ModelError with the converter's reason when it refuses the function.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    with tempfile.TemporaryDirectory() as folder:
        with quiet_stderr():
            call = tf.function(network, input_signature=[image], autograph=False).get_concrete_function()
            # Without its variables, a network of 150 layers is saved and converted in a quarter of the time.
            frozen, names = convert_variables_to_constants_v2(call), sorted(call.structured_outputs)
            module = tf.Module()
            module.serve = tf.function(
                lambda pixels: dict(zip(names, frozen(pixels), strict=True)), input_signature=[image], autograph=False
            )
            tf.saved_model.save(module, folder, signatures={SERVING: module.serve})
        return _convert_saved_model(folder)


def _convert_saved_model(folder: str) -> bytes:
    import tensorflow as tf

    with quiet_stderr():
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SERVING])
        try:
            flatbuffer: bytes = converter.convert()
            return flatbuffer
        except Exception as error:  # the converter raises Exceptions of several modules
            refusal = error
    # Outside, because what the converter wrote on the terminal is shown when an error is raised inside.
    raise ModelError(f"TensorFlow's converter refused the model: {_reason(refusal)}") from refusal


def _reason(error: Exception) -> str:
    """The sentence for a user within pages of the compiler's locations."""
    operators = sorted(set(re.findall(r"'tf\.(\w+)\\?' op is neither a custom op nor a flex op", str(error))))
    if operators:
        return f"TFLite has no operator {', '.join(operators)}"
    return first_line(error)


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
        return to_flatbuffer(self._named, tf.TensorSpec(wanted, tf.float32, name=spec.tensor))

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
