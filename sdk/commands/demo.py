"""`edgeloc demo`: the whole job on what ships with the package, as the commands that a user would type."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from urllib.parse import quote

HELP = "the whole job: convert, inspect, run, benchmark, report (--data: on your own images)"
EXTRA = "convert,bench,video"
NEEDS = ("tensorflow", "matplotlib", "jinja2", "av")

_TASKS = ("localize", "detect")
_SCENES = {"localize": "synthetic?count=400&seed=1", "detect": "synthetic?count=400&seed=1&size=640x480&objects=4"}
_VIDEO = {
    "localize": "synthetic://?seed=3&size=640x480&fps=30&frames=240&live=0",
    "detect": "synthetic://?seed=3&size=640x480&fps=30&frames=240&live=0&objects=4",
}
_FRAMES_OF_DATA = 240


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `edgeloc demo`."""
    add = parser.add_argument
    add("--task", choices=_TASKS, default="localize", help="one object, or any number (default: %(default)s)")
    add("--data", metavar="DATA", help="a labelled data set of yours (default: generated scenes)")
    add("--validation-split", metavar="NAME", help="the split to measure on (default: all; val of the scenes)")
    add("--out", default="out", metavar="DIR", help="the folder for what comes out (default: out)")


def run(args: argparse.Namespace) -> int:
    """Run the job step by step; the first command that fails ends it with its exit status."""
    import shlex

    from edgeloc.cli import main

    out = Path(args.out)
    data = args.data or _SCENES[args.task]
    split = args.validation_split or (None if args.data else "val")
    camera = _camera(args.data, split) if args.data else _VIDEO[args.task]
    steps = _steps(args.task, data, split, _calibration_split(data, split), camera, out)
    for number, (title, step) in enumerate(steps, start=1):
        print(f"\n{number}. {title}\n$ edgeloc {shlex.join(step)}", flush=True)
        status = main(step)
        if status:
            return status
    _print_results(out)
    return 0


def _calibration_split(data: str, split: str | None) -> str | None:
    """What to calibrate on: not the images measured on, where the data set has others."""
    from edgeloc.data import open_dataset
    from edgeloc.errors import DataError

    dataset = open_dataset(data, split=split)
    if not any(sample.objects for sample in dataset):
        raise DataError(f"{data} holds no labelled object to measure with: give --data with boxes, or leave it out")
    others = [name for name in dataset.splits if name != split]
    if split is None or not others:
        return split
    return "train" if "train" in others else others[0]


def _camera(data: str, split: str | None) -> str:
    options = [f"split={quote(split)}"] if split else []
    return f"data://{quote(data)}?" + "&".join([*options, f"frames={_FRAMES_OF_DATA}"])


def _steps(
    task: str, data: str, split: str | None, calibration: str | None, camera: str, out: Path
) -> list[tuple[str, list[str]]]:
    from edgeloc.models import SHIPPED_DETECTOR_KERAS, SHIPPED_KERAS

    def of(flag: str, name: str | None) -> list[str]:
        return [flag, name] if name else []

    keras = str(SHIPPED_DETECTOR_KERAS if task == "detect" else SHIPPED_KERAS)
    int8, float32 = str(out / "model-int8.tflite"), str(out / "model-float32.tflite")
    result, report = str(out / "result.json"), str(out / "report.html")
    calibrated = ["--calibration", data, *of("--calibration-split", calibration)]
    validated = ["--validation", data, *of("--validation-split", split)]
    tracked = ["--track"] if task == "detect" else []
    return [
        ("Convert the trained model to a float file", ["convert", keras, "--recipe", "float32", "--out", float32]),
        ("Convert it to int8", ["convert", keras, *calibrated, "--out", int8]),
        ("Look into the int8 file", ["inspect", int8]),
        (
            "Run it on a video",
            ["run", int8, "--camera", camera, *tracked, "--sink", str(out / "boxes.mp4"), "--overwrite"],
        ),
        ("Measure both models", ["bench", int8, "--against", float32, *validated, "--out", result]),
        ("Write the report", ["report", result, "--out", report]),
    ]


def _print_results(out: Path) -> None:
    """Where everything is, and the three numbers that matter."""
    import json

    result = json.loads((out / "result.json").read_text())
    total = result["latency"]["total"]
    names = {"video": "boxes.mp4", "model": "model-int8.tflite", "result": "result.json", "report": "report.html"}
    int8, float32 = ((out / f"model-{kind}.tflite").stat().st_size / 1e6 for kind in ("int8", "float32"))
    print(
        "\n" + "".join(f"{title:<7} {out / name}\n" for title, name in names.items()) + "\n"
        f"{_quality(result)}\n"
        f"time    {total['p50_ms']:.1f} ms a frame at the median, {total['p99_ms']:.1f} ms at p99, on this machine\n"
        f"size    {int8:.2f} MB, {float32:.2f} MB in float"
    )


def _quality(result: dict[str, Any]) -> str:
    """What int8 cost, in one line."""
    detection, regression = result["detection"], result["regression"]
    if detection:
        name, (low, high) = "mAP", detection["drop_ci95"]
        before, after = (detection[f"precision_{kind}"]["ap"] for kind in ("float", "quantized"))
    else:
        name, (low, high) = "IoU", regression["drop_ci95"]
        before, after = (regression[f"mean_iou_{kind}"] for kind in ("float", "quantized"))
    return (
        f"{name}     {before:.3f} float, {after:.3f} int8: "
        f"a drop of {before - after:.4f} (95 % interval {low:.4f} to {high:.4f})"
    )
