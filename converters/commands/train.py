"""`edgeloc train`: a reference localizer from labelled images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloc._support.numbers import above_zero, at_least_one, at_least_zero
from edgeloc.errors import UsageError

if TYPE_CHECKING:
    from edgeloc.converters.training.network import Start

HELP = "train a reference localizer on your labelled images, or a trained network further"
EXTRA = "convert"
NEEDS = ("tensorflow", "keras", "matplotlib")


_EPOCHS, _QAT_EPOCHS = 40, 3
_RATE, _FINE_RATE = 2e-3, 2e-4
_NETWORK_FLAGS = ("backbone", "alpha", "backbone_weights", "input_size", "head")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `edgeloc train`."""
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
    add("--backbone", metavar="NAME", help="a keras.applications name (default: MobileNetV2)")
    add("--alpha", metavar="X", type=above_zero, help="width multiplier of a MobileNet (default: 0.35 for MobileNetV2)")
    add(
        "--backbone-weights",
        metavar="WHICH",
        help="the backbone's: imagenet, none, or a file .npz or .weights.h5 (default: imagenet)",
    )
    add(
        "--input-size",
        metavar="N",
        type=at_least_one,
        help="side of the square input in pixels (default: 224)",
    )
    add("--head", metavar="NAME", help="box head: grid, distribution or vector (default: grid)")
    add(
        "--box-loss",
        metavar="NAMES",
        default="huber+giou",
        help="l1, l2, huber, giou, ciou, joined with + (default: huber+giou)",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--epochs",
        metavar="N",
        type=at_least_one,
        help=f"passes over the images at most (default: {_EPOCHS}; {_QAT_EPOCHS} with --qat)",
    )
    add("--batch-size", metavar="N", type=at_least_one, default=32, help="images a step (default: 32)")
    add(
        "--learning-rate",
        metavar="X",
        type=above_zero,
        help=f"peak of the cosine (default: {_RATE:g}; {_FINE_RATE:g} with --resume MODEL.keras)",
    )
    add(
        "--patience",
        metavar="N",
        type=at_least_one,
        default=12,
        help="stop after so many epochs without a better IoU (default: 12)",
    )
    add("--seed", metavar="N", type=at_least_zero, default=0, help="of weights, crops and draws (default: 0)")
    add(
        "--resume",
        metavar="MODEL.keras",
        nargs="?",
        const=True,
        help="start from a trained network; without a name: go on with an interrupted run of the same --out",
    )
    add(
        "--qat", action="store_true", help="train with fake quantization, so that int8 costs less; needs --resume MODEL"
    )


def run(args: argparse.Namespace) -> int:
    """Train and report; 0 when the network is saved."""
    from edgeloc.converters.training.batches import gather_samples
    from edgeloc.converters.training.fit import TrainingConfig, train

    out = Path(args.out)
    _check(args, out)
    config = TrainingConfig(
        epochs=args.epochs or (_QAT_EPOCHS if args.qat else _EPOCHS), batch_size=args.batch_size,
        learning_rate=args.learning_rate or (_FINE_RATE if _model(args) else _RATE),
        box_loss=args.box_loss, patience=args.patience, seed=args.seed, qat=args.qat,
    )  # fmt: skip
    start_for = _start(args)
    training, validation, labels = gather_samples(
        args.training, args.training_split, args.validation, args.validation_split,
        seed=args.seed, skip_bad=args.skip_bad, tell=print,
    )  # fmt: skip
    print(f"{len(training)} images to learn from, {len(validation)} to validate on, {len(labels)} classes")
    try:
        metrics = train(
            out, training, validation, start_for(labels), config, resume=args.resume is not None, tell=print
        )
    except KeyboardInterrupt:
        _tell_what_is_kept(out, same_command=_model(args) is not None)
        raise
    how = " with fake quantization" if args.qat else ""
    before = f" ({metrics['box_iou_at_start']:.3f} at the start)" if "box_iou_at_start" in metrics else ""
    curves = out.with_suffix(".training")
    print(f"wrote {out}: validation mean IoU {metrics['box_iou']:.3f}{how}{before}, curves in {curves}")
    return 0


def _model(args: argparse.Namespace) -> str | None:
    """The trained network that is named; `--resume` alone names none."""
    return args.resume if isinstance(args.resume, str) else None


def _check(args: argparse.Namespace, out: Path) -> None:
    model = _model(args)
    if out.suffix != ".keras":
        raise UsageError(f"--out {out}: the name must end in .keras")
    if args.qat and model is None:
        raise UsageError("--qat starts from a trained network: name it with --resume MODEL.keras")
    if model is None:
        return
    if Path(model).resolve() == out.resolve():
        raise UsageError(f"--out {out} is the network to start from: give another name")
    given = [name for name in _NETWORK_FLAGS if getattr(args, name) is not None]
    if given:
        flag = given[0].replace("_", "-")
        raise UsageError(f"--{flag} is for a new network: leave it out, {model} is what it is")


def _start(args: argparse.Namespace) -> Callable[[tuple[str, ...]], Start]:
    """What the training starts from once the data's labels are known; bad names are refused before the data is read."""
    from edgeloc.converters.training.network import NetworkConfig, reference_start, trained_start

    model = _model(args)
    if model is not None:
        trained = trained_start(model)
        return lambda labels: _with_labels(trained, labels)
    given = {name: getattr(args, name) for name in _NETWORK_FLAGS if getattr(args, name) is not None}
    if "alpha" not in given and given.get("backbone", "MobileNetV2") != "MobileNetV2":
        given["alpha"] = None
    config = NetworkConfig(**given)
    return lambda labels: reference_start(config, labels)


def _with_labels(start: Start, labels: tuple[str, ...]) -> Start:
    """The same; the data's labels that the network doesn't have are told, since nothing is learned from them."""
    known = start.contract.labels
    strange = [label for label in labels if label not in known]
    if known and strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        print(f"the network has no class {', '.join(strange[:3])}{more}: their images teach presence and box only")
    return start


def _tell_what_is_kept(out: Path, same_command: bool) -> None:
    if (out.with_suffix(".training") / "resume").is_dir():
        again = "the same command again" if same_command else "again with --resume"
        print(f"stopped; what was learned is kept: run {again} to finish {out}")
    else:
        print("stopped before the end of the first epoch: nothing was learned yet")
