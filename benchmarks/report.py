"""A benchmark's result as one self-contained HTML page; plots and pictures are made next door."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeloc.benchmarks import plots
from edgeloc.benchmarks.figures import SIZES
from edgeloc.benchmarks.pictures import side_by_side
from edgeloc.benchmarks.result import STAGES, BenchResult, Regression, Worst
from edgeloc.errors import MissingExtra
from edgeloc.files import atomic_path

__all__ = ["render_report", "write_report"]


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows of cells under an optional head; `text` rows are prose, not numbers."""

    head: list[str]
    rows: list[list[str]]
    text: bool = False


def write_report(path: str | Path, result: BenchResult) -> None:
    """Write the page of `result`, whole or not at all; OutputError when `path` cannot be written."""
    page = render_report(result)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_report(result: BenchResult) -> str:
    """The page as HTML text that refers to nothing outside itself; MissingExtra without jinja2 or matplotlib."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtra("jinja2", "bench", "the report") from error
    template = files("edgeloc.benchmarks").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(_page(result))


def _page(result: BenchResult) -> dict[str, Any]:
    regression = result.regression if result.regression and result.regression.rows else None
    page: dict[str, Any] = {
        "title": f"{Path(result.model.path).name}: what it costs",
        "subtitle": f"{result.model.precision}, measured {result.created_at} on {_machine(result)}",
        "warnings": _warnings(result),
        "tiles": _tiles(result),
        "regression": regression,
        "worst": [],
        "energy": _energy(result),
        "facts": _facts(result),
        "latency_table": None,
    }
    if regression:
        page |= _regression_part(regression)
    if result.latency:
        page |= _latency_part(result)
    return page


def _warnings(result: BenchResult) -> list[str]:
    stopped = [] if result.complete else ["The measurement was interrupted: this is what was measured until then."]
    return [*stopped, *result.notes]


def _tiles(result: BenchResult) -> list[dict[str, str]]:
    tiles = []
    regression = result.regression
    if regression and regression.mean_iou_drop is not None:
        tiles.append(_tile("IoU drop", _drop(regression.mean_iou_drop), f"95 % interval {_interval(regression)}"))
        iou = f"float {_number(regression.mean_iou_float)}, {regression.images} images"
        tiles.append(_tile("mean IoU", _number(regression.mean_iou_quantized), iou))
    if result.latency:
        total, invoke = result.latency["total"], result.latency["invoke"]
        tiles.append(_tile("frame, p50", f"{total.p50_ms:.1f} ms", f"{1000 / total.p50_ms:.0f} a second; invoke {invoke.p50_ms:.1f} ms"))
    ratio = f"{result.size_ratio:.1f} times smaller than float" if result.size_ratio else result.model.precision
    tiles.append(_tile("model file", _size(result.model.bytes), ratio))
    return tiles


def _regression_part(regression: Regression) -> dict[str, Any]:
    unit = "groups, such as the clips that the frames come from" if regression.ci_by == "group" else "images"
    presence, classes = regression.presence, regression.classes
    unknown = f" {classes.unknown_labels} carry a label that the model does not know." if classes.unknown_labels else ""
    return {
        "interval_by": f"resampling {regression.ci_groups} {unit}",
        "regression_table": _regression_table(regression),
        "regression_plots": [
            {"svg": plots.iou_scatter(regression), "caption": "One dot an image; below the line, quantization cost something."},
            {"svg": plots.drop_curve(regression), "caption": "How the drop spreads over images: a mean near 0 can hide moves both ways."},
            {"svg": plots.size_bars(regression), "caption": "Mean IoU by size of the object, with the number of images."},
        ],
        "size_words": ", ".join(f"{name} {_range(*limits)}" for name, limits in SIZES.items()),
        "size_table": _size_table(regression),
        "presence_words": f"Presence over {presence.objects} images with an object, {presence.empty_images} without and "
        f"{presence.background_crops} crops of background; class over {classes.images} labelled objects.{unknown}",
        "presence_table": _presence_table(regression),
        "worst": [_worst(image) for image in regression.worst],
    }  # fmt: skip


def _regression_table(regression: Regression) -> _Table:
    return _Table(
        ["", "float", "quantized", "drop"],
        [
            _pair("mean IoU", regression.mean_iou_float, regression.mean_iou_quantized),
            _pair("images with IoU >= 0.5", regression.iou50_float, regression.iou50_quantized),
            _pair("images with IoU >= 0.75", regression.iou75_float, regression.iou75_quantized),
            ["mean IoU between the two models' boxes", "", _number(regression.mean_iou_float_to_quantized), ""],
        ],
    )


def _size_table(regression: Regression) -> _Table:
    rows = [
        [
            name,
            str(figures.images),
            *_pair("", figures.mean_iou_float, figures.mean_iou_quantized)[1:],
            _number(figures.mean_iou_float_to_quantized),
        ]
        for name, figures in regression.by_size.items()
    ]
    return _Table(["size", "images", "float", "quantized", "drop", "between the boxes"], rows)


def _presence_table(regression: Regression) -> _Table:
    presence, classes = regression.presence, regression.classes
    return _Table(
        ["", "float", "quantized", "both agree"],
        [
            ["threshold", f"{presence.threshold_float:.2f}", f"{presence.threshold_quantized:.2f}", ""],
            ["objects found", _number(presence.recall_float), _number(presence.recall_quantized), _number(presence.agreement)],
            ["false alarms on negatives", _number(presence.false_alarms_float), _number(presence.false_alarms_quantized), ""],
            ["class right (top 1)", _number(classes.top1_float), _number(classes.top1_quantized), _number(classes.agreement)],
        ],
    )  # fmt: skip


def _worst(image: Worst) -> dict[str, Any]:
    pictures = side_by_side(image) or (None, None)
    return {
        "name": image.name,
        "label": image.label,
        "group": image.group,
        "iou_float": _number(image.iou_float),
        "iou_quantized": _number(image.iou_quantized),
        "iou_between": _number(image.iou_float_to_quantized),
        "left": pictures[0],
        "right": pictures[1],
    }


def _latency_part(result: BenchResult) -> dict[str, Any]:
    run = result.latency_run
    words = "" if run is None else (
        f"{run.frames} frames from {run.source} after {run.warmup_frames} to warm up, on {run.engine} {run.engine_version}"
        f" with {_threads(run.threads)}. Capture here is {run.capture}. Every sample counts; none is clipped."
    )  # fmt: skip
    stages = {stage: result.latency[stage] for stage in STAGES if stage in result.latency}
    rows = [
        [stage, *(f"{getattr(figures, name):.3f}" for name in ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "min_ms", "max_ms"))]
        for stage, figures in stages.items()
    ]
    return {
        "latency_words": words,
        "latency_table": _Table(["stage (ms)", "p50", "p90", "p99", "mean", "min", "max"], rows),
        "latency_plots": [
            {"svg": plots.latency_bars(stages), "caption": "Where a frame's time goes."},
            {"svg": plots.latency_course(stages), "caption": "Every frame in its order: warm-up, drift and outliers."},
        ],
    }


def _facts(result: BenchResult) -> _Table:
    rows = [["model", _model(result.model)]]
    if result.against:
        rows.append(["against", _model(result.against)])
    data = result.data
    if data:
        split = f", split {data.split}" if data.split else ""
        rows.append(["data", f"{data.name}{split}: {data.used} of {data.images} images used, {data.skipped} skipped as unreadable"])
        rows += [["", note] for note in data.notes]
    environment = result.environment
    rows.append(["machine", f"{_machine(result)}, {environment.cores} cores, {environment.machine}, {environment.os}"])
    rows.append(["governor, load", f"{environment.governor or 'not told'}, {environment.load_1min if environment.load_1min is not None else 'not told'}"])
    rows.append(
        ["software", f"edgeloc {environment.edgeloc}, Python {environment.python}, NumPy {environment.numpy}, OpenCV {environment.opencv}"]
    )
    return _Table([], rows, text=True)


def _energy(result: BenchResult) -> str:
    status = str(result.energy.get("status", "not measured"))
    return "Not measured: no power meter took part." if status == "not measured" else status


def _model(model: Any) -> str:
    return f"{model.path}: {model.precision}, {_size(model.bytes)}, {model.engine} {model.engine_version}, SHA-256 {model.sha256}"


def _machine(result: BenchResult) -> str:
    return result.environment.board or result.environment.cpu or result.environment.machine


def _pair(name: str, before: float | None, after: float | None) -> list[str]:
    drop = "" if before is None or after is None else _drop(before - after)
    return [name, _number(before), _number(after), drop]


def _interval(regression: Regression) -> str:
    return "unknown" if regression.drop_ci95 is None else f"{regression.drop_ci95[0]:.4f} to {regression.drop_ci95[1]:.4f}"


def _range(low: float, high: float) -> str:
    return f"from {low:g}" if high == float("inf") else f"below {high:g}" if low == 0 else f"{low:g} to {high:g}"


def _threads(threads: int | None) -> str:
    return "the engine's default threads" if threads is None else f"{threads} thread{'s' * (threads != 1)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _drop(value: float) -> str:
    return f"{value:.4f}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _tile(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}
