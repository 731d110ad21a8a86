"""The report: one HTML page of a result, and the tables on it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeloc._support.files import atomic_path
from edgeloc.benchmarks.energy import Energy, format_uncertain
from edgeloc.benchmarks.report import plots
from edgeloc.benchmarks.result import BenchResult, describe_model, machine, stages_in
from edgeloc.errors import MissingExtra
from edgeloc.evaluation.accuracy import Accuracy, format_mean_interval
from edgeloc.evaluation.detection import DetectionRegression, WorstImage
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
    "render_report",
    "write_report",
]

_COLUMNS = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "min_ms", "max_ms")


@dataclass(frozen=True, slots=True)
class _Table:
    """Rows of cells under an optional head; the cells of a `text` table are prose, not numbers."""

    head: list[str]
    rows: list[list[str]]
    text: bool = False


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
    accuracy = result.accuracy if result.accuracy and result.accuracy.rows else None
    stopped = [] if result.complete else ["The measurement was interrupted: this is what was measured until then."]
    return {
        "title": f"{Path(result.model.path).name}: what it costs",
        "subtitle": f"{result.model.precision}, measured {result.created_at} on {machine(result)}",
        "warnings": [*stopped, *map(str, result.findings)],
        "tiles": _tiles(result),
        "regression": _regression_part(regression) if regression else None,
        "accuracy": _accuracy_part(accuracy) if accuracy else None,
        "detection": _detection_part(result) if result.detection else None,
        "latency": _latency_part(result) if result.latency else None,
        "energy": _energy_part(result.energy),
        "facts": _facts_table(result),
    }


def _tiles(result: BenchResult) -> list[dict[str, str]]:
    tiles = []
    regression = result.regression
    if regression and regression.mean_iou_drop is not None:
        before, after = regression.mean_iou_float, regression.mean_iou_quantized
        tiles.append(
            _tile("IoU drop", format_drop(before, after), f"95 % interval {format_interval(regression.drop_ci95)}")
        )
        tiles.append(
            _tile("mean IoU", format_share(after), f"float {format_share(before)}, {regression.images} images")
        )
    tiles += _detection_tiles(result)
    accuracy = result.accuracy
    if accuracy and accuracy.images:
        note = f"95 % interval {format_mean_interval(accuracy)}, {accuracy.images} images"
        tiles.append(_tile("mean IoU", format_share(accuracy.mean_iou), note))
    if result.latency:
        total, invoke = result.latency["total"].p50_ms, result.latency["invoke"].p50_ms
        tiles.append(_tile("frame, p50", f"{total:.1f} ms", f"{1000 / total:.0f} per second; invoke {invoke:.1f} ms"))
    if result.energy.per_frame_mj is not None:
        spread = f"± {result.energy.per_frame_uncertainty_mj:.2g}, {result.energy.status}, beyond idle"
        tiles.append(_tile("energy per frame", f"{result.energy.per_frame_mj:.3g} mJ", spread))
    note = result.size_comparison or result.model.precision
    tiles.append(_tile("model file", format_size(result.model.bytes), note))
    return tiles


def _tile(name: str, value: str, note: str) -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _regression_part(regression: Regression) -> dict[str, Any]:
    return {
        "interval_by": _interval_by(regression),
        "table": _regression_table(regression),
        "plots": _regression_plots(regression) if regression.images else [],
        "size_words": describe_sizes(),
        "size_plot": plots.size_bars(regression) if regression.images else "",
        "size_table": _size_table(regression),
        "presence_words": _presence_words(regression),
        "presence_table": _presence_table(regression),
        "worst": [_worst(image) for image in regression.worst],
    }


def _interval_by(figures: Regression | Accuracy | DetectionRegression) -> str:
    unit = "groups, such as the clips that the frames come from" if figures.ci_by == "group" else "images"
    return f"resampling {figures.ci_groups} {unit}"


def _presence_words(regression: Regression) -> str:
    presence, classes = regression.presence, regression.classes
    counts = presence.objects, presence.empty_images, presence.background_crops
    return _counted(*counts, classes.images, classes.unknown_labels)


def _counted(objects: int, empty: int, crops: int, labelled: int, unknown: int) -> str:
    """What presence and class were measured on."""
    words = f"Presence over {objects} images with an object, {empty} without and {crops} crops of background"
    words += f"; class over {labelled} labelled objects." if labelled else "."
    return words + (f" {unknown} have a label that the model does not know." if unknown else "")


def _regression_plots(regression: Regression) -> list[dict[str, str]]:
    scatter, curve = plots.iou_scatter(regression), plots.drop_curve(regression)
    return [
        {"svg": scatter, "caption": "One dot per image; below the line, quantization cost something."},
        {"svg": curve, "caption": "How the drop is distributed: a mean near 0 can hide changes both ways."},
    ]


def _accuracy_part(accuracy: Accuracy) -> dict[str, Any]:
    counts = accuracy.images, accuracy.empty_images, accuracy.background_crops
    return {
        "interval_by": _interval_by(accuracy),
        "words": _counted(*counts, accuracy.labelled, accuracy.unknown_labels),
        "size_words": describe_sizes(),
        "table": _accuracy_table(accuracy),
    }


def _detection_tiles(result: BenchResult) -> list[dict[str, str]]:
    found = result.detection
    if found is None or found.precision_quantized.ap is None:
        return []
    before, after, interval = found.precision_float, found.precision_quantized, format_interval(found.drop_ci95)
    note = f"at IoU 0.5: {format_share(after.ap50)}, {found.all.objects} objects"
    if result.against is None:
        return [_tile("average precision", format_share(after.ap), note)]
    return [
        _tile("AP drop", format_drop(before.ap, after.ap), f"95 % interval {interval}"),
        _tile("average precision", format_share(after.ap), f"float {format_share(before.ap)}; {note}"),
    ]


def _detection_part(result: BenchResult) -> dict[str, Any]:
    """Tables of both models, or of the one there is."""
    found = result.detection
    assert found is not None
    alone = result.against is None
    before, after, every = found.precision_float, found.precision_quantized, found.all
    rows = [
        _pair("average precision, IoU 0.50 to 0.95", before.ap, after.ap),
        _pair("average precision at IoU 0.50", before.ap50, after.ap50),
        *(_pair(f"average precision of {name}", ap, after.by_class.get(name)) for name, ap in before.by_class.items()),
        _pair(f"objects found, of {every.objects}", every.recall_float, every.recall_quantized),
        _pair("boxes of no object", found.false_float, found.false_quantized),
    ]
    for name, figures in found.by_size.items():
        if figures.objects:
            title = f"{name} objects found, of {figures.objects}"
            rows.append(_pair(title, figures.recall_float, figures.recall_quantized))
    if not alone:
        rows.append(["mean IoU between matched boxes", "", format_share(every.box_iou), ""])
        rows.append(["class agreement of matched boxes", "", format_share(found.agreement), ""])
    head = ["", "model"] if alone else ["", "float", "quantized", "drop"]
    return {
        "words": f"{found.images} images with {every.objects} objects"
        + ("" if found.labelled else ", as the float model finds them: nothing is labelled")
        + (f"; threshold {found.threshold_quantized:.2f}." if alone else _thresholds(found)),
        "size_words": describe_sizes(),
        "table": _Table(head, [[row[0], row[2]] if alone else row for row in rows]),
        "worst": [] if alone else [_worst_detections(image, found) for image in found.worst],
    }


def _thresholds(found: DetectionRegression) -> str:
    thresholds = f"thresholds {found.threshold_float:.2f} and {found.threshold_quantized:.2f}"
    return f"; {thresholds}. The 95 % interval of the drop is from {_interval_by(found)}."


def _worst_detections(image: WorstImage, found: DetectionRegression) -> dict[str, Any]:
    row = next(row for row in found.rows if row.name == image.name)
    truth = [item.box for item in row.truth]
    before = [one.box for one in row.before if one.score >= found.threshold_float]
    after = [one.box for one in row.after if one.score >= found.threshold_quantized]
    pictures = plots.side_by_side(image, truth, before, after) or (None, None)
    moved = "" if image.box_iou is None else f", mean IoU of the others {image.box_iou:.2f}"
    return {
        "name": image.name,
        "group": image.group,
        "words": f"{image.lost} of {image.found} objects lost{moved}",
        "counts": (len(before), len(after)),
        "left": pictures[0],
        "right": pictures[1],
    }


def _worst(image: Worst) -> dict[str, Any]:
    boxes = ([box] if box else [] for box in (image.truth, image.box_float, image.box_quantized))
    pictures = plots.side_by_side(image, *boxes) or (None, None)
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
        "table": _latency_table(result),
        "plots": [
            {"svg": bars, "caption": "Where a frame's time goes."},
            {"svg": course, "caption": "Every frame in order: warm-up, drift and outliers."},
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


def _energy_part(energy: Energy) -> dict[str, Any]:
    """Words, and where there are figures or readings a table and a plot of the power."""
    plot = plots.power_course(energy) if len(energy.t_s) > 1 else ""
    if energy.per_frame_mj is None:
        reason = (energy.reason or "there was no power meter").rstrip(".")
        return {"words": f"Not measured: {reason}.", "table": None, "plot": plot}
    return {"words": _energy_words(energy), "table": _energy_table(energy), "plot": plot}


def _energy_words(energy: Energy) -> str:
    replayed = " These are a recording's readings, not this run's." if energy.status == "replayed" else ""
    gain = (
        "its gain error is not known and not in the figures"
        if energy.gain_error is None
        else f"its gain error of {100 * energy.gain_error:.2g} % is in the figures"
    )
    return (
        f"What the work took beyond being idle, by {energy.source}.{replayed} {energy.readings} readings at up to "
        f"{energy.rate_hz:.3g} per second, the longest gap {energy.longest_gap_s:.2g} s; {gain}. "
        f"The meter does not see {energy.blind_to}."
    )


def _energy_table(energy: Energy) -> _Table:
    frame = format_uncertain(energy.per_frame_mj, energy.per_frame_uncertainty_mj)
    inference = format_uncertain(energy.per_inference_mj, energy.per_inference_uncertainty_mj)
    power = format_uncertain(energy.power_w, energy.power_uncertainty_w)
    idle = f"{energy.idle_before_w:.4g} and {energy.idle_after_w:.4g} W"
    rows = [
        [f"energy per frame, all stages, over {energy.frames} frames", f"{frame} mJ"],
        [f"energy per inference, invoke only, over {energy.inferences}", f"{inference} mJ"],
        ["power while frames were timed, idle included", f"{power} W"],
        ["power idle, before and after", idle],
    ]
    return _Table([], rows)


def _regression_table(regression: Regression) -> _Table:
    """IoU of both models over all objects."""
    between = format_share(regression.mean_iou_float_to_quantized)
    return _Table(
        ["", "float", "quantized", "drop"],
        [
            _pair("mean IoU", regression.mean_iou_float, regression.mean_iou_quantized),
            _pair("images with IoU >= 0.5", regression.iou50_float, regression.iou50_quantized),
            _pair("images with IoU >= 0.75", regression.iou75_float, regression.iou75_quantized),
            ["mean IoU between the two models' boxes", "", between, ""],
        ],
    )


def _accuracy_table(accuracy: Accuracy) -> _Table:
    """IoU, presence and class of one model without another to compare with."""
    sizes = [[f"mean IoU of {name} objects", format_share(mean)] for name, mean in accuracy.mean_iou_by_size.items()]
    return _Table(
        ["", "model"],
        [
            ["mean IoU", format_share(accuracy.mean_iou)],
            ["its 95 % interval", format_mean_interval(accuracy)],
            ["images with IoU >= 0.5", format_share(accuracy.iou50)],
            ["images with IoU >= 0.75", format_share(accuracy.iou75)],
            *sizes,
            ["presence threshold", f"{accuracy.threshold:.2f}"],
            ["objects found", format_share(accuracy.recall)],
            ["false alarms where there is no object", format_share(accuracy.false_alarms)],
            *([["class", format_share(accuracy.top1)]] if accuracy.labelled else []),
        ],
    )


def _size_table(regression: Regression) -> _Table:
    """IoU of both models by the object's size."""
    rows = []
    for name, figures in regression.by_size.items():
        _, *pair = _pair(name, figures.mean_iou_float, figures.mean_iou_quantized)
        rows.append([name, str(figures.images), *pair, format_share(figures.mean_iou_float_to_quantized)])
    return _Table(["size", "images", "float", "quantized", "drop", "between the boxes"], rows)


def _presence_table(regression: Regression) -> _Table:
    """Objects found, false alarms and classes, and how often the two models agree."""
    presence, classes = regression.presence, regression.classes
    classes_row = [
        "class",
        format_share(classes.top1_float),
        format_share(classes.top1_quantized),
        format_share(classes.agreement),
    ]
    alarms = [format_share(presence.false_alarms_float), format_share(presence.false_alarms_quantized)]
    return _Table(
        ["", "float", "quantized", "agreement"],
        [
            ["presence threshold", f"{presence.threshold_float:.2f}", f"{presence.threshold_quantized:.2f}", ""],
            ["objects found", format_share(presence.recall_float), format_share(presence.recall_quantized), ""],
            ["false alarms where there is no object", *alarms, ""],
            ["present or not, all images", "", "", format_share(presence.agreement)],
            *([classes_row] if classes.images else []),
        ],
    )


def _latency_table(result: BenchResult) -> _Table:
    """Every stage's figures in ms."""
    stages = [(stage, result.latency[stage]) for stage in stages_in(result.latency)]
    rows = [[stage, *(f"{getattr(figures, name):.3f}" for name in _COLUMNS)] for stage, figures in stages]
    return _Table(["ms", *(name.removesuffix("_ms") for name in _COLUMNS)], rows)


def _facts_table(result: BenchResult) -> _Table:
    """Which models, which data, which machine."""
    rows = [["model", describe_model(result.model)]]
    if result.against:
        rows.append(["against", describe_model(result.against)])
    rows += _data_rows(result)
    environment = result.environment
    cores = f"{environment.cores} cores, {environment.machine}, {environment.os}"
    load = "not reported" if environment.load_1min is None else str(environment.load_1min)
    software = f"edgeloc {environment.edgeloc}, Python {environment.python}, "
    rows += [
        ["machine", f"{machine(result)}, {cores}"],
        ["governor", environment.governor or "not reported"],
        ["load before", load],
        ["software", software + f"NumPy {environment.numpy}, OpenCV {environment.opencv}"],
    ]
    thermal = result.thermal
    if thermal and thermal.highest_c:
        name, celsius = max(thermal.highest_c.items(), key=lambda item: item[1])
        throttled = ", throttled" if thermal.throttled else ""
        rows.append(["temperature", f"up to {celsius:.0f} °C at {name}{throttled}"])
    return _Table([], rows, text=True)


def _data_rows(result: BenchResult) -> list[list[str]]:
    data = result.data
    if data is None:
        return []
    split = f", split {data.split}" if data.split else ""
    used = f"{data.used} of {data.images} images used, {data.skipped} skipped as unreadable"
    return [["data", f"{data.name}{split}: {used}"], *(["", note] for note in data.notes)]


def _pair(name: str, before: float | None, after: float | None) -> list[str]:
    return [name, format_share(before), format_share(after), format_drop(before, after)]
