"""A float flatbuffer as a float ONNX graph with the contract's names, held against the original; quantizes nothing."""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import Contract
from edgeloc.converters.tensorrt.runtime import OnnxRuntimeEngine
from edgeloc.editing import operator_name, pack, schema, unpack
from edgeloc.engines import open_engine
from edgeloc.errors import ContractError, MissingExtra, ModelError, first_line
from edgeloc.flatbuffer import parse_flatbuffer
from edgeloc.quiet import quiet_stderr

__all__ = ["held_back", "require_extra", "to_onnx"]

# The first opset with a scale for each channel; every TensorRT from 8.6 on reads it.
_OPSET = 13
# What TensorRT 8.6's parser was built with.
_IR_VERSION = 8
# Summation orders differ, so large outputs differ more; a lost bias or a wrong axis is far above.
_TOLERANCE = 1e-3


def require_extra() -> dict[str, str]:
    """The versions of the three packages that this target needs, by name; MissingExtra when one is absent."""
    versions = {}
    for package in ("tf2onnx", "onnx", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingExtra(package, "tensorrt", "converting for TensorRT") from error
    return versions


def to_onnx(flatbuffer: bytes, contract: Contract, images: NDArray[np.float32]) -> Any:
    """A float32 flatbuffer as an onnx.ModelProto for one image, its tensors named as the contract names them.

    `images` are a few model inputs, float32 (n, height, width, channels), on which both must
    answer the same. Raises ContractError when the contract names a tensor that the flatbuffer does
    not have, ModelError when an operator has no translation or the translation computes otherwise.
    """
    require_extra()
    names = _names(flatbuffer, contract)
    inputs = [names[contract.input.tensor]]
    outputs = [names[output.tensor] for output in contract.outputs]
    model = _translate(_flat_inputs(flatbuffer), inputs, outputs)
    _rename(model.graph, {tensor: name for name, tensor in names.items()})
    model.ir_version = min(model.ir_version, _IR_VERSION)
    _compare(flatbuffer, model.SerializeToString(), contract, images)
    return model


def _names(flatbuffer: bytes, contract: Contract) -> dict[str, str]:
    """The flatbuffer's own name of each tensor of the contract."""
    parsed = parse_flatbuffer(flatbuffer, "the float model")
    signature = parsed.signature
    indices = {} if signature is None else {**signature.inputs, **signature.outputs}
    wanted = [contract.input.tensor, *(output.tensor for output in contract.outputs)]
    for name in wanted:
        if name not in indices:
            raise ContractError(f"the contract names {name!r}, which the model does not have: {', '.join(indices)}")
    return {name: parsed.graphs[0].tensors[indices[name]].name for name in wanted}


def _flat_inputs(flatbuffer: bytes) -> bytes:
    """Give every dense layer a flat input: tf2onnx 1.17 loses the bias where it has to flatten by itself."""
    model = unpack(flatbuffer)
    graph = model.subgraphs[0]
    for operator in list(graph.operators):
        if operator_name(model, operator) != "FULLY_CONNECTED" or operator.builtinOptions.keepNumDims:
            continue
        source = graph.tensors[operator.inputs[0]]
        if len(source.shape) > 2:
            width = int(graph.tensors[operator.inputs[1]].shape[1])
            _insert_reshape(model, operator, [int(np.prod(source.shape)) // width, width])
    return pack(model)


def _insert_reshape(model: Any, operator: Any, shape: list[int]) -> None:
    """Put a RESHAPE to `shape` before the operator's first input."""
    graph = model.subgraphs[0]
    source = int(operator.inputs[0])
    sizes = _add_tensor(model, [len(shape)], schema().TensorType.INT32, np.array(shape, np.int32).tobytes())
    flat = _add_tensor(model, shape, graph.tensors[source].type)
    code = schema().OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema().BuiltinOperator.RESHAPE
    code.version = 1
    model.operatorCodes.append(code)
    reshape = schema().OperatorT()
    reshape.opcodeIndex = len(model.operatorCodes) - 1
    reshape.inputs, reshape.outputs = np.array([source, sizes], np.int32), np.array([flat], np.int32)
    graph.operators.insert(graph.operators.index(operator), reshape)
    operator.inputs = np.array([flat, *operator.inputs[1:]], np.int32)


def _add_tensor(model: Any, shape: list[int], kind: int, data: bytes = b"") -> int:
    """A new tensor of the main graph, constant where it has data; its index."""
    tensor, buffer = schema().TensorT(), schema().BufferT()
    if data:
        buffer.data = np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    tensors = model.subgraphs[0].tensors
    tensor.name = f"flat_{len(tensors)}".encode()
    tensor.type, tensor.shape, tensor.buffer = kind, np.array(shape, np.int32), len(model.buffers) - 1
    tensors.append(tensor)
    return len(tensors) - 1


def _translate(flatbuffer: bytes, inputs: list[str], outputs: list[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder, held_back():
        import tf2onnx

        path = Path(folder) / "float.tflite"
        path.write_bytes(flatbuffer)
        try:
            model, _ = tf2onnx.convert.from_tflite(str(path), inputs, outputs, opset=_OPSET)
        except Exception as error:  # tf2onnx raises what its handlers happen to raise
            raise ModelError(f"tf2onnx cannot translate the model: {first_line(error)}") from error
    unknown = sorted({node.op_type for node in model.graph.node if node.op_type.startswith("TFL_")})
    if unknown:
        raise ModelError(f"ONNX has no operator for {', '.join(unknown)}: take it out of the network")
    return model


@contextmanager
def held_back() -> Iterator[None]:
    """Inside, the libraries' lines and warnings stay off the terminal; what failed is told by an error."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Give tensors their new names; one that has such a name already makes way."""
    taken = set(names.values()) - set(names)

    def renamed(name: str) -> str:
        return names.get(name, f"{name}/inner" if name in taken else name)

    for node in graph.node:
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed(value.name)


def _compare(flatbuffer: bytes, model: bytes, contract: Contract, images: NDArray[np.float32]) -> None:
    original, translated = open_engine("auto", flatbuffer), OnnxRuntimeEngine(model)
    for image in images:
        wanted, found = original.invoke(image[np.newaxis]), translated.invoke(image[np.newaxis])
        for output in contract.outputs:
            expected = wanted[output.tensor]
            worst = float(np.abs(found[output.tensor].reshape(expected.shape) - expected).max())
            if not worst <= _TOLERANCE * (1 + float(np.abs(expected).max())):
                raise ModelError(
                    f"tf2onnx translates the model wrongly: the output {output.tensor!r} is off by {worst:.3g}; "
                    "another version of tf2onnx may do better"
                )
