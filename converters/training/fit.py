"""One training run from labelled samples to a saved network: schedule, checkpoints, resuming, early stopping."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from edgeloc.contract import Contract
from edgeloc.converters.keras_file import save_network
from edgeloc.converters.training.augment import CLOSING, Augmentation
from edgeloc.converters.training.batches import TrainingBatches, ValidationBatches
from edgeloc.converters.training.batchnorm import (
    MOMENTUM,
    REESTIMATION_BATCHES,
    reestimate_batch_norm,
    set_batch_norm_momentum,
)
from edgeloc.converters.training.curves import plot_curves
from edgeloc.converters.training.losses import parse_box_loss
from edgeloc.converters.training.model import TrainableLocalizer
from edgeloc.converters.training.network import NetworkConfig, build_network, network_contract
from edgeloc.data import Sample
from edgeloc.errors import OutputError, UsageError
from edgeloc.files import require_writable
from edgeloc.interrupt import signals_wait

__all__ = ["TrainingConfig", "train"]

_MONITOR = "val_box_iou"
_WARMUP_EPOCHS = 1.0
# The last epochs see images much as the runtime will.
_CLOSING_SHARE = 0.2
# The averaged weights forget a step after about a thousand others.
_AVERAGE = 0.999
# The network, its best epoch, and the checkpoint with the optimizer's three numbers a weight, each while it is renewed.
_FILES_PER_NETWORK = 12


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How to train: epochs, batch size, peak learning rate of Adam's cosine, box loss by name, patience, seed.

    `validation_images` bounds how many images are looked at after each epoch; `patience` is after
    how many epochs without a better mean IoU on them training stops.
    """

    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 2e-3
    box_loss: str = "huber+giou"
    patience: int = 12
    validation_images: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "validation_images"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least 1")
        if not self.learning_rate > 0:
            raise UsageError(f"--learning-rate is {self.learning_rate:g}: it must be above 0")
        parse_box_loss(self.box_loss)


def train(
    out: Path,
    training: list[Sample],
    validation: list[Sample],
    labels: tuple[str, ...],
    network_config: NetworkConfig,
    config: TrainingConfig,
    resume: bool = False,
) -> dict[str, float]:
    """Train and write `out` (.keras), with history and curves in the folder `<out's stem>.training` beside it.

    The epoch with the best validation IoU is kept, its batch-norm statistics re-estimated. Returns
    the final validation metrics. An interrupted run goes on from its last epoch with `resume`;
    one that had come to its end raises UsageError.
    """
    keras.utils.set_random_seed(config.seed)
    folder = out.with_suffix(".training")
    saved, history = folder / "resume", folder / "history.csv"
    if resume and _rows(history) and not saved.is_dir() and out.is_file():
        raise UsageError(f"{out}: its training ran to the end, there is nothing to resume; leave --resume out")
    require_writable(out)
    contract = network_contract(network_config, labels)
    network = build_network(network_config, len(labels))
    set_batch_norm_momentum(network, MOMENTUM)
    _require_room(out, network)
    # Only now, when all that can be refused has been: an earlier run's epochs lie there.
    if not (resume and saved.is_dir()):
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    batches = TrainingBatches(training, labels, contract.input, config.batch_size, config.seed)
    checks = ValidationBatches(validation, labels, contract.input, config.batch_size, config.validation_images)
    model = TrainableLocalizer(network, parse_box_loss(config.box_loss))
    model.compile(optimizer=_optimizer(config, len(batches)), jit_compile=False)
    model.build((None, contract.input.height, contract.input.width, 3))
    _fit(model, batches, checks, config, folder)
    return _finish(out, model, batches, checks, contract, config, folder)


def _require_room(out: Path, network: keras.Model) -> None:
    """Refuse a nearly full disk: HDF5 ends the whole process when a write fails."""
    needed = _FILES_PER_NETWORK * 4 * int(network.count_params())
    if shutil.disk_usage(out.parent).free < needed:
        raise OutputError(f"cannot train into {out}: {needed / 1e6:.0f} MB must be free there for the checkpoints")


def _optimizer(config: TrainingConfig, steps: int) -> keras.optimizers.Optimizer:
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, int((config.epochs - _WARMUP_EPOCHS) * steps)),
        warmup_target=config.learning_rate,
        warmup_steps=int(_WARMUP_EPOCHS * steps),
        alpha=0.01,
    )
    return keras.optimizers.AdamW(
        schedule,
        weight_decay=1e-4,
        global_clipnorm=5.0,
        use_ema=True,
        ema_momentum=_AVERAGE,
        ema_overwrite_frequency=None,
    )


def _fit(model: Any, batches: TrainingBatches, checks: ValidationBatches, config: TrainingConfig, folder: Path) -> None:
    history = folder / "history.csv"
    best = max((float(row[_MONITOR]) for row in _rows(history)), default=None)
    waiting = ExitStack()
    callbacks = [
        # Ctrl-C waits until all files of an epoch are renewed: half of them could not be resumed from.
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: waiting.enter_context(signals_wait())),
        # Before the batches of an epoch are drawn, so that a resumed run draws the ones it would have drawn.
        keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: batches.start_epoch(epoch, _augmentation(epoch, config.epochs))
        ),
        keras.callbacks.CSVLogger(history, append=True),
        keras.callbacks.ModelCheckpoint(
            folder / "best.weights.h5", _MONITOR, mode="max", save_best_only=True, save_weights_only=True,
            initial_value_threshold=best,
        ),
        keras.callbacks.BackupAndRestore(folder / "resume", delete_checkpoint=False),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: waiting.close()),
        keras.callbacks.EarlyStopping(_MONITOR, mode="max", patience=config.patience),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: plot_curves(history, folder / "curves.png")),
    ]  # fmt: skip
    verbose = 1 if sys.stdout.isatty() else 0
    with waiting:
        model.fit(batches, validation_data=checks, epochs=config.epochs, callbacks=callbacks, verbose=verbose)


def _augmentation(epoch: int, epochs: int) -> Augmentation:
    return CLOSING if epoch >= epochs * (1 - _CLOSING_SHARE) else Augmentation()


def _rows(history: Path) -> list[dict[str, str]]:
    if not history.is_file():
        return []
    with history.open(newline="") as file:
        return list(csv.DictReader(file))


def _finish(
    out: Path,
    model: Any,
    batches: TrainingBatches,
    checks: ValidationBatches,
    contract: Contract,
    config: TrainingConfig,
    folder: Path,
) -> dict[str, float]:
    """Settle the averaged weights and those of the best epoch, and save whichever localizes better."""
    model.optimizer.finalize_variable_values(model.trainable_variables)
    averaged = _settle(model, batches, checks)
    kept = model.network.get_weights()
    model.load_weights(folder / "best.weights.h5")
    metrics = _settle(model, batches, checks)
    if averaged["box_iou"] >= metrics["box_iou"]:
        model.network.set_weights(kept)
        metrics = averaged
    measured = {"training": {"settings": dataclasses.asdict(config), "validation": metrics}}
    save_network(out, model.network, dataclasses.replace(contract, measured=measured))
    shutil.rmtree(folder / "resume", ignore_errors=True)
    return metrics


def _settle(model: Any, batches: TrainingBatches, checks: ValidationBatches) -> dict[str, float]:
    """Bring the batch-norm statistics up to date with the weights, then measure."""
    numbers = itertools.islice(itertools.cycle(range(len(batches))), REESTIMATION_BATCHES)
    reestimate_batch_norm(model.network, (batches[i][0] for i in numbers))
    return {name: float(value) for name, value in model.evaluate(checks, verbose=0, return_dict=True).items()}
