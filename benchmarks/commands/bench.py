"""`edgeloc bench`: its flags, and what it prints of the result."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgeloc._support.json import print_json
from edgeloc._support.numbers import above_zero, at_least_one, at_least_zero, for_flag, number, threads_or_auto
from edgeloc.benchmarks.commands import fleet
from edgeloc.errors import printable

if TYPE_CHECKING:
    from edgeloc.benchmarks.measurement import BenchOptions
    from edgeloc.benchmarks.result import BenchResult
    from edgeloc.evaluation.detection import DetectionRegression

__all__ = ["EXTRA", "HELP", "NEEDS", "closing_table", "configure", "options", "run", "summary"]

HELP = "measure latency of each stage, energy and what quantization cost, into result.json"
EXTRA: str | None = None
NEEDS: tuple[str, ...] = ()

_SERIES = ("samples_ms", "warmup_ms")
_COURSE = ("began_s", "readings")
_TRACE = ("t_s", "watts", "spans_s")
_IMAGES = ("rows", "worst")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="the quantized model, .tflite or .onnx")
    add("--against", metavar="FLOAT", help="the float model to compare with, .tflite or .keras")
    add(
        "--validation",
        metavar="DATA",
        help="labelled images: a folder, an annotation file, or synthetic; without --against the model's own accuracy",
    )
    add("--validation-split", metavar="NAME", help="which split of the data, such as val (default: all of it)")
    add(
        "--max-images",
        type=at_least_one,
        metavar="N",
        help="measure accuracy on N images, spread evenly over the groups (default: all)",
    )
    add(
        "--out",
        metavar="RESULT.json",
        default="result.json",
        help="where the result goes, compressed where the name ends in .gz (default: %(default)s)",
    )
    _add_scenario(parser)
    add("--camera", metavar="URI", help="time frames of this camera (default: the data's images, or synthetic scenes)")
    add(
        "--power",
        metavar="METER",
        default="auto",
        help="power meter: auto, none, or a URI such as pmic://, ina219://1/0x40?shunt=0.1, csv://power.csv",
    )
    add(
        "--threads",
        metavar="N",
        type=threads_or_auto,
        help="threads of the engine; auto measures once how many are the fastest here (default: its own choice)",
    )
    add(
        "--engine",
        metavar="NAME",
        default="auto",
        help="auto, litert, tflite-runtime, tensorflow, edgetpu, tensorrt, onnxruntime or fastest, as in edgeloc run "
        "(default: auto)",
    )
    add("--contract", metavar="FILE.json", help="the contract of a model that carries none")
    add("--no-negatives", action="store_true", help="no background crops for the presence figures")
    add("--skip-bad", action="store_true", help="leave out images and rows that cannot be read, and count them")
    add("--json", action="store_true", help="print the figures as one JSON object instead of text")
    fleet.configure(parser)


def _add_scenario(parser: argparse.ArgumentParser) -> None:
    from edgeloc.benchmarks.scenarios.stopping import SCENARIOS

    add, seconds = parser.add_argument, for_flag(number(0, what="a number of seconds"))
    add(
        "--scenario",
        choices=SCENARIOS,
        default=SCENARIOS[0],
        help="frame after frame; frames at a rate through the capture loop; minutes of the first; fresh processes "
        "until their first result (default: %(default)s)",
    )
    add(
        "--frames",
        metavar="N",
        type=at_least_one,
        help="time exactly N frames, of cold-start N processes (default: until the 90th percentile is known; 10)",
    )
    add(
        "--warmup",
        metavar="N",
        type=at_least_zero,
        help="frames before them, kept apart (default: 20; 1 process of cold-start)",
    )
    add("--min-frames", metavar="N", type=at_least_one, help="time at least N frames (default: 200)")
    add("--min-seconds", metavar="S", type=seconds, help="for at least S seconds (default: 2; 10 of stream)")
    add(
        "--max-seconds",
        metavar="S",
        type=above_zero,
        help="and for at most S, though the 90th percentile is not well known then (default: 10; 30 of stream)",
    )
    add("--minutes", metavar="M", type=above_zero, help="of sustained: for M minutes (default: 10)")
    add("--fps", metavar="F", type=above_zero, help="of stream: F frames a second (default: 30, a live camera's own)")
    add("--loadgen", action="store_true", help="of single-stream: let MLPerf's LoadGen issue the frames, as a check")


def run(arguments: argparse.Namespace) -> int:
    """Measure, save and print; 0 when done, 3 where a board of a fleet gave no result."""
    from edgeloc.benchmarks.measurement import bench

    fleet.require_fleet(arguments)
    wanted = options(arguments)
    if arguments.fleet and not arguments.spread:
        parser = argparse.ArgumentParser()
        configure(parser)
        return fleet.run(arguments, wanted, parser)
    result = fleet.spread(arguments, wanted) if arguments.spread else bench(wanted)
    if arguments.json:
        print_json(summary(result, arguments.out))
    else:
        print(printable(closing_table(result, arguments.out)))
    return 0


def options(arguments: argparse.Namespace) -> BenchOptions:
    """What the flags ask for."""
    from edgeloc.benchmarks.measurement import BenchOptions

    return BenchOptions(
        model=arguments.model,
        out=arguments.out,
        against=arguments.against,
        validation=arguments.validation,
        validation_split=arguments.validation_split,
        max_images=arguments.max_images,
        camera=arguments.camera,
        scenario=arguments.scenario,
        frames=arguments.frames,
        warmup=arguments.warmup,
        min_frames=arguments.min_frames,
        min_seconds=arguments.min_seconds,
        max_seconds=arguments.max_seconds,
        minutes=arguments.minutes,
        fps=arguments.fps,
        loadgen=arguments.loadgen,
        engine=arguments.engine,
        threads=arguments.threads,
        contract=arguments.contract,
        negatives=not arguments.no_negatives,
        skip_bad=arguments.skip_bad,
        power=arguments.power,
    )


def summary(result: BenchResult, out: str) -> dict[str, Any]:
    """The result as JSON-ready values without its long lists (samples, readings, images), which `result` holds."""
    from dataclasses import asdict

    values = {"result": str(out), **asdict(result)}
    for part in ("latency", "latency_against", "latency_beside"):
        values[part] = {stage: _without(figures, _SERIES) for stage, figures in values[part].items()}
    values["course"] = values["course"] and _without(values["course"], _COURSE)
    values["comparable"] = result.comparable
    values["energy"] = _without(values["energy"], _TRACE)
    for part in ("regression", "accuracy", "detection"):
        values[part] = values[part] and _without(values[part], _IMAGES)
    return values


def _without(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def closing_table(result: BenchResult, out: str) -> str:
    """The numbers that matter, one a line."""
    from edgeloc.benchmarks.energy import format_energy
    from edgeloc.benchmarks.result import obstacles
    from edgeloc.evaluation.figures import format_names, format_size

    rows = [*_accuracy_rows(result), *(_latency_rows(result) if result.latency else ())]
    rows.append(("energy", format_energy(result.energy)))
    ratio = f"  ({result.size_comparison})" if result.size_comparison else ""
    rows.append(("size", f"{format_size(result.model.bytes)}, {result.model.precision}{ratio}"))
    if result.data and result.data.skipped:
        names = format_names(result.data.skipped_names)
        rows.append(("skipped", f"{result.data.skipped} images that cannot be read: {names}"))
    if not result.comparable:
        rows.append(("compare", f"not with other results: {', '.join(one.code for one in obstacles(result))}"))
    rows.append(("result", str(out)))
    return "\n".join(f"{name:<9} {text}" for name, text in rows)


def _latency_rows(result: BenchResult) -> Iterator[tuple[str, str]]:
    """What the scenario is about, and how well it is known."""
    from edgeloc.benchmarks.result import NETWORK_STAGES

    scenario, latency = result.scenario, result.latency
    total, parts = latency["total"], {name: spent.p50_ms for name, spent in latency.items() if name != "total"}
    if scenario is not None and scenario.name == "cold-start":
        each = ", ".join(f"{name} {spent:.0f}" for name, spent in parts.items())
        memory = f", {result.memory.peak_mib:.0f} MiB at its peak" if result.memory else ""
        yield "start", f"p50 {total.p50_ms:.0f} ms to the first result  ({each}){memory}, {total.count} processes"
        return
    each = "".join(f", {name} {parts[name]:.1f}" for name in NETWORK_STAGES if name in parts)
    if scenario is not None and scenario.name == "stream":
        ages = (
            f"p50 {total.p50_ms:.1f}, p90 {total.p90_ms:.1f}, p99 {total.p99_ms:.1f} ms  (invoke {parts['invoke']:.1f}"
        )
        rate = f" at {scenario.fps:g} a second" if scenario.fps else ""
        yield "frame age", f"{ages}{each}), {scenario.dropped} of {total.count + (scenario.dropped or 0)} dropped{rate}"
    else:
        rate = f"{1000 / total.p50_ms:.0f} a second"
        yield "latency", f"p50 {total.p50_ms:.1f} ms a frame, {rate}  (invoke {parts['invoke']:.1f} ms{each})"
    if scenario is not None and scenario.p90_bound_ms is not None:
        bound = f"{scenario.p90_bound_ms:.1f} ms with {100 * scenario.confidence:.0f} % confidence"
        yield "p90", f"{total.p90_ms:.1f} ms, at most {bound}, {total.count} frames in {scenario.seconds:.1f} s"
    if result.loadgen is not None:
        theirs = result.loadgen
        apart = f"ours {100 * (total.p90_ms / theirs.p90_ms - 1):+.2f} %"
        yield "LoadGen", f"p90 {theirs.p90_ms:.2f} ms, {'VALID' if theirs.valid else 'INVALID'}; {apart}"
    yield from _course_rows(result)


def _course_rows(result: BenchResult) -> Iterator[tuple[str, str]]:
    drift = result.course.drift if result.course else None
    if drift is not None and result.scenario is not None and result.scenario.name == "sustained":
        low, high = (100 * bound for bound in drift.trend_ci95)
        trend = f"trend {100 * drift.trend:+.1f} % after that, 95 % interval {low:+.1f} to {high:+.1f}"
        yield "drift", f"first {drift.window_s:.0f} s {drift.cold_ms:.1f} ms, last third {drift.steady_ms:.1f}; {trend}"
    if result.latency_against:
        other, own = result.latency_against["localize"].p50_ms, result.latency_beside["localize"].p50_ms
        yield (
            "float",
            f"p50 {other:.2f} ms without capture and drawing, {other / own:.2f} times the {own:.2f} ms beside it",
        )


def _accuracy_rows(result: BenchResult) -> Iterator[tuple[str, str]]:
    """What quantization cost; of a model without a float model beside it, how accurate it is."""
    from edgeloc.evaluation.accuracy import format_mean_interval
    from edgeloc.evaluation.figures import format_drop, format_interval, format_share

    figures, accuracy = result.regression, result.accuracy
    if figures and figures.images:
        before, after = figures.mean_iou_float, figures.mean_iou_quantized
        means = f"float {format_share(before)}, quantized {format_share(after)}, {figures.images} images"
        interval = f"95 % interval by {figures.ci_by} {format_interval(figures.drop_ci95)}"
        yield "IoU drop", f"{format_drop(before, after)}, {interval}  ({means})"
    detection = result.detection
    if detection and detection.precision_quantized.ap is not None:
        yield from _detection_rows(detection, result.against is None)
    if accuracy and accuracy.images:
        interval = f"95 % interval by {accuracy.ci_by} {format_mean_interval(accuracy)}"
        yield "mean IoU", f"{format_share(accuracy.mean_iou)}, {interval}  ({accuracy.images} images)"
    if accuracy:
        found = f"objects found {format_share(accuracy.recall)}, false alarms {format_share(accuracy.false_alarms)}"
        yield "presence", f"{found}  (threshold {accuracy.threshold:.2f})"
    if accuracy and accuracy.labelled:
        yield "class", f"right {format_share(accuracy.top1)}  ({accuracy.labelled} labelled objects)"


def _detection_rows(figures: DetectionRegression, alone: bool) -> Iterator[tuple[str, str]]:
    from edgeloc.evaluation.figures import format_drop, format_interval, format_share

    before, after = figures.precision_float, figures.precision_quantized
    of = f"{figures.images} images, {figures.all.objects} objects"
    if alone:
        yield "mAP", f"{format_share(after.ap)}, at IoU 0.5 {format_share(after.ap50)}  ({of})"
    else:
        interval = f"95 % interval by {figures.ci_by} {format_interval(figures.drop_ci95)}"
        means = f"float {format_share(before.ap)}, quantized {format_share(after.ap)}, {of}"
        yield "mAP drop", f"{format_drop(before.ap, after.ap)}, {interval}  ({means})"
    found = f"found {format_share(figures.all.recall_quantized)}, of no object {format_share(figures.false_quantized)}"
    yield "objects", f"{found}  (threshold {figures.threshold_quantized:.2f})"
