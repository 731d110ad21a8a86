"""What converting refuses, each in a sentence, with nothing written."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.cli import main
from edgeloc.converters import ConvertOptions, conversion, convert
from edgeloc.data import Dataset
from edgeloc.errors import ContractError, ModelError, OutputError, UsageError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec

Network = Callable[..., Any]
Save = Callable[..., Path]


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where the result would go: an older file that must still be there, alone, when all is refused."""
    path = tmp_path / "result" / "m.tflite"
    path.parent.mkdir()
    path.write_bytes(b"an older one")
    yield path
    assert path.read_bytes() == b"an older one"
    assert list(path.parent.iterdir()) == [path]


def test_int8_without_images(make_network: Network, save_keras: Save, out: Path) -> None:
    with pytest.raises(UsageError, match="the recipe int8 needs images to calibrate on: give calibration"):
        convert(save_keras(make_network()), out)


def test_a_recipe_that_is_none(make_network: Network, save_keras: Save, out: Path) -> None:
    with pytest.raises(UsageError, match="recipe is 'int4': it must be one of int8, int8-float-head, .*auto"):
        convert(save_keras(make_network()), out, ConvertOptions(recipe="int4"))


def test_a_network_without_a_contract(make_network: Network, out: Path, tmp_path: Path) -> None:
    make_network().save(tmp_path / "bare.keras")
    with pytest.raises(ContractError, match=r"carries no contract: .* contract FILE\.json"):
        convert(tmp_path / "bare.keras", out, ConvertOptions(recipe="float32"))


def test_a_second_contract(make_network: Network, save_keras: Save, contract: Contract, out: Path) -> None:
    with pytest.raises(UsageError, match="has a contract already, inside or beside it"):
        convert(save_keras(make_network()), out, ConvertOptions(recipe="float32"), contract=contract)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"outputs": (OutputSpec("boxes", "box"),)}, "names the output 'boxes', which the model does not have; it has"),
        (
            {"input": InputSpec("image", 48, 32)},
            r"the contract's input is \(32, 48, 3\) .* the model's is \(32, 32, 3\)",
        ),
        ({"input": InputSpec("image", 32, 32, color="gray")}, r"the contract's input is \(32, 32, 1\)"),
        ({"labels": ("bolt", "nut")}, "'class' is .* needs one number for each of 2 label"),
    ],
)
def test_a_contract_that_does_not_fit(
    changes: dict[str, Any], sentence: str, make_network: Network, save_keras: Save, contract: Contract, out: Path
) -> None:
    path = save_keras(make_network(), changed=dataclasses.replace(contract, **changes))
    with pytest.raises(ContractError, match=sentence):
        convert(path, out, ConvertOptions(recipe="float32"))


def test_networks_that_take_no_single_image(box_contract: Contract, out: Path, tmp_path: Path) -> None:
    import keras
    from keras import layers

    flat = keras.Input((10,))
    keras.Model(flat, layers.Dense(4, name="box")(flat)).save(tmp_path / "flat.keras")
    with pytest.raises(ContractError, match=r"the model's is \(10,\)"):
        convert(tmp_path / "flat.keras", out, ConvertOptions(recipe="float32"), contract=box_contract)
    first, second = keras.Input((10,)), keras.Input((10,))
    both = layers.Dense(4, name="box")(layers.Add()([first, second]))
    keras.Model([first, second], both).save(tmp_path / "two.keras")
    with pytest.raises(ContractError, match="has 2 inputs: a localizer has one, the image"):
        convert(tmp_path / "two.keras", out, ConvertOptions(recipe="float32"), contract=box_contract)


def test_a_dead_head(make_network: Network, save_keras: Save, dataset: Dataset, out: Path) -> None:
    path = save_keras(make_network(dead=True))
    with pytest.raises(ModelError, match="the output presence does not depend on the input: the head is dead"):
        convert(path, out, calibration=dataset)


@pytest.mark.parametrize(("name", "operator"), [("sin", "SIN"), ("cumsum", "CUMSUM")])
def test_a_float_island(
    name: str, operator: str, make_network: Network, save_keras: Save, dataset: Dataset, out: Path
) -> None:
    from keras import ops

    islands: dict[str, Callable[[Any], Any]] = {"sin": ops.sin, "cumsum": lambda x: ops.cumsum(x, axis=1)}
    path = save_keras(make_network(islands[name]))
    with pytest.raises(ModelError, match=f"is mixed: float island .*{operator} .*in float.*keep_float {operator}$"):
        convert(path, out, calibration=dataset)


def test_an_operator_that_tflite_does_not_have(
    make_network: Network, save_keras: Save, dataset: Dataset, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from keras import ops

    path = save_keras(make_network(ops.erf))
    with pytest.raises(ModelError, match="converter refused the model: TFLite has no operator Erf$"):
        convert(path, out, calibration=dataset)
    assert capfd.readouterr().err == ""


def test_outputs_that_are_no_numbers(make_network: Network, save_keras: Save, out: Path) -> None:
    network = make_network()
    network.get_layer("presence").bias.assign([np.nan])
    with pytest.raises(Exception, match="finite") as caught:
        convert(save_keras(network), out, ConvertOptions(recipe="float32"))
    assert type(caught.value).__module__ == "edgeloc.errors"


@pytest.mark.parametrize("content", [b"", b"\x93 garbage " * 300, b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_keras_model(content: bytes, contract: Contract, out: Path, tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.keras is no \.keras file, or was cut off"):
        convert(tmp_path / "m.keras", out, ConvertOptions(recipe="float32"), contract=contract)


def test_a_legacy_file_that_is_broken(contract: Contract, out: Path, tmp_path: Path) -> None:
    (tmp_path / "m.h5").write_bytes(os.urandom(500))
    with pytest.raises(ModelError, match=r"m\.h5: Keras cannot load it"):
        convert(tmp_path / "m.h5", out, ConvertOptions(recipe="float32"), contract=contract)


def test_a_keras_file_with_a_damaged_middle(make_network: Network, save_keras: Save, out: Path) -> None:
    path = save_keras(make_network())
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 300] = os.urandom(300)
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.keras"):
        convert(path, out, ConvertOptions(recipe="float32"))


def test_no_file(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"m\.keras: no such file; give a Keras file"):
        convert(tmp_path / "m.keras", out, ConvertOptions(recipe="float32"))


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "open_source", lambda path, weights: pytest.fail("the work had begun"))
    (tmp_path / "file").write_text("in the way")
    path = save_keras(make_network())
    for target in (tmp_path, tmp_path / "file" / "m.tflite"):
        with pytest.raises(OutputError, match="cannot write"):
            convert(path, target, calibration=dataset)


def test_the_command_converts(
    make_network: Network, save_keras: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = save_keras(make_network()), tmp_path / "m.tflite"
    line = [
        "convert",
        str(path),
        "--calibration",
        "synthetic?count=12&size=64x48",
        "--calibration-images",
        "8",
        "--out",
        str(target),
    ]
    assert main(line) == 0
    shown = capsys.readouterr()
    assert "calibrating on 8 images of synthetic (seed 0)" in shown.err
    assert "warning: 8 calibration images are few" in shown.err
    assert shown.out.startswith(f"wrote {target}: int8 (full integer), 0.")
    assert main([*line, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["path"], result["precision"]) == (str(target), "int8 (full integer)")
    assert result["bytes"] == target.stat().st_size
    assert result["gate"] is None
    assert "calibration-few-images" in {finding["code"] for finding in result["findings"]}


def test_the_command_prints_a_refusal_as_json(
    make_network: Network, save_keras: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = save_keras(make_network()), tmp_path / "m.tflite"
    line = ["convert", str(path), "--recipe", "dynamic", "--out", str(target), "--validation"]
    refused = [*line, "synthetic?count=60&size=64x48", "--min-box-iou", "1", "--json"]
    assert main(refused) == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["path"] is None
    assert "IoU between the two boxes" in result["gate"]["failed"]
    assert "float-model-poor" in {finding["code"] for finding in result["findings"]}
    assert "the gate failed" in shown.err and "--min-box-iou" in shown.err
    assert not target.exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--out", "m.bin"], "a model for the target tflite ends in .tflite; give --out"),
        (["--out", "m.tflite"], "needs images to calibrate on"),
        (["--out", "m.tflite", "--calibration", "nowhere"], "nowhere does not exist"),
        (["--out", "m.tflite", "--recipe", "float32", "--contract", "none.json"], "none.json: no such file"),
    ],
)
def test_bad_input_to_the_command_is_one_sentence(
    flags: list[str],
    sentence: str,
    make_network: Network,
    save_keras: Save,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = save_keras(make_network())
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(path), *flags]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]
