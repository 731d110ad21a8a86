"""The result of a benchmark: its fields, the machine that it ran on, and its file."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from edgeloc._support.files import atomic_path
from edgeloc._support.json import from_data, parse_json, to_json
from edgeloc._version import __version__
from edgeloc.benchmarks.energy import Energy
from edgeloc.benchmarks.scenarios.course import Course
from edgeloc.benchmarks.scenarios.stopping import Scenario
from edgeloc.device.board import Board, read_board
from edgeloc.device.thermal import ThermalReader, ThermalRecord
from edgeloc.errors import DataError
from edgeloc.evaluation.accuracy import Accuracy
from edgeloc.evaluation.detection import DetectionRegression
from edgeloc.evaluation.figures import Regression, format_size
from edgeloc.findings import Finding

__all__ = [
    "LOCALIZE",
    "NETWORK_STAGES",
    "OBSTACLES",
    "SCHEMA_VERSION",
    "STAGES",
    "START_STAGES",
    "UNKNOWN_PRECISION",
    "BenchResult",
    "DataInfo",
    "Environment",
    "LatencyRun",
    "Memory",
    "ModelInfo",
    "StageLatency",
    "describe_model",
    "machine",
    "obstacles",
    "read_environment",
    "read_result",
    "stages_in",
    "write_result",
]


SCHEMA_VERSION = 3
UNKNOWN_PRECISION = "unknown"
STAGES = ("capture", "preprocess", "invoke", "decode", "draw", "total")
NETWORK_STAGES = ("backbone", "proposals", "regions", "head")
"""The parts of `invoke` of a two-stage detector."""
LOCALIZE = "localize"
"""The sum of preprocess, invoke and decode of each frame: what an answer takes, wherever frames come from."""
START_STAGES = ("interpreter", "import", "load", "first", "total")
"""Of a cold start, one sample a process: Python itself, edgeloc and what it needs, the model, its first answer."""
OBSTACLES = ("measurement-interrupted", "throttled-while-measuring", "machine-busy", "latency-drifts")
"""The findings that make a result not comparable with others."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and its software; None is what the machine does not report.

    Parameters:
        board: its name in the device tree.
        cpu: the processor.
        cores: how many this process may use.
        machine: the architecture.
        os: the system and its version.
        python: its version.
        numpy: its version.
        opencv: its version.
        edgeloc: its version.
        governor: the frequency governor of the first core.
        load_1min: the load average when the measurement began.
        power_mode: of a Jetson.
        hardware: the board's particulars.
    """

    board: str | None
    cpu: str | None
    cores: int
    machine: str
    os: str
    governor: str | None
    load_1min: float | None
    python: str
    numpy: str
    opencv: str
    edgeloc: str
    power_mode: str | None = None
    hardware: Board | None = None

    def findings(self) -> tuple[Finding, ...]:
        """What may make the latencies worse than the machine's best: `cpu-governor`, `machine-busy`."""
        found = []
        if self.governor not in (None, "performance"):
            message = f"the CPU governor is {self.governor}, not performance: latencies may be longer and vary more"
            found.append(Finding("cpu-governor", "warning", message, "set the governor performance and measure again"))
        if self.load_1min is not None and self.load_1min > 0.5 * self.cores:
            load = f"load {self.load_1min:.1f} on {self.cores} cores"
            message = f"the machine was busy when the measurement began ({load})"
            found.append(Finding("machine-busy", "warning", message, "stop other work and measure again"))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class StageLatency:
    """One stage's latency in ms over the frames after the warm-up; every sample kept, in order, none clipped."""

    count: int
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    samples_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.count != len(self.samples_ms):
            raise ValueError(f"count is {self.count}, and samples_ms holds {len(self.samples_ms)}")


@dataclass(frozen=True, slots=True)
class LatencyRun:
    """How the latencies came about; `capture` describes what that stage holds for this source."""

    source: str
    capture: str
    frames: int
    warmup_frames: int
    frame_sizes: tuple[tuple[int, int], ...]
    engine: str
    engine_version: str
    threads: int | None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model file as it was measured.

    Parameters:
        path: where it was.
        sha256: of the file.
        bytes: its size.
        precision: as read out of the file, UNKNOWN_PRECISION where it cannot be.
        engine: what ran it.
        engine_version: its version.
        recipe: the quantization recipe that its contract names; "" where it names none.
        operators: how many of each the file holds; empty where they cannot be read.
    """

    path: str
    sha256: str
    bytes: int
    precision: str
    engine: str
    engine_version: str
    recipe: str = ""
    operators: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataInfo:
    """The labelled images: `images` in the split, `used` of them, `skipped` as unreadable.

    `sha256` is of the images that were to be measured: of each its bytes, boxes, labels and group, in order; the same
    wherever they lie and whatever they are called.
    """

    uri: str
    name: str
    split: str | None
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    images: int
    used: int
    skipped: int
    skipped_names: tuple[str, ...] = ()
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB, of the whole process with Python and its libraries.

    Parameters:
        peak_mib: the most that it ever held; of a cold start the median of its processes.
        samples_mib: the peaks of a cold start's processes, in order; empty of the other scenarios.
    """

    peak_mib: float
    samples_mib: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All of one benchmark.

    Parameters:
        created_at: when it ended, in UTC (ISO 8601).
        complete: false when it was interrupted; the result then holds what was measured until then.
        environment: the machine and its software.
        model: what was measured.
        against: the float model that it was compared with; None without.
        data: the labelled images; None without.
        size_ratio: the float file's bytes over the quantized file's; None without a float file.
        latency: by stage, in order; empty where no frame was timed. In single-stream and sustained each of STAGES,
            those of NETWORK_STAGES that the model has, and LOCALIZE. In stream, `capture` is from a frame's exposure
            until it is taken, nothing is drawn, and `total` is the frame's age when its result is there. In cold-start,
            those of START_STAGES, a sample a process.
        latency_run: how the samples came about.
        latency_against: the same of the float model, timed in turns with it; empty without one.
        regression: what quantization cost; None where there was no float model to compare with.
        accuracy: the model against the labels; None where a regression has its figures, or without labelled images.
        detection: of a detector, instead of both, its figures beside the float model's; without one they stand twice.
        thermal: the board's temperatures and clocks while the latencies were measured.
        energy: `energy.status` is "not measured" where there was no meter.
        findings: what to know about these figures.
        scenario: what was asked of the measurement, and what was reached.
        course: the latencies and the board over time; None where no frame was timed.
        memory: what the measuring process took; None where the system does not say.
        command: the command line that measures the same again.
        schema_version: of the file's format.
    """

    created_at: str
    complete: bool
    environment: Environment
    model: ModelInfo
    against: ModelInfo | None
    size_ratio: float | None
    data: DataInfo | None
    latency: dict[str, StageLatency]
    latency_run: LatencyRun | None
    regression: Regression | None = None
    accuracy: Accuracy | None = None
    detection: DetectionRegression | None = None
    thermal: ThermalRecord | None = None
    energy: Energy = field(default_factory=Energy)
    findings: tuple[Finding, ...] = ()
    scenario: Scenario | None = None
    latency_against: dict[str, StageLatency] = field(default_factory=dict)
    course: Course | None = None
    memory: Memory | None = None
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.latency and "total" not in self.latency:
            raise ValueError("latency.total is missing")
        if self.latency and not self.latency["total"].p50_ms > 0:
            raise ValueError(f"latency.total.p50_ms is {self.latency['total'].p50_ms}: it must be above 0")

    @property
    def comparable(self) -> bool:
        """Whether its latency and energy may be held against another result's; `obstacles` says why not."""
        return not obstacles(self)

    @property
    def size_comparison(self) -> str:
        """How the model's size compares with the other model's, in words; "" without another model."""
        if self.against is None or not self.size_ratio:
            return ""
        other = self.against.precision
        name = (
            "float" if "float32" in other else "the other model" if other == UNKNOWN_PRECISION else f"the {other} model"
        )
        ratio = self.size_ratio
        if 0.95 < ratio < 1.05:
            return f"as large as {name}"
        return f"{ratio:.1f} times smaller than {name}" if ratio > 1 else f"{1 / ratio:.1f} times larger than {name}"


def obstacles(result: BenchResult) -> tuple[Finding, ...]:
    """Why the latency and energy of `result` are not to be compared with another's; empty where they are.

    The codes are those of OBSTACLES. Accuracy does not suffer from them, except from the first.
    """
    found = [] if result.complete else [_interrupted(result)]
    found += result.thermal.findings() if result.thermal else ()
    if result.course is None or result.course.others_busy is None:
        # The load of the last minute is known everywhere, but holds what this program itself did before, too.
        found += [finding for finding in result.environment.findings() if finding.code == "machine-busy"]
    drifts = result.course.findings() if result.course else ()
    # What sustained is there to show.
    sustained = result.scenario is not None and result.scenario.name == "sustained"
    found += [finding for finding in drifts if not (sustained and finding.code == "latency-drifts")]
    return tuple({finding.code: finding for finding in found}.values())


def _interrupted(result: BenchResult) -> Finding:
    timed = result.latency["total"].count if result.latency else 0
    message = f"the measurement was interrupted after {timed} samples: what follows is missing"
    return Finding("measurement-interrupted", "warning", message, "measure again")


def write_result(path: str | Path, result: BenchResult) -> None:
    """Write `result` as JSON, whole or not at all; OutputError when `path` cannot be written."""
    text = to_json(result)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_result(path: str | Path) -> BenchResult:
    """Read a result; DataError names the file and the field that is missing or wrong."""
    try:
        data = parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give a result of `edgeloc bench`") from error
    except ValueError as error:
        raise DataError(f"{path} is no result of `edgeloc bench`: it is not JSON ({error})") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path} is no result that this release reads: schema_version is {version!r}, it must be {SCHEMA_VERSION}; "
            "measure again"
        )
    try:
        result: BenchResult = from_data(BenchResult, data)
    except DataError as error:
        raise DataError(f"{path} is no result of `edgeloc bench`: {error}") from error
    return result


def machine(result: BenchResult) -> str:
    """The shortest name of what was measured on."""
    return result.environment.board or result.environment.cpu or result.environment.machine


def describe_model(info: ModelInfo) -> str:
    """A model file in one line."""
    engine = f"{info.engine} {info.engine_version}"
    return f"{info.path}: {info.precision}, {format_size(info.bytes)}, on {engine}, SHA-256 {info.sha256}"


def stages_in(latency: dict[str, StageLatency]) -> list[str]:
    """The stages that were timed, in their order; the parts of `invoke` follow it."""
    behind, last = STAGES.index("invoke") + 1, STAGES.index("draw")
    every = (*START_STAGES[:-1], *STAGES[:behind], *NETWORK_STAGES, *STAGES[behind:last], LOCALIZE, *STAGES[last:])
    return [stage for stage in every if stage in latency]


def read_environment(root: str | Path = "/") -> Environment:
    """Read the environment; `root` is where proc and sys are found (another folder in tests)."""
    hardware, thermal = read_board(Path(root)), ThermalReader(Path(root)).read()
    return Environment(
        board=hardware.model,
        cpu=hardware.cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        machine=hardware.machine,
        os=platform.platform(),
        governor=thermal.governor,
        load_1min=_load(),
        python=hardware.python,
        numpy=np.__version__,
        opencv=cv2.__version__,
        edgeloc=__version__,
        power_mode=thermal.power_mode,
        hardware=hardware,
    )


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
