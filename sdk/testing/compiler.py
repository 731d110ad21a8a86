"""A fake `edgetpu_compiler`: a program with the real one's options, log and failures."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgeloc._support.children import program_line
from edgeloc.converters.targets.edgetpu.prediction import (
    CUSTOM_OPERATOR,
    ON_TPU,
    MappingPrediction,
    PredictedOperator,
    predict_mapping,
)
from edgeloc.errors import OutputError, UsageError
from edgeloc.model.flatbuffer import pack, schema, unpack

__all__ = ["BEHAVIOURS", "build_fake_compiler", "main"]

BEHAVIOURS = ("compiles", "aborts", "crashes", "forgets", "hangs", "stubs", "times-out", "too-large")
_VERSION = "Edge TPU Compiler version 16.0.384591198"
_ON_CHIP_BYTES = 8 << 20


def build_fake_compiler(folder: str | Path, behaviour: str = "compiles") -> Path:
    """Write a program `edgetpu_compiler` into `folder`, and give its path for `compile_edgetpu(compiler=...)`.

    `behaviour` is what it does with every model; no device runs what it writes.

    - `compiles`: as the operator table predicts, to a file without signatures; refuses what the real one refuses.
    - `aborts`: an internal error with exit status 0.
    - `crashes`: ends by a signal.
    - `forgets`: reports success and writes nothing.
    - `hangs`: never ends, and has a child that never ends.
    - `stubs`: reports success and writes 1 KB.
    - `times-out`: its child did not end in time.
    - `too-large`: the activations do not fit.

    Raises OutputError where there is no such folder, UsageError for another behaviour.
    """
    if behaviour not in BEHAVIOURS:
        raise UsageError(field="behaviour", value=behaviour, allowed=f"one of {', '.join(BEHAVIOURS)}")
    if not Path(folder).is_dir():
        raise OutputError(f"the fake compiler cannot be written to {folder}: there is no such folder", hint="create it")
    path = Path(folder) / "edgetpu_compiler"
    # A shell script, since the path of an interpreter may be too long for a first line.
    line = program_line(f"from {__name__} import main; raise SystemExit(main())", "--behaviour", behaviour)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(line)} "$@"\n')
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
            with subprocess.Popen(program_line("import time; time.sleep(600)")):
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
