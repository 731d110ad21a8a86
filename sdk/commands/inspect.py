"""`edgeloc inspect`: what is really in a model file, or where two of them differ."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgeloc._support.json import print_json
from edgeloc._support.numbers import at_least_one
from edgeloc.errors import UsageError, printable

if TYPE_CHECKING:
    from edgeloc.model.inspection import GoldenCheck, ModelReport, PortReport

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "show what is really in a .tflite or .onnx: precision, operators, contract, self-test"
EXTRA = None
NEEDS = ()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="the file to look into")
    add("--json", action="store_true", help="print one JSON object instead of text")
    add("--no-self-test", action="store_true", help="do not run the file's self-test (an untrusted model is only read)")
    layers = parser.add_argument_group("layer by layer (instead of MODEL)")
    add = layers.add_argument
    add("--compare", nargs=2, metavar=("FLOAT.tflite", "INT8.tflite"), help="error of each tensor, layers to blame")
    add("--validation", metavar="DATA", help="images to run both on: a folder, an annotation file, or synthetic")
    add("--validation-split", metavar="NAME", help="which split of the data, such as val (default: all of it)")
    add("--max-images", metavar="N", type=at_least_one, help="how many, spread evenly over the groups (default: 16)")
    add("--plot", metavar="OUT.png", help="draw the error of every layer (.png, .svg or .pdf)")


def run(args: argparse.Namespace) -> int:
    """Look into one file, or compare two; exit status 1 when a file's own self-test fails, 2 for bad input."""
    _check_arguments(args)
    return _inspect(args) if args.compare is None else _compare(args)


def _check_arguments(args: argparse.Namespace) -> None:
    if (args.model is None) == (args.compare is None):
        raise UsageError(
            "give one model to look into, or two with --compare FLOAT.tflite INT8.tflite --validation DATA"
        )
    names = ("validation", "validation_split", "max_images", "plot")
    needing = [name.replace("_", "-") for name in names if getattr(args, name) is not None]
    if args.compare is None and needing:
        raise UsageError(f"--{needing[0].replace('_', '-')} goes with --compare: looking into one file needs no images")
    if args.compare is not None and args.no_self_test:
        raise UsageError("--no-self-test goes with one model: --compare runs no self-test")
    if args.compare is not None and args.validation is None:
        raise UsageError("--compare runs both models on images: give some with --validation (a folder, or synthetic)")


def _compare(args: argparse.Namespace) -> int:
    from edgeloc.evaluation.layers import LayerOptions, compare_files, layer_lines

    before, after = args.compare
    options = LayerOptions(before, after, args.validation, args.validation_split, args.max_images or 16, plot=args.plot)
    report = compare_files(options)
    if args.json:
        print_json(report.to_dict())
    else:
        print(printable("\n".join(layer_lines(report))))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    """Print the report; 1 when the self-test fails, ContractError when the contract does not fit the tensors."""
    from edgeloc.errors import ContractError
    from edgeloc.model.inspection import GoldenCheck, check_golden, inspect_model, with_true_shapes

    report = inspect_model(args.model)
    if not args.no_self_test:
        report = with_true_shapes(report)
    golden = GoldenCheck("not present")
    if report.has_golden:
        golden = GoldenCheck("not run", "--no-self-test") if args.no_self_test else check_golden(args.model)
    if args.json:
        check = {"status": golden.status, "detail": golden.detail}
        print_json({**report.to_dict(), "self_test": check})
    else:
        for name, text in _rows(report, golden):
            print(printable(f"{name:<13} {text}"))
    for finding in report.findings:
        if finding.severity == "problem":
            raise ContractError(finding.message, hint=finding.fix or "")
    return 1 if golden.status == "failed" else 0


def _rows(report: ModelReport, golden: GoldenCheck) -> Iterator[tuple[str, str]]:
    """The report as lines, each with its name where a new thing begins."""
    carried = report.file_bytes - report.payload_bytes
    behind = f", {carried:,} of them beside the network" if carried else ""
    yield "file", f"{report.path}: {report.file_bytes:,} bytes{behind}"
    yield "precision", report.precision
    yield from _continued("", report.reasons)
    yield from _continued("inputs", [_port(port) for port in report.inputs])
    yield from _continued("outputs", [_port(port) for port in report.outputs])
    for finding in report.findings:
        if finding.severity == "warning":
            yield "warning", str(finding)
    yield from _continued("weights", [_weights(weights) for weights in report.weights])
    yield "activations", _counts(report.activations)
    yield "operators", f"{_counts(report.operators)} ({sum(report.operators.values())} in all)"
    if report.custom_operators:
        yield "custom", ", ".join(report.custom_operators)
    without = f" without {', '.join(report.macs_uncounted)}" if report.macs_uncounted else ""
    yield "MACs", f"{report.macs:,}{without}"
    yield "parameters", f"{report.parameters:,}"
    yield from _continued("contract", list(_contract(report.contract)))
    yield "labels", f"{len(report.labels)}: {', '.join(report.labels)}" if report.labels else "none"
    yield "calibration", "none" if report.calibration is None else _calibration(report.calibration)
    yield "self-test", f"{golden.status} ({golden.detail})" if golden.detail else golden.status


def _continued(name: str, lines: list[str] | tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for position, line in enumerate(lines):
        yield (name if position == 0 else "", line)


def _port(port: PortReport) -> str:
    name = f"{port.name} ({port.tensor})" if port.name and port.name != port.tensor else port.tensor
    shape = "x".join("?" if size < 0 else str(size) for size in port.shape) or "scalar"
    scale = "" if port.scale is None else f"  scale {port.scale:.6g}, zero point {port.zero_point}"
    return f"{name}  {shape}  {port.dtype}{scale}"


def _weights(weights: Any) -> str:
    kinds = [(weights.per_channel, "per channel"), (weights.per_tensor, "per tensor")]
    scaled = [f"{count} {kind}" for count, kind in kinds if count]
    return f"{weights.dtype}: {weights.elements:,} in {weights.tensors} tensors" + "".join(f", {s}" for s in scaled)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _contract(contract: dict[str, Any] | None) -> Iterator[str]:
    if contract is None:
        yield "none: how to make its input and read its outputs is unknown"
        return
    given = contract["input"]
    yield (
        f"input {given['width']}x{given['height']} {given['color']}, {given['resize']} ({given['interpolation']}), "
        f"(pixel - {_numbers(given['mean'])}) / {_numbers(given['std'])}"
    )
    for output in contract["outputs"]:
        activation = "" if output["activation"] == "none" else f", then {output['activation']}"
        yield f"output {output['tensor']}: {output['role']}{activation}"
    box = (contract["detector"] or contract)["box"]
    units = "fractions of the input" if box["units"] == "fraction" else f"{box['units']} of the input"
    yield f"box {box['form']} in {units}, thresholds {_scalars(contract['thresholds'])}"
    if contract["stages"]:
        regions = contract["stages"]["regions"]
        yield f"two stages: {contract['stages']['method']}, up to {regions} regions; above is the first network"
    if contract["recipe"]:
        yield f"recipe {contract['recipe']}"


def _numbers(values: list[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _scalars(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _calibration(manifest: dict[str, Any]) -> str:
    """The manifest's own words: numbers and strings as they are, lists by their length; not what is unknown."""
    return ", ".join(
        f"{len(value)} {name}" if isinstance(value, list) else f"{name} {value}"
        for name, value in manifest.items()
        if value is not None and not isinstance(value, dict)
    )
