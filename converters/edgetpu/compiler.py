"""Runs `edgetpu_compiler` on a model file, believes nothing that it cannot check, and keeps what the file carried."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgeloc.contract import Contract
from edgeloc.converters.edgetpu.compiled import check_compiled, is_compiled, with_signature
from edgeloc.converters.edgetpu.log import Compilation, failure_of, parse_log
from edgeloc.converters.edgetpu.prediction import predict_mapping
from edgeloc.errors import ContractError, GateFailed, ModelError, UsageError
from edgeloc.files import require_writable
from edgeloc.modelfile import (
    CALIBRATION,
    CONTRACT,
    GOLDEN_EXPECTED,
    GOLDEN_IMAGE,
    LABELS,
    ModelFile,
    read_model,
    write_model,
)

__all__ = ["COMPILER", "MIN_MAPPED", "SUFFIX", "compile_edgetpu", "to_edgetpu"]

COMPILER = "edgetpu_compiler"
SUFFIX = "_edgetpu"
MIN_MAPPED = 0.9
_TIMEOUT_S = 600.0
_GRACE_S = 3.0
_INSTALL = (
    "add Coral's package source as coral.ai/docs/edgetpu/compiler says, then sudo apt-get install edgetpu-compiler"
)


def to_edgetpu(
    model: str | Path,
    *,
    min_mapped: float = MIN_MAPPED,
    compiler: str = COMPILER,
    timeout_s: float = _TIMEOUT_S,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Compile an int8 model file for the Edge TPU, beside it and under its name with `_edgetpu`; gives that path.

    `tell` hears what should map before the compiler runs, and what did after. Where the compiler is
    not installed the prediction is told and UsageError raised; the int8 file stays as it is, and one
    compiled earlier under that name goes. Other arguments and errors are those of `compile_edgetpu`.
    """
    model = Path(model)
    out = model.with_name(f"{model.stem}{SUFFIX}.tflite")
    tell(f"prediction: {predict_mapping(read_model(model).flatbuffer, str(model)).summary()}")
    out.unlink(missing_ok=True)  # of an earlier model: it must not pass for this one's
    compilation = compile_edgetpu(model, out, min_mapped=min_mapped, compiler=compiler, timeout_s=timeout_s)
    tell(compilation.summary())
    return out


def compile_edgetpu(
    model: str | Path,
    out: str | Path,
    *,
    min_mapped: float = MIN_MAPPED,
    compiler: str = COMPILER,
    timeout_s: float = _TIMEOUT_S,
) -> Compilation:
    """Compile the model file `model` and write `out`, with all that lay behind the model behind it again.

    `min_mapped`, 0 to 1, is the least share of operators that must run on the Edge TPU, `compiler`
    the program's name or path, `timeout_s` the longest it may take. The contract gains the
    compiler's version (`tools`), the figures of the log (`measured["edgetpu"]`) and the hash of the
    model before (`hashes["uncompiled"]`); the self-test stays, since its answers must not change.

    Raises UsageError when the compiler is not installed or a number is out of range, GateFailed
    when too few operators map, ContractError when the model carries no contract, ModelError when
    it cannot be compiled or what came out is not it. Then nothing is written.
    """
    if not 0 <= min_mapped <= 1 or not 0 < timeout_s < float("inf"):
        raise UsageError(f"min_mapped is {min_mapped} and timeout_s {timeout_s}: 0 to 1, and seconds above 0")
    program = _find(compiler)
    require_writable(out, model)
    file = read_model(model)
    if file.contract is None:
        raise ContractError(f"{model} carries no contract: convert it with edgeloc convert, which puts one in")
    if is_compiled(file.flatbuffer):
        raise ModelError(f"{model} is compiled for the Edge TPU already: give the file from before {COMPILER}")
    compiled, compilation = _compile(program, file, timeout_s, min_mapped)
    contract = _signed(file.contract, file.flatbuffer, compilation)
    own = (CALIBRATION, CONTRACT, GOLDEN_EXPECTED, GOLDEN_IMAGE, LABELS)
    extra = {name: content for name, content in file.members.items() if name not in own}
    write_model(out, compiled, contract, calibration=file.calibration, golden=file.golden, extra=extra)
    return compilation


def _find(compiler: str) -> str:
    found = shutil.which(compiler)
    if found is not None:
        return os.path.abspath(found)
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise UsageError(f"{compiler} exists for x86-64 Linux alone: compile the int8 .tflite on such a machine")
    raise UsageError(f"{compiler} is not installed; on Debian or Ubuntu (x86-64 alone): {_INSTALL}")


def _compile(program: str, file: ModelFile, timeout_s: float, min_mapped: float) -> tuple[bytes, Compilation]:
    """The compiled flatbuffer and its figures, checked; a fresh folder, so that no older output passes for this one."""
    name, source = str(file.path), file.flatbuffer
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
        _hold(compilation, min_mapped, name)
        if not result.is_file():
            raise ModelError(f"edgetpu_compiler says that it compiled {name}, but wrote no model")
        compiled = result.read_bytes()
    check_compiled(compiled, source, name)
    return with_signature(compiled, source), compilation


def _run(command: list[str], folder: str, timeout_s: float, name: str) -> tuple[int, str]:
    """Exit status and everything said; the compiler works in a child of its own, so the whole group is ended."""
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
    said = [line.strip() for line in text.splitlines() if line.strip()]
    return f"exit status {status}" + (f" after saying {said[-1]!r}" if said else "")


def _hold(compilation: Compilation, min_mapped: float, name: str) -> None:
    if compilation.mapped_share < min_mapped:
        left = ", ".join(map(str, compilation.on_cpu))
        raise GateFailed(
            f"{name}: {compilation.mapped} of {compilation.total} operators would run on the Edge TPU "
            f"({compilation.mapped_share:.0%}), fewer than {min_mapped:.0%}; on the CPU: {left}"
        )


def _signed(contract: Contract, source: bytes, compilation: Compilation) -> Contract:
    return dataclasses.replace(
        contract,
        tools={**contract.tools, COMPILER: compilation.version},
        hashes={**contract.hashes, "uncompiled": hashlib.sha256(source).hexdigest()},
        measured={**contract.measured, "edgetpu": compilation.to_dict()},
    )
