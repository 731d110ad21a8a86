"""A benchmark's result as one self-contained HTML page; tables, plots and pictures are made next door."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeloc.benchmarks import plots, tables, wording
from edgeloc.benchmarks.pictures import side_by_side
from edgeloc.benchmarks.report_energy import energy_part
from edgeloc.benchmarks.result import BenchResult, Regression, Worst
from edgeloc.benchmarks.wording import number
from edgeloc.errors import MissingExtra
from edgeloc.files import atomic_path

__all__ = ["render_report", "write_report"]


def write_report(path: str | Path, result: BenchResult) -> None:
    """Write the page of `result`, whole or not at all; OutputError when `path` cannot be written."""
    page = render_report(result)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


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
    stopped = [] if result.complete else ["The measurement was interrupted: this is what was measured until then."]
    return {
        "title": f"{Path(result.model.path).name}: what it costs",
        "subtitle": f"{result.model.precision}, measured {result.created_at} on {wording.machine(result)}",
        "warnings": [*stopped, *result.notes],
        "tiles": _tiles(result),
        "regression": _regression_part(regression) if regression else None,
        "latency": _latency_part(result) if result.latency else None,
        "energy": energy_part(result.energy),
        "facts": tables.facts_table(result),
    }


def _tiles(result: BenchResult) -> list[dict[str, str]]:
    tiles = []
    regression = result.regression
    if regression and regression.mean_iou_drop is not None:
        before, after = regression.mean_iou_float, regression.mean_iou_quantized
        tiles.append(_tile("IoU drop", wording.drop(before, after), f"95 % interval {wording.interval(regression)}"))
        tiles.append(_tile("mean IoU", number(after), f"float {number(before)}, {regression.images} images"))
    if result.latency:
        total, invoke = result.latency["total"].p50_ms, result.latency["invoke"].p50_ms
        tiles.append(_tile("frame, p50", f"{total:.1f} ms", f"{1000 / total:.0f} a second; invoke {invoke:.1f} ms"))
    if result.energy.per_frame_mj is not None:
        spread = f"± {result.energy.per_frame_uncertainty_mj:.2g}, {result.energy.status}, beyond idle"
        tiles.append(_tile("energy a frame", f"{result.energy.per_frame_mj:.3g} mJ", spread))
    ratio = f"{result.size_ratio:.1f} times smaller than float" if result.size_ratio else result.model.precision
    tiles.append(_tile("model file", wording.size(result.model.bytes), ratio))
    return tiles


def _tile(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _regression_part(regression: Regression) -> dict[str, Any]:
    unit = "groups, such as the clips that the frames come from" if regression.ci_by == "group" else "images"
    return {
        "interval_by": f"resampling {regression.ci_groups} {unit}",
        "table": tables.regression_table(regression),
        "plots": _regression_plots(regression) if regression.images else [],
        "size_words": wording.size_ranges(),
        "size_plot": plots.size_bars(regression) if regression.images else "",
        "size_table": tables.size_table(regression),
        "presence_words": _presence_words(regression),
        "presence_table": tables.presence_table(regression),
        "worst": [_worst(image) for image in regression.worst],
    }


def _presence_words(regression: Regression) -> str:
    presence, classes = regression.presence, regression.classes
    negatives = f"{presence.empty_images} without and {presence.background_crops} crops of background"
    words = f"Presence over {presence.objects} images with an object, {negatives}"
    words += f"; class over {classes.images} labelled objects." if classes.images else "."
    unknown = f" {classes.unknown_labels} carry a label that the model does not know." if classes.unknown_labels else ""
    return words + unknown


def _regression_plots(regression: Regression) -> list[dict[str, str]]:
    scatter, curve = plots.iou_scatter(regression), plots.drop_curve(regression)
    return [
        {"svg": scatter, "caption": "One dot an image; below the line, quantization cost something."},
        {"svg": curve, "caption": "How the drop spreads: a mean near 0 can hide moves both ways."},
    ]


def _worst(image: Worst) -> dict[str, Any]:
    pictures = side_by_side(image) or (None, None)
    return {
        "name": image.name,
        "label": image.label,
        "group": image.group,
        "iou_float": number(image.iou_float),
        "iou_quantized": number(image.iou_quantized),
        "iou_between": number(image.iou_float_to_quantized),
        "left": pictures[0],
        "right": pictures[1],
    }


def _latency_part(result: BenchResult) -> dict[str, Any]:
    bars, course = plots.latency_bars(result.latency), plots.latency_course(result.latency)
    return {
        "words": _latency_words(result),
        "table": tables.latency_table(result),
        "plots": [
            {"svg": bars, "caption": "Where a frame's time goes."},
            {"svg": course, "caption": "Every frame in its order: warm-up, drift and outliers."},
        ],
    }


def _latency_words(result: BenchResult) -> str:
    run = result.latency_run
    if run is None:
        return ""
    engine = f"on {run.engine} {run.engine_version} with {wording.threads(run.threads)}"
    return (
        f"{run.frames} frames from {run.source} after {run.warmup_frames} to warm up, {engine}. "
        f"Capture here is {run.capture}. Every sample counts; none is clipped."
    )
