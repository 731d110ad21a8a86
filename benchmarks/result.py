"""The result of a benchmark: its fields, the machine that it ran on, and its file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeloc._support.files import atomic_path
from edgeloc._support.json import from_data, parse_json, to_json
from edgeloc.benchmarks.energy import Energy
from edgeloc.benchmarks.environment import Environment, Memory
from edgeloc.benchmarks.journal import packed, read_journal, unpacked
from edgeloc.benchmarks.scenarios.course import Course, Reading, drift, moved
from edgeloc.benchmarks.scenarios.loadgen import LoadGen
from edgeloc.benchmarks.scenarios.stopping import Scenario, StoppedBy, reached
from edgeloc.device.thermal import ThermalRecord
from edgeloc.errors import DataError, ModelError
from edgeloc.evaluation.accuracy import Accuracy, AccuracyRow, accuracy_figures
from edgeloc.evaluation.detection import DetectionRegression, DetectionRow, detection_figures
from edgeloc.evaluation.figures import Regression, Row, format_size, regression_figures
from edgeloc.evaluation.statistics import summarize
from edgeloc.findings import Finding
from edgeloc.model.file import own_contract
from edgeloc.model.inspection import inspect_model

if TYPE_CHECKING:
    from edgeloc.localizer import Localizer

__all__ = [
    "LOCALIZE",
    "NETWORK_STAGES",
    "OBSTACLES",
    "SCHEMA_VERSION",
    "STAGES",
    "START_STAGES",
    "SWEEP_FILE",
    "UNKNOWN_PRECISION",
    "BenchResult",
    "DataInfo",
    "LatencyRun",
    "ModelInfo",
    "StageLatency",
    "describe_model",
    "machine",
    "model_info",
    "obstacles",
    "older_results",
    "read_result",
    "stages_in",
    "with_obstacles",
    "with_reached",
    "write_result",
]

logger = logging.getLogger(__name__)


# The table of a sweep, beside the results that it is of.
SWEEP_FILE = "sweep.json"
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

    @classmethod
    def of(cls, samples: Sequence[float], warmup: int) -> StageLatency:
        """The figures of `samples`, in ms to four decimals, of which the first `warmup` are kept apart."""
        kept = [round(sample, 4) for sample in samples]
        counted = tuple(kept[warmup:])
        return cls(**asdict(summarize(counted)), samples_ms=counted, warmup_ms=tuple(kept[:warmup]))


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
        labels: those of its contract.
    """

    path: str
    sha256: str
    bytes: int
    precision: str
    engine: str
    engine_version: str
    recipe: str = ""
    operators: dict[str, int] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


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
        latency_against: of single-stream, the same of the float model, timed afterwards in turns with this one on the
            same frames, which are at hand: `capture` is no camera's. Empty without a float model.
        latency_beside: this model's own in those turns: what `latency_against` may be held against.
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
        loadgen: what MLPerf's LoadGen measured of the same frames, where it issued them.
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
    latency_beside: dict[str, StageLatency] = field(default_factory=dict)
    course: Course | None = None
    memory: Memory | None = None
    command: str = ""
    loadgen: LoadGen | None = None
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


def with_obstacles(result: BenchResult) -> BenchResult:
    """`result` with its obstacles among its findings."""
    others = (finding for finding in result.findings if finding.code not in OBSTACLES)
    return replace(result, findings=(*others, *obstacles(result)))


def _interrupted(result: BenchResult) -> Finding:
    timed = result.latency["total"].count if result.latency else 0
    message = f"the measurement was interrupted after {timed} samples: what follows is missing"
    return Finding("measurement-interrupted", "warning", message, "measure again")


def write_result(path: str | Path, result: BenchResult) -> None:
    """Write `result` as JSON, whole or not at all; OutputError when `path` cannot be written.

    It is compressed where the name ends in .gz.
    """
    data = packed(Path(path), to_json(result))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def is_result_name(name: str) -> bool:
    """Whether a file of this name is looked for in a folder of results."""
    return name.endswith((".json", ".json.gz")) and name != SWEEP_FILE


def older_results(folder: Path, written: Collection[str]) -> Finding | None:
    """The finding of a folder that holds other results than the ones just written, by their names."""
    others = sorted(file.name for file in folder.iterdir() if is_result_name(file.name) and file.name not in written)
    if not others:
        return None
    which = f"{len(others)}, as {others[0]}"
    message = f"{folder} holds other results, too ({which}): who reads the folder takes all for one"
    return Finding("older-results", "warning", message, "move them away, or write into another folder")


def read_result(path: str | Path) -> BenchResult:
    """Read a result, whole or as a killed process left it; DataError names the file and the field that is wrong."""
    try:
        text = unpacked(Path(path).read_bytes())
        head, lists = read_journal(text) or (parse_json(text), {})
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give a result of `edgeloc bench`") from error
    except (LookupError, TypeError) as error:
        raise DataError(f"{path} is no result of `edgeloc bench`: its lines are those of another file") from error
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is no result of `edgeloc bench`: it is not JSON ({error})") from error
    if not isinstance(head, dict) or "schema_version" not in head:
        raise DataError(f"{path} is no result of `edgeloc bench`: it has no schema_version")
    if "environment" not in head:
        raise DataError(f"{path} is no result of `edgeloc bench`: it says nothing of a machine")
    version = head["schema_version"]
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path} is no result that this release reads: schema_version is {version!r}, it must be {SCHEMA_VERSION}; "
            "measure again"
        )
    try:
        result: BenchResult = from_data(BenchResult, head)
        return _restored(result, lists) if lists else result
    except DataError as error:
        raise DataError(f"{path} is no result of `edgeloc bench`: {error}") from error


def _restored(head: BenchResult, lists: dict[str, list[Any]]) -> BenchResult:
    """The result of what was measured until a process was killed; `lists` is what it wrote, see `write_journal`."""
    warmup = head.latency_run.warmup_frames if head.latency_run else 0
    began = from_data(tuple[float, ...], lists.get("began", []))
    readings = from_data(tuple[Reading, ...], lists.get("readings", []))
    latency = {}
    for name in (name for name in lists if name.startswith("latency.")):
        samples = from_data(tuple[float, ...], lists[name])
        if len(samples) > warmup:
            latency[name.removeprefix("latency.")] = StageLatency.of(samples, warmup)
    latency = {stage: latency[stage] for stage in stages_in(latency)}
    course = None
    if latency:
        origin = began[warmup]
        shown = tuple(moved(reading, origin) for reading in readings)
        course = Course(tuple(round(at - origin, 4) for at in began[warmup:]), shown)
    readings_w = {name: from_data(tuple[float, ...], lists.get(name, [])) for name in ("t_s", "watts")}
    result = replace(head, latency=latency, course=course, energy=replace(head.energy, **readings_w))
    result = with_reached(_with_rows(result, lists.get("rows", [])), "interrupted")
    return with_obstacles(result)


def _with_rows(head: BenchResult, rows: list[Any]) -> BenchResult:
    """`head` with the accuracy of the images that were measured; `worst` lacks its pictures."""
    if head.regression:
        presence, of = head.regression.presence, from_data(tuple[Row, ...], rows)
        before, after = presence.threshold_float, presence.threshold_quantized
        labels = head.model.labels
        figures = regression_figures(of, threshold_float=before, threshold_quantized=after, labels=labels)
        return replace(head, regression=figures)
    if head.accuracy:
        answers, threshold = from_data(tuple[AccuracyRow, ...], rows), head.accuracy.threshold
        return replace(head, accuracy=accuracy_figures(answers, threshold=threshold, labels=head.model.labels))
    if head.detection:
        found = from_data(tuple[DetectionRow, ...], rows)
        thresholds = head.detection.threshold_float, head.detection.threshold_quantized
        return replace(head, detection=detection_figures(found, *thresholds) if found else None)
    return head


def with_reached(result: BenchResult, stopped_by: StoppedBy) -> BenchResult:
    """`result` with what its samples reach in its scenario, and the drift in its course."""
    if not result.latency or result.course is None or result.scenario is None:
        return result
    totals, began = result.latency["total"].samples_ms, result.course.began_s
    scenario = reached(result.scenario, totals, began[-1] + totals[-1] / 1000, stopped_by)
    return replace(result, scenario=scenario, course=replace(result.course, drift=drift(began, totals)))


def machine(result: BenchResult) -> str:
    """The shortest name of what was measured on."""
    return result.environment.board or result.environment.cpu or result.environment.machine


def model_info(path: str | Path, localizer: Localizer) -> ModelInfo:
    """The facts about a model file that `localizer` runs."""
    data = Path(path).read_bytes()
    precision, operators = _inspected(path)
    contract = own_contract(localizer.model)
    return ModelInfo(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        precision=precision,
        engine=localizer.engine.name,
        engine_version=localizer.engine.version,
        recipe=contract.recipe if contract else "",
        operators=operators,
        labels=localizer.contract.labels,
    )


def _inspected(path: str | Path) -> tuple[str, dict[str, int]]:
    """Precision and operators as read out of the file; a Keras file computes in float32.

    A file that runs may still not be understood.
    """
    if Path(path).suffix == ".keras":
        return "float32 (Keras)", {}
    try:
        report = inspect_model(path)
    except ModelError as error:
        logger.debug("%s", error)
        return UNKNOWN_PRECISION, {}
    return report.precision, report.operators


def describe_model(info: ModelInfo) -> str:
    """A model file in one line."""
    engine = f"{info.engine} {info.engine_version}"
    return f"{info.path}: {info.precision}, {format_size(info.bytes)}, on {engine}, SHA-256 {info.sha256}"


def stages_in(latency: Mapping[str, object]) -> list[str]:
    """The stages that were timed, in their order; the parts of `invoke` follow it."""
    behind, last = STAGES.index("invoke") + 1, STAGES.index("draw")
    every = (*START_STAGES[:-1], *STAGES[:behind], *NETWORK_STAGES, *STAGES[behind:last], LOCALIZE, *STAGES[last:])
    return [stage for stage in every if stage in latency]
