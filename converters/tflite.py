"""A Keras network through TensorFlow's converter, by a recipe; the signature keeps the names of its outputs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from edgeloc.contract import Contract
from edgeloc.converters.quantization.recipes import Recipe
from edgeloc.errors import ContractError, ModelError
from edgeloc.quiet import quiet_stderr

__all__ = ["check_outputs", "output_names", "to_flatbuffer"]

_TINY = 1e-4


def output_names(network: keras.Model) -> tuple[str, ...]:
    """The names the network's outputs will have in the signature: its dict's keys, else its layers' names."""
    structure = network.output
    return tuple(structure) if isinstance(structure, dict) else tuple(network.output_names)


def check_outputs(network: keras.Model, contract: Contract) -> None:
    """Raise ContractError when the contract and the network do not speak of the same tensors."""
    names = output_names(network)
    for output in contract.outputs:
        if output.tensor not in names:
            raise ContractError(
                f"the contract names the output {output.tensor!r}, which the model does not have; "
                f"it has {', '.join(names)}"
            )
    if len(network.inputs) != 1:
        raise ContractError(f"the model has {len(network.inputs)} inputs: a contract speaks of one image")
    shape = tuple(network.inputs[0].shape[1:])
    channels = 1 if contract.input.color == "gray" else 3
    wanted = (contract.input.height, contract.input.width, channels)
    if len(shape) != 3 or any(have not in (None, want) for have, want in zip(shape, wanted, strict=True)):
        raise ContractError(f"the contract's input is {wanted} (height, width, channels), the model's is {shape}")


def to_flatbuffer(
    network: keras.Model, contract: Contract, recipe: Recipe, images: NDArray[np.float32] | None
) -> bytes:
    """Convert for batches of one image; `images` (normalized, float32) calibrate a recipe that wants it.

    Raises ModelError with the converter's reason when it refuses the network.
    """
    with tempfile.TemporaryDirectory() as folder, quiet_stderr():
        _export(network, contract, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        _set_recipe(converter, recipe, contract.input.tensor, None if images is None else _covering(images, contract))
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
    return next(iter(str(error).strip().splitlines()), repr(error))


def _export(network: keras.Model, contract: Contract, folder: str) -> None:
    spec = contract.input
    channels = 1 if spec.color == "gray" else 3
    names = output_names(network)

    def serve(image: Any) -> dict[str, Any]:
        outputs = network(image, training=False)
        if isinstance(outputs, dict):
            return outputs
        return dict(zip(names, outputs if isinstance(outputs, (list, tuple)) else [outputs], strict=True))

    image = tf.TensorSpec((1, spec.height, spec.width, channels), tf.float32, name=spec.tensor)
    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint("serve", serve, input_signature=[image])
    archive.write_out(folder, verbose=False)


def _covering(images: NDArray[np.float32], contract: Contract) -> NDArray[np.float32]:
    """The images, with black and white in two corners of the first where no image had them.

    The input's range in int8 is the one seen here: calibrated on dark images alone, bright pixels would be clipped.
    """
    mean, std = (np.array(numbers, np.float32) for numbers in (contract.input.mean, contract.input.std))
    black, white = (0 - mean) / std, (255 - mean) / std
    if images.min() <= black.min() + _TINY and images.max() >= white.max() - _TINY:
        return images
    images = images.copy()
    images[0, 0, 0], images[0, -1, -1] = black, white
    return images


def _set_recipe(converter: Any, recipe: Recipe, tensor: str, images: NDArray[np.float32] | None) -> None:
    if recipe.name == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe.name == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if recipe.calibrated:
        assert images is not None  # calibrated recipes are never called without images

        def representative() -> Iterator[dict[str, Any]]:
            for image in images:
                yield {tensor: image[np.newaxis]}

        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.int8
