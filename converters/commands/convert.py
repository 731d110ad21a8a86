"""`edgeloc convert`: a trained network to one model file with its contract."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edgeloc._support.numbers import at_least_one, at_least_zero

if TYPE_CHECKING:
    from edgeloc.data import Dataset

HELP = "turn a trained CNN into one .tflite that carries its contract"
EXTRA = "convert"
NEEDS = ("tensorflow", "keras")

_SUFFIXES = {"tflite": ".tflite", "edgetpu": ".tflite", "tensorrt": ".onnx"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `edgeloc convert`, by what they concern."""
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help=".keras, .h5, a SavedModel folder, a float .tflite, .onnx, .pt2, or module:factory",
    )
    add("--weights", metavar="FILE", help="the weights of a PyTorch module:factory")
    add("--out", required=True, metavar="FILE", help="where the result goes: .tflite, or .onnx for TensorRT")
    add("--contract", metavar="FILE.json", help="what input and outputs mean, for a model that carries no contract")
    add("--skip-bad", action="store_true", help="leave bad rows and images out and count them")
    _configure_quantization(parser.add_argument_group("quantization"))
    _configure_gate(parser.add_argument_group("gate"))
    add = parser.add_argument_group("target").add_argument
    add("--target", metavar="NAME", default="tflite", help="tflite, edgetpu or tensorrt (default: tflite)")
    add(
        "--min-mapped",
        metavar="X",
        type=float,
        help="the least share of operators on the Edge TPU, 0 to 1 (default: 0.9)",
    )


def _configure_quantization(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--recipe",
        metavar="NAME",
        default="int8",
        help="int8, int8-float-head, int16-activations, float16, float32, dynamic, or auto: the cheapest that passes "
        "the gate (default: int8)",
    )
    add("--calibration", metavar="DATA", help="a data set or folder of images; integer recipes need it")
    add(
        "--calibration-split", metavar="NAME", help="the data set's split to calibrate on, such as train (default: all)"
    )
    add(
        "--calibration-images",
        metavar="N",
        type=at_least_one,
        default=200,
        help="how many of them (default: 200)",
    )
    add("--seed", metavar="N", type=at_least_zero, default=0, help="which of them are drawn (default: 0)")
    add(
        "--keep-float",
        metavar="PATTERN",
        action="append",
        default=[],
        help="operators that stay in float: a regular expression for their output's name, or an operator such as "
        "SOFTMAX; repeat for more",
    )
    add("--fix-head", action="store_true", help="split and bare the outputs that lose to int8 as they are")
    add(
        "--repair-batch-norm",
        action="store_true",
        help="take batch-norm statistics that lag anew from the calibration images (Keras)",
    )


def _configure_gate(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--validation", metavar="DATA", help="labelled images, other than for calibration, to compare with float on")
    add("--validation-split", metavar="NAME", help="their split, such as val (default: all of it)")
    add("--max-iou-drop", metavar="X", type=float, help="how much mean IoU may be lost, 0 to 1 (default: 0.005)")
    add("--max-images", metavar="N", type=at_least_one, help="compare on N images, spread evenly over the groups")


def run(args: argparse.Namespace) -> int:
    """Convert and say what came out; 0 when the file is written."""
    from pathlib import Path

    from edgeloc.converters.convert import ConvertOptions, convert
    from edgeloc.errors import UsageError
    from edgeloc.model.contract import read_contract

    options = ConvertOptions(
        recipe=args.recipe,
        target=args.target,
        calibration_images=args.calibration_images,
        seed=args.seed,
        keep_float=tuple(args.keep_float),
        fix_head=args.fix_head,
        repair_batch_norm=args.repair_batch_norm,
        weights=args.weights,
        max_iou_drop=args.max_iou_drop,
        max_images=args.max_images,
        min_mapped=args.min_mapped,
        skip_bad=args.skip_bad,
    )
    if Path(args.out).suffix != _SUFFIXES[options.target]:
        raise UsageError(f"--out {args.out}: for the target {options.target} it ends in {_SUFFIXES[options.target]}")
    convert(
        args.model,
        args.out,
        options,
        calibration=_open(args, "calibration"),
        validation=_open(args, "validation"),
        contract=read_contract(args.contract) if args.contract else None,
        tell=print,
    )
    return 0


def _open(args: argparse.Namespace, name: str) -> Dataset | None:
    """The data set of a flag, in the split that its flag names."""
    from edgeloc.data import open_dataset
    from edgeloc.errors import UsageError

    uri, split = getattr(args, name), getattr(args, f"{name}_split")
    if uri is None and split is not None:
        raise UsageError(
            f"the split {split} is of no data", field=f"{name}_split", value=split, hint=f"give {{{name}}}"
        )
    if uri is None:
        return None
    dataset = open_dataset(uri, split=split, skip_bad=args.skip_bad)
    for finding in dataset.findings:
        print(finding)
    return dataset
