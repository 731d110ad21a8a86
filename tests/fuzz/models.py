"""The whole models that mutations start from: the one that ships, and small ones made here without a converter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import flexbuffers

from edgeloc import Contract, Golden, InputSpec, Localizer, OutputSpec, write_model
from edgeloc.model.contract import BoxEncoding
from edgeloc.model.detector import DetectorBox, DetectorSpec, Selection
from edgeloc.model.flatbuffer import schema
from edgeloc.models import SHIPPED_INT8

SIDE = 32
ANCHORS = 8


def make_bases(folder: Path) -> dict[str, Path]:
    """Write the models that are not there yet, and return all by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"shipped": folder / "shipped.tflite"}
    if not paths["shipped"].exists():
        paths["shipped"].write_bytes(SHIPPED_INT8.read_bytes())
    for name, (suffix, make, contract) in _SMALL.items():
        paths[name] = folder / f"{name}{suffix}"
        if not paths[name].exists():
            _write_with_golden(paths[name], make(), contract)
    return paths


def _write_with_golden(path: Path, payload: bytes, contract: Contract) -> None:
    """The self-test expects what the model answers here."""
    image = np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)
    plain = path.with_name(f"plain-{path.name}")
    write_model(plain, payload, contract)
    result = Localizer(plain, engine_for(path))(image)
    plain.unlink()
    golden = Golden(image, result.presence, result.box, result.label)
    write_model(path, payload, contract, calibration={"dataset": "none", "count": 0}, golden=golden)


def engine_for(path: Path) -> str:
    """The engine that runs a model file on any machine."""
    return "onnxruntime" if path.suffix == ".onnx" else "auto"


class _Graph:
    """A TFLite model under construction, in the schema's own objects."""

    def __init__(self) -> None:
        self.tables: Any = schema()
        self.model = self.tables.ModelT()
        self.model.version, self.model.description = 3, "small"
        self.model.buffers, self.model.operatorCodes = [self.tables.BufferT()], []
        self.graph = self.tables.SubGraphT()
        self.graph.name, self.graph.tensors, self.graph.operators = "main", [], []
        self.model.subgraphs = [self.graph]

    def tensor(self, name: str, shape: Sequence[int], dtype: str = "FLOAT32", values: Any = None) -> int:
        tensor = self.tables.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), 0
        tensor.type = getattr(self.tables.TensorType, dtype)
        if dtype == "UINT8":
            tensor.quantization = self.tables.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [1 / 127.5], [127]
        if values is not None:
            buffer = self.tables.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **fields: Any
    ) -> None:
        code = self.tables.OperatorCodeT()
        code.builtinCode = getattr(self.tables.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        operator = self.tables.OperatorT()
        if kind == "CUSTOM":
            code.customCode, operator.customOptions = options, list(fields["content"])
        elif options:
            operator.builtinOptionsType = getattr(self.tables.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.tables, options + "T")()
            vars(operator.builtinOptions).update(fields)
        self.model.operatorCodes.append(code)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        self.graph.operators.append(operator)

    def finish(self, inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
        self.graph.inputs, self.graph.outputs = list(inputs.values()), list(outputs.values())
        signature = self.tables.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = (
            [self._named(one) for one in ports.items()] for ports in (inputs, outputs)
        )
        self.model.signatureDefs = [signature]
        return pack(self.model)

    def _named(self, port: tuple[str, int]) -> Any:
        entry = self.tables.TensorMapT()
        entry.name, entry.tensorIndex = port
        return entry


def pack(model: Any) -> bytes:
    """The object tree as a flatbuffer, with all its faults."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _trunk(graph: _Graph) -> tuple[int, int]:
    """A convolution and a mean; the input and the features (1, 4)."""
    rng = np.random.default_rng(2)
    image = graph.tensor("image", (1, SIDE, SIDE, 3), "UINT8")
    real = graph.tensor("real", (1, SIDE, SIDE, 3))
    kernel = graph.tensor("kernel", (4, 3, 3, 3), values=rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32))
    bias = graph.tensor("bias", (4,), values=np.zeros(4, np.float32))
    maps = graph.tensor("maps", (1, 16, 16, 4))
    axes = graph.tensor("axes", (2,), "INT32", np.array([1, 2], np.int32))
    features = graph.tensor("features", (1, 4))
    graph.operator("DEQUANTIZE", [image], [real], "DequantizeOptions")
    graph.operator("CONV_2D", [real, kernel, bias], [maps], "Conv2DOptions", strideW=2, strideH=2)
    graph.operator("MEAN", [maps, axes], [features], "ReducerOptions")
    return image, features


def _connected(graph: _Graph, features: int, name: str, size: int) -> int:
    weights = np.random.default_rng(size).normal(0, 1, (size, 4)).astype(np.float32)
    output = graph.tensor(name, (1, size))
    held = graph.tensor(f"{name}-weights", (size, 4), values=weights)
    graph.operator("FULLY_CONNECTED", [features, held, -1], [output], "FullyConnectedOptions")
    return output


def vector_model() -> bytes:
    """A float model with one output of five numbers."""
    graph = _Graph()
    image, features = _trunk(graph)
    return graph.finish({"image": image}, {"vector": _connected(graph, features, "vector", 5)})


def ssd_model() -> bytes:
    """A float model that ends in TFLite_Detection_PostProcess, whose outputs have no shape in the file."""
    graph = _Graph()
    image, features = _trunk(graph)
    shaped = []
    for name, size in (("boxes", 4), ("scores", 3)):
        flat = _connected(graph, features, name, ANCHORS * size)
        shape = graph.tensor(f"{name}-shape", (3,), "INT32", np.array([1, ANCHORS, size], np.int32))
        shaped.append(graph.tensor(f"{name}-3d", (1, ANCHORS, size)))
        graph.operator("RESHAPE", [flat, shape], shaped[-1:], "ReshapeOptions", newShape=[1, ANCHORS, size])
    anchors = graph.tensor("anchors", (ANCHORS, 4), values=np.full((ANCHORS, 4), 0.5, np.float32))
    outputs = {name: graph.tensor(name, ()) for name in ("where", "which", "certain", "count")}
    graph.operator(
        "CUSTOM", [*shaped, anchors], list(outputs.values()), "TFLite_Detection_PostProcess", content=_ssd_options()
    )
    return graph.finish({"image": image}, outputs)


def _ssd_options() -> bytes:
    options = {
        "max_detections": 4, "max_classes_per_detection": 1, "num_classes": 2, "nms_score_threshold": 0.0,
        "nms_iou_threshold": 0.5, "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
    }  # fmt: skip
    return bytes(flexbuffers.Dumps(options))


def onnx_model(*size: int | None) -> bytes:
    """The same as `vector_model` in ONNX; given sizes, which may be open (None), an int8 pair stands in the way."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(4)
    stored = {"kernel": rng.normal(0, 0.3, (4, 3, 3, 3)), "weights": rng.normal(0, 1, (4, 5))}
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["maps"], strides=[2, 2]),
        helper.make_node("ReduceMean", ["maps"], ["features"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["features", "weights"], ["vector"]),
    ]
    held = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in stored.items()]
    if size:
        held += [numpy_helper.from_array(np.float32(2), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
        nodes[1:1] = [
            helper.make_node("QuantizeLinear", ["planes", "scale", "zero"], ["integers"]),
            helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["reals"]),
        ]
        nodes[3].input[0] = "reals"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [info("image", TensorProto.FLOAT, [1, *(size or (SIDE, SIDE)), 3])],
        [info("vector", TensorProto.FLOAT, [1, 5])],
        held,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


_VECTOR = Contract(
    input=InputSpec("image", SIDE, SIDE),
    outputs=(OutputSpec("vector", "vector", "sigmoid", ("presence", "cx", "cy", "w", "h")),),
    box=BoxEncoding("cxcywh"),
)
_SSD = dataclasses.replace(
    _VECTOR,
    outputs=(
        OutputSpec("where", "detections", parts=("box",)),
        OutputSpec("which", "detections", parts=("class-number",)),
        OutputSpec("certain", "detections", parts=("score",)),
        OutputSpec("count", "detections", parts=("count",)),
    ),
    detector=DetectorSpec(box=DetectorBox("yxyx"), selection=Selection("none")),
    labels=("bolt", "nut"),
)
_SMALL: dict[str, tuple[str, Callable[[], bytes], Contract]] = {
    "vector": (".tflite", vector_model, _VECTOR),
    "ssd": (".tflite", ssd_model, _SSD),
    "onnx": (".onnx", onnx_model, _VECTOR),
    "open": (".onnx", partial(onnx_model, None, None), _VECTOR),
}
