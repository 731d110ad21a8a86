"""A detector's training from samples to file, and further from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.sources.tensorflow import load_network
from edgeloc.converters.training import fit
from edgeloc.converters.training.fit import TrainingConfig, fit_network
from edgeloc.converters.training.network import Start, trained_start
from edgeloc.data import Sample
from edgeloc.model.contract import Contract
from edgeloc.model.file import read_keras_contract


def test_a_detector_is_trained_and_trained_further_with_fake_quantization(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_contract: Callable[[str], Contract],
    make_network: Callable[[Contract], Any],
    make_sample: Callable[..., Sample],
) -> None:
    monkeypatch.setattr(fit, "REESTIMATION_BATCHES", 2)
    training = [make_sample(i, group="a", empty=i == 3) for i in range(8)]
    validation = [make_sample(i, group="b") for i in range(20, 23)]
    first, second = tmp_path / "first.keras", tmp_path / "second.keras"
    contract = make_contract("anchor-free")
    network = make_network(contract)
    start = Start(network, tuple(network.output), contract)
    config = TrainingConfig(epochs=1, batch_size=4, box_loss="giou")
    metrics, _ = fit_network(first, training, validation, start, config)
    assert {"loss", "box_loss", "class_loss", "map50", "threshold", "f1"} == set(metrics)
    saved = read_keras_contract(first)
    assert saved is not None
    assert (saved.outputs, saved.detector) == (contract.outputs, contract.detector)
    assert saved.thresholds.presence == pytest.approx(metrics["threshold"], abs=5e-4)
    assert saved.measured["training"]["validation"]["map50"] == pytest.approx(metrics["map50"])
    assert (tmp_path / "first.training" / "curves.png").is_file()
    further = TrainingConfig(epochs=1, batch_size=4, box_loss="giou", qat=True)
    metrics, _ = fit_network(second, training, validation, trained_start(first), further)
    assert metrics["map50_at_start"] >= 0
    before, after = (load_network(path).get_weights() for path in (first, second))
    assert any(not np.allclose(a, b) for a, b in zip(before, after, strict=True))
