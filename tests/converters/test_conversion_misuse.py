"""Options of a conversion that need something else, or would do nothing: each is refused in a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeloc.cli import main
from edgeloc.converters import ConvertOptions, convert
from edgeloc.data import Dataset
from edgeloc.errors import ContractError, ModelError, OutputError, UsageError
from edgeloc.model.contract import Contract, InputSpec
from edgeloc.model.file import read_model

Network = Callable[..., Any]
Save = Callable[..., Path]


@pytest.mark.parametrize("options", [ConvertOptions("float32", fix_head=True), ConvertOptions(repair_batch_norm=True)])
def test_what_needs_images_asks_for_them_at_once(
    options: ConvertOptions, make_network: Network, save_keras: Save, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="give calibration"):
        convert(save_keras(make_network()), tmp_path / "m.tflite", options)


def test_a_model_that_is_missing_is_the_first_thing_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "nofile.keras"), "--out", str(tmp_path / "m.tflite")]) == 2
    error = capsys.readouterr().err
    assert "nofile.keras: no such file" in error and "calibrat" not in error
    with pytest.raises(ModelError, match="no such file"):
        convert(tmp_path / "nofile.keras", tmp_path / "m.tflite")


def test_a_float_recipe_has_its_head_repaired_as_well(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    options = ConvertOptions("float32", fix_head=True)
    made = convert(save_keras(make_network()), tmp_path / "m.tflite", options, calibration=dataset)
    assert "head-sound" in {finding.code for finding in made.findings}
    assert read_model(tmp_path / "m.tflite").calibration is None


def test_nothing_can_stay_in_float_among_16_bit_activations(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    options = ConvertOptions("int16-activations", keep_float=("FULLY_CONNECTED",))
    with pytest.raises(UsageError, match="int16-activations cannot keep single operators in float"):
        convert(save_keras(make_network()), tmp_path / "m.tflite", options, calibration=dataset)


def test_statistics_are_repaired_in_keras_networks_alone(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    path = convert(save_keras(make_network()), tmp_path / "float.tflite", ConvertOptions("float32")).path
    with pytest.raises(UsageError, match="in Keras networks alone: .* leave repair_batch_norm out"):
        convert(path, tmp_path / "m.tflite", ConvertOptions(repair_batch_norm=True), calibration=dataset)


def test_the_model_that_is_read_is_not_written_over(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    path = convert(save_keras(make_network()), tmp_path / "float.tflite", ConvertOptions("float32")).path
    before = path.read_bytes()
    with pytest.raises(OutputError, match="one of the files that are read"):
        convert(path, path, calibration=dataset)
    assert path.read_bytes() == before


def test_a_split_without_data_by_command(
    make_network: Network, save_keras: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["convert", str(save_keras(make_network())), "--recipe", "float32", "--out", str(tmp_path / "m.tflite")]
    for flag in ("--calibration", "--validation"):
        assert main([*line, f"{flag}-split", "val"]) == 2
        assert f"there is no data set to take the split val of: give {flag}" in capsys.readouterr().err
    assert not (tmp_path / "m.tflite").exists()


@pytest.mark.parametrize("wrong", [InputSpec("image", 48, 32), InputSpec("image", 32, 32, color="gray")])
def test_a_contract_of_another_image_beside_calibration(
    wrong: InputSpec, make_network: Network, save_keras: Save, contract: Contract, dataset: Dataset, tmp_path: Path
) -> None:
    path = save_keras(make_network(), changed=dataclasses.replace(contract, input=wrong))
    with pytest.raises(ContractError, match=r"the contract's input is .*, the model's is \(32, 32, 3\): correct"):
        convert(path, tmp_path / "m.tflite", calibration=dataset)
