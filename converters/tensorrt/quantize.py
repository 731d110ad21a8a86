"""Puts symmetric quantize/dequantize pairs into a float ONNX graph where TensorRT wants them; builds no engine.

The places follow NVIDIA's guide on explicit quantization: every input and weight of a convolution
or matrix product, and of a residual sum only the branch that no convolution ends on, so that the
sum is computed within the other branch's convolution. Outputs of weighted operators stay float:
the pair before the next one says where int8 begins again.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.tensorrt.translation import held_back
from edgeloc.errors import ModelError, first_line

__all__ = ["count_pairs", "quantize_onnx"]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SUM = "Add"


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
        with held_back():
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
    """Sums that are no residual ones: with a constant, or behind the last weighted operator, as logits are added up."""
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
    """Take the pair away between a weighted operator and a residual sum, on one branch of each sum."""
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
