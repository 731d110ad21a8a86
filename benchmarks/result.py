"""The result of a benchmark as a file: its fields, writing and reading; it computes none of the figures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from edgeloc.benchmarks.energy import Energy
from edgeloc.benchmarks.environment import Environment
from edgeloc.benchmarks.serialization import from_data, to_json
from edgeloc.device.heat_sampler import HeatRecord
from edgeloc.errors import DataError
from edgeloc.files import atomic_path
from edgeloc.types import Box

__all__ = [
    "SCHEMA_VERSION",
    "STAGES",
    "BenchResult",
    "ClassFigures",
    "DataInfo",
    "LatencyRun",
    "ModelInfo",
    "PresenceFigures",
    "Regression",
    "Row",
    "SizeFigures",
    "StageLatency",
    "Worst",
    "read_result",
    "write_result",
]

SCHEMA_VERSION = 1
STAGES = ("capture", "preprocess", "invoke", "decode", "draw", "total")


@dataclass(frozen=True, slots=True)
class Row:
    """One image through both models; boxes in its pixels, IoU None where nothing is to be found.

    `kind` is `object`, `empty` (an image without a box) or `background` (a crop beside the box);
    boxes are the raw ones, whatever the presence. `size` is that of the true box, see
    `edgeloc.benchmarks.figures.SIZES`; `label` is the true one.
    """

    name: str
    kind: str
    width: int
    height: int
    group: str | None
    label: str | None
    size: str | None
    truth: Box | None
    box_float: Box | None
    box_quantized: Box | None
    iou_float: float | None
    iou_quantized: float | None
    iou_float_to_quantized: float | None
    presence_float: float
    presence_quantized: float
    label_float: str | None
    label_quantized: str | None

    def __post_init__(self) -> None:
        if self.kind not in ("object", "empty", "background"):
            raise ValueError(f"kind is {self.kind!r}: it must be object, empty or background")


@dataclass(frozen=True, slots=True)
class SizeFigures:
    """The regression over the objects of one size."""

    images: int
    mean_iou_float: float | None
    mean_iou_quantized: float | None
    mean_iou_drop: float | None
    mean_iou_float_to_quantized: float | None


@dataclass(frozen=True, slots=True)
class PresenceFigures:
    """Shares, 0 to 1: objects found, negatives with a false alarm, images on which both models agree."""

    threshold_float: float
    threshold_quantized: float
    objects: int
    empty_images: int
    background_crops: int
    recall_float: float | None
    recall_quantized: float | None
    false_alarms_float: float | None
    false_alarms_quantized: float | None
    agreement: float | None


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Shares, 0 to 1, over images with a labelled object; a label that a model does not know counts as missed."""

    images: int
    unknown_labels: int
    top1_float: float | None
    top1_quantized: float | None
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Worst:
    """An image on which quantization cost most; `preview` is a JPEG data URI, `preview_scale` its pixels per pixel."""

    name: str
    group: str | None
    label: str | None
    truth: Box
    box_float: Box | None
    box_quantized: Box | None
    iou_float: float
    iou_quantized: float
    iou_float_to_quantized: float
    preview: str | None = None
    preview_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Regression:
    """What quantization cost, paired image by image; IoU over images with an object, whatever the presence.

    `mean_iou_drop` is float minus quantized; `drop_ci95` its 95 % bootstrap interval, for which
    `ci_groups` groups or images (`ci_by`) were resampled. None stands for a mean over no image.
    """

    images: int
    mean_iou_float: float | None
    mean_iou_quantized: float | None
    mean_iou_drop: float | None
    drop_ci95: tuple[float, float] | None
    ci_by: str | None
    ci_groups: int
    mean_iou_float_to_quantized: float | None
    iou50_float: float | None
    iou50_quantized: float | None
    iou75_float: float | None
    iou75_quantized: float | None
    presence: PresenceFigures
    classes: ClassFigures
    by_size: dict[str, SizeFigures]
    worst: tuple[Worst, ...]
    rows: tuple[Row, ...]


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


@dataclass(frozen=True, slots=True)
class LatencyRun:
    """How the latencies came about; `capture` says in words what that stage holds for this source."""

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
    """A model file as it was measured; `precision` is read out of the file, never taken from a claim."""

    path: str
    sha256: str
    bytes: int
    precision: str
    engine: str
    engine_version: str


@dataclass(frozen=True, slots=True)
class DataInfo:
    """The labelled images: `images` in the split, `used` of them, `skipped` as unreadable."""

    uri: str
    name: str
    split: str | None
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    images: int
    used: int
    skipped: int
    skipped_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All of one benchmark; `complete` is false when it was interrupted and holds what was measured until then.

    `size_ratio` is the float file's bytes over the quantized file's. `heat` is the board's while the
    latencies were measured. `energy.status` is "not measured" where there was no meter.
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
    regression: Regression | None
    heat: HeatRecord | None = None
    energy: Energy = field(default_factory=Energy)
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


def write_result(path: str | Path, result: BenchResult) -> None:
    """Write `result` as JSON, whole or not at all; OutputError when `path` cannot be written."""
    text = to_json(result)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_result(path: str | Path) -> BenchResult:
    """Read a result; DataError names the file and the field that is missing or wrong."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give a result of `edgeloc bench`") from error
    except ValueError as error:
        raise DataError(f"{path} is no result of `edgeloc bench`: it is no JSON ({error})") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path} is no result that this release reads: schema_version is {version!r}, it must be {SCHEMA_VERSION}"
        )
    try:
        result: BenchResult = from_data(BenchResult, data)
    except DataError as error:
        raise DataError(f"{path} is no result of `edgeloc bench`: {error}") from error
    return result
