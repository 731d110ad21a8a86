"""Training a reference localizer, or a trained network further: options, result and the run from data to file."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeloc.errors import DataError, UsageError
from edgeloc.evaluation.figures import format_names
from edgeloc.findings import Finding, report

if TYPE_CHECKING:
    from edgeloc.converters.training.batches import TrainingSamples
    from edgeloc.converters.training.fit import TrainingConfig
    from edgeloc.converters.training.network import Start

__all__ = ["TrainOptions", "Training", "keep_freed_memory", "train"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

EPOCHS, QAT_EPOCHS = {"localize": 40, "detect": 100}, 3
PATIENCE = {"localize": 12, "detect": 30}
BOX_LOSS = {"localize": "huber+giou", "detect": "giou"}
LEARNING_RATE, FINE_LEARNING_RATE = 2e-3, 2e-4
_TASKS = ("localize", "detect")
_NETWORK = ("task", "backbone", "alpha", "backbone_weights", "input_size", "head", "objects")
# Of malloc.h, with their values; mallopt takes an int.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_MOST = 2**31 - 1
_SPARE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train; None is the default of a fresh network.

    Parameters:
        training_split: the split to learn from, where the data has splits.
        validation_split: the split to validate on; without splits a fifth is held out.
        task: localize, for one object an image or a known number of them, or detect, for any number; localize.
        backbone: a keras.applications name, or AlexNet; MobileNetV2.
        alpha: the width multiplier of AlexNet or a MobileNet; 0.35 for MobileNetV2.
        backbone_weights: imagenet, none, or a file .npz or .weights.h5; imagenet.
        input_size: the side of the input in pixels, or its (width, height); 224.
        head: of a localizer grid, distribution or vector; of a detector anchor-free, ssd, yolo, rcnn, fast-rcnn or
            faster-rcnn; the first.
        objects: how many objects a localizer finds in an image; 1, its largest.
        box_loss: l1, l2, huber, giou, ciou, joined with +; huber+giou, or giou for a detector.
        epochs: passes over the images at most; 40, 100 for a detector, or 3 with `qat`.
        batch_size: images a step.
        learning_rate: the peak of the cosine; 2e-3, or 2e-4 for a trained network.
        patience: stop after so many epochs without a better IoU, of a detector without a better mAP50; 12, or 30.
        upright: never flip or turn the images, where left and right or up and down tell the classes apart.
        few_shot: for a few dozen photos a class: many views of each, with objects laid onto each other's backgrounds.
        seed: of weights, crops and draws.
        resume: a trained network to start from, `.keras`; True continues an interrupted run of the same file.
        qat: train with fake quantization, so that int8 costs less; needs a trained network.
        skip_bad: leave bad rows and images out and count them.
    """

    training_split: str = "train"
    validation_split: str = "val"
    task: str | None = None
    backbone: str | None = None
    alpha: float | None = None
    backbone_weights: str | None = None
    input_size: int | tuple[int, int] | None = None
    head: str | None = None
    objects: int | None = None
    box_loss: str | None = None
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    patience: int | None = None
    upright: bool = False
    few_shot: bool = False
    seed: int = 0
    resume: str | bool | None = None
    qat: bool = False
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.qat and self.model is None:
            message = "fake quantization starts from a trained network"
            raise UsageError(message, field="qat", hint="name it with {resume} MODEL.keras")
        given = [name for name in _NETWORK if getattr(self, name) is not None]
        if self.model is not None and given:
            raise UsageError(
                f"{self.model} is a network already, and what shapes a new one does not go with it",
                field=given[0],
                value=getattr(self, given[0]),
                hint=f"leave {{{given[0]}}} out",
            )
        if self.task is not None and self.task not in _TASKS:
            raise UsageError(field="task", value=self.task, allowed=f"one of {', '.join(_TASKS)}")

    @property
    def model(self) -> str | None:
        """The trained network that is named; `resume` alone names none."""
        return self.resume if isinstance(self.resume, str) else None


@dataclass(frozen=True)
class Training:
    """What `train` wrote.

    Parameters:
        path: the trained network with its contract, `.keras`.
        folder: history and curves of the run.
        metrics: on the validation images: `box_iou`, of a detector `map50`, and the others by name; `box_iou_at_start`
            or `map50_at_start` where the network had been trained before.
        images: how many images were learned from.
        validation_images: how many were validated on.
        labels: the classes of the data.
        findings: what a user should know.
    """

    path: Path
    folder: Path
    metrics: dict[str, float]
    images: int
    validation_images: int
    labels: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values."""
        return {
            "path": str(self.path),
            "folder": str(self.folder),
            "bytes": self.path.stat().st_size,
            "metrics": self.metrics,
            "images": self.images,
            "validation_images": self.validation_images,
            "labels": list(self.labels),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def train(
    training: Sequence[str],
    out: str | Path,
    options: TrainOptions | None = None,
    *,
    validation: str | None = None,
) -> Training:
    """Train a localizer or a detector on labelled data and write it with its contract; each epoch is logged.

    Parameters:
        training: labelled data sets, as `edgeloc.open_dataset` reads them.
        out: the file, `.keras`; history and curves go into the folder `<stem>.training` beside it.
        options: how to train.
        validation: the data set to validate on; None is the first of `training`.

    Raises UsageError for options that contradict each other, DataError for bad data, OutputError where `out` cannot be
    written, ModelError where the training diverges. An interrupted run can be continued, see `TrainOptions.resume`.
    """
    from edgeloc.converters.training.batches import gather_samples
    from edgeloc.converters.training.fit import fit_network
    from edgeloc.data.sample import several_objects

    options, out = options or TrainOptions(), Path(out)
    _require_out(out, options)
    task, start_for = _start(options)
    config = _config(options, task)
    samples = gather_samples(
        training,
        options.training_split,
        validation,
        options.validation_split,
        seed=options.seed,
        skip_bad=options.skip_bad,
    )
    count = len(samples.training), len(samples.validation)
    logger.info("%d images to learn from, %d to validate on, %d classes", *count, len(samples.labels))
    start = start_for(samples)
    found = [*samples.findings, *_unknown_labels(start, samples.labels)]
    if start.contract.finds_one:
        found += several_objects("training and validation", (*samples.training, *samples.validation))
    findings = [report(logger, one) for one in found]
    metrics, more = fit_network(
        out, samples.training, samples.validation, start, config, resume=options.resume is not None
    )
    everything = (*findings, *more)
    return Training(out, out.with_suffix(".training"), metrics, *count, samples.labels, everything)


def keep_freed_memory() -> None:
    """Tell glibc's malloc, for the rest of this process, to keep what is freed; nothing where there is another.

    A step allocates hundreds of megabytes in large pieces. By default each comes from the kernel, which clears it page
    by page, and goes back: on a virtual machine that was more than half of the time. One arena, because those of
    further threads cannot hold such pieces.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MOST), (_TOP_PAD, _SPARE), (_ARENA_MAX, 1)):
        mallopt(option, value)


def _require_out(out: Path, options: TrainOptions) -> None:
    if out.suffix != ".keras":
        raise UsageError(f"{out}: the name must end in .keras", field="out", value=str(out))
    if options.model is not None and Path(options.model).resolve() == out.resolve():
        message = f"{out} is the network to start from"
        raise UsageError(message, field="out", value=str(out), hint="give another name with {out}")


def _config(options: TrainOptions, task: str) -> TrainingConfig:
    """The schedule, with the defaults of the task, and of a fresh network or of a trained one."""
    from edgeloc.converters.training.fit import TrainingConfig

    return TrainingConfig(
        epochs=_given(options.epochs, QAT_EPOCHS if options.qat else EPOCHS[task]),
        batch_size=options.batch_size,
        learning_rate=_given(options.learning_rate, FINE_LEARNING_RATE if options.model else LEARNING_RATE),
        box_loss=_given(options.box_loss, BOX_LOSS[task]),
        patience=_given(options.patience, PATIENCE[task]),
        seed=options.seed,
        qat=options.qat,
        upright=options.upright,
        few_shot=options.few_shot,
    )


def _given(value: T | None, default: T) -> T:
    return default if value is None else value


def _start(options: TrainOptions) -> tuple[str, Callable[[TrainingSamples], Start]]:
    """The task, and what the training starts from once the data is read; bad names are refused before that."""
    from edgeloc.converters.training.backbones import HEADS, NetworkConfig, image_input
    from edgeloc.converters.training.batches import object_sizes
    from edgeloc.converters.training.network import reference_start, trained_start

    if options.model is not None:
        trained = trained_start(options.model)
        return "localize" if trained.contract.detector is None else "detect", lambda samples: trained
    task = options.task or "localize"
    given = {name: getattr(options, name) for name in _NETWORK if getattr(options, name) is not None}
    given = {"head": HEADS[task][0], **given}
    given.pop("task", None)
    if task == "detect" and "objects" in given:
        message = "a detector finds any number of objects"
        raise UsageError(message, field="objects", value=given["objects"], hint="leave {objects} out")
    if given["head"] not in HEADS[task]:
        allowed = f"one of {', '.join(HEADS[task])} for the task {task}"
        raise UsageError(field="head", value=given["head"], allowed=allowed)
    if "alpha" not in given and given.get("backbone", "MobileNetV2") != "MobileNetV2":
        given["alpha"] = None
    config = NetworkConfig(**given)

    def fresh(samples: TrainingSamples) -> Start:
        if task == "detect" and not samples.labels:
            raise DataError("the data has no labels: a detector needs the names of its classes")
        anchors = config.head in ("ssd", "yolo", "faster-rcnn")
        sizes = object_sizes(samples.training, image_input(config)) if anchors else []
        return reference_start(config, samples.labels, sizes)

    return task, fresh


def _unknown_labels(start: Start, labels: tuple[str, ...]) -> list[Finding]:
    """The data's labels that a trained network does not have: nothing is learned from them."""
    known = start.contract.labels
    unknown = [label for label in labels if label not in known]
    if not known or not unknown:
        return []
    detects = start.contract.detector is not None
    taught = "to a detector they are background" if detects else "their images teach presence and box only"
    message = f"the network has no class {format_names(unknown)}: {taught}"
    return [Finding("labels-unknown", "warning", message)]
