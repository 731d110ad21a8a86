"""`edgeloc train`: a reference localizer from labelled images."""

from __future__ import annotations

import argparse

from edgeloc.arguments import above_zero, at_least_one, at_least_zero
from edgeloc.errors import UsageError

HELP = "train a reference localizer on your labelled images"
EXTRA = "convert"
NEEDS = ("tensorflow", "keras", "matplotlib")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `edgeloc train`."""
    _add_data(parser.add_argument_group("data"))
    _add_network(parser.add_argument_group("network"))
    _add_schedule(parser.add_argument_group("schedule"))


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", action="append", required=True, metavar="DATA", help="a labelled data set; repeat to mix several")
    add(
        "--split",
        metavar="NAME",
        default="train",
        help="the split to learn from, where the data has splits (default: train)",
    )
    add("--validation", metavar="DATA", help="the data set to validate on (default: the first --data)")
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
    add("--backbone", metavar="NAME", default="MobileNetV2", help="a keras.applications name (default: MobileNetV2)")
    add("--alpha", metavar="X", type=above_zero, help="width multiplier of a MobileNet (default: 0.35 for MobileNetV2)")
    add(
        "--weights",
        metavar="WHICH",
        default="imagenet",
        help="the backbone's: imagenet, none, or a file .npz or .weights.h5 (default: imagenet)",
    )
    add(
        "--input-size",
        metavar="N",
        type=at_least_one,
        default=224,
        help="side of the square input in pixels (default: 224)",
    )
    add("--head", metavar="NAME", default="grid", help="box head: grid, distribution or vector (default: grid)")
    add(
        "--box-loss",
        metavar="NAMES",
        default="huber+giou",
        help="l1, l2, huber, giou, ciou, joined with + (default: huber+giou)",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--epochs", metavar="N", type=at_least_one, default=40, help="passes over the images at most (default: 40)")
    add("--batch-size", metavar="N", type=at_least_one, default=32, help="images a step (default: 32)")
    add("--learning-rate", metavar="X", type=above_zero, default=2e-3, help="peak of the cosine (default: 0.002)")
    add(
        "--patience",
        metavar="N",
        type=at_least_one,
        default=12,
        help="stop after so many epochs without a better IoU (default: 12)",
    )
    add("--seed", metavar="N", type=at_least_zero, default=0, help="of weights, crops and draws (default: 0)")
    add("--resume", action="store_true", help="go on with an interrupted run of the same --out")


def run(args: argparse.Namespace) -> int:
    """Train and report; 0 when the network is saved."""
    from pathlib import Path

    from edgeloc.converters.training.fit import TrainingConfig, train
    from edgeloc.converters.training.network import NetworkConfig
    from edgeloc.converters.training.samples import gather_samples

    out = Path(args.out)
    if out.suffix != ".keras":
        raise UsageError(f"--out {out}: the name must end in .keras")
    alpha = 0.35 if args.alpha is None and args.backbone == "MobileNetV2" else args.alpha
    network = NetworkConfig(args.backbone, alpha, args.input_size, args.head, args.weights)
    config = TrainingConfig(
        epochs=args.epochs, batch_size=args.batch_size, learning_rate=args.learning_rate,
        box_loss=args.box_loss, patience=args.patience, seed=args.seed,
    )  # fmt: skip
    training, validation, labels = gather_samples(
        args.data, args.split, args.validation, args.validation_split,
        seed=args.seed, skip_bad=args.skip_bad, tell=print,
    )  # fmt: skip
    print(f"{len(training)} images to learn from, {len(validation)} to validate on, {len(labels)} classes")
    try:
        metrics = train(out, training, validation, labels, network, config, resume=args.resume)
    except KeyboardInterrupt:
        if (out.with_suffix(".training") / "resume").is_dir():
            print(f"stopped; what was learned is kept: run again with --resume to finish {out}")
        else:
            print("stopped before the end of the first epoch: nothing was learned yet")
        raise
    print(f"wrote {out}: validation mean IoU {metrics['box_iou']:.3f}, curves in {out.with_suffix('.training')}")
    return 0
