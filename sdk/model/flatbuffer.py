"""A TFLite flatbuffer: read into plain values, or unpacked into the schema's objects, edited and packed again."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import MissingExtra, ModelError

__all__ = [
    "Graph",
    "Operator",
    "Signature",
    "Tensor",
    "TfliteModel",
    "add_constant",
    "add_operator_code",
    "constant",
    "named_buffer",
    "operator_name",
    "pack",
    "parse_flatbuffer",
    "schema",
    "set_constant",
    "tensor_name",
    "text",
    "unpack",
]

# The reader generated from TensorFlow's schema: the runtime brings it, or the small package tflite where it does not.
SCHEMAS = ("ai_edge_litert.schema_py_generated", "tensorflow.lite.python.schema_py_generated", "tflite")
FLOAT_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})
CUSTOM = "CUSTOM"

# What a pure Python reader can run into when offsets and lengths are nonsense.
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError, KeyError, MemoryError)
_MOST_ELEMENTS = 2**63
_MOST_TABLES, _MOST_NUMBERS = 50_000, 10_000_000
# By the schema's TensorType; constants of other types (strings, numbers of 4 bits) cannot be edited here.
_DTYPES: dict[int, type[np.generic]] = {
    0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8,
    10: np.float64, 12: np.uint64, 15: np.uint32, 16: np.uint16,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a graph.

    `name`: the tensor's.
    `shape`: its sizes, -1 where one is open.
    `dtype`: in NumPy's words.
    `scales`, `zero_points`: one number, or one for each channel, real = (q - zero_point) * scale; both are empty when
    it is not quantized.
    `buffer`: the number of its values' place in the file, which tensors may share.
    `data`: a constant's raw bytes; None for a tensor that is computed.
    `is_variable`: whether it keeps its values from one run to the next.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    buffer: int = 0
    data: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    is_variable: bool = False

    def __post_init__(self) -> None:
        if self.elements >= _MOST_ELEMENTS:
            raise ValueError(f"a shape of {len(self.shape)} sizes is of no tensor")

    @property
    def is_constant(self) -> bool:
        """Whether its values are stored in the file."""
        return self.data is not None and not self.is_variable

    @property
    def is_float(self) -> bool:
        """Whether its values are floating-point numbers."""
        return self.dtype in FLOAT_DTYPES

    @property
    def is_quantized(self) -> bool:
        """Whether its values are integers that stand for real numbers by a scale."""
        return bool(self.scales) and not self.is_float

    @property
    def elements(self) -> int:
        """How many numbers it holds, an open size counted as 1."""
        return prod(abs(size) for size in self.shape)


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator: its name in capitals (a custom one by its own name) and tensor indices, -1 for none."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """One subgraph: operators in the order of execution over tensors named by index."""

    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """A named way to call a graph: its inputs' and outputs' names, each with the tensor's index."""

    key: str
    graph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True, slots=True)
class TfliteModel:
    """A whole model; `graphs[0]` is the one that the interpreter runs."""

    graphs: tuple[Graph, ...]
    signatures: tuple[Signature, ...]

    @property
    def signature(self) -> Signature | None:
        """The main graph's signature (`serving_default` before others), or None."""
        own = [signature for signature in self.signatures if signature.graph == 0]
        return next((s for s in own if s.key == "serving_default"), own[0] if own else None)


def parse_flatbuffer(data: bytes, name: str) -> TfliteModel:
    """Read a TFLite flatbuffer; `name` stands for the file in errors.

    Raises ModelError when the bytes are no such flatbuffer or end early, and MissingExtra when
    no package that brings the format's description (ai-edge-litert, TensorFlow, tflite) is installed.
    """
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ModelError(f"{name} is no TFLite model: it does not begin with the mark TFL3")
    tables = _reading_schema()
    try:
        return _Reader(tables, data).model()
    except _DAMAGE as error:
        raise ModelError(
            f"{name} is damaged: its structure points outside the file; copy or convert it again"
        ) from error


def named_buffer(data: bytes, wanted: str, name: str) -> bytes | None:
    """The bytes of a TFLite flatbuffer's metadata of this name, None where it has none; ModelError where damaged."""
    tables = _reading_schema()
    try:
        root = tables.Model.GetRootAs(data, 0)
        for number in range(min(root.MetadataLength(), _MOST_TABLES)):
            entry = root.Metadata(number)
            if text(entry.Name()) == wanted:
                _check((entry.Buffer(),), root.BuffersLength(), lowest=0)
                found = root.Buffers(entry.Buffer())
                return bytes(found.DataAsNumpy()) if found.DataLength() else None
    except _DAMAGE as error:
        raise ModelError(f"{name} is damaged: its structure points outside the file") from error
    return None


def _reading_schema() -> ModuleType:
    tables = _installed_schema("Model")
    if tables is None:
        raise MissingExtra("tflite", "inspect", "looking inside a model")
    return tables


def _installed_schema(wanted: str) -> ModuleType | None:
    """The first installed module of SCHEMAS that has the class `wanted`, None where there is none."""
    for name in SCHEMAS:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(module, wanted):
            return module
    return None


def _names(enum: type) -> dict[int, str]:
    """The names of an enumeration of the schema by their numbers."""
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


class _Reader:
    """Walks the generated tables once and copies what matters."""

    def __init__(self, tables: ModuleType, data: bytes) -> None:
        self._data = data
        self._root = tables.Model.GetRootAs(data, 0)
        self._dtypes = {value: name.lower() for value, name in _names(tables.TensorType).items()}
        self._builtins = _names(tables.BuiltinOperator)
        # Tables may lie upon each other, so that what a small file lists has no end.
        self._tables_left, self._numbers_left = _MOST_TABLES, _MOST_NUMBERS

    def model(self) -> TfliteModel:
        codes = self._each(self._root, "OperatorCodes", self._operator_name)
        graphs = tuple(self._graph(item, codes) for item in self._each(self._root, "Subgraphs", _same))
        if not graphs:
            raise ValueError("no subgraph")
        signatures = self._each(self._root, "SignatureDefs", self._signature)
        for signature in signatures:
            tensors = graphs[signature.graph].tensors
            _check((*signature.inputs.values(), *signature.outputs.values()), len(tensors), lowest=0)
        return TfliteModel(graphs, tuple(signatures))

    def _operator_name(self, code: Any) -> tuple[str, bool]:
        # Files from before 2020 keep the number in the old, narrower field and leave the new one 0.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = self._builtins.get(number, f"BUILTIN_{number}")
        return (self._text(code.CustomCode()) or CUSTOM, True) if name == CUSTOM else (name, False)

    def _graph(self, graph: Any, codes: list[tuple[str, bool]]) -> Graph:
        tensors = tuple(self._each(graph, "Tensors", self._tensor))
        operators = tuple(self._each(graph, "Operators", lambda item: self._operator(item, codes)))
        for operator in operators:
            _check(operator.inputs, len(tensors), lowest=-1)
            _check(operator.outputs, len(tensors), lowest=-1)
        inputs, outputs = self._ints(graph, "Inputs"), self._ints(graph, "Outputs")
        _check((*inputs, *outputs), len(tensors), lowest=0)
        return Graph(self._text(graph.Name()), tensors, operators, inputs, outputs)

    def _tensor(self, tensor: Any) -> Tensor:
        quantization = tensor.Quantization()
        scales = () if quantization is None else tuple(map(float, self._vector(quantization, "Scale")))
        return Tensor(
            name=self._text(tensor.Name()),
            shape=self._ints(tensor, "ShapeSignature") or self._ints(tensor, "Shape"),
            dtype=self._dtypes[tensor.Type()],
            scales=scales,
            zero_points=self._ints(quantization, "ZeroPoint") if scales else (),
            buffer=tensor.Buffer(),
            data=self._buffer(tensor.Buffer()),
            is_variable=bool(tensor.IsVariable()),
        )

    def _buffer(self, index: int) -> NDArray[np.uint8] | None:
        """A constant's bytes; buffer 0 and empty ones mean that the tensor is computed."""
        _check((index,), self._root.BuffersLength(), lowest=0)
        buffer = self._root.Buffers(index)
        if buffer.DataLength():
            return np.asarray(buffer.DataAsNumpy(), dtype=np.uint8)
        # Files over 2 GB keep their constants behind the flatbuffer.
        offset = buffer.Offset() if hasattr(buffer, "Offset") else 0
        return np.frombuffer(self._data, np.uint8, buffer.Size(), offset) if offset > 1 else None

    def _operator(self, operator: Any, codes: list[tuple[str, bool]]) -> Operator:
        name, is_custom = codes[operator.OpcodeIndex()]
        return Operator(name, self._ints(operator, "Inputs"), self._ints(operator, "Outputs"), is_custom)

    def _signature(self, signature: Any) -> Signature:
        return Signature(
            key=self._text(signature.SignatureKey()),
            graph=signature.SubgraphIndex(),
            inputs=dict(self._each(signature, "Inputs", self._named_tensor)),
            outputs=dict(self._each(signature, "Outputs", self._named_tensor)),
        )

    def _each(self, table: Any, field_name: str, read: Callable[[Any], Any]) -> list[Any]:
        """Read every table in a vector of tables."""
        get, count = getattr(table, field_name), getattr(table, field_name + "Length")()
        self._tables_left -= count
        if self._tables_left < 0:
            raise ValueError("too many tables")
        return [read(get(i)) for i in range(count)]

    def _vector(self, table: Any, field_name: str) -> list[Any]:
        """A vector of numbers; an absent one is empty."""
        count = getattr(table, field_name + "Length")()
        self._numbers_left -= count
        if self._numbers_left < 0:
            raise ValueError("too many numbers")
        values: list[Any] = getattr(table, field_name + "AsNumpy")().tolist() if count else []
        return values

    def _ints(self, table: Any, field_name: str) -> tuple[int, ...]:
        return tuple(int(value) for value in self._vector(table, field_name))

    def _named_tensor(self, entry: Any) -> tuple[str, int]:
        return self._text(entry.Name()), entry.TensorIndex()

    def _text(self, name: bytes | None) -> str:
        self._numbers_left -= len(name or b"")
        if self._numbers_left < 0:
            raise ValueError("too long names")
        return text(name)


def _same(table: Any) -> Any:
    return table


def _check(indices: tuple[int, ...], count: int, *, lowest: int) -> None:
    if any(not lowest <= index < count for index in indices):
        raise IndexError("an index points to no tensor or buffer")


@lru_cache(maxsize=1)
def schema() -> ModuleType:
    """The generated reader and writer of the format; MissingExtra where no installed package brings it."""
    module = _installed_schema("ModelT")
    if module is None:
        raise MissingExtra("tensorflow", "convert", "changing what is in a model")
    return module


def unpack(flatbuffer: bytes) -> Any:
    """The model as the schema's own object tree (ModelT): `subgraphs[0].operators`, `.tensors`, `buffers`."""
    return schema().ModelT.InitFromPackedBuf(bytearray(flatbuffer), 0)


def pack(model: Any) -> bytes:
    """The object tree as a flatbuffer again, without what nothing refers to any more."""
    import flatbuffers

    _empty_unused_buffers(model)
    _leave_out_unused_codes(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _empty_unused_buffers(model: Any) -> None:
    """Weights that were replaced would travel along; buffers keep their numbers, which metadata refers to."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or ()}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None


def _leave_out_unused_codes(model: Any) -> None:
    """TensorFlow's calibrator refuses a model that lists a kind of operator it does not use."""
    operators = {id(operator): operator for graph in model.subgraphs for operator in graph.operators or ()}.values()
    used = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


def operator_name(model: Any, operator: Any) -> str:
    """The operator's name in capitals, such as CONV_2D; a custom one's own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = _builtin_names()[number]
    return text(code.customCode) if name == CUSTOM else name


@lru_cache(maxsize=1)
def _builtin_names() -> dict[int, str]:
    return _names(schema().BuiltinOperator)


def add_operator_code(model: Any, builtin: int) -> int:
    """The place of a builtin operator, by its number in the schema, in the model's list of operator codes."""
    for place, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return place
    code = schema().OperatorCodeT()
    code.builtinCode, code.version = builtin, 1
    # Readers of before 2020 know the 8-bit field alone; 127 sends newer ones to the other.
    code.deprecatedBuiltinCode = min(builtin, 127)
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def text(name: Any) -> str:
    """A name as text: the flatbuffer holds bytes or none, an edited object tree may hold text."""
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "")


def tensor_name(tensor: Any) -> str:
    """A tensor's name as text."""
    return text(tensor.name)


def constant(model: Any, index: int) -> NDArray[Any] | None:
    """The values of the constant tensor `index` of the main graph, in its own shape; None where it is computed."""
    if index < 0:
        return None
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return None
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    values: NDArray[Any] = np.frombuffer(bytes(data), _DTYPES[tensor.type]).reshape(shape).copy()
    return values


def set_constant(model: Any, index: int, values: NDArray[Any]) -> None:
    """Put other values of the same shape and dtype into a constant tensor; others that share its buffer keep theirs."""
    tensor = model.subgraphs[0].tensors[index]
    if tensor.buffer == 0 or sum(t.buffer == tensor.buffer for graph in model.subgraphs for t in graph.tensors) > 1:
        model.buffers.append(type(model.buffers[0])())
        tensor.buffer = len(model.buffers) - 1
    data = np.ascontiguousarray(values, _DTYPES[tensor.type]).tobytes()
    model.buffers[tensor.buffer].data = np.frombuffer(data, np.uint8)


def add_constant(model: Any, name: str, values: NDArray[np.float32]) -> int:
    """Add a float32 constant to the main graph; its tensor's index."""
    tensors = model.subgraphs[0].tensors
    tensor = type(tensors[0])()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(values.shape), 0, 0
    tensors.append(tensor)
    set_constant(model, len(tensors) - 1, values)
    return len(tensors) - 1
