"""`edgeloc train`: a localizer or a detector from labelled images."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeloc._support.json import print_json
from edgeloc._support.numbers import above_zero, at_least_one, at_least_zero

HELP = "train a localizer or a detector on your labelled images, or a trained network further"
EXTRA = "convert"
NEEDS = ("tensorflow", "keras", "matplotlib", "scipy", "pycocotools")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `edgeloc train`."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    _add_data(parser.add_argument_group("data"))
    _add_network(parser.add_argument_group("network"))
    _add_schedule(parser.add_argument_group("schedule"))


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--training", action="append", required=True, metavar="DATA", help="a labelled data set; repeat to mix several")
    add(
        "--training-split",
        metavar="NAME",
        default="train",
        help="the split to learn from, where the data has splits (default: train)",
    )
    add("--validation", metavar="DATA", help="the data set to validate on (default: the first --training)")
    add(
        "--validation-split",
        metavar="NAME",
        default="val",
        help="its split (default: val; without splits a fifth is held out)",
    )
    add("--skip-bad", action="store_true", help="leave bad rows and images out and count them")
    add("--out", required=True, metavar="MODEL.keras", help="where the trained network goes")


def _add_network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--task", metavar="TASK", help="localize (one object, or --objects N; the default) or detect (any number)")
    add("--backbone", metavar="NAME", help="a keras.applications name, or AlexNet (default: MobileNetV2)")
    add(
        "--alpha",
        metavar="X",
        type=above_zero,
        help="width multiplier of AlexNet or a MobileNet (default: 0.35 for MobileNetV2)",
    )
    add(
        "--backbone-weights",
        metavar="WHICH",
        help="the backbone's: imagenet, none, or a file: a trained .keras, .npz or .weights.h5 (default: imagenet)",
    )
    add(
        "--input-size",
        metavar="N",
        type=_input_size,
        help="side of the square input in pixels, or WIDTHxHEIGHT (default: 224)",
    )
    add(
        "--head",
        metavar="NAME",
        help="of a localizer: grid, distribution or vector (default: grid); "
        "of a detector: anchor-free, ssd, yolo, rcnn, fast-rcnn or faster-rcnn (default: anchor-free)",
    )
    add("--objects", metavar="N", type=at_least_one, help="how many objects a localizer finds in an image (default: 1)")
    add(
        "--box-loss",
        metavar="NAMES",
        help="l1, l2, huber, giou, ciou, joined with + (default: huber+giou; giou with --task detect)",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--epochs",
        metavar="N",
        type=at_least_one,
        help="passes over the images at most (default: 40; 100 with --task detect; 3 with --qat)",
    )
    add("--batch-size", metavar="N", type=at_least_one, default=32, help="images a step (default: 32)")
    add(
        "--learning-rate",
        metavar="X",
        type=above_zero,
        help="peak of the cosine (default: 0.002; 0.0002 with --resume MODEL.keras)",
    )
    add(
        "--patience",
        metavar="N",
        type=at_least_one,
        help="stop after so many epochs without a better IoU or mAP50 (default: 12; 30 with --task detect)",
    )
    add("--upright", action="store_true", help="never flip or turn the images")
    add(
        "--few-shot",
        action="store_true",
        help="for a few dozen photos a class: many views of each, on other backgrounds",
    )
    add("--seed", metavar="N", type=at_least_zero, default=0, help="of weights, crops and draws (default: 0)")
    add(
        "--resume",
        metavar="MODEL.keras",
        nargs="?",
        const=True,
        help="start from a trained network; without a name: continue an interrupted run of the same --out",
    )
    add(
        "--qat", action="store_true", help="train with fake quantization, so that int8 costs less; needs --resume MODEL"
    )


def run(args: argparse.Namespace) -> int:
    """Train and print what was reached; 0 when the network is saved."""
    from dataclasses import fields

    from edgeloc.converters.training import TrainOptions, keep_freed_memory, train

    keep_freed_memory()  # before TensorFlow makes its threads
    options = TrainOptions(**{entry.name: getattr(args, entry.name) for entry in fields(TrainOptions)})
    try:
        made = train(args.training, args.out, options, validation=args.validation)
    except KeyboardInterrupt:
        _log_what_is_kept(Path(args.out), same_command=options.model is not None)
        raise
    if args.json:
        print_json(made.to_dict())
        return 0
    how = " with fake quantization" if options.qat else ""
    name, title = ("map50", "mAP50") if "map50" in made.metrics else ("box_iou", "mean IoU")
    start = made.metrics.get(f"{name}_at_start")
    before = "" if start is None else f" ({start:.3f} at the start)"
    print(f"wrote {made.path}: validation {title} {made.metrics[name]:.3f}{how}{before}, curves in {made.folder}")
    return 0


def _input_size(text: str) -> int | tuple[int, int]:
    """`224` or `320x256`."""
    sides = [at_least_one(side) for side in text.split("x")]
    if len(sides) > 2:
        message = f"{text!r} must be a number of pixels or WIDTHxHEIGHT"
        raise argparse.ArgumentTypeError(message)
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _log_what_is_kept(out: Path, same_command: bool) -> None:
    import logging

    from edgeloc.converters.training.run_folder import checkpoint_of

    logger = logging.getLogger(__name__)
    if checkpoint_of(out) is not None:
        again = "the same command again" if same_command else "again with --resume"
        logger.info("stopped; what was learned is kept: run %s to finish %s", again, out)
    else:
        logger.info("stopped before the end of the first epoch: nothing was learned yet")
