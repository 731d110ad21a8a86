"""What was measured, on what, and how: the models, the data, the machine and the command, as sections of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeloc.benchmarks.report.document import Row, Section, Table, format_time
from edgeloc.benchmarks.result import BenchResult, ModelInfo, machine
from edgeloc.evaluation.figures import format_size

__all__ = ["condition_rows", "fact_sections", "model_name"]


def fact_sections(result: BenchResult) -> Iterator[Section]:
    """Model, conditions, and the command that measures the same again."""
    yield Section("The model", _model_words(result), list(_model_tables(result)))
    yield Section("What it was measured on", tables=[Table([], condition_rows(result), text=True)])
    if result.command:
        yield Section("Measure it again", command=result.command)


def model_name(result: BenchResult) -> str:
    """The name of the model's file."""
    return Path(result.model.path).name


def _model_words(result: BenchResult) -> str:
    peak = result.memory
    return (
        f"The process that measured held {peak.peak_mib:.0f} MiB at its peak, with Python and its libraries."
        if peak
        else ""
    )


def _model_tables(result: BenchResult) -> Iterator[Table]:
    rows = list(_file_rows("model", result.model))
    if result.against:
        rows += _file_rows("against", result.against)
    yield Table([], rows, text=True)
    if result.model.operators:
        counts = sorted(result.model.operators.items(), key=lambda item: (-item[1], item[0]))
        yield Table(["operator", "count"], [[name, str(count)] for name, count in counts])


def _file_rows(title: str, info: ModelInfo) -> Iterator[Row]:
    recipe = f", recipe {info.recipe}" if info.recipe else ""
    yield [
        title,
        f"{info.path}: {info.precision}{recipe}, {format_size(info.bytes)}, on {info.engine} {info.engine_version}",
    ]
    yield ["its SHA-256", info.sha256]


def condition_rows(result: BenchResult) -> list[Row]:
    """Data, machine, software and temperatures, one a row."""
    return [*_data_rows(result), *_machine_rows(result), *_thermal_rows(result)]


def _data_rows(result: BenchResult) -> list[Row]:
    data = result.data
    if data is None:
        return []
    split = f", split {data.split}" if data.split else ""
    used = f"{data.used} of {data.images} images used, {data.skipped} skipped as unreadable"
    rows: list[Row] = [["data", f"{data.name}{split}: {used}"], *(["", note] for note in data.notes)]
    return [*rows, *([["its SHA-256", data.sha256]] if data.sha256 else [])]


def _machine_rows(result: BenchResult) -> list[Row]:
    environment = result.environment
    cores = f"{environment.cores} cores, {environment.machine}, {environment.os}"
    load = "not reported" if environment.load_1min is None else str(environment.load_1min)
    libraries = f"NumPy {environment.numpy}, OpenCV {environment.opencv}"
    return [
        ["machine", f"{machine(result)}, {cores}"],
        ["governor", environment.governor or "not reported"],
        *([["power mode", environment.power_mode]] if environment.power_mode else []),
        ["load before", load],
        *_busy_rows(result),
        ["software", f"edgeloc {environment.edgeloc}, Python {environment.python}, {libraries}"],
        ["measured", format_time(result.created_at)],
    ]


def _busy_rows(result: BenchResult) -> list[Row]:
    busy = result.course.others_busy if result.course else None
    return [] if busy is None else [["other programs took", f"{100 * busy:.0f} % of the processors meanwhile"]]


def _thermal_rows(result: BenchResult) -> list[Row]:
    thermal = result.thermal
    if thermal is None:
        return []
    rows: list[Row] = []
    if thermal.highest_c:
        name, celsius = max(thermal.highest_c.items(), key=lambda item: item[1])
        rows.append(["temperature", f"up to {celsius:.0f} °C at {name}"])
    rows += [
        [f"clock of cores {cpus}", f"{thermal.lowest_mhz.get(cpus, highest)} to {highest} MHz"]
        for cpus, highest in thermal.highest_mhz.items()
    ]
    silent = "no" if thermal.reports_throttling else "not reported"
    return [*rows, ["throttled", ", ".join(thermal.throttled) or silent]]
