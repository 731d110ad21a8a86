"""The page of several results side by side: each a column, such as one for each board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

from edgeloc.benchmarks.energy import format_digits, format_uncertain
from edgeloc.benchmarks.report import plots
from edgeloc.benchmarks.report.cost import format_ms
from edgeloc.benchmarks.report.document import Cell, Page, Plot, Row, Section, Table, figure, value_at
from edgeloc.benchmarks.report.facts import condition_rows, model_name
from edgeloc.benchmarks.report.page import answer_ms, notes, short_ms, speed_words
from edgeloc.benchmarks.result import LOCALIZE, BenchResult, machine, obstacles
from edgeloc.evaluation.figures import SIZES, format_interval, format_share, format_size, format_threads

__all__ = ["names_of", "page_of_several"]

# What distinguishes results, in the order in which it is tried.
_FEATURES: tuple[Callable[[BenchResult], str], ...] = (
    machine,
    model_name,
    lambda result: result.model.precision,
    lambda result: result.model.engine,
    lambda result: format_threads(result.latency_run.threads) if result.latency_run else "",
    lambda result: result.scenario.name if result.scenario else "",
    lambda result: result.created_at,
)


def names_of(results: Sequence[BenchResult]) -> list[str]:
    """A short name for each: its board, and what else distinguishes it; at last its number."""
    used = [_FEATURES[0]]
    for feature in _FEATURES[1:]:
        groups = Counter(_name(used, result) for result in results)
        if max(groups.values()) == 1:
            break
        if any(len({feature(other) for other in results if _name(used, other) == name}) > 1 for name in groups):
            used.append(feature)
    names = [_name(used, result) for result in results]
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]


def _name(features: Sequence[Callable[[BenchResult], str]], result: BenchResult) -> str:
    return ", ".join(filter(None, (feature(result) for feature in features)))


def page_of_several(results: Sequence[BenchResult]) -> Page:
    """The document of two results or more."""
    names = names_of(results)
    named = dict(zip(names, results, strict=True))
    models = {result.model.sha256 for result in results}
    over = model_name(results[0]) if len(models) == 1 else f"{len(models)} models"
    return Page(
        title=f"{over}: {len(results)} results",
        over=f"{over}, {len(results)} results",
        headline=_headline(named),
        subtitle="Each column is one result; its figures are those of its own file.",
        warnings=[f"{name}: {note}" for name, result in named.items() for note in notes(result)],
        sections=[*_sections(named)],
    )


def _headline(named: Mapping[str, BenchResult]) -> str:
    """The fastest and the slowest of the results that can be compared."""
    fair = {name: result for name, result in named.items() if result.comparable}
    times = sorted((spent, name) for name, result in fair.items() if (spent := answer_ms(result)))
    if len(times) < 2:
        return " and ".join(named)
    (best, fastest), (worst, slowest) = times[0], times[-1]
    return f"From {short_ms(best)} a frame on {fastest} to {short_ms(worst)} on {slowest}"


def _sections(named: Mapping[str, BenchResult]) -> Iterator[Section]:
    yield Section("Side by side", tables=[_table(named, _main_rows(named))])
    yield from _latency_sections(named)
    yield from _quality_sections(named)
    yield from _course_sections(named)
    for name, result in named.items():
        rows: list[Row] = [["model", result.model.path], ["its SHA-256", result.model.sha256], *condition_rows(result)]
        yield Section(name, tables=[Table([], rows, text=True)], command=result.command)


def _table(named: Mapping[str, BenchResult], rows: Sequence[Row]) -> Table:
    """A column for each result; rows in which no result has anything are left out."""
    table = Table(["", *named], rows)
    known = [any(cell.text not in ("", "-") for cell in cells[1:]) for cells in table.cells]
    return Table(table.head, list(compress(rows, known)))


def _row(named: Mapping[str, BenchResult], title: str, form: Callable[[Any], str], *path: str) -> Row:
    return [title, *(figure(result, form, *path) for result in named.values())]


def _main_rows(named: Mapping[str, BenchResult]) -> list[Row]:
    results = list(named.values())
    return [
        ["model", *(model_name(result) for result in results)],
        _row(named, "precision", str, "model", "precision"),
        _row(named, "recipe", str, "model", "recipe"),
        _row(named, "engine", str, "model", "engine"),
        ["threads", *(_threads(result) for result in results)],
        _row(named, "scenario", str, "scenario", "name"),
        ["comparable", *(_comparable(result) for result in results)],
        _row(named, "frame, p50 ms", format_ms, "latency", LOCALIZE, "p50_ms"),
        _row(named, "frame, p90 ms", format_ms, "latency", LOCALIZE, "p90_ms"),
        _row(named, "total, p90 ms", format_ms, "latency", "total", "p90_ms"),
        _row(named, "float model's frame, p50 ms", format_ms, "latency_against", LOCALIZE, "p50_ms"),
        ["beside float", *(speed_words(result).removesuffix(" as float") or "-" for result in results)],
        *_quality_rows(named),
        ["energy per frame, mJ", *(_energy(result, "frame") for result in results)],
        ["energy per inference, mJ", *(_energy(result, "inference") for result in results)],
        _row(named, "power, W", format_digits, "energy", "power_w"),
        _row(named, "model file", format_size, "model", "bytes"),
        _row(named, "memory", _mebibytes, "memory", "peak_mib"),
        ["hottest", *(_hottest(result) for result in results)],
    ]


def _quality_rows(named: Mapping[str, BenchResult]) -> list[Row]:
    rows = [
        _row(named, "mean IoU", format_share, "regression", "mean_iou_quantized"),
        _row(named, "mean IoU of the float model", format_share, "regression", "mean_iou_float"),
        _row(named, "IoU drop", _thousandths, "regression", "mean_iou_drop"),
        _row(named, "95 % interval of the drop", format_interval, "regression", "drop_ci95"),
        _row(named, "objects found", format_share, "regression", "presence", "recall_quantized"),
        _row(named, "mean IoU", format_share, "accuracy", "mean_iou"),
        _row(named, "objects found", format_share, "accuracy", "recall"),
        _row(named, "average precision", format_share, "detection", "precision_quantized", "ap"),
        _row(named, "average precision of the float model", format_share, "detection", "precision_float", "ap"),
        _row(named, "objects found", format_share, "detection", "all", "recall_quantized"),
    ]
    return rows


def _latency_sections(named: Mapping[str, BenchResult]) -> Iterator[Section]:
    timed = {name: result.latency for name, result in named.items() if LOCALIZE in result.latency}
    if not timed:
        return
    stages = ("preprocess", "invoke", "decode")
    rows = [_row(named, f"{stage}, {which}", format_ms, "latency", stage, f"{which}_ms")
            for stage in ("capture", *stages, LOCALIZE, "draw", "total") for which in ("p50", "p99")]  # fmt: skip
    parts = {name: {stage: latency[stage].p50_ms for stage in stages} for name, latency in timed.items()}
    bars = plots.stacked_bars(parts, {name: latency[LOCALIZE].p90_ms for name, latency in timed.items()}, "ms")
    course = plots.distributions({name: latency[LOCALIZE] for name, latency in timed.items()}, LOCALIZE)
    words = "Localize is preprocess, invoke and decode of a frame, wherever it comes from; all in ms."
    yield Section("Latency", words, [_table(named, rows)], [bars, course])


def _quality_sections(named: Mapping[str, BenchResult]) -> Iterator[Section]:
    """Of localizers mean IoU, of detectors the share found; by size and class."""
    if any(result.regression and result.regression.images for result in named.values()):
        yield _quality_section(named, "mean IoU", "regression", "mean_iou_quantized")
    if any(result.detection and result.detection.images for result in named.values()):
        yield _quality_section(named, "objects found", "detection", "recall_quantized")


def _quality_section(named: Mapping[str, BenchResult], what: str, part: str, name: str) -> Section:
    labels = sorted({label for result in named.values() for label in value_at(result, part, "by_class") or ()})
    rows = [_row(named, f"{size} objects", format_share, part, "by_size", size, name) for size in SIZES]
    rows += [_row(named, label, format_share, part, "by_class", label, name) for label in labels]
    bars = {
        one: [value_at(result, part, "by_size", size, name) or 0.0 for size in SIZES] for one, result in named.items()
    }
    capital = f"{what[0].upper()}{what[1:]}"
    plot = plots.grouped_bars(list(SIZES), bars, what, f"{capital} by object size.")
    return Section(f"{capital} by size and class", "Of the model that was measured.", [_table(named, rows)], [plot])


def _course_sections(named: Mapping[str, BenchResult]) -> Iterator[Section]:
    courses = [(name, plots.board_course(result, number)) for number, (name, result) in enumerate(named.items())]
    shown = [Plot(plot.svg, f"{name}. {plot.caption}") for name, plot in courses if plot]
    if shown:
        yield Section(
            "Over time", "Power beside temperature and clocks, as far as the board reports them.", plots=shown
        )


def _comparable(result: BenchResult) -> str:
    against = obstacles(result)
    return "no: " + ", ".join(finding.code.replace("-", " ") for finding in against) if against else "yes"


def _threads(result: BenchResult) -> str:
    run = result.latency_run
    return "-" if run is None else "engine's choice" if run.threads is None else str(run.threads)


def _energy(result: BenchResult, what: str) -> Cell | str:
    value = value_at(result, "energy", f"per_{what}_mj")
    if value is None:
        return "-"
    return Cell(
        format_uncertain(value, value_at(result, "energy", f"per_{what}_uncertainty_mj")), f"energy.per_{what}_mj"
    )


def _hottest(result: BenchResult) -> str:
    celsius = result.thermal.highest_c.values() if result.thermal else ()
    return f"{max(celsius):.0f} °C" if celsius else "-"


def _thousandths(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4f}"


def _mebibytes(value: float) -> str:
    return f"{value:.0f} MiB"
