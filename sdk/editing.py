"""A TFLite flatbuffer as the schema's objects that can be changed, and back; what is changed is decided elsewhere."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import MissingExtra
from edgeloc.flatbuffer import load_schema

__all__ = [
    "add_constant",
    "add_operator_code",
    "constant",
    "operator_name",
    "pack",
    "schema",
    "set_constant",
    "tensor_name",
    "text",
    "unpack",
]

# By the schema's TensorType; strings and numbers of 4 bits are none that can be changed here.
_DTYPES: dict[int, type[np.generic]] = {
    0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8,
    10: np.float64, 12: np.uint64, 15: np.uint32, 16: np.uint16,
}  # fmt: skip


@lru_cache(maxsize=1)
def schema() -> ModuleType:
    """The generated reader and writer of the format; MissingExtra where no installed package brings it."""
    module = load_schema("ModelT")
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
    """Weights that were replaced would travel along; buffers keep their numbers, which metadata speaks of."""
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
    return code.customCode.decode() if name == "CUSTOM" else name


@lru_cache(maxsize=1)
def _builtin_names() -> dict[int, str]:
    kinds = vars(schema().BuiltinOperator)
    return {number: name for name, number in kinds.items() if isinstance(number, int)}


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
    """A name in the object tree as text: read from a flatbuffer it is bytes, where we set it text, and may be none."""
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
