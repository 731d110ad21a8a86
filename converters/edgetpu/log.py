"""Reads what `edgetpu_compiler` says as data, and its failures as sentences that name the mend; it runs nothing."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from edgeloc.errors import ModelError

__all__ = ["Compilation", "CompiledOperators", "failure_of", "parse_log"]

MAPPED = "Mapped to Edge TPU"
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
# What the compiler prints, in the order in which it tells more, and what it means for whoever converts a model.
_FAILURES = (
    (
        r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'",
        "the compiler does not know {0} in version {1}: replace that operator, or convert with an older TensorFlow",
    ),
    (r"unresolved custom op: (\S+?)\.?\s", "the compiler does not know the custom operator {0}: leave it out"),
    (r"Model not quantized", "the model is not quantized throughout: convert it with --recipe int8"),
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
    (r"Compilation failed", "the compiler does not say why"),
)


@dataclass(frozen=True, slots=True)
class CompiledOperators:
    """So many operators of one kind for which the compiler gives one status."""

    name: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        """Whether they run on the Edge TPU."""
        return self.status == MAPPED

    def __str__(self) -> str:
        return f"{self.count} {self.name} ({self.status[:1].lower()}{self.status[1:]})"


@dataclass(frozen=True, slots=True)
class Compilation:
    """What the compiler made of a model, by its own log.

    Sizes are in bytes, as exact as the log gives them (to 1/100 of its unit), and None where it is
    silent. Off-chip parameters cross the bus at each inference. `subgraphs` are the parts that run
    on the Edge TPU.
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
    """Why the compiler failed, as one sentence with the mend; "" where its words tell of no failure."""
    for pattern, sentence in _FAILURES:
        match = re.search(pattern, text)
        if match:
            return sentence.format(*match.groups())
    return ""


def parse_log(text: str, name: str) -> Compilation:
    """Read the compiler's output of one model, with its table of operators (option -s, or the `.log` it writes).

    Raises ModelError with the reason when it tells of a failure, or is no such log.
    """
    version = re.search(r"Edge TPU Compiler version (\S+)", text)
    if version is None:
        raise ModelError(f"what compiled {name} does not speak like edgetpu_compiler: {_last_line(text)}")
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
    return lines[-1].strip() if lines else "it says nothing"
