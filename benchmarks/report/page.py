"""The page of one result: its headline, what to know first, and its sections in order."""

from __future__ import annotations

from collections.abc import Iterator

from edgeloc.benchmarks.energy import format_digits
from edgeloc.benchmarks.report.cost import cost_sections, speed_up
from edgeloc.benchmarks.report.document import Cell, Page, Tile, figure, format_time, value_at
from edgeloc.benchmarks.report.facts import fact_sections, model_name
from edgeloc.benchmarks.report.quality import quality_sections
from edgeloc.benchmarks.result import LOCALIZE, BenchResult, machine, obstacles
from edgeloc.evaluation.accuracy import format_mean_interval
from edgeloc.evaluation.figures import format_drop, format_interval, format_share, format_size

__all__ = ["answer_ms", "headline", "notes", "page_of", "short_ms", "speed_words"]


def page_of(result: BenchResult) -> Page:
    """The document of one result."""
    model, when = result.model, format_time(result.created_at)
    return Page(
        title=f"{model_name(result)} on {machine(result)}",
        over=f"{model_name(result)}, {model.precision}, {format_size(model.bytes)}",
        headline=headline(result),
        subtitle=f"Measured {when} by edgeloc {result.environment.edgeloc} on {model.engine}.",
        warnings=notes(result),
        tiles=list(_tiles(result)),
        sections=[*quality_sections(result), *cost_sections(result), *fact_sections(result)],
    )


def headline(result: BenchResult) -> str:
    """The one sentence: what an answer takes, beside float, and what quantization cost."""
    parts = [words for words in (_time_words(result), speed_words(result), _quality_words(result)) if words]
    return ", ".join(parts) or f"{model_name(result)} on {machine(result)}"


def answer_ms(result: BenchResult) -> float | None:
    """The median of preprocess, invoke and decode of a frame, in ms; None where they were not timed."""
    value: float | None = value_at(result, "latency", LOCALIZE, "p50_ms")
    return value


def _time_words(result: BenchResult) -> str:
    spent = answer_ms(result)
    if spent is not None:
        return f"{short_ms(spent)} a frame on {machine(result)}"
    total: float | None = value_at(result, "latency", "total", "p50_ms")
    return f"First result after {short_ms(total)} on {machine(result)}" if total else ""


def speed_words(result: BenchResult) -> str:
    """How fast the model is beside its float model; "" where that was not timed."""
    ratio = speed_up(result)
    if ratio is None:
        return ""
    if 0.97 < ratio < 1.03:
        return "as fast as float"
    return f"{ratio:.1f} times as fast as float" if ratio > 1 else f"{1 / ratio:.1f} times as slow as float"


def short_ms(value: float) -> str:
    """Milliseconds in three digits or more."""
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def _quality_words(result: BenchResult) -> str:
    regression, detection, accuracy = result.regression, result.detection, result.accuracy
    if regression and regression.mean_iou_drop is not None:
        return f"IoU {_change(regression.mean_iou_drop)}"
    if detection and result.against is not None and detection.drop is not None:
        return f"average precision {_change(detection.drop)}"
    if detection and detection.precision_quantized.ap is not None:
        return f"average precision {format_share(detection.precision_quantized.ap)}"
    return f"mean IoU {format_share(accuracy.mean_iou)}" if accuracy and accuracy.images else ""


def _change(drop: float) -> str:
    return f"{'up' if drop < 0 else 'down'} by {abs(drop):.4f}"


def notes(result: BenchResult) -> list[str]:
    """What to know before reading a figure: a partial result, why it cannot be compared, and the other findings."""
    stopped = [] if result.complete else ["The measurement was interrupted: this is what was measured until then."]
    against = obstacles(result)
    why = "; ".join(finding.message for finding in against)
    held = [f"Not comparable with other results: {why}."] if against else []
    codes = {finding.code for finding in against}
    return [*stopped, *held, *(str(finding) for finding in result.findings if finding.code not in codes)]


def _tiles(result: BenchResult) -> Iterator[Tile]:
    yield from _speed_tiles(result)
    yield from _regression_tiles(result)
    yield from _detection_tiles(result)
    accuracy = result.accuracy
    if accuracy and accuracy.images:
        note = f"95 % interval {format_mean_interval(accuracy)}, {accuracy.images} images"
        yield Tile("mean IoU", figure(result, format_share, "accuracy", "mean_iou"), note)
    energy = result.energy
    if energy.per_frame_mj is not None:
        spread = f"± {format_digits(energy.per_frame_uncertainty_mj or 0.0, 2)}, {energy.status}, beyond idle"
        yield Tile("energy per frame", figure(result, _millijoules, "energy", "per_frame_mj"), spread)
    note = result.size_comparison or result.model.precision
    yield Tile("model file", figure(result, format_size, "model", "bytes"), note)
    if result.memory:
        yield Tile("memory", figure(result, _mebibytes, "memory", "peak_mib"), "the whole process at its peak")


def _speed_tiles(result: BenchResult) -> Iterator[Tile]:
    spent = answer_ms(result)
    if spent:
        p90 = value_at(result, "latency", LOCALIZE, "p90_ms")
        note = f"median of preprocess, invoke and decode: {1000 / spent:.0f} a second; p90 {short_ms(p90)}"
        yield Tile("frame", figure(result, short_ms, "latency", LOCALIZE, "p50_ms"), note)
    elif result.latency:
        p90 = value_at(result, "latency", "total", "p90_ms")
        yield Tile("first result", figure(result, short_ms, "latency", "total", "p50_ms"), f"p90 {short_ms(p90)}")
    if speed_up(result):
        value = figure(result, short_ms, "latency_against", LOCALIZE, "p50_ms")
        yield Tile("float model's frame", value, f"the quantized one is {speed_words(result)}")


def _regression_tiles(result: BenchResult) -> Iterator[Tile]:
    regression = result.regression
    if regression is None or regression.mean_iou_drop is None:
        return
    interval = f"95 % interval {format_interval(regression.drop_ci95)}"
    yield Tile("IoU drop", figure(result, _drop, "regression", "mean_iou_drop"), interval)
    note = f"float {format_share(regression.mean_iou_float)}, {regression.images} images"
    yield Tile("mean IoU", figure(result, format_share, "regression", "mean_iou_quantized"), note)


def _detection_tiles(result: BenchResult) -> Iterator[Tile]:
    found = result.detection
    if found is None or found.precision_quantized.ap is None:
        return
    before, after = found.precision_float, found.precision_quantized
    note = f"at IoU 0.5: {format_share(after.ap50)}, {found.all.objects} objects"
    if result.against is not None:
        drop = Cell(format_drop(before.ap, after.ap))
        yield Tile("AP drop", drop, f"95 % interval {format_interval(found.drop_ci95)}")
        note = f"float {format_share(before.ap)}; {note}"
    yield Tile("average precision", figure(result, format_share, "detection", "precision_quantized", "ap"), note)


def _drop(value: float) -> str:
    return format_drop(value, 0.0)


def _millijoules(value: float) -> str:
    return f"{format_digits(value)} mJ"


def _mebibytes(value: float) -> str:
    return f"{value:.0f} MiB"
