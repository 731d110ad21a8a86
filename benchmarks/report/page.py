"""The report's page and its tables."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeloc._support.files import atomic_path
from edgeloc.benchmarks.energy import Energy
from edgeloc.benchmarks.report import plots
from edgeloc.benchmarks.result import STAGES, BenchResult, describe_model, machine
from edgeloc.errors import MissingExtra
from edgeloc.evaluation.figures import (
    Regression,
    Worst,
    describe_sizes,
    format_drop,
    format_interval,
    format_share,
    format_size,
    format_threads,
)

__all__ = [
    "Table",
    "energy_line",
    "energy_part",
    "facts_table",
    "latency_table",
    "presence_table",
    "regression_table",
    "render_report",
    "size_table",
    "write_report",
]


def energy_line(energy: Energy) -> str:
    """The figures in one line, or that and why there are none."""
    if energy.per_frame_mj is None:
        return f"not measured: {energy.reason}" if energy.reason else "not measured"
    frame = _plus_minus(energy.per_frame_mj, energy.per_frame_uncertainty_mj)
    inference = _plus_minus(energy.per_inference_mj, energy.per_inference_uncertainty_mj)
    return (
        f"{frame} mJ a frame, {inference} mJ an inference beyond idle, {energy.power_w:.3g} W  "
        f"({energy.status}: {energy.source})"
    )


def energy_part(energy: Energy) -> dict[str, Any]:
    """What the report shows: words, and where there are figures or readings a table and a plot of the power."""
    plot = plots.power_course(energy) if len(energy.t_s) > 1 else ""
    if energy.per_frame_mj is None:
        reason = (energy.reason or "no power meter took part").rstrip(".")
        return {"words": f"Not measured: {reason}.", "table": None, "plot": plot}
    return {"words": _words(energy), "table": _table(energy), "plot": plot}


def _words(energy: Energy) -> str:
    replayed = " These are a recording's readings, not this run's." if energy.status == "replayed" else ""
    gain = (
        "its gain error is not known and not in the figures"
        if energy.gain_error is None
        else f"its gain error of {100 * energy.gain_error:.2g} % is in the figures"
    )
    return (
        f"What the work took beyond being idle, by {energy.source}.{replayed} {energy.readings} readings at up to "
        f"{energy.rate_hz:.3g} a second, the longest gap {energy.longest_gap_s:.2g} s; {gain}. "
        f"The meter does not see {energy.blind_to}."
    )


def _table(energy: Energy) -> Table:
    frame = _plus_minus(energy.per_frame_mj, energy.per_frame_uncertainty_mj)
    inference = _plus_minus(energy.per_inference_mj, energy.per_inference_uncertainty_mj)
    power = _plus_minus(energy.power_w, energy.power_uncertainty_w)
    idle = f"{energy.idle_before_w:.4g} and {energy.idle_after_w:.4g} W"
    rows = [
        [f"energy a frame, all stages, over {energy.frames} frames", f"{frame} mJ"],
        [f"energy an inference, invoke alone, over {energy.inferences}", f"{inference} mJ"],
        ["power while frames were timed, idle included", f"{power} W"],
        ["power idle, before and after", idle],
    ]
    return Table([], rows)


def _plus_minus(value: float | None, spread: float | None) -> str:
    """A value with as many decimals as two digits of its uncertainty have."""
    if value is None or spread is None:
        return "-"
    digits = max(0, 1 - int(f"{spread:e}".partition("e")[2])) if spread else 3
    return f"{value:.{digits}f} ± {spread:.{digits}f}"


_COLUMNS = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "min_ms", "max_ms")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under an optional head; the cells of a `text` table are prose, not numbers."""

    head: list[str]
    rows: list[list[str]]
    text: bool = False


def regression_table(regression: Regression) -> Table:
    """IoU of both models over all objects."""
    between = format_share(regression.mean_iou_float_to_quantized)
    return Table(
        ["", "float", "quantized", "drop"],
        [
            _pair("mean IoU", regression.mean_iou_float, regression.mean_iou_quantized),
            _pair("images with IoU >= 0.5", regression.iou50_float, regression.iou50_quantized),
            _pair("images with IoU >= 0.75", regression.iou75_float, regression.iou75_quantized),
            ["mean IoU between the two models' boxes", "", between, ""],
        ],
    )


def size_table(regression: Regression) -> Table:
    """IoU of both models by the object's size."""
    rows = []
    for name, figures in regression.by_size.items():
        _, *pair = _pair(name, figures.mean_iou_float, figures.mean_iou_quantized)
        rows.append([name, str(figures.images), *pair, format_share(figures.mean_iou_float_to_quantized)])
    return Table(["size", "images", "float", "quantized", "drop", "between the boxes"], rows)


def presence_table(regression: Regression) -> Table:
    """Objects found, false alarms, classes, and how often both models say the same."""
    presence, classes = regression.presence, regression.classes
    classes_row = [
        "class",
        format_share(classes.top1_float),
        format_share(classes.top1_quantized),
        format_share(classes.agreement),
    ]
    alarms = [format_share(presence.false_alarms_float), format_share(presence.false_alarms_quantized)]
    return Table(
        ["", "float", "quantized", "both say the same"],
        [
            ["threshold of presence", f"{presence.threshold_float:.2f}", f"{presence.threshold_quantized:.2f}", ""],
            ["objects found", format_share(presence.recall_float), format_share(presence.recall_quantized), ""],
            ["false alarms where there is no object", *alarms, ""],
            ["present or not, over all", "", "", format_share(presence.agreement)],
            *([classes_row] if classes.images else []),
        ],
    )


def latency_table(result: BenchResult) -> Table:
    """Every stage's figures in ms."""
    stages = [(stage, result.latency[stage]) for stage in STAGES if stage in result.latency]
    rows = [[stage, *(f"{getattr(figures, name):.3f}" for name in _COLUMNS)] for stage, figures in stages]
    return Table(["ms", *(name.removesuffix("_ms") for name in _COLUMNS)], rows)


def facts_table(result: BenchResult) -> Table:
    """Which models, which data, which machine."""
    rows = [["model", describe_model(result.model)]]
    if result.against:
        rows.append(["against", describe_model(result.against)])
    rows += _data_rows(result)
    environment = result.environment
    cores = f"{environment.cores} cores, {environment.machine}, {environment.os}"
    load = "not told" if environment.load_1min is None else str(environment.load_1min)
    software = f"edgeloc {environment.edgeloc}, Python {environment.python}, "
    rows += [
        ["machine", f"{machine(result)}, {cores}"],
        ["governor", environment.governor or "not told"],
        ["load before", load],
        ["software", software + f"NumPy {environment.numpy}, OpenCV {environment.opencv}"],
    ]
    if result.heat and result.heat.highest_c:
        name, celsius = max(result.heat.highest_c.items(), key=lambda item: item[1])
        rows.append(["heat", f"up to {celsius:.0f} °C at {name}" + (", throttled" if result.heat.throttled else "")])
    return Table([], rows, text=True)


def _data_rows(result: BenchResult) -> list[list[str]]:
    data = result.data
    if data is None:
        return []
    split = f", split {data.split}" if data.split else ""
    used = f"{data.used} of {data.images} images used, {data.skipped} skipped as unreadable"
    return [["data", f"{data.name}{split}: {used}"], *(["", note] for note in data.notes)]


def _pair(name: str, before: float | None, after: float | None) -> list[str]:
    return [name, format_share(before), format_share(after), format_drop(before, after)]


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
    template = files("edgeloc.benchmarks.report").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(_page(result))


def _page(result: BenchResult) -> dict[str, Any]:
    regression = result.regression if result.regression and result.regression.rows else None
    stopped = [] if result.complete else ["The measurement was interrupted: this is what was measured until then."]
    return {
        "title": f"{Path(result.model.path).name}: what it costs",
        "subtitle": f"{result.model.precision}, measured {result.created_at} on {machine(result)}",
        "warnings": [*stopped, *result.notes],
        "tiles": _tiles(result),
        "regression": _regression_part(regression) if regression else None,
        "latency": _latency_part(result) if result.latency else None,
        "energy": energy_part(result.energy),
        "facts": facts_table(result),
    }


def _tiles(result: BenchResult) -> list[dict[str, str]]:
    tiles = []
    regression = result.regression
    if regression and regression.mean_iou_drop is not None:
        before, after = regression.mean_iou_float, regression.mean_iou_quantized
        tiles.append(_tile("IoU drop", format_drop(before, after), f"95 % interval {format_interval(regression)}"))
        tiles.append(
            _tile("mean IoU", format_share(after), f"float {format_share(before)}, {regression.images} images")
        )
    if result.latency:
        total, invoke = result.latency["total"].p50_ms, result.latency["invoke"].p50_ms
        tiles.append(_tile("frame, p50", f"{total:.1f} ms", f"{1000 / total:.0f} a second; invoke {invoke:.1f} ms"))
    if result.energy.per_frame_mj is not None:
        spread = f"± {result.energy.per_frame_uncertainty_mj:.2g}, {result.energy.status}, beyond idle"
        tiles.append(_tile("energy a frame", f"{result.energy.per_frame_mj:.3g} mJ", spread))
    ratio = f"{result.size_ratio:.1f} times smaller than float" if result.size_ratio else result.model.precision
    tiles.append(_tile("model file", format_size(result.model.bytes), ratio))
    return tiles


def _tile(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _regression_part(regression: Regression) -> dict[str, Any]:
    unit = "groups, such as the clips that the frames come from" if regression.ci_by == "group" else "images"
    return {
        "interval_by": f"resampling {regression.ci_groups} {unit}",
        "table": regression_table(regression),
        "plots": _regression_plots(regression) if regression.images else [],
        "size_words": describe_sizes(),
        "size_plot": plots.size_bars(regression) if regression.images else "",
        "size_table": size_table(regression),
        "presence_words": _presence_words(regression),
        "presence_table": presence_table(regression),
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
    pictures = plots.side_by_side(image) or (None, None)
    return {
        "name": image.name,
        "label": image.label,
        "group": image.group,
        "iou_float": format_share(image.iou_float),
        "iou_quantized": format_share(image.iou_quantized),
        "iou_between": format_share(image.iou_float_to_quantized),
        "left": pictures[0],
        "right": pictures[1],
    }


def _latency_part(result: BenchResult) -> dict[str, Any]:
    bars, course = plots.latency_bars(result.latency), plots.latency_course(result.latency)
    return {
        "words": _latency_words(result),
        "table": latency_table(result),
        "plots": [
            {"svg": bars, "caption": "Where a frame's time goes."},
            {"svg": course, "caption": "Every frame in its order: warm-up, drift and outliers."},
        ],
    }


def _latency_words(result: BenchResult) -> str:
    run = result.latency_run
    if run is None:
        return ""
    engine = f"on {run.engine} {run.engine_version} with {format_threads(run.threads)}"
    return (
        f"{run.frames} frames from {run.source} after {run.warmup_frames} to warm up, {engine}. "
        f"Capture here is {run.capture}. Every sample counts; none is clipped."
    )
