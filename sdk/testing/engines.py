"""Fake inference: an engine with scripted answers, an Edge TPU compiler, and a delegate library built from C."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.converters.targets.edgetpu.prediction import (
    CUSTOM_OPERATOR,
    ON_TPU,
    MappingPrediction,
    PredictedOperator,
    predict_mapping,
)
from edgeloc.engines.base import Engine, TensorInfo
from edgeloc.errors import EngineError, UsageError
from edgeloc.model.contract import Contract, OutputSpec
from edgeloc.model.file import ModelFile
from edgeloc.model.flatbuffer import pack, schema, unpack

__all__ = ["BEHAVIOURS", "StandinEngine", "build_standin", "install_standin", "main"]

_GRID = 4
_BINS = 32
_ANCHORS = 16


class StandinEngine(Engine):
    """Answers a script instead of running a model.

    `contract` says which outputs there are; all are float32, the input is uint8 and takes pixels
    unconverted where the contract's mean and std are one number each. `answers` are dicts of
    output name to values, one for each invoke, the last one repeated; an output that an answer
    leaves out is zero. `delay_s` is how long each invoke takes. `invocations` counts them, and
    `fail(after, times)` makes some of them raise EngineError.

        engine = StandinEngine(contract, [{"presence": [[4.0]], "box": [[0.5, 0.5, 0.2, 0.2]]}])
        localizer = Localizer(ModelFile(Path("robot"), b"", "tflite", contract=contract), engine=engine)
    """

    name = "standin"
    version = "1"

    def __init__(
        self,
        contract: Contract,
        answers: Iterable[Mapping[str, Any]] = (),
        *,
        delay_s: float = 0.0,
    ) -> None:
        spec = contract.input
        channels = 1 if spec.color == "gray" else 3
        shape, dtype = (1, spec.height, spec.width, channels), np.dtype(np.uint8)
        self.inputs = {spec.tensor: TensorInfo(spec.tensor, shape, dtype, 1 / spec.std[0], round(spec.mean[0]))}
        self.outputs = {
            output.tensor: TensorInfo(output.tensor, _shape(contract, output), np.dtype(np.float32))
            for output in contract.outputs
        }
        self.delay_s = delay_s
        self.invocations = 0
        self._answers = [self._complete(answer) for answer in answers] or [self._complete({})]
        self._failures = range(0)

    @classmethod
    def load(cls, model: ModelFile, threads: int | None) -> StandinEngine:
        """A stand-in for a model with a contract; it answers zeros."""
        if model.contract is None:
            raise EngineError(f"{model.path} has no contract, so the engine standin cannot know its outputs")
        return cls(model.contract)

    def fail(self, after: int = 0, times: int = 1) -> None:
        """Let `times` invocations fail, once `after` further ones have gone well."""
        start = self.invocations + after
        self._failures = range(start, start + times)

    def invoke(self, tensor: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The next answer of the script."""
        number = self.invocations
        self.invocations += 1
        if self.delay_s:
            time.sleep(self.delay_s)
        if number in self._failures:
            raise EngineError("the stand-in engine fails, as it was told to")
        answer = self._answers[min(number, len(self._answers) - 1)]
        return {name: values.copy() for name, values in answer.items()}

    def _complete(self, answer: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        unknown = sorted(set(answer) - set(self.outputs))
        if unknown:
            raise EngineError(f"an answer has {unknown[0]!r}; the contract's outputs are {', '.join(self.outputs)}")
        return {
            name: np.array(answer[name], np.float32) if name in answer else np.zeros(info.shape, np.float32)
            for name, info in self.outputs.items()
        }


def _shape(contract: Contract, output: OutputSpec) -> tuple[int, ...]:
    """A plausible shape for an output of this role."""
    objects, labels = contract.box.objects, len(contract.labels)
    shapes: dict[str, tuple[int, ...]] = {
        "presence": (1, objects),
        "class": (1, objects, labels) if objects > 1 else (1, labels),
        "box": (1, objects, 4) if objects > 1 else (1, 4),
        "vector": (1, objects * len(output.slots)),
        "box-bins": (1, objects * 4, _BINS),
        "grid-weights": (1, _GRID, _GRID, 1),
        "grid-distances": (1, _GRID, _GRID, 4),
        "ssd-boxes": (1, objects, 4),
        "ssd-classes": (1, objects),
        "ssd-scores": (1, objects),
        "ssd-count": (1,),
        "yolo": (1, 4 + labels, _ANCHORS),
    }
    return shapes[output.role]


BEHAVIOURS = ("compiles", "aborts", "crashes", "forgets", "hangs", "stubs", "times-out", "too-large")
_VERSION = "Edge TPU Compiler version 16.0.384591198"
_ON_CHIP_BYTES = 8 << 20


def install_standin(folder: str | Path, behaviour: str = "compiles") -> Path:
    """Write a program `edgetpu_compiler` into `folder`, and give its path for `compile_edgetpu(compiler=...)`.

    `behaviour` is what it does with every model: `compiles` (what the operator table foretells, to a
    file without signatures, as the real one; refuses what that refuses), `aborts` (an internal error
    with exit status 0), `crashes` (a signal), `forgets` (reports success, writes nothing), `hangs`
    (with a child that hangs too), `stubs` (reports success, writes 1 KB), `times-out` (its child did
    not end in time), `too-large` (activations do not fit). No device runs what it writes.
    """
    if behaviour not in BEHAVIOURS:
        raise UsageError(f"behaviour is {behaviour!r}: it must be one of {', '.join(BEHAVIOURS)}")
    path = Path(folder) / "edgetpu_compiler"
    # A shell script, since the path of an interpreter may be too long for a first line.
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {__name__} --behaviour {behaviour} "$@"\n')
    path.chmod(0o755)
    return path


def main(argv: list[str] | None = None) -> int:
    """Act like the compiler; returns its exit status."""
    parser = argparse.ArgumentParser(prog="edgetpu_compiler")
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--out_dir", type=Path, default=Path())
    parser.add_argument("-s", "--show_operations", action="store_true")
    parser.add_argument("-t", "--timeout_sec", type=int, default=180)
    parser.add_argument("--behaviour", choices=BEHAVIOURS, default="compiles")
    args = parser.parse_args(argv)
    print(_VERSION, f"Started a compilation timeout timer of {args.timeout_sec} seconds.", sep="\n", flush=True)
    if args.behaviour in ("compiles", "forgets", "stubs"):
        return _compile(args)
    return _fail(args.behaviour)


def _fail(behaviour: str) -> int:
    ended = "Compilation child process completed within timeout period."
    match behaviour:
        case "aborts":
            print("\nInternal compiler error. Aborting! ")
            return 0
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hangs":
            with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]):
                time.sleep(600)
        case "times-out":
            print("Compilation child process timed out.\nCompilation failed! ")
        case "too-large":
            print("ERROR: Restored original execution plan after delegate application failure.")
            print(f"Compilation failed: Compilation failed due to large activation tensors in model.\n{ended}")
            print("Compilation failed! ")
    return 1


def _compile(args: argparse.Namespace) -> int:
    source = args.model.read_bytes()
    prediction = predict_mapping(source, args.model.name)
    if prediction.refusal:
        print(f"ERROR: Registration failed.\n\nInvalid model: {args.model.name}\nModel could not be parsed")
        return 1
    if all("float" in operator.reason for operator in prediction.operators):
        print(f"Invalid model: {args.model.name}\nModel not quantized")
        return 1
    out = args.out_dir / f"{args.model.stem}_edgetpu.tflite"
    compiled = _compiled(source, prediction)
    if args.behaviour == "compiles":
        out.write_bytes(compiled)
    elif args.behaviour == "stubs":
        out.write_bytes(compiled[:8].ljust(1024, b"\0"))
    table = _table(prediction)
    log = f"{_VERSION}\nInput: {args.model}\nOutput: {out}\n\n{table}"
    out.with_suffix(".log").write_text(log)
    print(_report(args.model, out, len(source), len(compiled), prediction))
    print(f"\n{table}" if args.show_operations else "See the operation log file for individual operation details.")
    print("Compilation child process completed within timeout period.\nCompilation succeeded! ")
    return 0


def _report(model: Path, out: Path, before: int, after: int, prediction: MappingPrediction) -> str:
    cached = min(prediction.parameter_bytes, _ON_CHIP_BYTES)
    left = len(prediction.on_cpu)
    lines = [
        "",
        "Model compiled successfully in 7 ms.",
        "",
        f"Input model: {model}",
        f"Input size: {_size(before)}",
        f"Output model: {out}",
        f"Output size: {_size(after)}",
        f"On-chip memory used for caching model parameters: {_size(cached)}",
        f"On-chip memory remaining for caching model parameters: {_size(_ON_CHIP_BYTES - cached)}",
        f"Off-chip memory used for streaming uncached model parameters: {_size(prediction.parameter_bytes - cached)}",
        f"Number of Edge TPU subgraphs: {int(prediction.mapped > 0)}",
        f"Total number of operations: {len(prediction.operators)}",
        f"Operation log: {out.with_suffix('.log')}",
    ]
    if left:
        lines += [
            "",
            f"Number of operations that will run on Edge TPU: {prediction.mapped}",
            f"Number of operations that will run on CPU: {left}",
        ]
    return "\n".join(lines)


def _table(prediction: MappingPrediction) -> str:
    rows = Counter((operator.name, _status(operator)) for operator in prediction.operators)
    lines = [f"{name:<30} {count:<10} {status}" for (name, status), count in rows.items()]
    return "\n".join(["Operator                       Count      Status", "", *lines])


def _status(operator: PredictedOperator) -> str:
    if operator.status in ON_TPU:
        return "Mapped to Edge TPU"
    if operator.status == "behind":
        return "More than one subgraph is not supported"
    if operator.reason.startswith("works on"):
        return "Operation is working on an unsupported data type"
    if operator.reason.startswith("not an operator"):
        return "Operation not supported"
    return "Operation is otherwise supported, but not mapped due to some unspecified limitation"


def _compiled(source: bytes, prediction: MappingPrediction) -> bytes:
    """The model with one custom operator in place of the mapped ones, whose program is noise."""
    model = unpack(source)
    graph = model.subgraphs[0]
    placed = {operator.index for operator in prediction.operators if operator.status in ON_TPU}
    if placed:
        graph.operators = _replaced(model, graph, placed, prediction.parameter_bytes)
    used = {int(i) for op in graph.operators for i in (*op.inputs, *op.outputs)} | set(map(int, graph.outputs))
    kept = {graph.tensors[index].buffer for index in used if index >= 0}
    for number, buffer in enumerate(model.buffers):
        if number not in kept and not any(entry.buffer == number for entry in model.metadata or ()):
            buffer.data = None
    model.signatureDefs = []
    return pack(model)


def _replaced(model: Any, graph: Any, placed: set[int], program_bytes: int) -> list[Any]:
    """The operators before the mapped part, the part as one operator, and those behind it."""
    inside = [graph.operators[index] for index in sorted(placed)]
    outside = [operator for index, operator in enumerate(graph.operators) if index not in placed]
    written = {int(i) for operator in inside for i in operator.outputs}
    read = [int(i) for operator in inside for i in operator.inputs if i >= 0 and int(i) not in written]
    wanted = set(map(int, graph.outputs)) | {int(i) for operator in outside for i in operator.inputs}
    part = schema().OperatorT()
    part.opcodeIndex = len(model.operatorCodes)
    part.inputs = [i for i in dict.fromkeys(read) if model.buffers[graph.tensors[i].buffer].data is None]
    part.outputs = [i for i in sorted(written) if i in wanted]
    part.customOptions = (np.arange(program_bytes + 4096) % 251).astype(np.uint8)
    code = schema().OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema().BuiltinOperator.CUSTOM
    code.customCode, code.version = CUSTOM_OPERATOR, 1
    model.operatorCodes.append(code)
    before: list[Any] = []
    behind: list[Any] = []
    reached = set(part.outputs)
    for operator in outside:
        late = not reached.isdisjoint(map(int, operator.inputs))
        reached.update(map(int, operator.outputs) if late else ())
        (behind if late else before).append(operator)
    return [*before, part, *behind]


def _size(size: int) -> str:
    for unit, scale in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale:
            return f"{size / scale:.2f}{unit}"
    return f"{size:.2f}B"


if __name__ == "__main__":
    sys.exit(main())


_SOURCE = Path(__file__).with_name("delegate.c")


def build_standin(folder: str | Path, compiler: str = "cc") -> Path:
    """Compile the stand-in into `folder` and return the library's path, to be given as `edgetpu://?library=PATH`.

    Raises EngineError when there is no C compiler or it fails.
    """
    library = Path(folder).resolve() / "libedgetpu-standin.so"
    if shutil.which(compiler) is None:
        raise EngineError(
            f"the stand-in for the Edge TPU needs a C compiler ({compiler}): sudo apt install gcc libc6-dev"
        )
    command = [compiler, "-shared", "-fPIC", "-O1", "-fvisibility=hidden", "-o", str(library), str(_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"{compiler} does not compile {_SOURCE.name}: {done.stderr.strip()}")
    return library
