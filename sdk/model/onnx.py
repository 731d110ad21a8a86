"""An ONNX graph as plain values, read without any ONNX package, and the arithmetic that it computes in.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import prod

import numpy as np

from edgeloc.errors import ModelError
from edgeloc.model.containers import read_fields
from edgeloc.model.flatbuffer import Graph, Operator, Tensor, TfliteModel
from edgeloc.model.precision import EMPTY, FLOAT16, FLOAT32, MIXED, WEIGHT_ONLY, FloatIsland, Verdict

__all__ = ["judge_onnx", "onnx_macs", "parse_onnx"]

QDQ = "in Q/DQ pairs"
INTEGER = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# What is looked at of an operator; its output always is.
_LEAST_INPUTS = {
    "Conv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMul": 2, "ConvInteger": 2, "MatMulInteger": 2, "QLinearConv": 8,
    "QLinearMatMul": 8, "QuantizeLinear": 2, "DequantizeLinear": 2,
}  # fmt: skip
_STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})

# TensorProto.DataType.
_DTYPES = {
    0: "unknown", 1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
_MOST_FIELDS = 1_000_000
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError)


class _Message:
    """The fields of one protobuf message, each a list in the order of the file."""

    def __init__(self, data: bytes, read: Counter[str] | None = None) -> None:
        self._fields: dict[int, list[bytes | int]] = {}
        self._read = Counter() if read is None else read  # of the whole file, since a small one can have millions
        for field, value in read_fields(data):
            self._fields.setdefault(field, []).append(value)
            self._read["fields"] += 1
        if self._read["fields"] > _MOST_FIELDS:
            raise ValueError("it has too many fields")

    def messages(self, field: int) -> list[_Message]:
        return [_Message(value, self._read) for value in self.values(field)]

    def values(self, field: int) -> list[bytes]:
        return [value for value in self._fields.get(field, []) if isinstance(value, bytes)]

    def texts(self, field: int) -> list[str]:
        return [value.decode(errors="replace") for value in self.values(field)]

    def text(self, field: int) -> str:
        return next(iter(self.texts(field)), "")

    def number(self, field: int, default: int = 0) -> int:
        return next((value for value in self._fields.get(field, []) if isinstance(value, int)), default)

    def numbers(self, field: int) -> tuple[int, ...]:
        """Repeated whole numbers, packed or each by itself."""
        found: list[int] = []
        for value in self._fields.get(field, []):
            found += [value] if isinstance(value, int) else _unpacked(value)
        return tuple(found)


def _unpacked(data: bytes) -> list[int]:
    numbers, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    return numbers


def parse_onnx(data: bytes, name: str) -> TfliteModel:
    """Read an ONNX model; `name` stands for the file in errors. ModelError when it is damaged.

    Scales and zero points of quantize/dequantize pairs are no inputs of an operator here: they stand at the tensor
    that they belong to, as they do in a TFLite model. A size that is open is -1, a shape that is unknown is empty.
    """
    try:
        graph = _Message(data).messages(7)[0]
        return TfliteModel((_Reader(graph).graph(),), ())
    except _DAMAGE as error:
        raise ModelError(f"{name} is truncated or damaged: its ONNX graph cannot be read ({error})") from error


class _Reader:
    def __init__(self, graph: _Message) -> None:
        self._graph = graph
        self._index: dict[str, int] = {}
        self._tensors: list[Tensor] = []

    def graph(self) -> Graph:
        for stored in self._graph.messages(5):
            self._put(_stored(stored, len(self._tensors) + 1))
        constants = set(self._index)
        described = [_described(info) for field in (11, 13, 12) for info in self._graph.messages(field)]
        for tensor in described:
            if tensor.name not in constants:
                self._put(tensor)
        inputs = [name for name in (m.text(1) for m in self._graph.messages(11)) if name not in constants]
        operators = tuple(self._operator(node) for node in self._graph.messages(1))
        return Graph(
            name=self._graph.text(2),
            tensors=tuple(self._tensors),
            operators=operators,
            inputs=tuple(self._index[name] for name in inputs),
            outputs=tuple(self._index[m.text(1)] for m in self._graph.messages(12)),
        )

    def _put(self, tensor: Tensor) -> int:
        if tensor.name not in self._index:
            self._index[tensor.name] = len(self._tensors)
            self._tensors.append(tensor)
        else:
            self._tensors[self._index[tensor.name]] = tensor
        return self._index[tensor.name]

    def _operator(self, node: _Message) -> Operator:
        kind, inputs = node.text(4), node.texts(1)
        if len(inputs) < _LEAST_INPUTS.get(kind, 0) or not node.values(2):
            raise ValueError(f"the operator {kind[:40]} lacks an input or an output")
        read = tuple(self._index.get(name, -1) for name in inputs)
        first = self._tensors[read[0]] if read and read[0] >= 0 else None
        written = []
        for name in node.texts(2):
            if name not in self._index:
                # Nearly every operator's result has the type of what it reads.
                self._put(Tensor(name, (), "unknown" if first is None else first.dtype))
            written.append(self._index[name])
        if kind in PAIRS and first is not None and written:
            self._quantized(kind, read, first, written[0])
            read = read[:1]
        return Operator(kind, read, tuple(written), node.text(7) not in _STANDARD_DOMAINS)

    def _quantized(self, kind: str, read: tuple[int, ...], first: Tensor, written: int) -> None:
        """Give the integer side of a pair its scales, and the computed side its type and shape."""
        scale, zero = self._tensors[read[1]], self._tensors[read[2]] if len(read) > 2 else None
        scales = tuple(float(value) for value in _floats(scale))
        zeros = (0,) * len(scales) if zero is None else _zero_points(zero)
        out = self._tensors[written]
        if kind == "QuantizeLinear":
            dtype = "uint8" if zero is None else zero.dtype
            out = replace(out, dtype=dtype, shape=out.shape or first.shape, scales=scales, zero_points=zeros)
        else:
            self._tensors[read[0]] = replace(first, scales=scales, zero_points=zeros)
            out = replace(out, dtype=scale.dtype, shape=out.shape or first.shape)
        self._tensors[written] = out


def _stored(message: _Message, buffer: int) -> Tensor:
    """A TensorProto; numbers that it holds outside the raw bytes are read for floats, which is where scales may be."""
    if message.number(14) or message.values(13):
        # A runtime would read any file of the folder that it happens to run in.
        raise ValueError("weights lie in another file; save the model in one")
    raw = next(iter(message.values(9)), None) or next(iter(message.values(4)), b"")
    shape, dtype = message.numbers(1), _DTYPES.get(message.number(2), "unknown")
    return Tensor(message.text(8), shape, dtype, buffer=buffer, data=np.frombuffer(raw, np.uint8))


def _described(message: _Message) -> Tensor:
    """A ValueInfoProto: TypeProto.tensor_type has the element's type and the shape, whose sizes may be names."""
    kind = message.messages(2)[:1]
    tensor = kind[0].messages(1)[:1] if kind else []
    if not tensor:
        return Tensor(message.text(1), (), "unknown")
    dims = [dim for shape in tensor[0].messages(2) for dim in shape.messages(1)]
    sizes = tuple(dim.number(1, -1) for dim in dims)
    return Tensor(message.text(1), sizes, _DTYPES.get(tensor[0].number(1), "unknown"))


def _floats(tensor: Tensor) -> tuple[float, ...]:
    if tensor.data is None or tensor.dtype not in ("float32", "float16"):
        return ()
    return tuple(float(value) for value in tensor.data.view(tensor.dtype))


def _zero_points(tensor: Tensor) -> tuple[int, ...]:
    if tensor.data is None or tensor.dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
        return (0,) * tensor.elements
    return tuple(int(value) for value in tensor.data.view(tensor.dtype)) or (0,) * tensor.elements


def judge_onnx(model: TfliteModel) -> Verdict:
    """Name the precision of an ONNX graph by the operators that hold weights.

    A runtime that knows Q/DQ pairs, as TensorRT does, computes what stands between two of them in integers.
    """
    graph = model.graphs[0]
    weighted = [op for op in graph.operators if op.name in WEIGHTED | INTEGER]
    if not weighted:
        return Verdict(EMPTY, ("no operator multiplies by weights",), (), ())
    dequantized = {i: op.inputs[0] for op in graph.operators if op.name == "DequantizeLinear" for i in op.outputs}
    integer = [op for op in weighted if op.name in INTEGER or all(i in dequantized for i in op.inputs[:2])]
    floats = [op for op in weighted if op not in integer]
    if not integer:
        return Verdict(*_float_word(graph, floats, dequantized), (), ())
    islands = tuple(FloatIsland(op.name, graph.tensors[op.outputs[0]].name) for op in floats)
    if islands:
        return Verdict(MIXED, tuple(f"{island} computes in float" for island in islands), islands, ())
    kinds = sorted({graph.tensors[dequantized[op.inputs[0]]].dtype for op in integer if op.inputs[0] in dequantized})
    if not kinds:
        return Verdict("int8, float I/O", tuple(_float_ends(graph)), (), ())
    return Verdict(f"{' and '.join(kinds)} {QDQ}", tuple(_float_ends(graph)), (), ())


def _float_word(graph: Graph, floats: list[Operator], dequantized: dict[int, int]) -> tuple[str, tuple[str, ...]]:
    names = ", ".join(dict.fromkeys(op.name for op in floats))
    if any(i in dequantized for op in floats for i in op.inputs[1:2]):
        return WEIGHT_ONLY, (f"{names}: the weights are stored as integers and computed with in float",)
    dtypes = {graph.tensors[i].dtype for op in floats for i in op.inputs[:2] if i >= 0}
    if "float16" in dtypes:
        return FLOAT16, (f"{names}: the weights are stored as float16",)
    return FLOAT32, (f"{names}: computed in float",)


def _float_ends(graph: Graph) -> Iterator[str]:
    for kind, indices in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in (graph.tensors[index] for index in indices):
            if tensor.is_float:
                yield f"the {kind} '{tensor.name}' is {tensor.dtype}"


def onnx_macs(graph: Graph, operator: Operator) -> int | None:
    """Multiply-accumulates of one operator for one image; None where the graph does not store the shapes they need."""
    if operator.name not in WEIGHTED | INTEGER:
        return 0
    weights = graph.tensors[operator.inputs[3 if operator.name.startswith("QLinear") else 1]].shape
    output = graph.tensors[operator.outputs[0]]
    if not weights or not output.shape or operator.name == "ConvTranspose":
        return None
    if operator.name in ("Gemm", "MatMul", "QLinearMatMul", "MatMulInteger"):
        return output.elements * (prod(weights) // max(output.shape[-1], 1)) if len(weights) == 2 else None
    return output.elements * prod(weights[1:])
