"""`edgeloc convert`: a trained network to one model file with its contract."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc._support.json import print_json
from edgeloc._support.numbers import at_least_one, at_least_zero
from edgeloc.errors import printable

if TYPE_CHECKING:
    from edgeloc.converters.conversion import Conversion, ConvertOptions
    from edgeloc.converters.gate import GateLimits, Report, Trial
    from edgeloc.data import Dataset

HELP = "turn a trained CNN into one .tflite that carries its contract"
EXTRA = "convert"
NEEDS = ("tensorflow", "keras")

_SUFFIXES = {"tflite": ".tflite", "edgetpu": ".tflite", "tensorrt": ".onnx"}
_LIMITS = {
    "max_iou_drop": "how much mean IoU may be lost (default: 0.005)",
    "max_map_drop": "how much average precision may be lost, of a detector (default: 0.01)",
    "max_iou_drop_by_size": "the same over objects of each size (default: 0.01 more than --max-iou-drop)",
    "min_box_iou": "least mean IoU between the float model's box and the quantized one's (default: 0.85)",
    "min_box_iou_by_size": "the same over objects of each size (default: 0.8)",
    "max_recall_drop": "how much of the share of objects found may be lost (default: 0.02)",
    "max_false_alarm_rise": "how much the share of false alarms may grow (default: 0.02)",
    "max_accuracy_drop": "how much of the share of right classes may be lost (default: 0.02)",
    "min_class_agreement": "least share of images on which both models give the same class (default: 0.9)",
}


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
    add("--json", action="store_true", help="print the result as one JSON object")
    _configure_quantization(parser.add_argument_group("quantization"))
    _configure_gate(parser.add_argument_group("gate, all limits 0 to 1"))
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
    add("--calibration-split", metavar="NAME", help="its split, such as train (default: all of it)")
    add("--calibration-images", metavar="N", type=at_least_one, default=200, help="how many of them (default: 200)")
    add("--seed", metavar="N", type=at_least_zero, default=0, help="which of them are drawn (default: 0)")
    add(
        "--keep-float",
        metavar="PATTERN",
        action="append",
        default=[],
        help="operators that stay in float: a regular expression for their output's name, or an operator such as "
        "SOFTMAX; 'FIRST->LAST' for all from the one to the other; repeat for more",
    )
    add("--fix-head", action="store_true", help="split outputs and drop final activations that lose to int8")
    add(
        "--repair-batch-norm",
        action="store_true",
        help="re-estimate batch-norm statistics that lag, from the calibration images (Keras)",
    )


def _configure_gate(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--validation", metavar="DATA", help="labelled images, other than for calibration, to compare with float on")
    add("--validation-split", metavar="NAME", help="their split, such as val (default: all of it)")
    add("--max-images", metavar="N", type=at_least_one, help="compare on N images, spread evenly over the groups")
    for name, text in _LIMITS.items():
        add(f"--{name.replace('_', '-')}", metavar="X", type=float, help=text)


def run(args: argparse.Namespace) -> int:
    """Convert and print what came out; 0 when the file is written."""
    from edgeloc.converters.conversion import convert
    from edgeloc.converters.gate import GateRefused
    from edgeloc.errors import UsageError
    from edgeloc.model.contract import read_contract

    options = _options(args)
    suffix = _SUFFIXES[options.target]
    if Path(args.out).suffix != suffix:
        message = f"{args.out}: a model for the target {options.target} ends in {suffix}"
        raise UsageError(message, field="out", hint=f"give {{out}} a name that ends in {suffix}")
    _require_model(args.model)
    try:
        made = convert(
            args.model,
            args.out,
            options,
            calibration=_open(args, "calibration"),
            validation=_open(args, "validation"),
            contract=read_contract(args.contract) if args.contract else None,
        )
    except GateRefused as refused:
        _print_refusal(refused.report, refused.trials, args.json)
        raise
    if args.json:
        print_json(made.to_dict())
    else:
        _print_gate(made.gate, made.trials)
        print(printable(_summary(made)))
    return 0


def _options(args: argparse.Namespace) -> ConvertOptions:
    from edgeloc.converters.conversion import ConvertOptions

    return ConvertOptions(
        recipe=args.recipe,
        target=args.target,
        calibration_images=args.calibration_images,
        seed=args.seed,
        keep_float=tuple(args.keep_float),
        fix_head=args.fix_head,
        repair_batch_norm=args.repair_batch_norm,
        weights=args.weights,
        limits=_limits(args),
        max_images=args.max_images,
        min_mapped=args.min_mapped,
        skip_bad=args.skip_bad,
    )


def _limits(args: argparse.Namespace) -> GateLimits | None:
    """The limits that were given; None where none was."""
    from edgeloc.converters.gate import GateLimits

    given = {name: getattr(args, name) for name in _LIMITS if getattr(args, name) is not None}
    return GateLimits(**given) if given else None


def _require_model(model: str) -> None:
    """A file that is not there is the first thing to know, before data sets are read."""
    from edgeloc.converters.sources import require_source

    require_source(model)


def _open(args: argparse.Namespace, name: str) -> Dataset | None:
    """The data set of a flag, in the split that its flag names."""
    from edgeloc.data import open_dataset
    from edgeloc.errors import UsageError

    uri, split = getattr(args, name), getattr(args, f"{name}_split")
    if uri is None and split is not None:
        raise UsageError(
            f"there is no data set to take the split {split} of", field=f"{name}_split", hint=f"give {{{name}}}"
        )
    if uri is None:
        return None
    return open_dataset(uri, split=split, skip_bad=args.skip_bad)


def _summary(made: Conversion) -> str:
    macs = "" if made.inspection is None else f", {made.inspection.macs / 1e6:.0f} million MACs"
    return f"wrote {made.path}: {made.precision}, {made.size / 1e6:.2f} MB{macs}"


def _print_gate(report: Report | None, trials: tuple[Trial, ...]) -> None:
    from edgeloc.converters.gate.report import report_lines, trial_lines

    lines = [*(trial_lines(trials) if trials else ()), *(report_lines(report) if report is not None else ())]
    if lines:
        print(printable("\n".join(lines)))


def _print_refusal(report: Report | None, trials: tuple[Trial, ...], as_json: bool) -> None:
    if not as_json:
        _print_gate(report, trials)
        return
    findings = [] if report is None else [finding.to_dict() for finding in report.findings]
    gate = None if report is None else report.to_dict()
    print_json({"path": None, "gate": gate, "findings": findings})
