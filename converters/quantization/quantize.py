"""Quantization recipes by name, and a float flatbuffer quantized by one of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.terminal import quiet_stderr
from edgeloc.converters.quantization.bias_correction import WEIGHTED, correct_biases, weight_steps
from edgeloc.converters.quantization.box_correction import BoxCorrection
from edgeloc.converters.quantization.equalization import bound_ranges, equalize
from edgeloc.errors import ModelError, UsageError, first_line
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import (
    Graph,
    add_operator_code,
    constant,
    operator_name,
    pack,
    parse_flatbuffer,
    schema,
    set_constant,
    tensor_name,
    unpack,
)

__all__ = [
    "AUTO",
    "BIAS_IMAGES",
    "RECIPES",
    "Recipe",
    "float16_weights",
    "int8_weights",
    "quantize",
    "recipe",
    "to_integers",
]

BIAS_IMAGES = 64
_TINY = 1e-4
_FLOAT32, _FLOAT16, _INT8 = 0, 1, 9
_DEQUANTIZE = 6
# Operators whose kernels take float activations with int8 weights, and along which axis those may have a scale each.
_HYBRID = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": None}
# Below this many numbers a tensor is not worth it.
_SMALLEST = 1024

# Not a recipe but a choice among them: the cheapest that passes the gate.
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named way to quantize: what becomes integer, and how `edgeloc inspect` must describe the result.

    Parameters:
        name: the recipe's.
        summary: what it does, in a phrase.
        precision: of the result, as `edgeloc inspect` reports it.
        weights: how they are stored.
        activation_bits: 8 or 16 where activations become integers, which needs images to calibrate on; else 32.
        float_head: leave the last layer of each output in float.
    """

    name: str
    summary: str
    precision: str
    weights: Literal["int8", "float16", "float32"]
    activation_bits: Literal[8, 16, 32] = 32
    float_head: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether it needs images to calibrate on."""
        return self.activation_bits != 32

    @property
    def keeps_float(self) -> bool:
        """Whether single operators can stay in float: the quantizer for 16-bit activations takes all or none."""
        return self.activation_bits == 8


# In the order of their median invoke, measured by edgeloc.converters.methods on x86-64 with LiteRT 2.3: from 0.65 of
# float32's for int8 to 1.6 for dynamic and 33 or more for 16-bit activations, which have no fast kernels there.
RECIPES = {
    entry.name: entry
    for entry in (
        Recipe("int8", "weights, activations, input and outputs as integers, biases corrected",
               "int8 (full integer)", "int8", 8),
        Recipe("int8-float-head", "int8, but the last layer of each output in float: for CPUs",
               "mixed: float island", "int8", 8, float_head=True),
        Recipe("float16", "weights as float16, arithmetic in float32", "float16 weights", "float16"),
        Recipe("float32", "no quantization", "float32", "float32"),
        Recipe("dynamic", "weights as int8, activations in float32", "dynamic range", "int8"),
        Recipe("int16-activations", "weights as int8, activations as int16, input and outputs in float",
               "int8 with 16-bit activations, float I/O", "int8", 16),
    )
}  # fmt: skip


def recipe(name: str) -> Recipe:
    """The recipe of this name; UsageError lists those there are."""
    if name not in RECIPES:
        raise UsageError(field="recipe", value=name, allowed=f"one of {', '.join(RECIPES)}, {AUTO}")
    return RECIPES[name]


def float16_weights(flatbuffer: bytes) -> bytes:
    """Every float32 constant as float16, with a DEQUANTIZE that the runtime runs once."""
    model = unpack(flatbuffer)
    graph = model.subgraphs[0]
    code = add_operator_code(model, _DEQUANTIZE)
    most = float(np.finfo(np.float16).max)
    widened = []
    for index in range(len(graph.tensors)):
        # Asked by its type first: constants of kinds that cannot be read here stay as they are.
        values = constant(model, index) if graph.tensors[index].type == _FLOAT32 else None
        if values is None or values.size < 2:
            continue
        stored = copy.copy(graph.tensors[index])
        graph.tensors.append(stored)
        stored.name, stored.type = f"{tensor_name(stored)}/float16", _FLOAT16
        # As TensorFlow's own converter does it: what float16 cannot hold becomes the most that it can.
        set_constant(model, len(graph.tensors) - 1, np.clip(values, -most, most).astype(np.float16))
        graph.tensors[index].buffer = 0
        operator = copy.copy(graph.operators[0])
        operator.opcodeIndex, operator.inputs, operator.outputs = code, [len(graph.tensors) - 1], [index]
        operator.builtinOptionsType, operator.builtinOptions = 0, None
        widened.append(operator)
    graph.operators = [*widened, *graph.operators]
    return pack(model)


def int8_weights(flatbuffer: bytes) -> bytes:
    """The weights of convolutions and dense layers as int8, symmetric; their activations are quantized on the fly."""
    model = unpack(flatbuffer)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        name = operator_name(model, operator)
        if name not in _HYBRID:
            continue
        index = int(operator.inputs[1])
        weights = constant(model, index)
        alike = all(operator_name(model, o) == name for o in graph.operators if index in o.inputs)
        if weights is None or weights.dtype != np.float32 or weights.size < _SMALLEST or not alike:
            continue
        steps = weight_steps(weights, _HYBRID[name])
        _store(model, index, np.round(weights / steps).astype(np.int8), steps, _HYBRID[name])
        if name == "FULLY_CONNECTED":
            operator.builtinOptions.asymmetricQuantizeInputs = True
    return pack(model)


def _store(model: Any, index: int, values: NDArray[np.int8], steps: NDArray[np.float32], axis: int | None) -> None:
    tensor = model.subgraphs[0].tensors[index]
    tensor.type = _INT8
    tensor.quantization = schema().QuantizationParametersT()
    tensor.quantization.scale = steps.ravel()
    tensor.quantization.zeroPoint = np.zeros(steps.size, np.int64)
    tensor.quantization.quantizedDimension = axis or 0
    set_constant(model, index, values)


def quantize(
    flatbuffer: bytes,
    recipe: Recipe,
    spec: InputSpec,
    images: NDArray[np.float32] | None = None,
    keep_float: Sequence[str] = (),
    boxes: BoxCorrection | None = None,
) -> bytes:
    """Quantize a float32 flatbuffer by `recipe`.

    Parameters:
        flatbuffer: the float model.
        recipe: one of RECIPES.
        spec: the contract's input.
        images: normalized as `spec` says, float32 (n, height, width, channels); they calibrate a recipe that wants it.
        keep_float: regular expressions; operators whose output tensor's name, or whose own name (such as SOFTMAX), one
            of them matches compute in float. Two with `->` between them mean all operators from the first that the
            one matches to the last that the other matches, in the order of execution.

    Raises UsageError for a pattern that matches nothing, ModelError with the quantizer's reason.
    """
    if recipe.activation_bits == 8:
        assert images is not None  # calibrated recipes are never called without images
        flatbuffer = equalize(flatbuffer, images)
    graph = parse_flatbuffer(flatbuffer, "the float model").graphs[0]
    kept = _matched(graph, keep_float) | (_head(graph) if recipe.float_head else set())
    if kept and not recipe.keeps_float:
        message = f"the recipe {recipe.name} cannot keep single operators in float"
        raise UsageError(message, field="keep_float", value=tuple(keep_float), hint="leave {keep_float} out")
    if not recipe.calibrated:
        return _STORED[recipe.weights](flatbuffer)
    assert images is not None  # calibrated recipes are never called without images
    corrected = correct_biases(flatbuffer, images[:BIAS_IMAGES], kept.__contains__)
    if boxes is None or recipe.activation_bits != 8:
        return to_integers(corrected, recipe, spec, images, kept)
    return boxes(corrected, lambda model: to_integers(model, recipe, spec, images, kept))


def _matched(graph: Graph, patterns: Sequence[str]) -> set[str]:
    """Names of the output tensors of all operators that a pattern matches."""
    kept: list[int] = []
    for pattern in patterns:
        ends = [_positions(graph, end, pattern) for end in pattern.split("->")]
        first, last = min(ends[0]), max(ends[-1])
        if last < first:
            message = f"what {pattern!r} ends with runs before what it begins with"
            raise UsageError(message, field="keep_float", value=pattern, hint="turn it round")
        kept += ends[0] if len(ends) == 1 else range(first, last + 1)
    return {graph.tensors[index].name for position in kept for index in graph.operators[position].outputs}


def _positions(graph: Graph, expression: str, pattern: str) -> list[int]:
    """Which operators a regular expression of a pattern matches, in the order of execution."""
    try:
        found = re.compile(expression)
    except re.error as error:
        message = f"{expression!r} is no regular expression: {error}"
        raise UsageError(message, field="keep_float", value=pattern) from error
    matched = [
        position
        for position, op in enumerate(graph.operators)
        if found.fullmatch(op.name) or any(found.search(graph.tensors[index].name) for index in op.outputs)
    ]
    if not matched:
        some = ", ".join(sorted({op.name for op in graph.operators}))
        message, hint = f"the pattern {expression!r} matches no operator", f"match its output's name, or one of {some}"
        raise UsageError(message, field="keep_float", value=pattern, hint=hint)
    return matched


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
                    bound_ranges(statistics.calibrate(representative)),
                    input_data_type=tf.uint8,
                    output_data_type=tf.float32 if recipe.float_head else tf.int8,
                    denylisted_nodes=kept or None,
                )
            return quantized
        except Exception as error:  # Exceptions of several modules
            refusal = error
    # Outside, because what the quantizer wrote on the terminal is shown when an error is raised inside.
    raise ModelError(f"TensorFlow's quantizer refused the model: {first_line(refusal)}") from refusal


_STORED: dict[str, Callable[[bytes], bytes]] = {"int8": int8_weights, "float16": float16_weights, "float32": bytes}
