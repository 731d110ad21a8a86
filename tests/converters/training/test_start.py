"""What a training may start from, and what it refuses to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.training.backbones import NetworkConfig
from edgeloc.converters.training.network import reference_start, trained_start
from edgeloc.errors import ContractError, ModelError, UsageError
from edgeloc.model.contract import Contract, OutputSpec


def test_a_fresh_network_has_no_origin() -> None:
    start = reference_start(NetworkConfig("MobileNetV2", 0.35, 64, "vector", "none"), ("bolt",))
    assert start.digest == ""
    assert set(start.names) == {output.tensor for output in start.contract.outputs}


@pytest.mark.parametrize("form", ["dict", "list"])
def test_a_trained_network_comes_with_its_contract(
    form: str, make_network: Callable[..., Any], save_keras: Callable[..., Path], contract: Contract
) -> None:
    network = make_network(form=form)
    start = trained_start(save_keras(network))
    assert start.contract == contract
    assert sorted(start.names) == ["box", "class", "presence"]
    assert len(start.digest) == 64
    images = np.zeros((1, 32, 32, 3), np.float32)
    before, after = network(images), start.network(images)
    for name in after if form == "dict" else range(3):
        assert np.array_equal(before[name], after[name])


def test_what_no_training_can_start_from(
    tmp_path: Path, make_network: Callable[..., Any], save_keras: Callable[..., Path], contract: Contract
) -> None:
    network = make_network()
    network.save(tmp_path / "bare.keras")
    with pytest.raises(ContractError, match="carries no contract: training must know what its outputs mean"):
        trained_start(tmp_path / "bare.keras")
    with pytest.raises(UsageError, match="it must be a trained network, MODEL.keras"):
        trained_start("m.tflite")
    with pytest.raises(ModelError, match="no such file"):
        trained_start(tmp_path / "none.keras")
    other = dataclasses.replace(contract, outputs=(OutputSpec("corner", "box"),), labels=())
    with pytest.raises(ContractError, match="its contract names the output 'corner', it has presence, class, box"):
        trained_start(save_keras(network, "other.keras", other))
