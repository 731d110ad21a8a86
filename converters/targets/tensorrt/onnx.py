"""A float flatbuffer as a float ONNX graph, and quantize/dequantize pairs where TensorRT wants them."""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc._support.terminal import quiet_stderr
from edgeloc.engines import open_engine
from edgeloc.engines.onnxruntime import OnnxRuntimeEngine
from edgeloc.errors import ContractError, MissingExtra, ModelError, first_line
from edgeloc.model.contract import Contract, InputSpec
from edgeloc.model.flatbuffer import add_operator_code, operator_name, pack, parse_flatbuffer, schema, unpack

__all__ = ["count_pairs", "quantize_onnx", "quiet_libraries", "require_extra", "to_onnx"]

# The first opset with a scale for each channel; every TensorRT from 8.6 on reads it.
_OPSET = 13
# What TensorRT 8.6's parser was built with.
_IR_VERSION = 8
# Summation orders differ, so large outputs differ more; a lost bias or a wrong axis is far above.
_TOLERANCE = 1e-3
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SUM = "Add"


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
    reshape = schema().OperatorT()
    reshape.opcodeIndex = add_operator_code(model, schema().BuiltinOperator.RESHAPE)
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
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
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
def quiet_libraries() -> Iterator[None]:
    """Keep what the libraries log, print and warn of off the terminal; a failure is in the error."""
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


def quantize_onnx(model: Any, spec: InputSpec, images: NDArray[np.float32]) -> Any:
    """The float onnx.ModelProto with Q/DQ pairs: int8, zero point 0, weights by channel, activations by tensor.

    Ranges are the least and greatest values seen on `images`, float32 (n, height, width,
    channels), normalized; the input's are those of black and white, whatever the images hold.
    Biases stay float. Raises ModelError when ONNX Runtime cannot quantize the graph.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        # As a file, because ONNX Runtime changes a model that it is given as an object.
        before, after = Path(folder) / "float.onnx", Path(folder) / "qdq.onnx"
        onnx.save(model, str(before))
        with quiet_libraries():
            _quantize(before, after, spec, images, _other_sums(model.graph))
        quantized = onnx.load(str(after))
    _release_sums(quantized.graph)
    quantized.ir_version = model.ir_version
    quantized.producer_name = "edgeloc"
    del quantized.metadata_props[:]
    onnx.checker.check_model(quantized)
    return quantized


def count_pairs(model: bytes) -> tuple[int, int]:
    """How many convolutions and matrix products of an ONNX model compute in int8, and how many there are."""
    import onnx

    graph = onnx.load_from_string(model).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    weighted = [node for node in graph.node if node.op_type in _WEIGHTED]
    whole = [node for node in weighted if all(makers.get(name) == "DequantizeLinear" for name in node.input[:2])]
    return len(whole), len(weighted)


def _quantize(before: Path, after: Path, spec: InputSpec, images: NDArray[np.float32], excluded: Sequence[str]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    try:
        quantize_static(
            before,
            after,
            _reader(spec, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_WEIGHTED, _SUM],
            nodes_to_exclude=list(excluded),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                # TensorRT 8.6 wants float weights before the pair, and adds biases in float.
                "AddQDQPairToWeight": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": [*_WEIGHTED, _SUM],
            },
        )
    except Exception as error:  # its errors have no common base
        raise ModelError(f"ONNX Runtime cannot quantize the model: {first_line(error)}") from error


def _reader(spec: InputSpec, images: NDArray[np.float32]) -> Any:
    """The calibration images, one at a time, and one with black and white in its corners."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[NDArray[np.float32]] = iter((*images, _extreme(spec, images[0])))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._left, None)
            return None if image is None else {spec.tensor: image[np.newaxis]}

    return Reader()


def _extreme(spec: InputSpec, image: NDArray[np.float32]) -> NDArray[np.float32]:
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    image = image.copy()
    image[0, 0], image[-1, -1] = (0 - mean) / std, (255 - mean) / std
    return image


def _other_sums(graph: Any) -> list[str]:
    """The names of sums that are not residual: of a constant, or after the last weighted operator, as of logits."""
    constants = {constant.name for constant in graph.initializer}
    inward: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in _WEIGHTED or not inward.isdisjoint(node.output):
            inward.update(node.input)
    return [
        node.name
        for node in graph.node
        if node.op_type == _SUM and (not constants.isdisjoint(node.input) or inward.isdisjoint(node.output))
    ]


def _release_sums(graph: Any) -> None:
    """Remove the pair between a weighted operator and a residual sum, on one branch of each sum."""
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    for node in [node for node in graph.node if node.op_type == _SUM]:
        for index, name in enumerate(node.input):
            dequantize = makers.get(name)
            if dequantize is None or dequantize.op_type != "DequantizeLinear" or readers[name] != 1:
                continue
            quantize = makers[dequantize.input[0]]
            maker = makers.get(quantize.input[0])
            if maker is not None and maker.op_type in _WEIGHTED:
                node.input[index] = quantize.input[0]
                graph.node.remove(dequantize)
                graph.node.remove(quantize)
                break
    used = {name for node in graph.node for name in node.input}
    for constant in [constant for constant in graph.initializer if constant.name not in used]:
        graph.initializer.remove(constant)
