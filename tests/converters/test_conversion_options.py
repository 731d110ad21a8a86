"""What can be asked of a conversion beside a recipe: parts in float, new statistics, a gate, other targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.cli import main
from edgeloc.converters import ConvertOptions, GateLimits, convert
from edgeloc.converters.gate import GateReport
from edgeloc.data import Dataset
from edgeloc.errors import DataError, GateFailed, ModelError, UsageError
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Thresholds
from edgeloc.model.file import read_model
from edgeloc.model.inspection import inspect_model
from edgeloc.testing import build_fake_compiler
from edgeloc.types import Box, LabelledBox

Network = Callable[..., Any]
Save = Callable[..., Path]


@pytest.fixture
def others(make_sample: Callable[..., Any], dataset: Dataset) -> Dataset:
    """Labelled images that the calibration does not hold."""
    samples = tuple(make_sample(index, empty=index % 8 == 7) for index in range(100, 160))
    return Dataset("others", "others", dataset.labels, samples, (), ("val",), "val")


@pytest.fixture
def lagging(make_network: Network) -> Any:
    """A network whose batch norm still holds statistics of long ago."""
    network = make_network()
    network.get_layer("stem_bn").moving_variance.assign(np.full(16, 50.0))
    return network


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [("int8-float-head", "mixed: float island"), ("int16-activations", "int8 with 16-bit activations, float I/O")],
)
def test_calibrated_recipes_beside_int8(
    recipe: str, precision: str, make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    options = ConvertOptions(recipe=recipe)
    path = convert(save_keras(make_network()), tmp_path / "m.tflite", options, calibration=dataset).path
    assert inspect_model(path).precision == precision
    assert read_model(path).calibration is not None
    Localizer(path).self_test()


def test_the_float_head_is_the_last_layer_of_each_output(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    options = ConvertOptions(recipe="int8-float-head")
    path = convert(save_keras(make_network()), tmp_path / "m.tflite", options, calibration=dataset).path
    reasons = inspect_model(path).reasons
    assert len(reasons) == 3
    assert all(reason.startswith("FULLY_CONNECTED") for reason in reasons)


def test_an_operator_stays_in_float_by_its_name(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    options = ConvertOptions(keep_float=("DEPTHWISE_CONV_2D",))
    path = convert(save_keras(make_network()), tmp_path / "m.tflite", options, calibration=dataset).path
    assert [reason.split()[0] for reason in inspect_model(path).reasons] == ["DEPTHWISE_CONV_2D"]


def test_operators_stay_in_float_from_one_to_another(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    options = ConvertOptions(keep_float=("CONV_2D->MEAN",))
    path = convert(save_keras(make_network()), tmp_path / "m.tflite", options, calibration=dataset).path
    kept = {reason.split()[0] for reason in inspect_model(path).reasons}
    assert kept == {"CONV_2D", "DEPTHWISE_CONV_2D", "MEAN"}


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("SOFTMAX", "matches no operator: .* one of .*DEPTHWISE_CONV_2D"),
        ("CONV_2D->SOFTMAX", "'SOFTMAX' matches no operator"),
        ("FULLY_CONNECTED->CONV_2D", "runs before what it begins with"),
        ("(", "is no regular expression"),
    ],
)
def test_patterns_that_cannot_be_meant(
    pattern: str, sentence: str, make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    path = save_keras(make_network())
    with pytest.raises(UsageError, match=sentence):
        convert(path, tmp_path / "m.tflite", ConvertOptions(keep_float=(pattern,)), calibration=dataset)
    assert not (tmp_path / "m.tflite").exists()


def test_statistics_that_lag_are_re_estimated(
    lagging: Any, save_keras: Save, dataset: Dataset, others: Dataset, tmp_path: Path
) -> None:
    path = save_keras(lagging)
    lags = convert(path, tmp_path / "lags.tflite", calibration=dataset)
    (finding,) = (finding for finding in lags.findings if finding.code == "batch-norm-lags")
    assert finding.severity == "warning" and "repair_batch_norm" in str(finding)
    options = ConvertOptions(repair_batch_norm=True)
    repaired = convert(path, tmp_path / "repaired.tflite", options, calibration=dataset)
    (finding,) = (finding for finding in repaired.findings if finding.code == "batch-norm-repaired")
    assert "mean IoU of the float network on 14 labelled images:" in finding.message and "after" in finding.message
    variance = lagging.get_layer("stem_bn").moving_variance.numpy()
    assert np.all(variance == 50)  # the user's file is left alone
    frame = others[0].load()
    assert Localizer(tmp_path / "lags.tflite")(frame).box != Localizer(tmp_path / "repaired.tflite")(frame).box


def test_statistics_that_are_up_to_date_are_left(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    from edgeloc.converters.batch_norm import reestimate_batch_norm

    network = make_network()
    images = np.stack([sample.load()[:32, :32] for sample in dataset]).astype(np.float32) / 127.5 - 1
    reestimate_batch_norm(network, [images] * 90)
    options = ConvertOptions(repair_batch_norm=True)
    made = convert(save_keras(network), tmp_path / "m.tflite", options, calibration=dataset)
    assert "batch-norm-lags" not in {finding.code for finding in made.findings}


def test_the_gate_writes_its_figures_and_lets_pass(
    make_network: Network, save_keras: Save, dataset: Dataset, others: Dataset, tmp_path: Path
) -> None:
    first = others[0]
    more = dataclasses.replace(first, objects=(*first.objects, LabelledBox(Box(1, 1, 3, 3), "nut")))
    others = dataclasses.replace(others, samples=(more, *others.samples[1:]))
    options = ConvertOptions(limits=GateLimits(max_iou_drop=0.5))
    made = convert(
        save_keras(make_network()),
        tmp_path / "m.tflite",
        options,
        calibration=dataset,
        validation=others,
    )
    contract = read_model(tmp_path / "m.tflite").contract
    assert contract is not None
    assert contract.measured["quantization"]["passed"] is True
    assert made.gate is not None and made.gate.passed
    assert [finding.code for finding in made.findings].count("data-several-objects") == 1
    assert made.to_dict()["gate"] == contract.measured["quantization"]


def test_a_presence_that_is_stuck_is_found_where_the_gate_moves_the_threshold(
    make_network: Network,
    save_keras: Save,
    dataset: Dataset,
    others: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = make_network()
    network.get_layer("presence").bias.assign([1.0])
    options = ConvertOptions(limits=GateLimits(max_iou_drop=0.9, min_box_iou=0.0))
    moved = Thresholds(presence=0.6)
    monkeypatch.setattr(
        GateReport, "written_into", lambda self, contract: dataclasses.replace(contract, thresholds=moved)
    )
    made = convert(save_keras(network), tmp_path / "m.tflite", options, calibration=dataset, validation=others)
    assert "presence-saturated" in {finding.code for finding in made.findings}


def test_validation_images_in_calibration_are_refused(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="16 of the 16 calibration images are also in the validation data"):
        convert(save_keras(make_network()), tmp_path / "m.tflite", calibration=dataset, validation=dataset)


def test_auto_keeps_a_recipe_and_shows_its_table(
    make_network: Network, save_keras: Save, dataset: Dataset, others: Dataset, tmp_path: Path
) -> None:
    options = ConvertOptions(recipe="auto", limits=GateLimits(max_iou_drop=0.2))
    made = convert(
        save_keras(make_network()),
        tmp_path / "m.tflite",
        options,
        calibration=dataset,
        validation=others,
    )
    kept = [trial.recipe.name for trial in made.trials if trial.passed]
    contract = read_model(made.path).contract
    assert contract is not None
    assert [contract.recipe] == kept


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (ConvertOptions(recipe="auto"), "the recipe auto needs labelled images to choose by: give validation"),
        (ConvertOptions(limits=GateLimits()), "limits of the gate are for labelled images: give validation"),
        (ConvertOptions(max_images=5), "limits of the gate are for labelled images: give validation"),
    ],
)
def test_what_needs_labelled_images_asks_for_them(
    options: ConvertOptions, sentence: str, make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=sentence):
        convert(save_keras(make_network()), tmp_path / "m.tflite", options, calibration=dataset)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"target": "hailo"}, "target is 'hailo': it must be one of tflite, edgetpu, tensorrt"),
        ({"target": "edgetpu", "recipe": "float16"}, "the target edgetpu computes in int8, .*: leave recipe out"),
        ({"target": "tensorrt", "keep_float": ("ADD",)}, "leave keep_float out"),
        ({"min_mapped": 0.5}, "only the target edgetpu maps operators: leave min_mapped out"),
        ({"min_mapped": 7.0, "target": "edgetpu"}, "min_mapped is 7: it must be 0 to 1"),
        ({"calibration_images": 0}, "calibration_images is 0: it must be at least 1"),
    ],
)
def test_options_that_contradict_each_other(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ConvertOptions(**values)


@pytest.fixture
def folder_of_images(dataset: Dataset, tmp_path: Path) -> Path:
    import cv2

    folder = tmp_path / "images"
    folder.mkdir()
    for sample in dataset:
        cv2.imwrite(str(folder / f"{sample.name}.png"), sample.load())
    return folder


def test_the_edge_tpu_by_command(
    make_network: Network,
    save_keras: Save,
    folder_of_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(build_fake_compiler(tmp_path).parent), prepend=":")
    path, out = save_keras(make_network()), tmp_path / "m.tflite"
    status = main(
        ["convert", str(path), "--calibration", str(folder_of_images), "--target", "edgetpu", "--out", str(out)]
    )
    assert status == 0, capsys.readouterr().err
    compiled = read_model(tmp_path / "m_edgetpu.tflite")
    assert compiled.contract is not None
    assert "edgetpu_compiler" in compiled.contract.tools
    assert inspect_model(out).is_full_integer


def test_without_its_compiler_the_int8_file_stays(
    make_network: Network,
    save_keras: Save,
    folder_of_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path, out = save_keras(make_network()), tmp_path / "m.tflite"
    flags = ["--calibration", str(folder_of_images), "--target", "edgetpu", "--out", str(out)]
    assert main(["convert", str(path), *flags]) == 2
    assert "edgetpu_compiler" in capsys.readouterr().err
    assert inspect_model(out).is_full_integer
    assert not (tmp_path / "m_edgetpu.tflite").exists()


def test_a_float_model_is_a_source_too(
    make_network: Network, save_keras: Save, dataset: Dataset, tmp_path: Path
) -> None:
    convert(save_keras(make_network()), tmp_path / "f.tflite", ConvertOptions(recipe="float32"))
    direct = convert(save_keras(make_network()), tmp_path / "a.tflite", calibration=dataset).path
    again = convert(tmp_path / "f.tflite", tmp_path / "b.tflite", calibration=dataset).path
    frame = dataset[0].load()
    assert Localizer(direct)(frame).box == Localizer(again)(frame).box
    with pytest.raises(ModelError, match="int8"):
        convert(direct, tmp_path / "c.tflite", calibration=dataset)


def test_a_gate_that_fails_leaves_pictures_and_no_model(
    make_network: Network,
    save_keras: Save,
    make_sample: Callable[..., Any],
    others: Dataset,
    tmp_path: Path,
) -> None:
    network = make_network()
    head = network.get_layer("box")
    head.kernel.assign(head.kernel * 200)  # so that the box follows the image
    empty = tuple(make_sample(index, empty=True) for index in range(16))
    dark = Dataset("dark", "dark", others.labels, empty, (), (), None)
    options = ConvertOptions(limits=GateLimits(max_iou_drop=0.0))
    with pytest.raises(GateFailed, match="the gate failed"):
        convert(save_keras(network), tmp_path / "m.tflite", options, calibration=dark, validation=others)
    assert not (tmp_path / "m.tflite").exists()
    assert list((tmp_path / "m-worst").glob("*.jpg"))


def test_the_gate_holds_a_model_for_tensorrt_too(
    make_network: Network, save_keras: Save, dataset: Dataset, others: Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed: pip install 'edgeloc[tensorrt]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgeloc[tensorrt]'")
    out, path = tmp_path / "m.onnx", save_keras(make_network())
    options = ConvertOptions(target="tensorrt", limits=GateLimits(max_iou_drop=0.5))
    convert(path, out, options, calibration=dataset, validation=others)
    contract = read_model(out).contract
    assert contract is not None
    assert contract.measured["quantization"]["passed"] is True


def test_a_model_for_tensorrt_whose_boxes_move_is_reported_without_labels(
    make_network: Network,
    save_keras: Save,
    make_sample: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed: pip install 'edgeloc[tensorrt]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'edgeloc[tensorrt]'")
    from edgeloc.converters.targets import tensorrt as tensorrt

    measure = tensorrt.check_onnx
    monkeypatch.setattr(tensorrt, "check_onnx", lambda *args: dataclasses.replace(measure(*args), boxes=9, iou=0.62))
    samples = tuple(make_sample(index, labelled=False, empty=True) for index in range(8))
    images = Dataset("images", "images", (), samples)
    made = convert(
        save_keras(make_network()), tmp_path / "m.onnx", ConvertOptions(target="tensorrt"), calibration=images
    )
    assert "quantized-boxes-move" in {finding.code for finding in made.findings}
    assert made.to_dict()["onnx_to_float"]["iou"] == 0.62
