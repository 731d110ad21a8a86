"""A float flatbuffer to an integer one by a recipe; the only path there is, whatever the model came from.

TensorFlow's calibrator and quantizer do the work. They are what `tf.lite.TFLiteConverter` runs
inside, called here on a flatbuffer that is converted already, and so on one from any framework.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.quantization.bias_correction import WEIGHTED, correct_biases
from edgeloc.converters.quantization.recipes import Recipe
from edgeloc.converters.quantization.weights_only import float16_weights, int8_weights
from edgeloc.errors import ModelError, UsageError, first_line
from edgeloc.flatbuffer import Graph, parse_flatbuffer
from edgeloc.quiet import quiet_stderr

__all__ = ["quantize", "to_integers"]

_BIAS_IMAGES = 64
_STORED: dict[str, Callable[[bytes], bytes]] = {"int8": int8_weights, "float16": float16_weights, "float32": bytes}
_TINY = 1e-4


def quantize(
    flatbuffer: bytes,
    recipe: Recipe,
    spec: InputSpec,
    images: NDArray[np.float32] | None = None,
    keep_float: Sequence[str] = (),
) -> bytes:
    """Quantize a float32 flatbuffer by `recipe`.

    `images`, normalized as `spec` says, float32 (n, height, width, channels), calibrate a recipe
    that wants it. Operators whose output tensor's name, or whose own name (such as SOFTMAX), is
    matched by a regular expression of `keep_float` compute in float.

    Raises UsageError for a pattern that matches nothing, ModelError with the quantizer's reason.
    """
    graph = parse_flatbuffer(flatbuffer, "the float model").graphs[0]
    kept = _matched(graph, keep_float) | (_head(graph) if recipe.float_head else set())
    if kept and not recipe.keeps_float:
        raise UsageError(f"the recipe {recipe.name} cannot keep single operators in float: leave --keep-float out")
    if not recipe.calibrated:
        return _STORED[recipe.weights](flatbuffer)
    assert images is not None  # calibrated recipes are never called without images
    corrected = correct_biases(flatbuffer, images[:_BIAS_IMAGES], kept.__contains__)
    return to_integers(corrected, recipe, spec, images, kept)


def _matched(graph: Graph, patterns: Sequence[str]) -> set[str]:
    """Names of the output tensors of all operators that a pattern matches."""
    kept: set[str] = set()
    for pattern in patterns:
        try:
            found = re.compile(pattern)
        except re.error as error:
            raise UsageError(f"--keep-float {pattern!r} is no regular expression: {error}") from error
        matched = {
            graph.tensors[index].name
            for op in graph.operators
            for index in op.outputs
            if found.search(graph.tensors[index].name) or found.fullmatch(op.name)
        }
        if not matched:
            some = ", ".join(sorted({op.name for op in graph.operators}))
            raise UsageError(
                f"--keep-float {pattern!r} matches no operator: match its output tensor's name, or one of {some}"
            )
        kept |= matched
    return kept


def _head(graph: Graph) -> set[str]:
    """The operators from each output back to the last layer with weights, that layer included."""
    writer = {index: op for op in graph.operators for index in op.outputs}
    kept: set[str] = set()
    waiting = list(graph.outputs)
    while waiting:
        index = waiting.pop()
        operator = writer.get(index)
        if operator is None or graph.tensors[index].name in kept:
            continue
        kept.add(graph.tensors[index].name)
        if operator.name not in WEIGHTED:
            waiting.extend(operator.inputs)
    return kept


def _covering(images: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """The images, with black and white in two corners of the first where no image had them.

    The input's range in int8 is the one seen here: calibrated on dark images alone, bright pixels would be clipped.
    """
    mean, std = (np.array(numbers, np.float32) for numbers in (spec.mean, spec.std))
    black, white = (0 - mean) / std, (255 - mean) / std
    if images.min() <= black.min() + _TINY and images.max() >= white.max() - _TINY:
        return images
    images = images.copy()
    images[0, 0, 0], images[0, -1, -1] = black, white
    return images


def to_integers(
    flatbuffer: bytes,
    recipe: Recipe,
    spec: InputSpec,
    images: NDArray[np.float32],
    kept: AbstractSet[str] = frozenset(),
) -> bytes:
    """The second half of `quantize`: a calibrated recipe on weights and biases as they are.

    `kept` are names of tensors whose operators stay in float. Raises ModelError with the quantizer's reason.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize
    from tensorflow.lite.python.optimize import calibrator

    def representative() -> Iterator[list[NDArray[Any]]]:
        for image in _covering(images, spec):
            yield [image[np.newaxis]]

    with quiet_stderr():
        try:
            statistics = calibrator.Calibrator(calibrator.add_intermediate_tensors(flatbuffer))
            if recipe.activation_bits == 16:
                # The newer quantizer knows no 16-bit activations.
                quantized: bytes = statistics.calibrate_and_quantize(
                    representative, tf.float32, tf.float32, False, tf.int16, tf.int64
                )
            else:
                quantized = mlir_quantize(
                    statistics.calibrate(representative),
                    input_data_type=tf.uint8,
                    output_data_type=tf.float32 if recipe.float_head else tf.int8,
                    denylisted_nodes=kept or None,
                )
            return quantized
        except Exception as error:  # bare Exceptions of several modules
            refusal = error
    # Outside, because what the quantizer wrote on the terminal is shown when an error leaves the silence.
    raise ModelError(f"TensorFlow's quantizer refused the model: {first_line(refusal)}") from refusal
