"""Recognizes what the Edge TPU compiler wrote, tells it from a stub, and puts back the names that it loses."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgeloc.editing import pack, schema, text, unpack
from edgeloc.errors import ModelError
from edgeloc.flatbuffer import parse_flatbuffer
from edgeloc.inspection import PortReport, report_flatbuffer

__all__ = ["CUSTOM_OPERATOR", "check_compiled", "executable_bytes", "is_compiled", "with_signature"]

CUSTOM_OPERATOR = "edgetpu-custom-op"
# A failed compilation was seen to leave 1 KB; the program of a single convolution is several times that.
_SMALLEST_PROGRAM = 1024


def is_compiled(flatbuffer: bytes) -> bool:
    """Whether a model holds a part compiled for the Edge TPU; ModelError when the bytes are no model."""
    graphs = parse_flatbuffer(flatbuffer, "the model").graphs
    return any(operator.name == CUSTOM_OPERATOR for graph in graphs for operator in graph.operators)


def executable_bytes(flatbuffer: bytes) -> int:
    """How many bytes of program and parameters the compiled parts hold; 0 where nothing is compiled."""
    model = unpack(flatbuffer)
    total = 0
    for operator in model.subgraphs[0].operators or ():
        code = model.operatorCodes[operator.opcodeIndex].customCode
        if code == CUSTOM_OPERATOR.encode() and operator.customOptions is not None:
            total += len(operator.customOptions)
    return total


def check_compiled(flatbuffer: bytes, source: bytes, name: str) -> None:
    """Raise ModelError unless `flatbuffer` is `source` compiled: a program in it, the same inputs and outputs."""
    if len(flatbuffer) <= _SMALLEST_PROGRAM:
        raise ModelError(f"edgetpu_compiler left a stub of {len(flatbuffer)} bytes for {name}, not a model")
    before, after = (report_flatbuffer(data, name) for data in (source, flatbuffer))
    if CUSTOM_OPERATOR not in after.custom_operators:
        raise ModelError(f"edgetpu_compiler compiled nothing of {name}: no operator would run on the Edge TPU")
    size = executable_bytes(flatbuffer)
    if size < _SMALLEST_PROGRAM:
        raise ModelError(f"edgetpu_compiler left a stub for {name}: its program has {size} bytes")
    for kind in ("inputs", "outputs"):
        wanted, found = (_ports(getattr(report, kind)) for report in (before, after))
        if wanted != found:
            raise ModelError(f"edgetpu_compiler changed the {kind} of {name}: {_names(wanted)} became {_names(found)}")


def with_signature(flatbuffer: bytes, source: bytes) -> bytes:
    """The compiled model with the source's signatures where it has none: the contract goes by their names.

    Tensors are found by their own names, which the compiler keeps. Raises ModelError when one is gone.
    """
    model, original = unpack(flatbuffer), unpack(source)
    if model.signatureDefs or not original.signatureDefs:
        return flatbuffer
    indices = {tensor.name: index for index, tensor in enumerate(model.subgraphs[0].tensors)}
    tensors = original.subgraphs[0].tensors
    model.signatureDefs = [_moved(signature, tensors, indices) for signature in original.signatureDefs]
    return pack(model)


def _ports(ports: tuple[PortReport, ...]) -> list[PortReport]:
    """Inputs or outputs by their tensors' names: the compiler may lose the signature's, and order them anew."""
    return sorted((dataclasses.replace(port, name="") for port in ports), key=lambda port: port.tensor)


def _moved(signature: Any, tensors: Any, indices: dict[bytes, int]) -> Any:
    moved = schema().SignatureDefT()
    moved.signatureKey, moved.subgraphIndex = signature.signatureKey, 0
    moved.inputs = [_entry(entry, tensors, indices) for entry in signature.inputs or ()]
    moved.outputs = [_entry(entry, tensors, indices) for entry in signature.outputs or ()]
    return moved


def _entry(entry: Any, tensors: Any, indices: dict[bytes, int]) -> Any:
    name = tensors[entry.tensorIndex].name
    if name not in indices:
        raise ModelError(f"edgetpu_compiler lost the tensor {text(name)!r}, {text(entry.name)!r}")
    moved = schema().TensorMapT()
    moved.name, moved.tensorIndex = entry.name, indices[name]
    return moved


def _names(ports: list[PortReport]) -> str:
    return ", ".join(f"{port.tensor} {port.dtype} {port.shape}" for port in ports) or "none"
