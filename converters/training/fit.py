"""One training run from labelled samples to a saved network: schedule, checkpoints, resuming, curves."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import keras

from edgeloc._support.files import require_writable
from edgeloc._support.interrupt import signals_wait
from edgeloc.converters.batch_norm import REESTIMATION_BATCHES, reestimate_batch_norm
from edgeloc.converters.sources.tensorflow import save_network
from edgeloc.converters.training.augment import CLOSING, Augmentation
from edgeloc.converters.training.batches import (
    Encode,
    EveryObject,
    ObjectSlots,
    TrainingBatches,
    ValidationBatches,
    slots_by_label,
)
from edgeloc.converters.training.detectors.losses import TrainableDetector
from edgeloc.converters.training.detectors.stages import RegionBatches, TrainableStages, save_stages
from edgeloc.converters.training.fake_quantization import FakeQuantizedNetwork
from edgeloc.converters.training.losses import TrainableLocalizer, parse_box_loss
from edgeloc.converters.training.network import Start
from edgeloc.converters.training.run_folder import RunFolder, go_on_waiting
from edgeloc.data import Sample
from edgeloc.data.sample import fingerprint
from edgeloc.errors import ModelError, OutputError, UsageError
from edgeloc.findings import Finding, report
from edgeloc.model.contract import Contract, InputSpec, Thresholds

__all__ = ["BatchNormUpdate", "RangeUpdate", "StatisticsUpdate", "TrainingConfig", "fit_network"]

logger = logging.getLogger(__name__)

# As many as the converter calibrates on.
_IMAGES, _BATCH = 200, 16
# The first epoch warms up, in a short training the first tenth of it.
_WARMUP_EPOCHS, _WARMUP_SHARE = 1.0, 0.1
# The last epochs see images much as the runtime will.
_CLOSING_SHARE = 0.2
# Of few images an epoch shows so many views, and so large a share of them with the object on another background.
_FEW_SHOT_VIEWS, _PASTED = 480, 0.5
# The averaged weights forget a step after about a thousand others, in a short training after a fifth of it.
_AVERAGE, _AVERAGE_SHARE = 0.999, 0.2
# The network, its best epoch, and the checkpoint with the optimizer's three numbers a weight, each while it is renewed.
_FILES_PER_NETWORK = 12


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How to train.

    Parameters:
        epochs: passes over the images at most.
        batch_size: images a step.
        learning_rate: the peak of Adam's cosine.
        box_loss: names of losses, joined with +.
        patience: after how many epochs that are no better on the validation images training stops.
        validation_images: how many images are measured after each epoch at most.
        seed: of crops and draws.
        qat: compute with fake quantization, in training and in validation.
        upright: never flip or turn the images.
        few_shot: draw many views of the few images there are, and lay their objects onto each other's backgrounds.
    """

    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 2e-3
    box_loss: str = "huber+giou"
    patience: int = 12
    validation_images: int = 500
    seed: int = 0
    qat: bool = False
    upright: bool = False
    few_shot: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "validation_images"):
            if getattr(self, name) < 1:
                raise UsageError(field=name, value=getattr(self, name), allowed="at least 1")
        if not self.learning_rate > 0:
            raise UsageError(field="learning_rate", value=self.learning_rate, allowed="above 0")
        parse_box_loss(self.box_loss)


class StatisticsUpdate(Protocol):
    """Updates a network's statistics for its weights when called, and by `at_epoch` before each epoch."""

    def __call__(self, network: Any) -> None: ...

    def at_epoch(self, network: Any) -> None: ...


class BatchNormUpdate:
    """Re-estimates the moving statistics at the end; within an epoch every batch moves them."""

    def __init__(self, batches: TrainingBatches | RegionBatches) -> None:
        self._batches = batches

    def __call__(self, network: Any) -> None:
        numbers = itertools.islice(itertools.cycle(range(len(self._batches))), REESTIMATION_BATCHES)
        reestimate_batch_norm(network, (self._batches[i][0] for i in numbers))

    def at_epoch(self, network: Any) -> None:
        pass


class RangeUpdate:
    """Measures activation ranges on unchanged images, as the converter's calibration does; fixed within an epoch."""

    def __init__(self, samples: Sequence[Sample], spec: InputSpec) -> None:
        batches = ValidationBatches(samples, spec, ObjectSlots((), spec), _BATCH, _IMAGES)
        self._images = [batches[i][0] for i in range(len(batches))]

    def __call__(self, network: Any) -> None:
        network.measure_ranges(self._images)

    def at_epoch(self, network: Any) -> None:
        self(network)


class _Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]
    """Renews, after each epoch, the best weights and what a stopped run goes on from.

    Parameters:
        folder: where they lie.
        monitor: the figure that is best when it is highest.
        values: its values in the epochs before.
    """

    def __init__(self, folder: RunFolder, monitor: str, values: Sequence[float]) -> None:
        super().__init__()
        self._folder, self._monitor, self._best = folder, monitor, max(values, default=math.nan)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Both files, the best weights only where they are."""
        if math.isnan(self._best) or logs[self._monitor] > self._best:
            self._best = logs[self._monitor]
            self._folder.save(self.model, self._folder.best)
        self._folder.renew(self.model, epoch + 1)


def fit_network(
    out: Path,
    training: list[Sample],
    validation: list[Sample],
    start: Start,
    config: TrainingConfig,
    resume: bool = False,
) -> tuple[dict[str, float], tuple[Finding, ...]]:
    """Train and write `out` (.keras), with history and curves in the folder `<out's stem>.training` beside it.

    The epoch with the best validation IoU, of a detector with the best mAP50, is kept, its batch-norm statistics
    re-estimated, or with `qat` its kernels rounded to their int8 levels: then the file is a float network that int8
    changes little, and the metrics are those under fake quantization. A detector's threshold is the score with the best
    F1. Returns the final validation metrics, with `box_iou_at_start` or `map50_at_start` for a network that was trained
    before, and what a user should know.

    Parameters:
        out: the file.
        training: samples to learn from.
        validation: samples to choose the epoch by.
        start: the network and its contract.
        config: the schedule.
        resume: continue an interrupted run from its last epoch, if it started from the same network with the same
            `qat`.

    Raises UsageError for a run of a fresh network that had come to its end, ModelError where the training diverges.
    """
    keras.utils.set_random_seed(config.seed)
    folder = RunFolder(out, start, qat=config.qat)
    resumes = resume and folder.can_resume()
    require_writable(out)
    _require_room(out, start.network)
    # Only now, when all that can be refused has been: an earlier run's epochs lie there.
    findings = folder.prepare(resume=resume, resumes=resumes)
    contract = start.contract
    by_label = slots_by_label([*training, *validation], contract.labels, contract.box.objects)
    batches, checks = _batches(training, validation, contract, config, by_label)
    update = RangeUpdate(training, start.contract.input) if config.qat else BatchNormUpdate(batches)
    model = _model(start, config, len(batches), by_label)
    findings += _unquantized(model.network)
    for finding in findings:
        report(logger, finding)
    at_start = {}
    if start.digest:
        update.at_epoch(model.network)
        at_start[f"{model.monitor}_at_start"] = _measure(model, checks)[model.monitor]
    _fit(model, batches, checks, update, config, folder)
    return _finish(out, folder, model, checks, update, start, config, training) | at_start, tuple(findings)


def _batches(
    training: list[Sample], validation: list[Sample], contract: Contract, config: TrainingConfig, by_label: bool
) -> tuple[TrainingBatches | RegionBatches, ValidationBatches | RegionBatches]:
    """Both sides, with the targets of the contract's kind of network."""
    spec, labels, detects = contract.input, contract.labels, contract.detector is not None
    encode: Encode = ObjectSlots(labels, spec, contract.box.objects, by_label=by_label)
    if detects:
        encode = EveryObject(labels, max(len(sample.objects) for sample in (*training, *validation)))
    views = _FEW_SHOT_VIEWS if config.few_shot else 0
    batches = TrainingBatches(training, spec, encode, config.batch_size, config.seed, views)
    limit = config.validation_images
    # A detector has enough locations without an object in every image.
    checks = ValidationBatches(validation, spec, encode, config.batch_size, limit, negatives=not detects)
    if contract.stages is None:
        return batches, checks
    return RegionBatches(batches, contract), RegionBatches(checks, contract)


def _unquantized(network: Any) -> list[Finding]:
    """The layers that training with fake quantization leaves in float."""
    if not isinstance(network, FakeQuantizedNetwork) or not network.unquantized:
        return []
    message = f"left in float, since it is not known how int8 treats them: {', '.join(network.unquantized)}"
    return [Finding("layers-left-in-float", "warning", message)]


def _model(start: Start, config: TrainingConfig, steps: int, by_label: bool) -> Any:
    network = FakeQuantizedNetwork(start.network) if config.qat else start.network
    parts = parse_box_loss(config.box_loss)
    model: TrainableLocalizer | TrainableDetector | TrainableStages
    if start.contract.stages is not None:
        model = TrainableStages(network, start.contract, parts)
    elif start.contract.detector is None:
        model = TrainableLocalizer(network, start.names, start.contract, parts, by_label=by_label)
    else:
        model = TrainableDetector(network, start.names, start.contract, parts)
    model.compile(optimizer=_optimizer(config, steps), jit_compile=False)
    model.build((None, *start.network.inputs[0].shape[1:]))
    # Variables that the first step creates make TensorFlow trace that step twice.
    model.optimizer.build(model.trainable_variables)
    return model


def _require_room(out: Path, network: keras.Model) -> None:
    """Refuse a nearly full disk: HDF5 ends the whole process when a write fails."""
    needed = _FILES_PER_NETWORK * 4 * int(network.count_params())
    if shutil.disk_usage(out.parent).free < needed:
        raise OutputError(f"cannot train into {out}: {needed / 1e6:.0f} MB must be free there for the checkpoints")


def _schedule(config: TrainingConfig, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Adam's learning rate by step: a warm-up, then a cosine."""
    warmup = int(min(_WARMUP_EPOCHS, _WARMUP_SHARE * config.epochs) * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, config.epochs * steps - warmup),
        warmup_target=config.learning_rate,
        warmup_steps=warmup,
        alpha=0.01,
    )


def _optimizer(config: TrainingConfig, steps: int) -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(
        config.learning_rate,
        weight_decay=1e-4,
        global_clipnorm=5.0,
        use_ema=True,
        ema_momentum=max(0.0, min(_AVERAGE, 1 - 1 / (_AVERAGE_SHARE * config.epochs * steps))),
        ema_overwrite_frequency=None,
    )


def _fit(
    model: Any,
    batches: TrainingBatches | RegionBatches,
    checks: ValidationBatches | RegionBatches,
    update: StatisticsUpdate,
    config: TrainingConfig,
    folder: RunFolder,
) -> None:
    known = model.contract.box.objects > 1
    monitor = f"val_{model.monitor}"
    begun, rows = folder.restore(model)
    values = [float(row[monitor]) for row in rows]
    stop, waiting = keras.callbacks.EarlyStopping(monitor, mode="max", patience=config.patience), ExitStack()
    optimizer, schedule = model.optimizer, _schedule(config, len(batches))
    callbacks = [
        # Not given to the optimizer, whose graph would compute the schedule once for each of the network's variables.
        keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: setattr(optimizer, "learning_rate", schedule(optimizer.iterations))
        ),
        # Ctrl-C waits until all files of an epoch are renewed: half of them could not be resumed from.
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: waiting.enter_context(signals_wait())),
        # Before the batches of an epoch are drawn, so that a resumed run draws the ones it would have drawn.
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: batches.start_epoch(epoch, _augmentation(epoch, config, known))
        ),
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: update.at_epoch(model.network)),
        keras.callbacks.CSVLogger(folder.history, append=True),
        _Checkpoints(folder, monitor, values),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: waiting.close()),
        stop,
        keras.callbacks.LambdaCallback(on_train_begin=lambda logs: go_on_waiting(stop, values)),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: folder.plot_curves(("loss", *model.figures))),
    ]
    verbose = 1 if sys.stdout.isatty() else 0
    if not verbose:
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=partial(_log_epoch, config.epochs, model.figures)))
    with waiting:
        model.fit(
            batches,
            validation_data=checks,
            epochs=config.epochs,
            initial_epoch=begun,
            callbacks=callbacks,
            verbose=verbose,
        )


def _log_epoch(epochs: int, titles: dict[str, str], epoch: int, logs: dict[str, float]) -> None:
    """One line an epoch, where no progress bar can be drawn."""
    figures = {"loss": logs["loss"], "validation loss": logs["val_loss"]}
    figures |= {title: logs[f"val_{name}"] for name, title in titles.items() if f"val_{name}" in logs}
    logger.info(
        "epoch %d/%d: %s", epoch + 1, epochs, ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    )


def _augmentation(epoch: int, config: TrainingConfig, known: bool) -> Augmentation:
    """How images are changed in an epoch; a known number of objects stays together."""
    how = CLOSING if config.qat or epoch >= config.epochs * (1 - _CLOSING_SHARE) else Augmentation()
    pasted = _PASTED if config.few_shot and how is not CLOSING else 0.0
    return dataclasses.replace(how, turns=not config.upright, together=known, pasted=pasted)


def _finish(
    out: Path,
    folder: RunFolder,
    model: Any,
    checks: ValidationBatches | RegionBatches,
    update: StatisticsUpdate,
    start: Start,
    config: TrainingConfig,
    training: Sequence[Sample],
) -> dict[str, float]:
    """Update the statistics of the averaged weights and those of the best epoch, and save whichever does better.

    ModelError where neither answers with numbers: the training has diverged.
    """
    model.optimizer.finalize_variable_values(model.trainable_variables)
    update(model.network)
    averaged, kept = _measure(model, checks), model.network.get_weights()
    model.load_weights(folder.best)
    update(model.network)
    metrics = _measure(model, checks)
    if not metrics[model.monitor] > averaged[model.monitor] and math.isfinite(averaged["loss"]):
        model.network.set_weights(kept)
        metrics = averaged
    if not math.isfinite(metrics["loss"]):
        folder.end()
        raise ModelError(
            f"the training diverged, its answers are no numbers, and {out} is not written",
            field="learning_rate",
            value=config.learning_rate,
            hint=f"train with a smaller {{learning_rate}} than {config.learning_rate:g}",
        )
    if isinstance(model.network, FakeQuantizedNetwork):
        model.network.round_kernels()
    data = {"images": len(training), "sha256": fingerprint(training), "started_from": start.digest or None}
    measured = {"training": {"data": data, "settings": dataclasses.asdict(config), "validation": metrics}}
    contract = dataclasses.replace(start.contract, measured=measured)
    if "threshold" in metrics:
        contract = dataclasses.replace(contract, thresholds=Thresholds(round(metrics["threshold"], 3)))
    save = save_network if contract.stages is None else save_stages
    save(out, start.network, contract)
    folder.end()
    return metrics


def _measure(model: Any, checks: ValidationBatches | RegionBatches) -> dict[str, float]:
    return {name: float(value) for name, value in model.evaluate(checks, verbose=0, return_dict=True).items()}
