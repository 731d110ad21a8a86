"""In which arithmetic a TFLite graph computes, read out of its tensors and operators alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeloc.model.flatbuffer import Graph, Operator, Tensor, TfliteModel

__all__ = ["FloatIsland", "Verdict", "constant_outputs", "judge", "runtime_tensors"]

FLOAT32 = "float32"
FLOAT16 = "float16 weights"
DYNAMIC = "dynamic range"
WEIGHT_ONLY = "int8 weights, float arithmetic"
INT8 = "int8 (full integer)"
INT16 = "int8 with 16-bit activations"
UINT8 = "uint8 (legacy)"
MIXED = "mixed: float island"
EMPTY = "no arithmetic"

CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
# The host's part of an SSD model: it takes the network's answers and is float in every such file.
TAILS = frozenset({"TFLite_Detection_PostProcess"})
CONTROL_FLOW = frozenset({"WHILE", "IF", "CALL", "CALL_ONCE"})
# The operators whose second input multiplies the first: with weights of zero nothing passes.
WEIGHTED = frozenset({"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL"})

_Placed = tuple[Graph, Operator]


@dataclass(frozen=True, slots=True)
class FloatIsland:
    """An operator that computes in float within an integer graph, and the tensor that it writes."""

    operator: str
    tensor: str

    def __str__(self) -> str:
        return f"{self.operator} (writes '{self.tensor}')"


@dataclass(frozen=True, slots=True)
class Verdict:
    """In which arithmetic a graph computes.

    `precision`: in a word or two.
    `reasons`: what keeps the graph from being integer from input to output.
    `islands`: the operators within an integer graph that compute in float.
    `tail`: the names of the host's operators behind the network, which compute in float.
    """

    precision: str
    reasons: tuple[str, ...]
    islands: tuple[FloatIsland, ...]
    tail: tuple[str, ...]


def judge(model: TfliteModel) -> Verdict:
    """Name the precision that a model computes in, inputs and outputs included."""
    floats, integers = _split(model)
    if not floats and not integers:
        return Verdict(EMPTY, ("no operator computes anything",), (), ())
    if not integers:
        word, reason = _float_word(floats)
        return Verdict(word, (reason,), (), ())
    tail = tuple(sorted({op.name for graph in model.graphs for op in graph.operators if op.name in TAILS}))
    islands = tuple(_island(graph, op) for graph, op in floats) + tuple(_detours(model.graphs[0]))
    if islands:
        return Verdict(MIXED, tuple(f"{island} computes in float" for island in islands), islands, tail)
    base = _integer_word(integers)
    if tail:
        reasons = tuple(f"{name} computes in float on the host, behind the network" for name in tail)
        return Verdict(f"{base.removesuffix(' (full integer)')} with float tail", reasons, (), tail)
    reasons = tuple(_float_ends(model.graphs[0]))
    if reasons:
        base = "int8 inside, float I/O" if base == INT8 else f"{base}, float I/O"
    return Verdict(base, reasons, (), ())


def constant_outputs(model: TfliteModel) -> tuple[int, ...]:
    """Tensor indices of the main graph's outputs that no input can change: unreached, or cut off by zero weights."""
    reached = _reached(model.graphs[0], blocked_by_zeros=True)
    return tuple(index for index in model.graphs[0].outputs if index not in reached)


def runtime_tensors(graph: Graph) -> tuple[Tensor, ...]:
    """The tensors computed while the graph runs, inputs among them; what follows from constants alone is left out."""
    reached = _reached(graph)
    return tuple(tensor for index, tensor in enumerate(graph.tensors) if index in reached)


def _reached(graph: Graph, *, blocked_by_zeros: bool = False) -> set[int]:
    """Indices of all tensors that depend on an input or a variable."""
    reached = set(graph.inputs) | {i for i, tensor in enumerate(graph.tensors) if tensor.is_variable}
    zeros: dict[int, bool] = {}
    for operator in graph.operators:
        if reached.isdisjoint(operator.inputs):
            continue
        if not (blocked_by_zeros and _multiplies_by_zero(graph, operator, zeros)):
            reached.update(operator.outputs)
    reached.discard(-1)
    return reached


def _multiplies_by_zero(graph: Graph, operator: Operator, known: dict[int, bool]) -> bool:
    """Whether its weights are zero; `known` keeps the answer by tensor, since many operators can read one."""
    if operator.name not in WEIGHTED or len(operator.inputs) < 2:
        return False
    index = operator.inputs[1]
    if index not in known:
        weights = graph.tensors[index]
        zero = weights.zero_points[0] if weights.zero_points else 0
        counts = weights.data is not None and (not any(weights.zero_points) or weights.dtype == "uint8")
        known[index] = counts and bool(np.all(weights.data == zero))
    return known[index]


def _split(model: TfliteModel) -> tuple[list[_Placed], list[_Placed]]:
    """Operators on float activations, and operators on quantized ones; conversions between them are neither."""
    floats: list[_Placed] = []
    integers: list[_Placed] = []
    for graph in model.graphs:
        reached = _reached(graph)
        for operator in graph.operators:
            if operator.name in CONVERSIONS | TAILS | CONTROL_FLOW:
                continue
            tensors = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i in reached]
            if any(tensor.is_float for tensor in tensors):
                floats.append((graph, operator))
            elif any(tensor.is_quantized for tensor in tensors):
                integers.append((graph, operator))
    return floats, integers


def _float_word(floats: list[_Placed]) -> tuple[str, str]:
    """The kind of float graph, by the constants that it reads."""
    hybrid = [op.name for graph, op in floats if any(t.is_quantized for t in _constants(graph, op))]
    if hybrid:
        return DYNAMIC, f"{_listed(hybrid)}: the weights are integers, but the activations float"
    graphs = {id(graph): graph for graph, _ in floats}.values()
    stored = {tensor.dtype for graph in graphs for tensor in _dequantized_constants(graph)}
    direct = {tensor.dtype for graph, op in floats for tensor in _constants(graph, op)}
    names = _listed([op.name for _, op in floats])
    if "float16" in stored | direct:
        return FLOAT16, f"{names}: the weights are stored as float16 and computed with in float"
    if stored:
        return WEIGHT_ONLY, f"{names}: the weights are stored as integers and computed with in float"
    return FLOAT32, f"{names}: computed in float"


def _integer_word(integers: list[_Placed]) -> str:
    """By the operators that hold weights, where there are any: the rest only moves their numbers around."""
    weighted = [(g, op) for g, op in integers if any(t.is_quantized for t in _constants(g, op))]
    dtypes: set[str] = set()
    for graph, operator in weighted or integers:
        dtypes.update(t.dtype for t in _tensors(graph, operator.outputs) if t.is_quantized)
    if "int16" in dtypes:
        return INT16
    return UINT8 if "uint8" in dtypes and "int8" not in dtypes else INT8


def _detours(graph: Graph) -> Iterator[FloatIsland]:
    """Numbers that leave the integers only to come back: a DEQUANTIZE that a QUANTIZE reads, no operator between."""
    reached = _reached(graph)
    read_again = {i for op in graph.operators if op.name == "QUANTIZE" for i in op.inputs if i in reached}
    for operator in graph.operators:
        if operator.name == "DEQUANTIZE" and not read_again.isdisjoint(operator.outputs):
            yield _island(graph, operator)


def _float_ends(graph: Graph) -> Iterator[str]:
    for kind, indices in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in _tensors(graph, indices):
            if tensor.is_float:
                yield f"the {kind} '{tensor.name}' is {tensor.dtype}"


def _island(graph: Graph, operator: Operator) -> FloatIsland:
    written = next(iter(_tensors(graph, operator.outputs)), None)
    return FloatIsland(operator.name, written.name if written else "")


def _tensors(graph: Graph, indices: tuple[int, ...]) -> list[Tensor]:
    return [graph.tensors[index] for index in indices if index >= 0]


def _constants(graph: Graph, operator: Operator) -> list[Tensor]:
    return [tensor for tensor in _tensors(graph, operator.inputs) if tensor.is_constant]


def _dequantized_constants(graph: Graph) -> Iterator[Tensor]:
    for operator in graph.operators:
        if operator.name == "DEQUANTIZE":
            yield from _constants(graph, operator)


def _listed(names: list[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return ", ".join(distinct[:3]) + more
