"""`edgeloc contract`: the contract of somebody else's model, by its family; and a check of one that is there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeloc._support.numbers import for_flag, number
from edgeloc.errors import ContractError, UsageError, printable

if TYPE_CHECKING:
    from edgeloc.evaluation.suspicion import ContractTrial
    from edgeloc.localizer import Localizer
    from edgeloc.model.arrangement import Asked
    from edgeloc.model.contract import Contract
    from edgeloc.model.legacy_metadata import LegacyMetadata

__all__ = ["EXTRA", "HELP", "NEEDS", "configure", "run"]

HELP = "write the contract of a detector that others trained, by its family, or check one"
EXTRA = None
NEEDS = ("cv2", "numpy")

_CHECK = "check"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.usage = (
        "edgeloc contract MODEL --like FAMILY --out MODEL.json [options]\n"
        "       edgeloc contract check MODEL [--contract FILE] [--data DATA]"
    )
    parser.add_argument("model", metavar="MODEL", nargs="+", help="the file, .tflite or .onnx; before it `check`")
    writing = parser.add_argument_group("writing one")
    add = writing.add_argument
    add(
        "--like",
        metavar="FAMILY",
        help="ssd-postprocess, ssd, yolo-anchors (v3, v4), yolo-anchors-v5 (v5, v7), yolox, yolov8 (and 11), "
        "yolo-end2end (26, v10), nanodet, fastestdet, fomo, localizer, faster-rcnn",
    )
    add(
        "--labels",
        metavar="FILE",
        help="the names of the classes, one in a line, in the model's order (default: from the file's metadata)",
    )
    add(
        "--anchors",
        metavar="WHICH",
        help="'8: 10x13 16x30; 16: 30x61': by stride width x height in input pixels; a .json file with a table of cx, "
        "cy, width, height in fractions of the input; or none",
    )
    add(
        "--output",
        metavar="NAME=PARTS",
        action="append",
        default=[],
        help="what an output is where its shape does not show it, as in scores=score or out=box,class; repeat",
    )
    add(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        dest="changes",
        help="change a field of the contract, as in input.color=rgb or detector.selection.iou=0.6; repeat for others",
    )
    add(
        "--threshold",
        metavar="X",
        type=for_flag(number(0, 1)),
        help="from which score a box is an object (default: the family's)",
    )
    add("--try", metavar="PHOTO", dest="photo", help="run the model on a photo, and draw what it finds beside FILE")
    add("--out", metavar="FILE", help="where the contract goes; MODEL.json beside the model is found by itself")
    checking = parser.add_argument_group("checking one")
    add = checking.add_argument
    add("--contract", metavar="FILE", help="the contract (default: the one in the model, or beside it)")
    add("--data", metavar="DATA", help="labelled images: is another contract clearly better on them?")
    add("--split", metavar="NAME", help="which split of the data (default: all of it)")
    add("--engine", metavar="NAME", default="auto", help="what runs the model (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Write a contract, or check one: exit status 1 where another is clearly better, 2 where it does not fit."""
    if args.model[0] == _CHECK and len(args.model) == 2:
        return _check(args)
    if len(args.model) != 1:
        raise UsageError("give one model, or `check` and one model")
    return _write(args)


# Where a flag is not its field.
_FLAGS = {"photo": "try", "changes": "set"}


def _refuse(args: argparse.Namespace, names: Iterable[str], why: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, []):
            raise UsageError(f"--{_FLAGS.get(name, name)} {why}")


def _write(args: argparse.Namespace) -> int:
    from edgeloc._support.files import atomic_path, require_writable
    from edgeloc.model.families import contract_like

    model = args.model[0]
    for flag, value in (("--like", args.like), ("--out", args.out)):
        if value is None:
            raise UsageError(f"a contract needs {flag}: `edgeloc contract --help` shows what there is")
    _refuse(args, ("contract", "data", "split"), "goes with `edgeloc contract check`")
    read = [model, args.labels, args.anchors, args.photo]
    require_writable(args.out, *read)
    if args.photo is not None:
        require_writable(_drawing(args), *read, args.out)
    contract = contract_like(args.like, model, _asked(args))
    for line in contract_lines(contract):
        print(printable(line))
    if args.photo is not None:
        _try(args, contract)
    with atomic_path(args.out) as temporary:
        temporary.write_text(contract.to_json(), encoding="utf-8")
    print(printable(f"wrote {args.out}"))
    return 0


def contract_lines(contract: Contract) -> Iterator[str]:
    """What a contract says, in a few lines: all of it is to be read, since the file shows little of it."""
    spec = contract.input
    values = " ".join(f"{value:g}" for value in spec.mean), " ".join(f"{value:g}" for value in spec.std)
    padded = f", {spec.pad_value} around it" if spec.resize.startswith("letterbox") else ""
    yield (
        f"input     {spec.tensor}: {spec.width}x{spec.height} {spec.color}, (pixel - {values[0]}) / {values[1]}, "
        f"{spec.resize}{padded}, {spec.layout}"
    )
    for output in contract.outputs:
        parts = " ".join(output.parts or output.slots or (output.role,))
        level = "" if output.level is None else f", level {output.level}"
        left = "" if output.activation == "none" else f", {output.activation} left to the host"
        yield f"output    {output.tensor}: {parts}, {output.layout}{level}{left}"
    detector = contract.detector
    if detector is not None:
        places, box, scores, chosen = detector.locations, detector.box, detector.scores, detector.selection
        where = f"a table of {len(places.table):,}" if places.table else f"strides {' '.join(map(str, places.strides))}"
        if places.strides:
            where += f", offset {places.offset:g}" + (", with anchors" if places.anchors else "")
        yield f"locations {where if places.table or places.strides else 'none, each row is a box'}"
        yield f"box       {box.form} in {box.units}, centre {box.center}, size {box.size}"
        yield (
            f"scores    classes {scores.activation}, objectness {scores.objectness}, background {scores.background}, "
            f"powers {scores.powers[0]:g} {scores.powers[1]:g}"
        )
        yield f"selection non-maximum suppression {chosen.nms}, IoU {chosen.iou:g}, at most {chosen.objects} objects"
    labels = ", ".join(contract.labels[:4]) + (" ..." if len(contract.labels) > 4 else "")
    yield f"labels    {len(contract.labels)}: {labels}"
    yield f"threshold {contract.thresholds.presence:g}"


def _asked(args: argparse.Namespace) -> Asked:
    from edgeloc.model.arrangement import Asked
    from edgeloc.model.legacy_metadata import LegacyMetadata, read_legacy_metadata

    changes = dict(_change(text) for text in args.changes)
    if args.threshold is not None:
        changes["thresholds.presence"] = args.threshold
    own = read_legacy_metadata(args.model[0]) or LegacyMetadata()
    for line in _own_lines(own, args.labels is None):
        print(printable(line))
    return Asked(
        labels=_without_background(own.labels, own.labels_file) if args.labels is None else _labels(args.labels),
        outputs=dict(_output(text) for text in args.output),
        anchors=None if args.anchors is None else _anchors(args.anchors),
        changes=changes,
        normalization=(own.mean, own.std) if own.mean and own.std else None,
    )


def _own_lines(own: LegacyMetadata, with_labels: bool) -> Iterator[str]:
    """What is taken from the file's own metadata."""
    if own.labels and with_labels:
        yield f"metadata  the file's own {own.labels_file} names the classes"
    if own.mean and own.std:
        values = " ".join(f"{value:g}" for value in own.mean), " ".join(f"{value:g}" for value in own.std)
        yield f"metadata  the file's own mean {values[0]}, standard deviation {values[1]}, for an input of real numbers"


_BACKGROUND = frozenset({"???", "background", "__background__"})


def _labels(path: str) -> tuple[str, ...]:
    """The lines of a file, without a first one that stands for the background."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"--labels: {path} cannot be read: {why}") from error
    labels = [line.strip() for line in lines]
    while labels and not labels[-1]:
        labels.pop()
    labels = list(_without_background(labels, path))
    if not labels or not all(labels):
        raise UsageError(f"--labels: {path} must hold the name of a class in each line, and none may be empty")
    return tuple(labels)


def _without_background(labels: Sequence[str], path: str) -> tuple[str, ...]:
    if labels and labels[0].lower() in _BACKGROUND:
        print(printable(f"labels: the first line of {path}, {labels[0]!r}, is the background and no class"))
        labels = labels[1:]
    return tuple(labels)


def _output(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, parts = text.rpartition("=")
    if not equals or not name or not parts:
        raise UsageError(f"--output is {text!r}: it must be NAME=PARTS, as in scores=score or out=box,class")
    return name, tuple(parts.split(","))


def _change(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise UsageError(f"--set is {text!r}: it must be FIELD=VALUE, as in input.color=rgb")
    try:
        return field, json.loads(value)
    except ValueError:
        return field, value


def _anchors(text: str) -> Any:
    if text == "none":
        return "none"
    if text.endswith(".json"):
        return _anchor_table(text)
    try:
        levels = {}
        for level in text.split(";"):
            stride, _, sizes = level.partition(":")
            pairs = [size.lower().split("x") for size in sizes.split()]
            levels[int(stride)] = [(float(width), float(height)) for width, height in pairs]
        if not all(levels.values()):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--anchors is {text!r:.80}: it must be none, a .json file, or as '8: 10x13 16x30; 16: 30x61'"
        ) from None
    return levels


def _anchor_table(path: str) -> list[tuple[float, float, float, float]]:
    from edgeloc._support.json import parse_json

    try:
        rows = parse_json(Path(path).read_bytes())
        return [(float(x), float(y), float(width), float(height)) for x, y, width, height in rows]
    except OSError as error:
        raise UsageError(f"--anchors: {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError):
        raise UsageError(f"--anchors: {path} must hold a list of [cx, cy, width, height]") from None


def _try(args: argparse.Namespace, contract: Contract) -> None:
    """Run the model on a photo, print what it finds, and draw it beside the contract."""
    from edgeloc._support.files import atomic_path
    from edgeloc.data.images import read_image
    from edgeloc.localizer import Localizer
    from edgeloc.loop.draw import as_jpeg, draw

    pixels = read_image(Path(args.photo))
    localizer = Localizer(args.model[0], engine=args.engine, contract=contract)
    result = localizer(pixels)
    for found in result.objects:
        box = "no box" if found.box is None else " ".join(f"{edge:.0f}" for edge in found.box)
        print(printable(f"found     {found.label or 'object'} {found.score:.2f}: {box}"))
    if not result.objects:
        print(f"found     nothing; the best candidate has {result.presence:.2f}")
    with atomic_path(_drawing(args)) as temporary:
        temporary.write_bytes(as_jpeg(draw(pixels, result), 90))
    print(printable(f"wrote {_drawing(args)}"))


def _drawing(args: argparse.Namespace) -> Path:
    return Path(args.out).with_suffix(".jpg")


def _check(args: argparse.Namespace) -> int:
    from edgeloc.localizer import Localizer

    _refuse(
        args,
        ("like", "labels", "anchors", "threshold", "out", "output", "changes", "photo"),
        "goes with writing a contract",
    )
    try:
        localizer = Localizer(args.model[1], engine=args.engine, contract=args.contract)
    except ContractError as error:
        message, hint = error.message or str(error), "`edgeloc contract MODEL --like FAMILY` writes one"
        raise ContractError(message, hint=hint) from error
    for line in contract_lines(localizer.contract):
        print(printable(line))
    print("it fits the file's tensors")
    if args.data is None:
        return 0
    return _judge(_trial(args, localizer), args.data)


def _trial(args: argparse.Namespace, localizer: Localizer) -> ContractTrial | None:
    from edgeloc.data import open_dataset
    from edgeloc.evaluation.suspicion import try_contract

    dataset = open_dataset(args.data, split=args.split)
    return try_contract(localizer.model, localizer.contract, dataset, engine=localizer.engine)


def _judge(trial: ContractTrial | None, data: str) -> int:
    if trial is None:
        raise UsageError(f"--data: {data} has no labelled object")
    figures = f"mean IoU {trial.mean_iou:.2f}, class right on {trial.right:.0%}"
    print(printable(f"on {trial.objects} labelled objects of {data}: {figures}"))
    if trial.suspicion is None:
        print("no other contract is clearly better")
        return 0
    print(printable(f"{trial.suspicion.message}: {trial.suspicion.fix}"))
    return 1
