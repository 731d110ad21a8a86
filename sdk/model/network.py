"""What a model file shows of its network: the input, the outputs' true shapes, what the graph applies itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeloc.errors import ContractError
from edgeloc.model.containers import Format
from edgeloc.model.contract import Activation, Layout
from edgeloc.model.file import read_model
from edgeloc.model.flatbuffer import Graph, TfliteModel, parse_flatbuffer
from edgeloc.model.inspection import PortReport, inspect_model, with_true_shapes
from edgeloc.model.onnx import parse_onnx

__all__ = ["Network", "read_network"]

_POSTPROCESS = "TFLite_Detection_PostProcess"
_ACTIVATIONS: Mapping[str, Activation] = {
    "LOGISTIC": "sigmoid", "SOFTMAX": "softmax", "Sigmoid": "sigmoid", "Softmax": "softmax",
}  # fmt: skip
# Operators that only move numbers.
_MOVING = frozenset({
    "RESHAPE", "CONCATENATION", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE", "DEQUANTIZE", "SLICE",
    "STRIDED_SLICE", "Reshape", "Concat", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity", "Cast", "Flatten",
    "QuantizeLinear", "DequantizeLinear",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Network:
    """What a family is held against.

    Parameters:
        path: the file.
        format: tflite or onnx.
        inputs, outputs: by name.
        activations: of outputs that end in a sigmoid or a softmax, which.
        postprocessed: the outputs of TFLite_Detection_PostProcess in its order: boxes, classes, scores, count.
    """

    path: str
    format: Format
    inputs: Mapping[str, PortReport]
    outputs: Mapping[str, PortReport]
    activations: Mapping[str, Activation] = field(default_factory=dict)
    postprocessed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = next(iter(self.inputs.values())).shape if self.inputs else ()
        if len(self.inputs) != 1 or len(shape) != 4 or not {1, 3} & {shape[1], shape[3]} or min(shape[1:]) < 1:
            found = ", ".join(f"{name!r} {port.shape}" for name, port in self.inputs.items()) or "none"
            raise ContractError(
                f"{self.path}: its input must be one image of a fixed size, (1, height, width, 3 or 1) or (1, 3 or 1, "
                f"height, width), and it has {found}",
                hint="a model that takes its own state or further numbers runs in a function of your own: "
                "`edgeloc run module:function`",
            )

    @property
    def input(self) -> str:
        """The input's name."""
        return next(iter(self.inputs))

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.inputs[self.input].shape

    @property
    def layout(self) -> Layout:
        """Where its channels are."""
        return "channels-last" if self._shape[3] in (1, 3) else "channels-first"

    @property
    def channels(self) -> int:
        """3, or 1 for a grey image."""
        return self._shape[3] if self.layout == "channels-last" else self._shape[1]

    @property
    def height(self) -> int:
        """The input's, in pixels."""
        return self._shape[1] if self.layout == "channels-last" else self._shape[2]

    @property
    def width(self) -> int:
        """The input's, in pixels."""
        return self._shape[2] if self.layout == "channels-last" else self._shape[3]

    @property
    def pixel_range(self) -> tuple[tuple[float], tuple[float]] | None:
        """Mean and standard deviation by which an integer input takes pixels as they are; None for a float one."""
        port = self.inputs[self.input]
        if port.dtype not in ("uint8", "int8"):
            return None
        if port.scale is None:
            return (0.0,), (1.0,)
        zero_point = (port.zero_point or 0) + (128 if port.dtype == "int8" else 0)
        return (float(zero_point),), (float(f"{1 / port.scale:.6g}"),)

    def left_over(self, output: str, role: str) -> Activation:
        """What a host has yet to apply to a localizer's output: nothing where the graph has, else what is usual."""
        if output in self.activations:
            return "none"
        usual: Mapping[str, Activation] = {"presence": "sigmoid", "class": "softmax"}
        return usual.get(role, "none")


def read_network(path: str | Path) -> Network:
    """Read a `.tflite` or `.onnx`; outputs whose shapes are open are found by one run, in a process of its own.

    Raises ModelError for a file that is none, ContractError where its input is no image.
    """
    report = with_true_shapes(inspect_model(path))
    payload = read_model(path).payload
    model = parse_onnx(payload, str(path)) if report.format == "onnx" else parse_flatbuffer(payload, str(path))
    graph = model.graphs[0]
    names = [port.name or port.tensor for port in report.outputs]
    indices = dict(zip(graph.outputs, names, strict=True))
    return Network(
        path=str(path),
        format=report.format,
        inputs={port.name or port.tensor: port for port in report.inputs},
        outputs=dict(zip(names, report.outputs, strict=True)),
        activations={name: found for index, name in indices.items() if (found := _activation(graph, index))},
        postprocessed=_postprocessed(model, indices),
    )


def _postprocessed(model: TfliteModel, names: Mapping[int, str]) -> tuple[str, ...]:
    for operator in model.graphs[0].operators:
        if operator.name == _POSTPROCESS:
            return tuple(names[index] for index in operator.outputs if index in names)
    return ()


def _activation(graph: Graph, index: int) -> Activation | None:
    """The activation behind which nothing but moving comes, up to this tensor."""
    makers = {output: operator for operator in graph.operators for output in operator.outputs}
    seen: set[int] = set()
    while index in makers and index not in seen:
        seen.add(index)
        operator = makers[index]
        if operator.name in _ACTIVATIONS:
            return _ACTIVATIONS[operator.name]
        computed = [one for one in operator.inputs if one in makers]
        if operator.name not in _MOVING or not computed:
            return None
        index = computed[0]
    return None
