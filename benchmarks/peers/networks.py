"""Detectors that answer prepared boxes at once, whatever the frame: what is timed with them is all but the network.

A YOLOv8 of 80 classes in 640x640 pixels, int8, [1, 84, 8400], and an SSD in 300x300 pixels that ends in
TFLite_Detection_PostProcess. Both are genuine `.tflite` files that any runtime loads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.model.flatbuffer import pack, schema

__all__ = ["SSD_CLASSES", "SSD_SIDE", "ssd", "yolo"]

SSD_SIDE, SSD_CLASSES = 300, 90
_ANCHORS, _OBJECTS = 1917, 10
_SUPPRESSION = "TFLite_Detection_PostProcess"


class _Network:
    """A graph of one subgraph that grows tensor by tensor."""

    def __init__(self) -> None:
        kinds = schema()
        self.model, self.graph = kinds.ModelT(), kinds.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [kinds.BufferT()]
        self.graph.tensors, self.graph.operators = [], []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: str,
        levels: tuple[float, int] | None = None,
        data: NDArray[Any] | None = None,
    ) -> int:
        """A tensor of the graph, its index; constant where it has data; `levels` are its scale and zero point."""
        kinds = schema()
        tensor = kinds.TensorT()
        tensor.name, tensor.type = name.encode(), getattr(kinds.TensorType, kind)
        tensor.shape, tensor.buffer = np.array(shape, np.int32), 0
        if levels is not None:
            tensor.quantization = kinds.QuantizationParametersT()
            tensor.quantization.scale = np.array([levels[0]], np.float32)
            tensor.quantization.zeroPoint = np.array([levels[1]], np.int64)
        if data is not None:
            buffer = kinds.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(
        self, code: str, inputs: list[int], outputs: list[int], custom: tuple[str, bytes] | None = None
    ) -> None:
        """An operator of the graph, with the name and the options of a custom one."""
        kinds = schema()
        described, operator = kinds.OperatorCodeT(), kinds.OperatorT()
        described.builtinCode = getattr(kinds.BuiltinOperator, code)
        described.deprecatedBuiltinCode, described.version = min(described.builtinCode, 127), 1
        operator.opcodeIndex = len(self.model.operatorCodes)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if custom is not None:
            described.customCode, operator.customOptions = custom[0].encode(), np.frombuffer(custom[1], np.uint8)
        self.model.operatorCodes.append(described)
        self.graph.operators.append(operator)

    def file(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The flatbuffer."""
        self.graph.inputs, self.graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        return pack(self.model)


def yolo(raw: NDArray[np.int8], side: int, levels: tuple[float, int]) -> bytes:
    """An int8 YOLOv8 that answers `raw`, [1, 4 + classes, rows], at this scale and zero point."""
    network = _Network()
    image = network.tensor("image", (1, side, side, 3), "INT8", levels)
    answer = network.tensor("answer", raw.shape, "INT8", levels, raw)
    sizes = network.tensor("sizes", (3,), "INT32", data=np.array(raw.shape, np.int32))
    out = network.tensor("out", raw.shape, "INT8", levels)
    network.operator("RESHAPE", [answer, sizes], [out])
    return network.file([image], [out])


def ssd(seed: int = 0) -> bytes:
    """An SSD with a uint8 input that answers ten boxes of ten classes, six of them with a score above 0.5."""
    rng = np.random.default_rng(seed)
    centres, sizes = rng.uniform(0.2, 0.8, (_ANCHORS, 2)), rng.uniform(0.1, 0.3, (_ANCHORS, 2))
    scores = np.zeros((1, _ANCHORS, 1 + SSD_CLASSES), np.float32)
    found = rng.choice(_ANCHORS, _OBJECTS, replace=False)
    centres[found] = np.stack([0.1 + 0.08 * np.arange(_OBJECTS), np.full(_OBJECTS, 0.5)], axis=1)
    scores[0, found, 1 + np.arange(_OBJECTS)] = np.linspace(0.9, 0.2, _OBJECTS)
    network = _Network()
    image = network.tensor("image", (1, SSD_SIDE, SSD_SIDE, 3), "UINT8", (1 / 128, 128))
    inputs = [
        network.tensor("boxes", (1, _ANCHORS, 4), "FLOAT32", data=np.zeros((_ANCHORS, 4), np.float32)),
        network.tensor("scores", scores.shape, "FLOAT32", data=scores),
        network.tensor("anchors", (_ANCHORS, 4), "FLOAT32", data=np.hstack([centres, sizes]).astype(np.float32)),
    ]
    names = [_SUPPRESSION + suffix for suffix in ("", ":1", ":2", ":3")]
    shapes = ((1, _OBJECTS, 4), (1, _OBJECTS), (1, _OBJECTS), (1,))
    outputs = [network.tensor(name, shape, "FLOAT32") for name, shape in zip(names, shapes, strict=True)]
    network.operator("CUSTOM", inputs, outputs, (_SUPPRESSION, _options()))
    return network.file([image], outputs)


def _options() -> bytes:
    """What TFLite_Detection_PostProcess reads: how anchors are scaled, and how many boxes are kept."""
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    with builder.Map():
        scales = {"y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0}
        limits = {"nms_score_threshold": 0.1, "nms_iou_threshold": 0.6}
        for name, value in {**scales, **limits}.items():
            builder.Float(name, value)
        counts = {"max_detections": _OBJECTS, "max_classes_per_detection": 1, "num_classes": SSD_CLASSES}
        for name, count in counts.items():
            builder.Int(name, count)
        builder.Bool("use_regular_nms", False)
    return bytes(builder.Finish())
