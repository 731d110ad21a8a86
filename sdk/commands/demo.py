"""`edgeloc demo`: the whole job on what ships with the package, as the commands a user would type."""

from __future__ import annotations

import argparse

HELP = "the whole job: convert, inspect, run, benchmark, report (--data: on your own images)"
EXTRA = "convert,bench"
NEEDS = ("tensorflow", "matplotlib", "jinja2")

_SCENES = "synthetic?count=400&seed=1"
_VIDEO = "synthetic://?seed=3&size=640x480&fps=30&frames=240&live=0"
_FRAMES_OF_DATA = 240


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `edgeloc demo`."""
    add = parser.add_argument
    add("--data", metavar="DATA", help="a labelled data set of yours (default: generated scenes)")
    add("--split", help="the split of --data to measure on (default: all of it)")
    add("--out", default="out", metavar="DIR", help="the folder for what comes out (default: out)")


def run(args: argparse.Namespace) -> int:
    """Run the job step by step; the first command that fails ends it with its exit status."""
    import shlex
    from pathlib import Path

    from edgeloc.cli import main
    from edgeloc.models import SHIPPED_KERAS

    out = Path(args.out)
    for step in _steps(args, SHIPPED_KERAS, out):
        print(f"\n$ edgeloc {shlex.join(step)}", flush=True)
        status = main(step)
        if status:
            return status
    _tell(out)
    return 0


def _steps(args: argparse.Namespace, keras_model: object, out: object) -> list[list[str]]:
    data, camera = [args.data or _SCENES], _VIDEO
    if args.data:
        split = [f"split={args.split}"] if args.split else []
        camera = f"data://{args.data}?" + "&".join([*split, f"frames={_FRAMES_OF_DATA}"])
    measured = data + (["--split", args.split] if args.split else ["--split", "val"] if not args.data else [])
    int8, float32 = f"{out}/model-int8.tflite", f"{out}/model-float32.tflite"
    return [
        ["convert", str(keras_model), "--recipe", "float32", "--out", float32],
        ["convert", str(keras_model), "--calibration", *_calibration(args), "--out", int8],
        ["inspect", int8],
        ["run", int8, "--camera", camera, "--sink", f"{out}/boxes.mp4"],
        ["bench", int8, "--against", float32, "--data", *measured, "--out", f"{out}/result.json"],
        ["report", f"{out}/result.json", "--out", f"{out}/report.html"],
    ]


def _calibration(args: argparse.Namespace) -> list[str]:
    """What to calibrate on: never the images measured on, where the data set has others."""
    if not args.data:
        return [_SCENES, "--split", "train"]
    from edgeloc.data import open_dataset

    splits = open_dataset(args.data, split=args.split).splits
    others = [name for name in splits if name != args.split]
    if not others:
        return [args.data, *(["--split", args.split] if args.split else [])]
    return [args.data, "--split", "train" if "train" in others else others[0]]


def _tell(out: object) -> None:
    """Where everything is, and the three numbers that matter."""
    import json
    from pathlib import Path

    result = json.loads(Path(f"{out}/result.json").read_text())
    regression, total = result["regression"], result["latency"]["total"]
    low, high = regression["drop_ci95"]
    print(
        f"\nvideo   {out}/boxes.mp4\nmodel   {out}/model-int8.tflite\n"
        f"result  {out}/result.json\nreport  {out}/report.html\n\n"
        f"IoU     {regression['mean_iou_float']:.3f} float, {regression['mean_iou_quantized']:.3f} int8: "
        f"a drop of {regression['mean_iou_drop']:.4f} (95 % interval {low:.4f} to {high:.4f})\n"
        f"time    {total['p50_ms']:.1f} ms a frame at the median, {total['p99_ms']:.1f} ms at p99, on this machine\n"
        f"size    {Path(f'{out}/model-int8.tflite').stat().st_size / 1e6:.2f} MB, "
        f"{Path(f'{out}/model-float32.tflite').stat().st_size / 1e6:.2f} MB in float"
    )
