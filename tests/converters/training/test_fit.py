"""A tiny training from end to end: what it leaves behind, and that an interrupted one goes on where it was."""

from __future__ import annotations

import csv
import dataclasses
import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from edgeloc.converters.sources.tensorflow import load_network
from edgeloc.converters.training import fit
from edgeloc.converters.training.backbones import NetworkConfig
from edgeloc.converters.training.fake_quantization import FakeQuantizedNetwork
from edgeloc.converters.training.fit import TrainingConfig, fit_network
from edgeloc.converters.training.losses import TrainableLocalizer
from edgeloc.converters.training.network import Start, network_contract, trained_start
from edgeloc.converters.training.run_folder import go_on_waiting
from edgeloc.data import Sample
from edgeloc.errors import ModelError, UsageError
from edgeloc.model.file import read_keras_contract

LABELS = ("bolt", "nut", "washer")
TWO_EPOCHS = TrainingConfig(epochs=2, batch_size=4)
found: list[str] = []


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "REESTIMATION_BATCHES", 3)


def small_grid(classes: int) -> Any:
    """The outputs of the reference network over hardly any layers: its own are slow to trace."""
    import keras
    from keras import layers

    image = keras.Input((64, 64, 3), name="image")
    x = layers.Conv2D(8, 3, 4, "same", activation="relu")(image)
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(16, 3, 2, "same", activation="relu")(x))
    pooled = layers.GlobalAveragePooling2D()(x)
    outputs = {
        "presence": layers.Dense(1, name="presence")(pooled),
        "class": layers.Dense(classes, name="class")(pooled),
        "weights": layers.Conv2D(1, 1, name="weights")(x),
        "distances": layers.Conv2D(4, 1, name="distances")(x),
    }
    return keras.Model(image, outputs)


def fresh() -> Start:
    network = small_grid(len(LABELS))
    return Start(network, tuple(network.output), network_contract(NetworkConfig(input_size=64), LABELS))


@pytest.fixture
def go(tmp_path: Path, make_sample: Callable[..., Sample]) -> Callable[..., dict[str, float]]:
    """Train on eight drawn images, validate on four of another clip, into `m.keras`."""
    found.clear()
    training = [make_sample(i, group="a", empty=i == 7) for i in range(8)]
    validation = [make_sample(i, group="b") for i in range(20, 24)]

    def run(config: TrainingConfig = TWO_EPOCHS, **more: Any) -> dict[str, float]:
        start = more.pop("start", None) or fresh()
        metrics, findings = fit_network(tmp_path / "m.keras", training, validation, start, config, **more)
        found[:] = [finding.message for finding in findings]
        return metrics

    return run


def epochs(folder: Path) -> list[int]:
    with (folder / "m.training" / "history.csv").open(newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def test_a_training_leaves_network_contract_history_and_curves(go: Callable[..., Any], tmp_path: Path) -> None:
    metrics = go()
    assert 0 <= metrics["box_iou"] <= 1
    contract = read_keras_contract(tmp_path / "m.keras")
    assert contract is not None
    assert contract.labels == LABELS
    assert contract.measured["training"]["validation"]["box_iou"] == pytest.approx(metrics["box_iou"])
    assert contract.measured["training"]["settings"]["epochs"] == 2
    outputs = load_network(tmp_path / "m.keras")(np.zeros((1, 64, 64, 3), np.float32))
    assert set(outputs) == {output.tensor for output in contract.outputs}
    assert epochs(tmp_path) == [0, 1]
    curves = cv2.imread(str(tmp_path / "m.training" / "curves.png"))
    assert curves is not None
    assert curves.std() > 0
    assert list((tmp_path / "m.training").glob("epoch-*")) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.filterwarnings("ignore:unclosed file .*history.csv:ResourceWarning")
def test_an_interrupted_training_goes_on(
    go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, int]] = []
    original = fit.TrainingBatches.__getitem__

    def interrupted(self: Any, index: int) -> Any:
        if self.epoch == 2 and index == 0:
            # As Ctrl-C: batches are drawn in threads, and the signal comes to the main one.
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, index)

    def noted(self: Any, index: int) -> Any:
        drawn.append((self.epoch, index))
        return original(self, index)

    three = TrainingConfig(epochs=3, batch_size=4)
    monkeypatch.setattr(fit.TrainingBatches, "__getitem__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(three)
    gc.collect()  # Keras leaves the history open; it has flushed every row
    assert not (tmp_path / "m.keras").exists()
    assert epochs(tmp_path) == [0, 1]
    monkeypatch.setattr(fit.TrainingBatches, "__getitem__", noted)
    metrics = go(three, resume=True)
    assert epochs(tmp_path) == [0, 1, 2]
    # Keras looks at the first batches to learn their shapes; the second epoch is not drawn again.
    assert {epoch for epoch, _ in drawn} == {0, 2}
    assert 0 <= metrics["box_iou"] <= 1
    assert (tmp_path / "m.keras").is_file()


def test_each_epoch_is_a_line_where_no_bar_can_be_drawn(
    go: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "edgeloc"):
        go()
    lines = [line for line in caplog.messages if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("loss" in line and "mean IoU" in line for line in lines)


def test_an_interruption_at_the_very_end_loses_no_epoch(
    go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "reestimate_batch_norm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go()
    go(resume=True)
    assert epochs(tmp_path) == [0, 1]
    assert (tmp_path / "m.keras").is_file()


def test_resuming_what_never_began_begins_it(go: Callable[..., Any], tmp_path: Path) -> None:
    go(TrainingConfig(epochs=1, batch_size=4), resume=True)
    assert epochs(tmp_path) == [0]
    before = (tmp_path / "m.keras").read_bytes()
    with pytest.raises(UsageError, match="its training ran to the end, there is nothing to resume"):
        go(resume=True)
    assert (tmp_path / "m.keras").read_bytes() == before
    assert epochs(tmp_path) == [0]


def interrupted_after(go: Callable[..., Any], epochs: int, config: TrainingConfig) -> None:
    """Train until so many epochs are over."""
    original = fit.TrainingBatches.__getitem__

    def interrupted(self: Any, index: int) -> Any:
        if self.epoch == epochs and index == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.TrainingBatches, "__getitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(config)
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed file .*history.csv:ResourceWarning")
def test_an_epoch_that_was_noted_and_not_saved_is_trained_again(go: Callable[..., Any], tmp_path: Path) -> None:
    interrupted_after(go, 1, TWO_EPOCHS)
    history, folder = tmp_path / "m.training" / "history.csv", tmp_path / "m.training"
    first = history.read_text()
    # As a kill leaves it: the second row stands, and the files that follow it are half written.
    history.write_text(first + first.splitlines()[1].replace("0", "1", 1) + "\n")
    (folder / "renewed.weights.h5").write_bytes(b"\x89HDF")
    go(resume=True)
    assert epochs(tmp_path) == [0, 1]
    assert history.read_text().startswith(first)


@pytest.mark.filterwarnings("ignore:unclosed file .*history.csv:ResourceWarning")
def test_what_cannot_be_gone_on_from_is_one_sentence(go: Callable[..., Any], tmp_path: Path) -> None:
    interrupted_after(go, 1, TWO_EPOCHS)
    other = Start(
        network := small_grid(2), tuple(network.output), network_contract(NetworkConfig(input_size=64), LABELS)
    )
    with pytest.raises(UsageError, match="trained a network of another kind or for other labels"):
        go(start=other, resume=True)
    (checkpoint,) = (tmp_path / "m.training").glob("epoch-*")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ModelError, match="is damaged .*leave resume out"):
        go(resume=True)
    assert epochs(tmp_path) == [0]


def test_an_interruption_does_not_renew_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    stop = keras.callbacks.EarlyStopping("val_box_iou", mode="max", patience=3)
    stop.set_model(Mock(stop_training=False))
    monkeypatch.setattr(stop, "monitor_op", np.greater)
    stop.on_train_begin()
    go_on_waiting(stop, [0.5, 0.7, 0.6])
    stop.on_epoch_end(3, {"val_box_iou": 0.6})
    assert not stop.model.stop_training
    stop.on_epoch_end(4, {"val_box_iou": 0.69})
    assert stop.model.stop_training


def test_training_stops_when_nothing_gets_better(
    go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainableLocalizer, "monitor", "loss")  # the most counts, and the first is never beaten
    go(TrainingConfig(epochs=12, batch_size=4, patience=1, learning_rate=1e-3))
    assert len(epochs(tmp_path)) < 12


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 0}, "epochs is 0: it must be at least 1"),
        ({"batch_size": -3}, "batch_size is -3"),
        ({"learning_rate": 0.0}, "learning_rate is 0: it must be above 0"),
        ({"box_loss": "iou"}, r"box_loss is 'iou': it must be some of .*, joined with \+"),
    ],
)
def test_a_setting_that_cannot_be(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        TrainingConfig(**changes)


QAT = TrainingConfig(epochs=2, batch_size=4, learning_rate=1e-3, qat=True)


@pytest.fixture
def trained(go: Callable[..., Any], tmp_path: Path) -> Path:
    """A network that has been trained for an epoch."""
    go(TrainingConfig(epochs=1, batch_size=4))
    return (tmp_path / "m.keras").rename(tmp_path / "float.keras")


def kernels(path: Path) -> list[np.ndarray]:
    return [np.asarray(layer.kernel) for layer in load_network(path).layers if hasattr(layer, "kernel")]


def test_qat_gives_a_float_network_that_lives_at_its_levels(
    go: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    metrics = go(QAT, start=trained_start(trained))
    assert 0 <= metrics["box_iou_at_start"] <= 1
    network, before = load_network(tmp_path / "m.keras"), load_network(trained)
    assert [type(layer) for layer in network.layers] == [type(layer) for layer in before.layers]
    assert any(not np.allclose(a, b) for a, b in zip(kernels(trained), kernels(tmp_path / "m.keras"), strict=True))
    FakeQuantizedNetwork(network).round_kernels()
    learnt = [np.asarray(layer.kernel) for layer in network.layers if hasattr(layer, "kernel")]
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(learnt, kernels(tmp_path / "m.keras"), strict=True))
    assert np.array_equal(network.get_layer("norm").moving_mean, before.get_layer("norm").moving_mean)
    contract, origin = read_keras_contract(tmp_path / "m.keras"), read_keras_contract(trained)
    assert contract is not None
    assert origin is not None
    assert (contract.outputs, contract.labels) == (origin.outputs, origin.labels)
    assert contract.measured["training"]["settings"]["qat"] is True


def test_a_trained_network_is_trained_further(go: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    metrics = go(TrainingConfig(epochs=1, batch_size=4), start=trained_start(trained))
    assert "box_iou_at_start" in metrics
    assert any(not np.allclose(a, b) for a, b in zip(kernels(trained), kernels(tmp_path / "m.keras"), strict=True))


@pytest.mark.filterwarnings("ignore:unclosed file .*history.csv:ResourceWarning")
def test_an_interrupted_qat_goes_on_from_the_same_network_only(
    go: Callable[..., Any], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    original = keras.callbacks.CallbackList.on_epoch_begin

    def interrupted(self: Any, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise KeyboardInterrupt
        original(self, epoch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks.CallbackList, "on_epoch_begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(QAT, start=trained_start(trained))
    gc.collect()
    with pytest.raises(UsageError, match=r"began with a trained network; name that MODEL\.keras again with resume"):
        go(resume=True)
    assert epochs(tmp_path) == [0]
    go(QAT, start=trained_start(trained), resume=True)
    assert epochs(tmp_path) == [0, 1]
    go(dataclasses.replace(QAT, epochs=1), start=trained_start(tmp_path / "m.keras"), resume=True)
    assert epochs(tmp_path) == [0]


def test_what_qat_leaves_in_float_is_named(go: Callable[..., Any], trained: Path) -> None:
    import keras

    start = trained_start(trained)
    outputs = dict(start.network.output)
    outputs["presence"] = keras.layers.UnitNormalization(name="unit")(outputs["presence"])
    odd = dataclasses.replace(start, network=keras.Model(start.network.inputs[0], outputs))
    go(dataclasses.replace(QAT, epochs=1), start=odd)
    assert found == ["left in float, since it is not known how int8 treats them: unit"]


def test_a_training_that_diverges_writes_no_network(go: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="diverged.* smaller learning_rate"):
        go(dataclasses.replace(TWO_EPOCHS, learning_rate=1e30))
    assert not (tmp_path / "m.keras").exists()
    assert list((tmp_path / "m.training").glob("epoch-*")) == []  # there is nothing to go on with


def test_a_run_that_cannot_be_continued_is_named(go: Callable[..., Any], tmp_path: Path) -> None:
    go(dataclasses.replace(TWO_EPOCHS, epochs=1), resume=True)
    assert found == [f"there is no interrupted run of {tmp_path / 'm.keras'}: a new one begins"]
