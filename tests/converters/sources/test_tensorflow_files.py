"""SavedModel folders and float `.tflite` files as sources: names kept, sizes checked, what is not float refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.checks import check_parity, run_flatbuffer
from edgeloc.converters.sources import open_source
from edgeloc.converters.sources.tensorflow import load_network
from edgeloc.errors import ModelError, UsageError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model

SPEC = InputSpec("picture", 32, 32)
CONTRACT = Contract(SPEC, (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box")))


@pytest.fixture
def pictures() -> Any:
    return np.random.default_rng(4).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)


def test_a_saved_model_keeps_its_outputs_and_its_open_sizes_become_the_contracts(
    tiny_saved_model: str, pictures: Any
) -> None:
    source = open_source(tiny_saved_model)
    flatbuffer = source.to_tflite(SPEC)
    check_parity(source, flatbuffer, SPEC, pictures)
    answer = run_flatbuffer(flatbuffer, "model", SPEC, pictures)
    assert {name: values.shape for name, values in answer.items()} == {"presence": (4, 1), "box": (4, 4)}
    assert source.contract is None


def test_a_saved_model_of_another_size_is_refused(tiny_saved_model: str) -> None:
    with pytest.raises(ModelError, match=r"takes \(None, None, None, 3\), the contract's image is \(1, 32, 32, 1\)"):
        open_source(tiny_saved_model).to_tflite(InputSpec("picture", 32, 32, color="gray"))


def test_a_saved_model_without_a_signature_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), str(tmp_path / "bare"))
    with pytest.raises(ModelError, match="bare has no signature"):
        open_source(str(tmp_path / "bare"))


def test_a_damaged_saved_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(ModelError, match="is no SavedModel that can be read"):
        open_source(str(tmp_path))


def test_a_float_tflite_answers_as_before_under_the_contracts_input_name(tiny_models: Path, pictures: Any) -> None:
    source = open_source(str(tiny_models / "float32.tflite"))
    flatbuffer = source.to_tflite(SPEC)
    assert check_parity(source, flatbuffer, SPEC, pictures) == 0
    assert sorted(run_flatbuffer(flatbuffer, "model", SPEC, pictures)) == ["box", "presence"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("int8", r"int8 \(full integer\)"),
        ("float16", "float16 weights"),
        ("dynamic", "dynamic range"),
        ("int16", "int8 with 16-bit activations, float I/O"),
        ("island", "mixed: float island"),
    ],
)
def test_a_tflite_that_is_not_float_is_named(name: str, what: str, tiny_models: Path) -> None:
    with pytest.raises(ModelError, match=rf"{name}\.tflite is {what}: convert the float32 model"):
        open_source(str(tiny_models / f"{name}.tflite"))


def test_the_contract_comes_from_inside_the_tflite_or_from_beside_it(tiny_models: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.tflite"
    shutil.copy(tiny_models / "float32.tflite", bare)
    assert open_source(str(bare)).contract is None
    bare.with_suffix(".json").write_text(CONTRACT.to_json())
    assert open_source(str(bare)).contract == CONTRACT
    write_model(tmp_path / "full.tflite", bare.read_bytes(), CONTRACT)
    inside = open_source(str(tmp_path / "full.tflite"))
    assert inside.contract is not None
    assert inside.contract.outputs == CONTRACT.outputs


def test_a_tflite_of_another_size_is_refused(tiny_models: Path) -> None:
    with pytest.raises(ModelError, match=r"takes \(1, 32, 32, 3\), the contract's image is \(1, 48, 64, 3\)"):
        open_source(str(tiny_models / "float32.tflite")).to_tflite(InputSpec("picture", 64, 48))


@pytest.mark.parametrize("name", ["float32.tflite", "saved-plain"])
def test_they_take_no_other_weights(name: str, tiny_models: Path) -> None:
    with pytest.raises(UsageError, match="holds its own weights: leave weights out"):
        open_source(str(tiny_models / name), weights="weights.pt")


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_code_in_a_lambda_layer_does_not_run(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keras = pytest.importorskip("keras")
    inputs = keras.Input((4,))
    outputs = keras.layers.Lambda(lambda values: print("the code ran") or values)(inputs)
    path = tmp_path / f"lambda{suffix}"
    keras.Model(inputs, outputs).save(path)
    capsys.readouterr()
    with pytest.raises(ModelError, match="Keras cannot load it"):
        load_network(path)
    assert "the code ran" not in capsys.readouterr().out
    monkeypatch.setattr(keras, "__version__", "3.10.0")
    with pytest.raises(ModelError, match=r"Keras 3\.10\.0 can run code .*keras>=3\.11\.3"):
        load_network(path)
