"""Predicting which operators of a model the Edge TPU compiler maps, and checking what it compiled."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from edgeloc.converters.targets.edgetpu.operators import (
    COMPILER_VERSION,
    NEWEST_VERSION,
    Judgement,
    Settings,
    judge_operator,
    read_settings,
)
from edgeloc.errors import ModelError
from edgeloc.model.flatbuffer import Graph, Operator, pack, parse_flatbuffer, schema, text, unpack
from edgeloc.model.inspection import PortReport, operator_macs, report_payload

__all__ = [
    "CUSTOM_OPERATOR",
    "ON_TPU",
    "SUFFIX",
    "MappingPrediction",
    "PredictedOperator",
    "check_compiled",
    "executable_bytes",
    "is_compiled",
    "predict_mapping",
    "with_signature",
]

SUFFIX = "_edgetpu"
CUSTOM_OPERATOR = "edgetpu-custom-op"
# A failed compilation was seen to leave 1 KB; the program of a single convolution is several times that.
_SMALLEST_PROGRAM = 1024

Status = Literal["mapped", "uncertain", "unsupported", "behind"]
ON_TPU = ("mapped", "uncertain")
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class PredictedOperator:
    """One operator of the main graph: where it should run, and why.

    Parameters:
        index: its place in the graph.
        name: its kind, such as CONV_2D.
        output: the name of the tensor that it writes.
        status: `mapped`: on the Edge TPU; `uncertain`: so too, unless its size forbids it; `unsupported`: on the CPU
            for its own reason; `behind`: on the CPU because of an operator before it.
        reason: why it does not map, or may not; "" where it maps.
        macs: its multiply-accumulates.
    """

    index: int
    name: str
    output: str
    status: Status
    reason: str
    macs: int

    def __str__(self) -> str:
        return f"{self.name} (operator {self.index}): {self.reason or self.status}"


@dataclass(frozen=True, slots=True)
class MappingPrediction:
    """What `edgetpu_compiler` in the version `compiler` should do with a model, by its published table.

    Parameters:
        name: the model's.
        operators: those of the main graph, in its order.
        parameter_bytes: the constants of the mapped operators, which share 8 MB of memory on the chip.
        refusal: why the compiler would refuse the whole file; "" where it should compile.
        compiler: the version of the compiler.
    """

    name: str
    operators: tuple[PredictedOperator, ...]
    parameter_bytes: int
    refusal: str = ""
    compiler: str = COMPILER_VERSION

    @property
    def mapped(self) -> int:
        """How many operators should run on the Edge TPU, uncertain ones among them."""
        return sum(operator.status in ON_TPU for operator in self.operators)

    @property
    def mapped_share(self) -> float:
        """Their share of all operators, 0 to 1."""
        return self.mapped / len(self.operators) if self.operators else 0.0

    @property
    def mac_share(self) -> float:
        """The share of multiply-accumulates on the Edge TPU, 0 to 1; the operators' share where nothing multiplies."""
        total = sum(operator.macs for operator in self.operators)
        on_tpu = sum(operator.macs for operator in self.operators if operator.status in ON_TPU)
        return on_tpu / total if total else self.mapped_share

    @property
    def first_break(self) -> PredictedOperator | None:
        """The first operator behind mapped ones that the CPU must run; all that needs its output follows it there."""
        start = next((op.index for op in self.operators if op.status in ON_TPU), 0)
        return next((op for op in self.operators if op.status == "unsupported" and op.index >= start), None)

    @property
    def on_cpu(self) -> tuple[PredictedOperator, ...]:
        """The operators that should run on the CPU, in the graph's order."""
        return tuple(operator for operator in self.operators if operator.status not in ON_TPU)

    @property
    def uncertain(self) -> tuple[PredictedOperator, ...]:
        """The operators that only the compiler can decide on."""
        return tuple(operator for operator in self.operators if operator.status == "uncertain")

    def summary(self) -> str:
        """The prediction in one sentence."""
        if self.refusal:
            return f"edgetpu_compiler {self.compiler} should refuse {self.name}: {self.refusal}"
        parts = [
            f"{self.mapped} of {len(self.operators)} operators ({self.mac_share:.0%} of the multiply-accumulates) "
            "should run on the Edge TPU"
        ]
        parts += _causes(self.on_cpu)
        behind = sum(operator.status == "behind" for operator in self.operators)
        if behind and self.first_break is not None:
            parts.append(f"{behind} more on the CPU behind operator {self.first_break.index}")
        if self.uncertain:
            parts.append(f"{len(self.uncertain)} of them uncertain ({self.uncertain[0]})")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The prediction as JSON-ready values, its shares and first break among them."""
        broken = self.first_break
        return {
            "name": self.name,
            "compiler": self.compiler,
            "refusal": self.refusal,
            "mapped": self.mapped,
            "total": len(self.operators),
            "mapped_share": self.mapped_share,
            "mac_share": self.mac_share,
            "parameter_bytes": self.parameter_bytes,
            "first_break": None if broken is None else broken.index,
            "operators": [dataclasses.asdict(operator) for operator in self.operators],
        }


def predict_mapping(flatbuffer: bytes, name: str) -> MappingPrediction:
    """Predict what the Edge TPU compiler will map; `name` is the model's in errors.

    The compiler makes one part for the Edge TPU: from the first operator that it takes, everything
    that does not need the output of one left to the CPU (without its option -a). Raises ModelError
    when the bytes are no model, or one that is compiled already.
    """
    graph = parse_flatbuffer(flatbuffer, name).graphs[0]
    if is_compiled(flatbuffer):
        raise ModelError(f"{name} is compiled for the Edge TPU already: give the file from before edgetpu_compiler")
    settings = read_settings(flatbuffer)
    judged = [judge_operator(graph, *pair) for pair in zip(graph.operators, settings, strict=True)]
    refusal = _refusal(graph.operators, settings)
    placed = set() if refusal else _first_part(graph, [not judgement.fault for judgement in judged])
    operators = tuple(
        _predicted(graph, index, judgement, index in placed, refusal) for index, judgement in enumerate(judged)
    )
    return MappingPrediction(name, operators, _parameter_bytes(graph, placed), refusal)


def _causes(on_cpu: tuple[PredictedOperator, ...]) -> list[str]:
    """The operators that the CPU keeps for reasons of their own, one text for each reason."""
    names: dict[str, list[str]] = {}
    for operator in on_cpu:
        if operator.status == "unsupported":
            names.setdefault(operator.reason, []).append(operator.name)
    return [
        f"not {', '.join(f'{count} {name}' for name, count in Counter(kept).most_common(_MOST_NAMED))}: {reason}"
        for reason, kept in list(names.items())[:_MOST_NAMED]
    ]


def _refusal(operators: tuple[Operator, ...], settings: tuple[Settings, ...]) -> str:
    """The compiler parses a file with the TensorFlow Lite of 2021."""
    for operator, own in zip(operators, settings, strict=True):
        newest = NEWEST_VERSION.get(operator.name, own.version)
        if newest == 0:
            return f"it does not know the operator {operator.name}"
        if own.version > newest:
            return f"it knows {operator.name} up to version {newest}, and this file has version {own.version}"
    return ""


def _first_part(graph: Graph, taken: list[bool]) -> set[int]:
    """Indices of the operators in the one part that the compiler maps.

    Operators run in turns, as TensorFlow Lite divides a graph: all of one kind that can run, then
    all of the other. The first turn of supported ones is the part; only what must run before it,
    such as the QUANTIZE of a float input, comes before.
    """
    ready = set(range(len(graph.tensors))) - {index for op in graph.operators for index in op.outputs} | {-1}
    if taken and not taken[0]:
        _run(graph, [not mapped for mapped in taken], ready)
    return _run(graph, taken, ready)


def _run(graph: Graph, allowed: list[bool], ready: set[int]) -> set[int]:
    """Run the allowed operators whose inputs are `ready`, and add what they write to it."""
    done: set[int] = set()
    # The graph is in the order of execution, so that one pass finds them all.
    for index, operator in enumerate(graph.operators):
        if allowed[index] and ready.issuperset(operator.inputs):
            done.add(index)
            ready.update(operator.outputs)
    return done


def _predicted(graph: Graph, index: int, judgement: Judgement, placed: bool, refusal: str) -> PredictedOperator:
    operator = graph.operators[index]
    status: Status = "mapped"
    reason = ""
    if judgement.fault:
        status, reason = "unsupported", judgement.fault
    elif not placed:
        status, reason = "behind", "the file is refused" if refusal else "needs the output of one left to the CPU"
    elif judgement.uncertainty:
        status, reason = "uncertain", judgement.uncertainty
    written = next((graph.tensors[i].name for i in operator.outputs if i >= 0), "")
    return PredictedOperator(index, operator.name, written, status, reason, operator_macs(graph, operator))


def _parameter_bytes(graph: Graph, placed: set[int]) -> int:
    tensors = {i for index in placed for i in graph.operators[index].inputs if i >= 0}
    sizes = {graph.tensors[i].buffer: graph.tensors[i].data for i in tensors if graph.tensors[i].is_constant}
    return sum(data.size for data in sizes.values() if data is not None)


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
    before, after = (report_payload(data, name) for data in (source, flatbuffer))
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
    """Inputs or outputs by their tensors' names: the compiler may lose the signature's, and order them otherwise."""
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
