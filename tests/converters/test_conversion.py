"""Converting: the file computes what the network computes, carries its contract, and is what its recipe promises."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters import ConvertOptions, convert
from edgeloc.converters.training.backbones import NetworkConfig
from edgeloc.converters.training.network import build_network, network_contract
from edgeloc.data import Dataset
from edgeloc.localizer import Localizer
from edgeloc.model import sandbox, trust
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import read_model
from edgeloc.model.inspection import check_golden, inspect_model

Network = Callable[..., Any]
Save = Callable[..., Path]


def answers(path: Path, frame: np.ndarray) -> dict[str, np.ndarray]:
    """What the file's outputs say of a frame, in real numbers, by their names in the signature."""
    localizer = Localizer(path)
    tensor, _ = localizer.preprocess(frame)
    values = {name: np.array(raw, np.float32) for name, raw in localizer.invoke(tensor).items()}
    for name, info in localizer.engine.outputs.items():
        if info.scale is not None:
            values[name] = (values[name] - (info.zero_point or 0)) * info.scale
    return values


def keras_answers(network: Any, contract: Contract, frame: np.ndarray) -> dict[str, np.ndarray]:
    from edgeloc.preprocess import Preprocessor

    tensor, _ = Preprocessor(contract.input, np.dtype(np.float32), None, None)(frame)
    return {name: np.asarray(values) for name, values in network(tensor, training=False).items()}


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(9)
    return [rng.integers(0, 256, (6, 9, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1) for _ in range(4)]


def test_float32_computes_exactly_what_the_network_computes(
    make_network: Network, save_keras: Save, contract: Contract, frames: list[np.ndarray], tmp_path: Path
) -> None:
    network = make_network()
    report = inspect_model(convert(save_keras(network), tmp_path / "m.tflite", ConvertOptions(recipe="float32")).path)
    assert report.precision == "float32"
    for frame in frames:
        expected, found = keras_answers(network, contract, frame), answers(tmp_path / "m.tflite", frame)
        assert set(found) == {"presence", "class", "box"}
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, abs=1e-4)


@pytest.fixture
def int8(make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path) -> Path:
    convert(save_keras(make_network()), tmp_path / "int8.tflite", calibration=dataset, options=ConvertOptions(seed=3))
    return tmp_path / "int8.tflite"


def test_int8_is_integer_from_pixels_to_outputs(int8: Path) -> None:
    report = inspect_model(int8)
    assert report.precision == "int8 (full integer)"
    assert report.is_full_integer
    assert [(port.name, port.dtype, port.shape) for port in report.inputs] == [("image", "uint8", (1, 32, 32, 3))]
    assert {port.name: port.dtype for port in report.outputs} == dict.fromkeys(("presence", "class", "box"), "int8")


def test_bright_pixels_are_not_clipped_where_calibration_was_dark(int8: Path, dataset: Dataset) -> None:
    assert max(sample.load().max() for sample in dataset) < 250
    preprocessor = Localizer(int8).preprocessor
    assert preprocessor.passes_pixels
    white = np.full((32, 32, 3), 255, np.uint8)
    assert preprocessor(white)[0].min() == 255


def test_int8_computes_nearly_what_the_network_computes(
    int8: Path, make_network: Network, contract: Contract, dataset: Dataset
) -> None:
    network = make_network()
    for sample in dataset[:6]:
        expected, found = keras_answers(network, contract, sample.load()), answers(int8, sample.load())
        for name, values in expected.items():
            # Roles on the wrong tensors would be off by as much as the outputs differ.
            assert found[name].shape == values.shape
            assert found[name] == pytest.approx(values, abs=0.05)


def test_everything_lies_behind_the_flatbuffer(int8: Path, contract: Contract, dataset: Dataset) -> None:
    with zipfile.ZipFile(int8) as archive:
        names = set(archive.namelist())
        assert archive.read("labels.txt").decode().split() == list(contract.labels)
    assert names == {"edgeloc.json", "labels.txt", "calibration.json", "golden/image.png", "golden/expected.json"}
    model = read_model(int8)
    assert model.contract is not None
    assert (model.contract.input, model.contract.outputs) == (contract.input, contract.outputs)
    assert model.contract.recipe == "int8"
    assert set(model.contract.tools) == {"edgeloc", "keras", "tensorflow"}
    float_model = (int8.parent / "model.keras").read_bytes()
    assert model.contract.hashes["float_model"] == hashlib.sha256(float_model).hexdigest()
    assert set(model.contract.hashes) == {"float_model", "calibration", "payload"}
    assert model.calibration is not None
    assert (model.calibration["seed"], model.calibration["count"]) == (3, len(dataset))
    assert model.golden is not None
    assert model.golden.image.shape == (120, 160, 3)


def test_what_was_converted_here_needs_no_trial(int8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_known", set())  # as in another process
    monkeypatch.setattr(sandbox, "run_child", lambda *_, **__: pytest.fail("a process was started"))
    Localizer(int8)


def test_the_self_test_passes(int8: Path) -> None:
    Localizer(int8).self_test()
    assert check_golden(int8).status == "passed"


def test_a_plain_interpreter_loads_the_file(int8: Path) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(model_path=str(int8))
    interpreter.allocate_tensors()
    assert interpreter.get_input_details()[0]["dtype"] == np.uint8
    signature = interpreter.get_signature_list()["serving_default"]
    assert set(signature["outputs"]) == {"presence", "class", "box"}


def test_the_same_command_gives_the_same_file(int8: Path, dataset: Dataset, tmp_path: Path) -> None:
    convert(tmp_path / "model.keras", tmp_path / "again.tflite", calibration=dataset, options=ConvertOptions(seed=3))
    again, first = read_model(tmp_path / "again.tflite"), read_model(int8)
    assert again.calibration == first.calibration
    assert again.payload == first.payload


@pytest.mark.parametrize(("recipe", "precision"), [("float16", "float16 weights"), ("dynamic", "dynamic range")])
def test_other_recipes_give_what_they_promise(
    recipe: str, precision: str, make_network: Network, save_keras: Save, tmp_path: Path
) -> None:
    from keras import layers

    # The converter leaves small weights in float; this one is large enough for a dynamic range.
    network = make_network(layers.Conv2D(96, 1))
    made = convert(save_keras(network), tmp_path / "m.tflite", ConvertOptions(recipe=recipe))
    assert inspect_model(made.path).precision == precision
    model = read_model(tmp_path / "m.tflite")
    assert model.contract is not None
    assert (model.contract.recipe, model.calibration) == (recipe, None)
    Localizer(tmp_path / "m.tflite").self_test()


def test_the_contract_names_the_input(
    make_network: Network, save_keras: Save, contract: Contract, tmp_path: Path
) -> None:
    renamed = dataclasses.replace(contract, input=InputSpec("pixels", 32, 32))
    path = save_keras(make_network(), changed=renamed)
    report = inspect_model(convert(path, tmp_path / "m.tflite", ConvertOptions(recipe="float32")).path)
    assert [port.name for port in report.inputs] == ["pixels"]


@pytest.mark.parametrize("form", ["list", "single"])
def test_outputs_without_a_dict_are_named_after_their_layers(
    form: str, make_network: Network, dataset: Dataset, contract: Contract, box_contract: Contract, tmp_path: Path
) -> None:
    make_network(form=form).save(tmp_path / "foreign.keras")
    given = contract if form == "list" else box_contract
    report = inspect_model(
        convert(tmp_path / "foreign.keras", tmp_path / "m.tflite", calibration=dataset, contract=given).path
    )
    assert {port.name for port in report.outputs} == {output.tensor for output in given.outputs}
    assert report.is_full_integer


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_sequential_network_from_elsewhere(
    suffix: str, dataset: Dataset, box_contract: Contract, tmp_path: Path
) -> None:
    import keras
    from keras import layers

    network = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Conv2D(8, 3, activation="relu"), layers.GlobalAveragePooling2D(),
         layers.Dense(4, name="box")]
    )  # fmt: skip
    path = tmp_path / f"foreign{suffix}"
    network.save(path)
    report = inspect_model(convert(path, tmp_path / "m.tflite", calibration=dataset, contract=box_contract).path)
    assert [port.name for port in report.outputs] == ["box"]


def test_images_for_a_recipe_that_needs_none_are_not_claimed(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    path = save_keras(make_network())
    made = convert(path, tmp_path / "m.tflite", ConvertOptions(recipe="float32"), calibration=dataset)
    assert made.inspection is not None and made.inspection.calibration is None
    assert [(note.code, note.message) for note in made.findings] == [
        ("calibration-unused", "the recipe float32 needs no calibration: drawn is not used")
    ]


def test_lagging_statistics_are_found(
    make_network: Network,
    save_keras: Save,
    dataset: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = make_network()
    network.get_layer("stem_bn").moving_variance.assign(np.full(16, 50.0))
    with caplog.at_level("INFO", "edgeloc"):
        made = convert(save_keras(network), tmp_path / "m.tflite", calibration=dataset)
    assert caplog.messages[0] == "calibrating on 16 images of drawn (seed 0)"
    assert "batch-norm-lags" in {finding.code for finding in made.findings}
    assert any("batch-norm statistics lag" in line for line in caplog.messages)


def test_a_presence_that_was_never_absent_is_found(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    network = make_network()
    network.get_layer("presence").bias.assign([40.0])
    made = convert(save_keras(network), tmp_path / "m.tflite", calibration=dataset)
    (finding,) = (finding for finding in made.findings if finding.code == "presence-saturated")
    assert "the presence output can only be 'present'" in finding.message


@pytest.mark.slow
@pytest.mark.long
def test_the_reference_network_with_its_grid(dataset: Dataset, save_keras: Save, tmp_path: Path) -> None:
    config = NetworkConfig("MobileNetV2", 0.35, 64, "grid", "none")
    contract = network_contract(config, dataset.labels)
    network = build_network(config, len(dataset.labels))
    path = save_keras(network, changed=contract)
    convert(path, tmp_path / "f.tflite", ConvertOptions(recipe="float32"))
    report = inspect_model(convert(path, tmp_path / "q.tflite", calibration=dataset).path)
    assert report.is_full_integer
    assert {port.name for port in report.outputs} == {"presence", "class", "weights", "distances"}
    frame = dataset[0].load()
    found, expected = answers(tmp_path / "f.tflite", frame), keras_answers(network, contract, frame)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-4)
    Localizer(tmp_path / "q.tflite").self_test()
    assert Localizer(tmp_path / "q.tflite").contract.output("grid-weights") == OutputSpec("weights", "grid-weights")
