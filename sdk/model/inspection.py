"""What a model file really holds, read from its bytes; the self-test and the true shapes alone run the model."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgeloc._support.children import ChildFailed, run_child
from edgeloc._support.json import finite_json
from edgeloc.errors import ContractError
from edgeloc.findings import Finding
from edgeloc.model.containers import Format, format_of
from edgeloc.model.contract import Contract
from edgeloc.model.file import own_contract, read_model
from edgeloc.model.fit import check_contract
from edgeloc.model.flatbuffer import Graph, Operator, Tensor, TfliteModel, parse_flatbuffer
from edgeloc.model.onnx import judge_onnx, onnx_macs, parse_onnx
from edgeloc.model.precision import TAILS, FloatIsland, constant_outputs, judge, runtime_tensors
from edgeloc.model.sandbox import try_self_test

__all__ = [
    "GoldenCheck",
    "ModelReport",
    "PortReport",
    "WeightReport",
    "check_golden",
    "inspect_model",
    "operator_macs",
    "report_payload",
    "with_true_shapes",
]

# Operators that multiply, and that the count of multiply-accumulates leaves out.
UNCOUNTED = frozenset({"LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "RNN", "SVDF", "CONV_3D"})
_SHAPES = """
import sys
from edgeloc.engines import open_engine
from edgeloc.engines.base import blank_input
engine = open_engine(sys.argv[2], sys.argv[1])
raw = engine.invoke(blank_input(next(iter(engine.inputs.values()))))
answer({name: list(values.shape) for name, values in raw.items()})
"""
_GOLDEN_STATUS = {"passed": "passed", "failed": "failed", "crashed": "failed", "not loaded": "not run"}


@dataclass(frozen=True, slots=True)
class PortReport:
    """An input or output: its name in the signature ("" without one), its tensor, and its quantization.

    `shape` has -1 where the size is open; `scale` and `zero_point` are None where it is float:
    real = (q - zero_point) * scale.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True, slots=True)
class WeightReport:
    """The stored weights and biases of one dtype.

    `tensors`, `elements`: how many there are, and how many numbers they hold.
    `per_channel`, `per_tensor`: how many of the quantized ones have a scale for each channel, or one alone.
    """

    dtype: str
    tensors: int
    elements: int
    per_channel: int
    per_tensor: int


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What a model file holds.

    `precision` is the verdict in a word or two, `reasons` what keeps the file from being integer
    from input to output. `weights` counts stored tensors, `activations` computed ones by dtype.
    `macs` are multiply-accumulates of one run of the main graph at batch size 1, without those of
    the operators in `macs_uncounted`; `parameters` are the numbers stored in weights and biases.
    `findings` are what a user should know of it.
    """

    path: str
    format: Format
    file_bytes: int
    payload_bytes: int
    subgraphs: int
    inputs: tuple[PortReport, ...]
    outputs: tuple[PortReport, ...]
    precision: str
    reasons: tuple[str, ...]
    float_islands: tuple[FloatIsland, ...]
    float_tail: tuple[str, ...]
    constant_outputs: tuple[str, ...]
    weights: tuple[WeightReport, ...]
    activations: dict[str, int]
    operators: dict[str, int]
    custom_operators: tuple[str, ...]
    macs: int
    macs_uncounted: tuple[str, ...]
    parameters: int
    contract: dict[str, Any] | None = None
    findings: tuple[Finding, ...] = ()
    labels: tuple[str, ...] = ()
    calibration: dict[str, Any] | None = None
    has_golden: bool = False

    @property
    def is_full_integer(self) -> bool:
        """Whether every operator, input and output is integer: nothing at all is computed in float."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values, null for a number that is not finite; `is_full_integer` among them."""
        values: dict[str, Any] = finite_json(dataclasses.asdict(self))
        return {**values, "is_full_integer": self.is_full_integer}


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """How the file's self-test went: `passed`, `failed`, `not run` or `not present`, and why."""

    status: str
    detail: str = ""


def inspect_model(path: str | Path) -> ModelReport:
    """Read a `.tflite` or an `.onnx` and report what is in it, without running it.

    The contract is the one in the file, else that of a JSON file beside it. Raises ModelError when the file is
    missing, damaged or no such model, ContractError when its contract is bad.
    """
    model = read_model(path)
    report = report_payload(model.payload, str(path))
    contract = own_contract(model)
    return dataclasses.replace(
        report,
        file_bytes=Path(path).stat().st_size,
        contract=None if contract is None else json.loads(contract.to_json()),
        findings=(*report.findings, *_contract_findings(contract, report)),
        labels=tuple(model.labels),
        calibration=model.calibration,
        has_golden=model.golden is not None,
    )


def _contract_findings(contract: Contract | None, report: ModelReport) -> Iterator[Finding]:
    if contract is None:
        message = "there is no contract: how to make the input and read the outputs is unknown"
        yield Finding("no-contract", "note", message, "write a contract as a JSON file of the same name beside it")
        return
    if contract.stages is not None:
        return  # its outputs are made of several networks'; the engine holds these against it
    inputs, outputs = ({port.name or port.tensor: port for port in ports} for ports in (report.inputs, report.outputs))
    try:
        check_contract(contract, inputs, outputs)
    except ContractError as error:
        message = f"{report.path} and its contract do not fit: {error}"
        yield Finding("contract-misfit", "problem", message, "convert it again, or correct the contract")


def report_payload(data: bytes, name: str) -> ModelReport:
    """Report on a TFLite flatbuffer or an ONNX model that has no file yet; `name` stands for its path."""
    format = format_of(data)
    onnx = format == "onnx"
    model = parse_onnx(data, name) if onnx else parse_flatbuffer(data, name)
    graph = model.graphs[0]
    verdict = judge_onnx(model) if onnx else judge(model)
    constant = tuple(_port_name(model, index, "outputs") for index in constant_outputs(model))
    macs = [(op.name, onnx_macs(graph, op) if onnx else operator_macs(graph, op)) for op in graph.operators]
    operators = [operator for part in model.graphs for operator in part.operators]
    return ModelReport(
        path=name,
        format=format,
        file_bytes=len(data),
        payload_bytes=len(data),
        subgraphs=len(model.graphs),
        inputs=_ports(model, graph.inputs, "inputs"),
        outputs=_ports(model, graph.outputs, "outputs"),
        precision=verdict.precision,
        reasons=verdict.reasons,
        float_islands=verdict.islands,
        float_tail=verdict.tail,
        constant_outputs=constant,
        weights=_weight_reports(model),
        activations=_counted(t.dtype for part in model.graphs for t in runtime_tensors(part)),
        operators=_counted(operator.name for operator in operators),
        custom_operators=tuple(sorted({operator.name for operator in operators if operator.is_custom})),
        macs=sum(count or 0 for _, count in macs),
        macs_uncounted=tuple(
            sorted({op.name for op in operators if _is_uncounted(op)} | {name for name, count in macs if count is None})
        ),
        parameters=sum(tensor.elements for tensor in _weights(model)),
        findings=tuple(_constant(output) for output in constant),
    )


def _constant(output: str) -> Finding:
    message = f"the output {output} does not depend on the input"
    return Finding("constant-output", "warning", message, "train or convert the model again")


def with_true_shapes(report: ModelReport) -> ModelReport:
    """The report with the shapes that open outputs have after one run, made in a process of its own.

    An operator such as TFLite_Detection_PostProcess leaves its outputs' shapes out of the file. Where no engine runs
    the model, the report stays as it is.
    """
    if all(port.shape and min(port.shape) > 0 for port in report.outputs):
        return report
    try:
        shapes = run_child(_SHAPES, report.path, "onnxruntime" if report.format == "onnx" else "auto")
    except ChildFailed:
        return report
    outputs = tuple(
        dataclasses.replace(port, shape=tuple(shapes.get(port.name or port.tensor, port.shape)))
        for port in report.outputs
    )
    return dataclasses.replace(report, outputs=outputs)


def check_golden(path: str | Path, *, timeout_s: float = 60.0) -> GoldenCheck:
    """Run the file's golden self-test in a process of its own, which an untrusted model may take down alone.

    An ONNX model runs in ONNX Runtime; where that is not installed the check is "not run", with the reason.
    """
    model = read_model(path)
    if model.golden is None:
        return GoldenCheck("not present")
    test = try_self_test(path, "onnxruntime" if model.format == "onnx" else "auto", timeout_s=timeout_s)
    return GoldenCheck(_GOLDEN_STATUS[test.outcome], test.detail)


def _ports(model: TfliteModel, indices: tuple[int, ...], kind: str) -> tuple[PortReport, ...]:
    """The main graph's inputs or outputs; the signature knows their names."""
    ports = []
    for index in indices:
        tensor = model.graphs[0].tensors[index]
        quantized = tensor.is_quantized
        ports.append(
            PortReport(
                name=_signature_names(model, kind).get(index, ""),
                tensor=tensor.name,
                shape=tensor.shape,
                dtype=tensor.dtype,
                scale=tensor.scales[0] if quantized else None,
                zero_point=(tensor.zero_points or (0,))[0] if quantized else None,
            )
        )
    return tuple(ports)


def _signature_names(model: TfliteModel, kind: str) -> dict[int, str]:
    signature = model.signature
    return {} if signature is None else {index: name for name, index in getattr(signature, kind).items()}


def _port_name(model: TfliteModel, index: int, kind: str) -> str:
    return _signature_names(model, kind).get(index) or model.graphs[0].tensors[index].name


def _weights(model: TfliteModel) -> list[Tensor]:
    """Stored tensors that hold numbers of the network: float or quantized; shapes and axes are plain integers."""
    found: dict[int, Tensor] = {}
    for graph in model.graphs:
        used = {index for operator in graph.operators for index in operator.inputs if index >= 0}
        for index in sorted(used):
            tensor = graph.tensors[index]
            if tensor.is_constant and (tensor.is_float or tensor.is_quantized):
                found.setdefault(tensor.buffer, tensor)
    return list(found.values())


def _weight_reports(model: TfliteModel) -> tuple[WeightReport, ...]:
    weights = _weights(model)
    reports = []
    for dtype in sorted({tensor.dtype for tensor in weights}):
        own = [tensor for tensor in weights if tensor.dtype == dtype]
        scaled = [len(tensor.scales) for tensor in own if tensor.is_quantized]
        reports.append(
            WeightReport(
                dtype=dtype,
                tensors=len(own),
                elements=sum(tensor.elements for tensor in own),
                per_channel=sum(count > 1 for count in scaled),
                per_tensor=sum(count == 1 for count in scaled),
            )
        )
    return tuple(reports)


def operator_macs(graph: Graph, operator: Operator) -> int:
    """Multiply-accumulates of one operator, from shapes alone; 0 for one that does not multiply by a matrix.

    Convolution: outputs x kernel height x kernel width x input channels of a group. Depthwise:
    outputs x kernel height x kernel width. Fully connected and matrix product: outputs x summed
    length. Transposed convolution: inputs x kernel height x kernel width x output channels.
    """
    tensors = [graph.tensors[index] if index >= 0 else None for index in operator.inputs]
    shapes = [() if tensor is None else tuple(abs(size) for size in tensor.shape) for tensor in tensors]
    outputs = graph.tensors[operator.outputs[0]].elements if operator.outputs else 0
    match operator.name, shapes:
        case "CONV_2D", [_, (_, height, width, channels), *_]:
            return outputs * height * width * channels
        case "DEPTHWISE_CONV_2D", [_, (_, height, width, _), *_]:
            return outputs * height * width
        case "FULLY_CONNECTED", [_, (_, length), *_]:
            return outputs * length
        case "TRANSPOSE_CONV", [_, (channels, height, width, _), inputs, *_]:
            return prod(inputs) * height * width * channels
        case "BATCH_MATMUL", [left, right, *_] if left and right:
            return outputs * _summed_length(left, graph.tensors[operator.outputs[0]].shape)
    return 0


def _is_uncounted(operator: Operator) -> bool:
    return (operator.is_custom and operator.name not in TAILS) or operator.name in UNCOUNTED


def _summed_length(left: tuple[int, ...], output: tuple[int, ...]) -> int:
    """The length a matrix product sums over: the left factor's last side, or the one before when it is transposed."""
    rows = abs(output[-2]) if len(output) > 1 else 1
    return left[-1] if len(left) < 2 or left[-2] == rows else left[-2]


def _counted(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))
