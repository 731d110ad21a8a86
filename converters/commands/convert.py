"""`edgeloc convert`: a trained network to one `.tflite` with its contract."""

from __future__ import annotations

import argparse

from edgeloc.arguments import at_least_one, at_least_zero

HELP = "turn a trained CNN into one .tflite that carries its contract"
EXTRA = "convert"
NEEDS = ("tensorflow", "keras")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `edgeloc convert`."""
    add = parser.add_argument
    add("model", metavar="MODEL.keras", help="the trained network")
    add("--out", required=True, metavar="MODEL.tflite", help="where the result goes")
    add("--recipe", metavar="NAME", default="int8", help="float32, float16, dynamic or int8 (default: int8)")
    add("--calibration", metavar="DATA", help="a data set or folder of images; the recipe int8 needs it")
    add("--split", metavar="NAME", help="the data set's split to calibrate on, such as train (default: all of it)")
    add("--images", metavar="N", type=at_least_one, default=200, help="how many images to calibrate on (default: 200)")
    add("--seed", metavar="N", type=at_least_zero, default=0, help="which of them are drawn (default: 0)")
    add("--skip-bad", action="store_true", help="leave bad rows and images out and count them")
    add("--contract", metavar="FILE.json", help="what input and outputs mean, for a model that carries no contract")


def run(args: argparse.Namespace) -> int:
    """Convert and say what came out; 0 when the file is written."""
    from pathlib import Path

    from edgeloc.contract import read_contract
    from edgeloc.converters.conversion import convert
    from edgeloc.data import open_dataset
    from edgeloc.errors import UsageError

    if Path(args.out).suffix != ".tflite":
        raise UsageError(f"--out {args.out}: the name must end in .tflite")
    dataset = None
    if args.calibration:
        dataset = open_dataset(args.calibration, split=args.split, skip_bad=args.skip_bad)
        for note in dataset.notes:
            print(f"{dataset.name}: {note}")
    report = convert(
        args.model,
        args.out,
        calibration=dataset,
        recipe_name=args.recipe,
        contract=read_contract(args.contract) if args.contract else None,
        images=args.images,
        seed=args.seed,
        skip_bad=args.skip_bad,
        tell=print,
    )
    print(
        f"wrote {args.out}: {report.precision}, {report.file_bytes / 1e6:.2f} MB, {report.macs / 1e6:.0f} million MACs"
    )
    return 0
