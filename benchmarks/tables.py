"""The report's tables, as rows of text; how they look is the template's affair."""

from __future__ import annotations

from dataclasses import dataclass

from edgeloc.benchmarks import wording
from edgeloc.benchmarks.result import STAGES, BenchResult, Regression
from edgeloc.benchmarks.wording import number

__all__ = ["Table", "facts_table", "latency_table", "presence_table", "regression_table", "size_table"]

_COLUMNS = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "min_ms", "max_ms")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under an optional head; the cells of a `text` table are prose, not numbers."""

    head: list[str]
    rows: list[list[str]]
    text: bool = False


def regression_table(regression: Regression) -> Table:
    """IoU of both models over all objects."""
    between = number(regression.mean_iou_float_to_quantized)
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
        rows.append([name, str(figures.images), *pair, number(figures.mean_iou_float_to_quantized)])
    return Table(["size", "images", "float", "quantized", "drop", "between the boxes"], rows)


def presence_table(regression: Regression) -> Table:
    """Objects found, false alarms, classes, and how often both models say the same."""
    presence, classes = regression.presence, regression.classes
    classes_row = ["class", number(classes.top1_float), number(classes.top1_quantized), number(classes.agreement)]
    alarms = [number(presence.false_alarms_float), number(presence.false_alarms_quantized)]
    return Table(
        ["", "float", "quantized", "both say the same"],
        [
            ["threshold of presence", f"{presence.threshold_float:.2f}", f"{presence.threshold_quantized:.2f}", ""],
            ["objects found", number(presence.recall_float), number(presence.recall_quantized), ""],
            ["false alarms where there is no object", *alarms, ""],
            ["present or not, over all", "", "", number(presence.agreement)],
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
    rows = [["model", wording.model(result.model)]]
    if result.against:
        rows.append(["against", wording.model(result.against)])
    rows += _data_rows(result)
    environment = result.environment
    cores = f"{environment.cores} cores, {environment.machine}, {environment.os}"
    load = "not told" if environment.load_1min is None else str(environment.load_1min)
    software = f"edgeloc {environment.edgeloc}, Python {environment.python}, "
    rows += [
        ["machine", f"{wording.machine(result)}, {cores}"],
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
    return [name, number(before), number(after), wording.drop(before, after)]
