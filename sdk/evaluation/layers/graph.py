"""Which tensors of a float and a quantized graph correspond, and the values they hold when the model runs."""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.terminal import quiet_stderr
from edgeloc.errors import EngineError
from edgeloc.model.file import ModelFile
from edgeloc.model.flatbuffer import Graph, Operator, pack, unpack
from edgeloc.model.precision import CONVERSIONS
from edgeloc.model.sandbox import vet_model
from edgeloc.model.trust import is_trusted

__all__ = [
    "Pair",
    "Pairing",
    "TensorRunner",
    "counterparts",
    "cut_graph",
    "pair_graphs",
    "reached",
    "reads_alike",
    "runtime_module",
]

# Where Interpreter and OpResolverType stand side by side, and the package of each.
_MODULES = {
    "ai_edge_litert.interpreter": "ai-edge-litert",
    "tflite_runtime.interpreter": "tflite-runtime",
    "tensorflow.lite.python.interpreter": "tensorflow",
}
_TRIAL = """
import sys
from edgeloc.evaluation.layers.graph import TensorRunner, runtime_module
runtime_module()
limit_model()
runner = TensorRunner(sys.stdin.buffer.read())
answer(["loaded"])
runner.run()
answer(["passed"])
"""


class TensorRunner:
    """A loaded model; tensors go by their index in the main graph.

    The default delegate (XNNPACK) stays off: it fuses operators and keeps what lies between to itself.
    Raises EngineError when no runtime is installed or it refuses the model, which must be a trusted one: a
    damaged one can end the process (`open` tries it first).
    """

    def __init__(self, payload: bytes) -> None:
        module = runtime_module()
        try:
            with quiet_stderr(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._interpreter = module.Interpreter(
                    model_content=payload,
                    experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                    experimental_preserve_all_tensors=True,
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"the model does not load without XNNPACK: {_short(error)}") from error
        self._details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}

    @classmethod
    def open(cls, model: ModelFile) -> TensorRunner:
        """Load a file; one that is not trusted is run in a process of its own first.

        ModelError when it ends that process: other kernels than XNNPACK's can do so with a file that XNNPACK runs.
        """
        if not (model.trusted or is_trusted(model.digest)):
            package = _MODULES[runtime_module().__name__]
            vet_model(model, _TRIAL, f"{package} {version(package)} without XNNPACK", keeps_all=True)
        return cls(model.payload)

    def set(self, index: int, values: NDArray[Any]) -> None:
        """Put values of the tensor's own shape and dtype into an input."""
        detail = self._details[index]
        self._interpreter.set_tensor(index, values.astype(detail["dtype"], copy=False).reshape(detail["shape"]))

    def run(self) -> None:
        """Run the model once; EngineError when an operator fails."""
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"the model does not run with all its tensors kept: {_short(error)}") from error

    def real(self, index: int) -> NDArray[np.float32]:
        """A tensor's values as real numbers (float32), in its own shape."""
        values: NDArray[Any] = self._interpreter.get_tensor(index)
        quantization = self._details[index]["quantization_parameters"]
        scales = quantization["scales"]
        if np.issubdtype(values.dtype, np.floating) or not scales.size:
            return values.astype(np.float32, copy=False)
        shape = [1] * values.ndim
        if scales.size > 1:
            shape[quantization["quantized_dimension"]] = scales.size
        zeros = quantization["zero_points"].astype(np.float32).reshape(shape)
        real: NDArray[np.float32] = (values.astype(np.float32) - zeros) * scales.reshape(shape)
        return real

    def representable(self, index: int) -> tuple[float, float] | None:
        """The smallest and the largest real number that a quantized tensor can hold; None for a float one."""
        detail = self._details[index]
        scales, zeros = (detail["quantization_parameters"][name] for name in ("scales", "zero_points"))
        if scales.size != 1 or not np.issubdtype(detail["dtype"], np.integer):
            return None
        limits = np.iinfo(detail["dtype"])
        scale, zero = float(scales[0]), int(zeros[0])
        return (limits.min - zero) * scale, (limits.max - zero) * scale


def runtime_module() -> Any:
    """The first installed module of `_MODULES`; EngineError where there is none."""
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise EngineError("comparing layer by layer needs a TFLite runtime: pip install ai-edge-litert")


def _short(error: Exception, most: int = 200) -> str:
    """The first line: a runtime joins all its messages into one."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


# The readers that can also write; the small package tflite cannot.


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor of the float graph and the one that stands for it in the quantized graph.

    `position` is the place of the operator that writes it in the float graph's order of execution,
    `by` is how they were found: by `name`, or by `order` where the names differ.
    """

    position: int
    operator: Operator
    quantized_operator: Operator
    float_tensor: int
    quantized_tensor: int
    by: str


@dataclass(frozen=True, slots=True)
class Pairing:
    """All pairs in order of execution, and the operators that have no counterpart, as "KIND (tensor)"."""

    pairs: tuple[Pair, ...]
    float_alone: tuple[str, ...]
    quantized_alone: tuple[str, ...]


Layer = tuple[int, Operator]


def pair_graphs(before: Graph, after: Graph) -> Pairing:
    """Find for each operator of the float graph the one in the quantized graph that does its work.

    TensorFlow's quantizer keeps the names of tensors, so equal names (of an operator of the same
    kind, with an output of the same shape) pair first. What is left is paired where the sequences of
    kinds and shapes align. QUANTIZE and DEQUANTIZE have no counterpart and are not looked at.
    """
    floats, quantized = _layers(before), _layers(after)
    found = _by_name(before, floats, after, quantized)
    left_a = [layer for layer in floats if layer[0] not in found]
    taken = {position for position, _ in found.values()}
    left_b = [layer for layer in quantized if layer[0] not in taken]
    aligned = _by_order(before, left_a, after, left_b)
    taken |= {position for position, _ in aligned.values()}
    pairs = []
    for position, operator in floats:
        other = found.get(position) or aligned.get(position)
        if other is not None:
            by = "name" if position in found else "order"
            tensors = zip(operator.outputs, other[1].outputs, strict=False)
            pairs += [Pair(position, operator, other[1], a, b, by) for a, b in tensors]
    alone_a = [_label(before, operator) for place, operator in left_a if place not in aligned]
    alone_b = [_label(after, operator) for place, operator in left_b if place not in taken]
    return Pairing(tuple(pairs), tuple(alone_a), tuple(alone_b))


def reached(graph: Graph) -> set[int]:
    """Indices of the tensors that depend on the graph's input."""
    found = set(graph.inputs)
    for operator in graph.operators:
        if not found.isdisjoint(operator.inputs):
            found.update(operator.outputs)
    found.discard(-1)
    return found


def counterparts(before: Graph, after: Graph, pairs: Iterable[Pair]) -> dict[int, int]:
    """For each tensor of the float graph the one that holds its numbers in the quantized graph, inputs included.

    An image that a QUANTIZE takes in is the quantized tensor behind it.
    """
    found = {pair.float_tensor: pair.quantized_tensor for pair in pairs}
    for index, partner in zip(before.inputs, after.inputs, strict=False):
        readers = [operator for operator in after.operators if partner in operator.inputs]
        converted = len(readers) == 1 and readers[0].name in CONVERSIONS
        found[index] = readers[0].outputs[0] if converted else partner
    return found


def reads_alike(pair: Pair, before: Graph, after: Graph, twin_of: Mapping[int, int]) -> bool:
    """Whether both operators of a pair read the same tensors, seen through QUANTIZE and DEQUANTIZE."""
    computed = reached(before)
    wanted = [twin_of.get(index) for index in pair.operator.inputs if index in computed]
    read = {_source(after, index) for index in pair.quantized_operator.inputs}
    return all(index is not None and _source(after, index) in read for index in wanted)


def _source(graph: Graph, index: int) -> int:
    """Where the numbers of a tensor come from, before any conversion."""
    writers = {op.outputs[0]: op.inputs[0] for op in graph.operators if op.name in CONVERSIONS}
    while index in writers:
        index = writers[index]
    return index


def cut_graph(payload: bytes) -> tuple[bytes, dict[int, int]]:
    """The model with every operator on its own: what it reads of other operators becomes an input of the graph.

    Returns the new model's bytes, and for each tensor index that some operator read the index of the
    input that took its place. Outputs keep their indices. MissingExtra without a package that can
    write the format.
    """
    model = unpack(payload)
    graph = model.subgraphs[0]
    given: dict[int, int] = {}
    computed = _computed(graph)
    for operator in graph.operators:
        operator.inputs = [_given(graph, given, int(i)) if int(i) in computed else int(i) for i in operator.inputs]
    graph.inputs = list(given.values())
    graph.outputs = sorted({int(i) for operator in graph.operators for i in operator.outputs if i >= 0})
    model.signatureDefs = []
    return pack(model), given


def _computed(graph: Any) -> set[int]:
    """As `reached`, on the schema's own object tree."""
    plain = [Operator("", tuple(map(int, op.inputs)), tuple(map(int, op.outputs))) for op in graph.operators]
    return reached(Graph("", (), tuple(plain), tuple(map(int, graph.inputs)), ()))


def _given(graph: Any, given: dict[int, int], index: int) -> int:
    if index not in given:
        tensor = copy.copy(graph.tensors[index])
        tensor.name = (tensor.name or b"") + b" (given)"
        tensor.buffer = 0
        graph.tensors.append(tensor)
        given[index] = len(graph.tensors) - 1
    return given[index]


def _layers(graph: Graph) -> list[Layer]:
    """The operators that compute something from the input, each with its place in the order of execution."""
    computed = reached(graph)
    return [
        (position, operator)
        for position, operator in enumerate(graph.operators)
        if operator.name not in CONVERSIONS and operator.outputs and not computed.isdisjoint(operator.inputs)
    ]


def _by_name(before: Graph, floats: Sequence[Layer], after: Graph, quantized: Sequence[Layer]) -> dict[int, Layer]:
    named = {(_name(after, layer[1]), *_key(after, layer[1])): layer for layer in quantized}
    keys = [(_name(before, operator), *_key(before, operator)) for _, operator in floats]
    return {floats[i][0]: named[key] for i, key in enumerate(keys) if key[0] and key in named}


def _by_order(before: Graph, floats: Sequence[Layer], after: Graph, quantized: Sequence[Layer]) -> dict[int, Layer]:
    matcher = SequenceMatcher(None, _keys(before, floats), _keys(after, quantized), autojunk=False)
    return {
        floats[block.a + i][0]: quantized[block.b + i]
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    }


def _keys(graph: Graph, layers: Iterable[Layer]) -> list[tuple[str, tuple[int, ...]]]:
    return [_key(graph, operator) for _, operator in layers]


def _key(graph: Graph, operator: Operator) -> tuple[str, tuple[int, ...]]:
    return operator.name, tuple(abs(size) for size in graph.tensors[operator.outputs[0]].shape)


def _name(graph: Graph, operator: Operator) -> str:
    return graph.tensors[operator.outputs[0]].name


def _label(graph: Graph, operator: Operator) -> str:
    return f"{operator.name} ({_name(graph, operator).split(';')[0]})"
