"""Running `edgetpu_compiler`: its log read as data, its output verified, and what the file carried put back."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeloc._support.files import require_writable
from edgeloc.converters.targets.edgetpu.prediction import (
    SUFFIX,
    check_compiled,
    is_compiled,
    predict_mapping,
    with_signature,
)
from edgeloc.errors import ContractError, GateFailed, ModelError, UsageError
from edgeloc.model.contract import Contract
from edgeloc.model.file import ModelFile, read_model, write_model

__all__ = [
    "COMPILER",
    "MIN_MAPPED",
    "Compilation",
    "CompiledOperators",
    "compile_edgetpu",
    "failure_of",
    "parse_log",
    "to_edgetpu",
]

logger = logging.getLogger(__name__)

COMPILER = "edgetpu_compiler"
MIN_MAPPED = 0.9
_TIMEOUT_S = 600.0
_GRACE_S = 3.0
_INSTALL = (
    "add Coral's package source as coral.ai/docs/edgetpu/compiler says, then sudo apt-get install edgetpu-compiler"
)
_MAPPED = "Mapped to Edge TPU"
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZES = {
    "input_bytes": "Input size",
    "output_bytes": "Output size",
    "on_chip_used_bytes": "On-chip memory used for caching model parameters",
    "on_chip_remaining_bytes": "On-chip memory remaining for caching model parameters",
    "off_chip_bytes": "Off-chip memory used for streaming uncached model parameters",
}
_ROW = re.compile(r"^(\S+)[ \t]+(\d+)[ \t]+(\S.*?)\s*$", re.MULTILINE)
_HEADER = re.compile(r"^Operator[ \t]+Count[ \t]+Status\s*$", re.MULTILINE)
# What the compiler prints, the most specific first, and what it means for whoever converts a model.
_FAILURES = (
    (
        r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'",
        "the compiler does not know {0} in version {1}: replace that operator, or convert with an older TensorFlow",
    ),
    (r"unresolved custom op: (\S+?)\.?\s", "the compiler does not know the custom operator {0}: leave it out"),
    (r"Model not quantized", "the model is not quantized throughout: convert it with the recipe int8"),
    (r"dynamic-sized tensors", "a size is open until the model runs: export it for a batch of one and a fixed size"),
    (r"large activation tensors", "what is computed does not fit the chip's memory: take a smaller input"),
    (
        r"Compilation timeout|child process timed? ?out|timed out",
        "it did not end in its time, mostly for an input too large: take a smaller one, or give it longer",
    ),
    (r"uncaught exception of type ([^\n]+)", "the compiler crashed ({0}): it may compile with a smaller input"),
    (r"Internal compiler error", "an internal error of the compiler, which sometimes passes: try again"),
    (r"Invalid model", "the compiler cannot read the model"),
    (r"Compilation failed: ([^\n]+)", "{0}"),
    (r"Compilation failed", "the compiler gives no reason"),
)


@dataclass(frozen=True, slots=True)
class CompiledOperators:
    """`count` operators of one kind to which the compiler gives the same `status`."""

    name: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        """Whether they run on the Edge TPU."""
        return self.status == _MAPPED

    def __str__(self) -> str:
        return f"{self.count} {self.name} ({self.status[:1].lower()}{self.status[1:]})"


@dataclass(frozen=True, slots=True)
class Compilation:
    """What the compiler made of a model, by its own log.

    Sizes are in bytes, as exact as the log gives them (to 1/100 of its unit), and None where it is silent.

    Parameters:
        version: the compiler's.
        operators: the model's operators by kind and status.
        subgraphs: how many parts run on the Edge TPU.
        compile_ms: the time that the compiler took, in ms.
        input_bytes: the model before.
        output_bytes: the compiled model.
        on_chip_used_bytes: parameters that stay in the chip's memory.
        on_chip_remaining_bytes: what is left of that memory.
        off_chip_bytes: parameters that cross the bus at each inference.
    """

    version: str
    operators: tuple[CompiledOperators, ...]
    subgraphs: int | None = None
    compile_ms: int | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None
    on_chip_used_bytes: int | None = None
    on_chip_remaining_bytes: int | None = None
    off_chip_bytes: int | None = None

    @property
    def total(self) -> int:
        """How many operators the model had."""
        return sum(row.count for row in self.operators)

    @property
    def mapped(self) -> int:
        """How many of them run on the Edge TPU."""
        return sum(row.count for row in self.operators if row.mapped)

    @property
    def mapped_share(self) -> float:
        """Their share, 0 to 1."""
        return self.mapped / self.total if self.total else 0.0

    @property
    def on_cpu(self) -> tuple[CompiledOperators, ...]:
        """The operators that the compiler leaves to the CPU, with its reasons."""
        return tuple(row for row in self.operators if not row.mapped)

    def summary(self) -> str:
        """The compilation in one sentence."""
        text = f"edgetpu_compiler {self.version}: {self.mapped} of {self.total} operators on the Edge TPU"
        if self.on_chip_used_bytes is not None:
            text += f", {_mib(self.on_chip_used_bytes)} of parameters on the chip"
        if self.off_chip_bytes:
            text += f", {_mib(self.off_chip_bytes)} more sent over for each inference"
        return text + "".join(f"; on the CPU {row}" for row in self.on_cpu)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready values, counts and share among them."""
        figures = dataclasses.asdict(self)
        figures["operators"] = [dataclasses.asdict(row) for row in self.operators]
        return {**figures, "mapped": self.mapped, "total": self.total, "mapped_share": self.mapped_share}


def failure_of(text: str) -> str:
    """Why the compiler failed, as one sentence with the fix; "" where it reports no failure."""
    for pattern, sentence in _FAILURES:
        match = re.search(pattern, text)
        if match:
            return sentence.format(*match.groups())
    return ""


def parse_log(text: str, name: str) -> Compilation:
    """Read the compiler's output of one model, with its table of operators (option -s, or the `.log` it writes).

    Raises ModelError with the reason when it reports a failure, or is no such log.
    """
    version = re.search(r"Edge TPU Compiler version (\S+)", text)
    if version is None:
        raise ModelError(f"what compiled {name} does not print what edgetpu_compiler does: {_last_line(text)}")
    done = re.search(r"Models? compiled successfully in (\d+) ?ms", text)
    if done is None or "Compilation failed" in text:
        raise ModelError(
            f"edgetpu_compiler {version[1]} did not compile {name}: {failure_of(text) or _last_line(text)}"
        )
    operators = _operators(text)
    if not operators:
        raise ModelError(f"edgetpu_compiler {version[1]} lists no operators for {name}: its log is cut short")
    sizes = {field: _size(text, words) for field, words in _SIZES.items()}
    subgraphs = re.search(r"Number of Edge TPU subgraphs: (\d+)", text)
    return Compilation(version[1], operators, int(subgraphs[1]) if subgraphs else None, int(done[1]), **sizes)


def _operators(text: str) -> tuple[CompiledOperators, ...]:
    header = _HEADER.search(text)
    if header is None:
        return ()
    rows = _ROW.finditer(text, header.end())
    return tuple(CompiledOperators(row[1], int(row[2]), row[3]) for row in rows)


def _size(text: str, words: str) -> int | None:
    match = re.search(rf"^{re.escape(words)}: ([\d.]+)\s?([KMG]i)?B\s*$", text, re.MULTILINE)
    return round(float(match[1]) * _UNITS[f"{match[2] or ''}B"]) if match else None


def _mib(size: int) -> str:
    return f"{size / _UNITS['MiB']:.2f} MiB"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it printed nothing"


def to_edgetpu(
    model: str | Path,
    *,
    min_mapped: float = MIN_MAPPED,
    compiler: str = COMPILER,
    timeout_s: float = _TIMEOUT_S,
) -> tuple[Path, Compilation]:
    """Compile an int8 model file into `NAME_edgetpu.tflite` beside it; returns that path and the figures.

    What should map is logged before the compiler runs, and what did after, so that there is a prediction even where
    the compiler is not installed. A file that was compiled earlier under that name is removed first. Parameters and
    errors are those of `compile_edgetpu`.
    """
    model = Path(model)
    out = model.with_name(f"{model.stem}{SUFFIX}.tflite")
    logger.info("prediction: %s", predict_mapping(read_model(model).payload, str(model)).summary())
    out.unlink(missing_ok=True)  # of an earlier model: it must not pass for this one's
    compilation = compile_edgetpu(model, out, min_mapped=min_mapped, compiler=compiler, timeout_s=timeout_s)
    logger.info("%s", compilation.summary())
    return out, compilation


def compile_edgetpu(
    model: str | Path,
    out: str | Path,
    *,
    min_mapped: float = MIN_MAPPED,
    compiler: str = COMPILER,
    timeout_s: float = _TIMEOUT_S,
) -> Compilation:
    """Compile the model file `model` and write `out`, with all that lay behind the model behind it again.

    The contract gains the compiler's version (`tools`), the figures of the log (`measured["edgetpu"]`) and the hash of
    the model before (`hashes["uncompiled"]`); the self-test stays, since its answers must not change.

    Parameters:
        model: the int8 model file.
        out: where the compiled one goes.
        min_mapped: the least share of operators that must run on the Edge TPU, 0 to 1.
        compiler: the program's name or path.
        timeout_s: the longest it may take, in seconds.

    Raises UsageError when the compiler is not installed or a number is out of range, GateFailed
    when too few operators map, ContractError when the model carries no contract, ModelError when
    it cannot be compiled or what came out is not it. Then nothing is written.
    """
    if not 0 <= min_mapped <= 1:
        raise UsageError(field="min_mapped", value=min_mapped, allowed="0 to 1")
    if not 0 < timeout_s < float("inf"):
        raise UsageError(field="timeout_s", value=timeout_s, allowed="seconds above 0")
    program = _find(compiler)
    require_writable(out, model)
    file = read_model(model)
    if file.contract is None:
        raise ContractError(f"{model} carries no contract: convert it with edgeloc convert, which puts one in")
    if is_compiled(file.payload):
        raise ModelError(f"{model} is compiled for the Edge TPU already: give the file from before {COMPILER}")
    compiled, compilation = _compile(program, file, timeout_s, min_mapped)
    contract = _signed(file.contract, file.payload, compilation)
    write_model(out, compiled, contract, calibration=file.calibration, golden=file.golden, extra=file.extra)
    return compilation


def _find(compiler: str) -> str:
    found = shutil.which(compiler)
    if found is not None:
        return os.path.abspath(found)
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise UsageError(f"{compiler} runs on x86-64 Linux only: compile the int8 .tflite on such a machine")
    raise UsageError(f"{compiler} is not installed; on Debian or Ubuntu (x86-64 only): {_INSTALL}")


def _compile(program: str, file: ModelFile, timeout_s: float, min_mapped: float) -> tuple[bytes, Compilation]:
    """The compiled flatbuffer and its figures, checked; a fresh folder, so that no older output passes for this one."""
    name, source = str(file.path), file.payload
    with tempfile.TemporaryDirectory(prefix="edgeloc-edgetpu-") as folder:
        given, result = Path(folder) / "model.tflite", Path(folder) / f"model{SUFFIX}.tflite"
        given.write_bytes(source)
        seconds = max(1, round(timeout_s))
        command = [program, "-s", "-t", str(seconds), "-o", folder, given.name]
        status, text = _run(command, folder, timeout_s, name)
        if status:
            reason = failure_of(text) or _ending(status, text)
            raise ModelError(f"edgetpu_compiler did not compile {name}: {reason}")
        compilation = parse_log(text, name)
        _require_mapped(compilation, min_mapped, name)
        if not result.is_file():
            raise ModelError(f"edgetpu_compiler reports that it compiled {name}, but wrote no model")
        compiled = result.read_bytes()
    check_compiled(compiled, source, name)
    return with_signature(compiled, source), compilation


def _run(command: list[str], folder: str, timeout_s: float, name: str) -> tuple[int, str]:
    """Exit status and everything printed; the compiler works in a child of its own, so the whole group is ended."""
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise UsageError(f"{command[0]} cannot be run: {error.strerror or error}") from error
    with process:
        try:
            text, _ = process.communicate(timeout=timeout_s + _GRACE_S)
        except BaseException as error:  # Ctrl-C too must not leave the compiler behind
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise ModelError(
                f"edgetpu_compiler did not end with {name} within {timeout_s:g} s: "
                "take a smaller input, or give it longer"
            ) from error
    return process.returncode, text


def _ending(status: int, text: str) -> str:
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return f"exit status {status}" + (f" after printing {_last_line(text)!r}" if text.strip() else "")


def _require_mapped(compilation: Compilation, min_mapped: float, name: str) -> None:
    if compilation.mapped_share < min_mapped:
        left = ", ".join(map(str, compilation.on_cpu))
        raise GateFailed(
            f"{name}: {compilation.mapped} of {compilation.total} operators would run on the Edge TPU "
            f"({compilation.mapped_share:.0%}), fewer than {min_mapped:.0%}; on the CPU: {left}",
            hint="replace those operators, or allow it with {min_mapped}",
        )


def _signed(contract: Contract, source: bytes, compilation: Compilation) -> Contract:
    return dataclasses.replace(
        contract,
        tools={**contract.tools, COMPILER: compilation.version},
        hashes={**contract.hashes, "uncompiled": hashlib.sha256(source).hexdigest()},
        measured={**contract.measured, "edgetpu": compilation.to_dict()},
    )
