"""What a frame costs, as sections of the page: its latency by stage and beside float, its energy over time, memory."""

from __future__ import annotations

from collections.abc import Iterator

from edgeloc.benchmarks.energy import Energy, format_uncertain
from edgeloc.benchmarks.report import plots
from edgeloc.benchmarks.report.document import Cell, Row, Section, Table, figure, value_at
from edgeloc.benchmarks.result import LOCALIZE, BenchResult, StageLatency, stages_in
from edgeloc.evaluation.figures import format_threads

__all__ = ["cost_sections", "format_ms", "speed_up"]

_COLUMNS = ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "min_ms", "max_ms")
_BESIDE = (
    (LOCALIZE, "p50_ms"),
    (LOCALIZE, "p90_ms"),
    ("preprocess", "p50_ms"),
    ("invoke", "p50_ms"),
    ("decode", "p50_ms"),
)
_SCENARIOS = {
    "single-stream": "one frame after the other",
    "stream": "frames at a camera's rate; the total is a frame's age when its result is there",
    "sustained": "one frame after the other, for minutes",
    "cold-start": "each sample is a process of its own, from its start to its first result",
}


def cost_sections(result: BenchResult) -> Iterator[Section]:
    """Latency, the float model's beside it, and energy."""
    if result.latency:
        stages = {stage: result.latency[stage] for stage in ("invoke", LOCALIZE, "total") if stage in result.latency}
        shown = [plots.latency_bars(result.latency), plots.latency_course(result), plots.distributions(stages, "time")]
        yield Section("Latency", _latency_words(result), [_latency_table(result)], shown)
    if result.latency_beside and result.latency_against:
        yield _float_section(result)
    energy = result.energy
    plot = plots.board_course(result)
    shown = [plot] if plot else []
    if energy.per_frame_mj is None:
        reason = (energy.reason or "there was no power meter").rstrip(".")
        yield Section("Energy", f"Not measured: {reason}.", plots=shown)
    else:
        yield Section("Energy", _energy_words(energy), [_energy_table(result)], shown)


def format_ms(value: float) -> str:
    """Milliseconds, to a microsecond."""
    return f"{value:.3f}"


def speed_up(result: BenchResult) -> float | None:
    """The float model's median time for an answer over this model's beside it; None where they were not timed."""
    before = value_at(result, "latency_against", LOCALIZE, "p50_ms")
    after = value_at(result, "latency_beside", LOCALIZE, "p50_ms")
    return before / after if before and after else None


def _latency_words(result: BenchResult) -> str:
    run, scenario = result.latency_run, result.scenario
    if run is None:
        return ""
    how = f"Scenario {scenario.name}: {_SCENARIOS[scenario.name]}. " if scenario else ""
    engine = f"on {run.engine} {run.engine_version} with {format_threads(run.threads)}"
    return (
        f"{how}{run.frames} frames from {run.source} after {run.warmup_frames} to warm up, {engine}. "
        f"Capture here is {run.capture}; localize is preprocess, invoke and decode of a frame, wherever it comes from. "
        "Every sample counts; none is clipped."
    )


def _latency_table(result: BenchResult) -> Table:
    """Every stage's figures in ms."""
    rows: list[Row] = [
        [stage, *(figure(result, format_ms, "latency", stage, name) for name in _COLUMNS)]
        for stage in stages_in(result.latency)
    ]
    return Table(["ms", *(name.removesuffix("_ms") for name in _COLUMNS)], rows)


def _float_section(result: BenchResult) -> Section:
    """Whether the quantized model is faster than the float one, stage by stage."""
    rows: list[Row] = [
        _beside(result, stage, name)
        for stage, name in _BESIDE
        if stage in result.latency_beside and stage in result.latency_against
    ]
    table = Table(["ms", "float", "quantized", "float / quantized"], rows)
    samples = {"float": result.latency_against, "quantized": result.latency_beside}
    stage = LOCALIZE if all(LOCALIZE in one for one in samples.values()) else "total"
    plot = plots.distributions({name: one[stage] for name, one in samples.items()}, stage)
    return Section("Beside float", _float_words(result), [table], [plot])


def _float_words(result: BenchResult) -> str:
    against, model = result.against, result.model
    words = f"Both models took the same {_count(result.latency_against)} frames in turns, in the same run."
    if against is not None and against.engine != model.engine:
        words += f" It ran on {against.engine}, the quantized model on {model.engine}: the engines differ too."
    return words


def _count(latency: dict[str, StageLatency]) -> int:
    return next(iter(latency.values())).count


def _beside(result: BenchResult, stage: str, name: str) -> Row:
    cells = [figure(result, format_ms, part, stage, name) for part in ("latency_against", "latency_beside")]
    before, after = (value_at(result, part, stage, name) for part in ("latency_against", "latency_beside"))
    return [f"{stage}, {name.removesuffix('_ms')}", *cells, f"{before / after:.2f}" if after else "-"]


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


def _energy_table(result: BenchResult) -> Table:
    energy = result.energy
    frame = format_uncertain(energy.per_frame_mj, energy.per_frame_uncertainty_mj)
    inference = format_uncertain(energy.per_inference_mj, energy.per_inference_uncertainty_mj)
    power = format_uncertain(energy.power_w, energy.power_uncertainty_w)
    rows: list[Row] = [
        [f"energy per frame, all stages, over {energy.frames} frames", Cell(f"{frame} mJ", "energy.per_frame_mj")],
        [
            f"energy per inference, invoke only, over {energy.inferences}",
            Cell(f"{inference} mJ", "energy.per_inference_mj"),
        ],
        ["power while frames were timed, idle included", Cell(f"{power} W", "energy.power_w")],
        ["power idle before", figure(result, _watts, "energy", "idle_before_w")],
        ["power idle after", figure(result, _watts, "energy", "idle_after_w")],
    ]
    return Table([], rows)


def _watts(value: float) -> str:
    return f"{value:.4g} W"
