"""Layer by layer: the pairs, the figures against plain arithmetic, and that a spoiled layer is the one to blame."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc import Contract, InputSpec, OutputSpec
from edgeloc.cli import main
from edgeloc.errors import ContractError, DataError, MissingExtra, ModelError
from edgeloc.evaluation.layers.comparison import EXACT_DB, ErrorSums, LayerReport, compare_layers
from edgeloc.model.file import read_model, write_model

OUTPUTS = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
CONTRACT = Contract(InputSpec("image", 32, 32), OUTPUTS)
RNG = np.random.default_rng(5)
IMAGES = [RNG.integers(0, 256, (40, 48, 3)).astype(np.uint8) for _ in range(4)]


def compare(folder: Path, quantized: str | Path, float_model: str | Path = "float32") -> LayerReport:
    paths = [given if isinstance(given, Path) else folder / f"{given}.tflite" for given in (float_model, quantized)]
    files = [read_model(path) for path in paths]
    return compare_layers(files[0], files[1], IMAGES, CONTRACT)


def edited(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a model after a change to its unpacked form."""
    from edgeloc.model.flatbuffer import pack, unpack

    model = unpack(source.read_bytes())
    change(model)
    target.write_bytes(pack(model))
    return target


def writer(model: Any, kind: str) -> Any:
    from edgeloc.model.flatbuffer import operator_name

    return next(op for op in model.subgraphs[0].operators if operator_name(model, op) == kind)


def spoil_weights(kind: str, seed: int = 0) -> Callable[[Any], None]:
    """Shuffle the weights of the first operator of this kind."""

    def change(model: Any) -> None:
        from edgeloc.model.flatbuffer import constant, set_constant

        index = writer(model, kind).inputs[1]
        values = constant(model, index)
        assert values is not None
        set_constant(model, index, np.random.default_rng(seed).permutation(values.ravel()).reshape(values.shape))

    return change


@pytest.mark.parametrize("name", ["int8", "int8-float-io", "dynamic", "float16", "int16"])
def test_every_operator_has_its_counterpart(tiny_models: Path, name: str) -> None:
    report = compare(tiny_models, name)
    assert report.float_alone == report.quantized_alone == ()
    assert {layer.output for layer in report.outputs} == {"presence", "box"}
    assert all(layer.snr_db > 15 and layer.cosine > 0.97 for layer in report.layers)
    assert [layer.position for layer in report.layers] == sorted(layer.position for layer in report.layers)


def test_finer_numbers_have_less_error(tiny_models: Path) -> None:
    worst = {name: compare(tiny_models, name).blame[0].own_snr_db for name in ("int8", "int16", "float16")}
    assert worst["int8"] is not None
    assert worst["int16"] is not None
    assert worst["int16"] > worst["int8"] + 3
    assert worst["float16"] is None or worst["float16"] > worst["int16"]


def test_sound_int8_layers_add_little_but_rounding(tiny_models: Path) -> None:
    report = compare(tiny_models, "int8")
    convolutions = [layer for layer in report.layers if "CONV" in layer.operator]
    assert all(layer.own_steps is not None and 0.15 < layer.own_steps < 1.5 for layer in convolutions)
    assert all(layer.weight_snr_db is not None and layer.weight_snr_db > 30 for layer in convolutions)
    assert all(layer.range_used is not None and layer.range_used > 0.5 for layer in convolutions)


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_the_spoiled_layer_is_blamed_and_not_those_behind_it(tiny_models: Path, tmp_path: Path, kind: str) -> None:
    spoiled = edited(tiny_models / "int8.tflite", tmp_path / "spoiled.tflite", spoil_weights(kind))
    sound, report = compare(tiny_models, "int8"), compare(tiny_models, spoiled)
    culprit = report.blame[0]
    assert (culprit.operator, culprit.cause) == (kind, "weights")
    assert culprit.own_snr_db is not None
    assert culprit.own_snr_db < 15
    assert culprit.weight_snr_db is not None
    assert culprit.weight_snr_db < 6
    for before, after in zip(sound.layers, report.layers, strict=True):
        if after.position > culprit.position:
            assert after.snr_db < before.snr_db - 3
        if after.position > culprit.position and "CONV" in after.operator:
            assert after.own_steps is not None
            assert after.own_steps < 1.5


def test_a_range_too_narrow_shows_as_clipping(tiny_models: Path, tmp_path: Path) -> None:
    def narrow(model: Any) -> None:
        tensor = model.subgraphs[0].tensors[writer(model, "DEPTHWISE_CONV_2D").outputs[0]]
        tensor.quantization.scale = tensor.quantization.scale / np.float32(8)

    report = compare(tiny_models, edited(tiny_models / "int8.tflite", tmp_path / "narrow.tflite", narrow))
    assert (report.blame[0].operator, report.blame[0].cause) == ("DEPTHWISE_CONV_2D", "clipping")
    assert report.blame[0].clipped > 0.01


def test_tensors_without_their_names_pair_by_order(tiny_models: Path, tmp_path: Path) -> None:
    def rename(model: Any) -> None:
        for number, tensor in enumerate(model.subgraphs[0].tensors):
            tensor.name = f"t{number}".encode()

    report = compare(tiny_models, edited(tiny_models / "int8.tflite", tmp_path / "renamed.tflite", rename))
    named = compare(tiny_models, "int8")
    assert {layer.paired_by for layer in report.layers} == {"order"}
    assert [layer.snr_db for layer in report.layers] == [layer.snr_db for layer in named.layers]


def test_an_operator_that_only_one_model_has_is_reported_and_blames_nobody(tiny_models: Path) -> None:
    report = compare(tiny_models, "island")
    assert [name.split(" ")[0] for name in report.quantized_alone] == ["SIN"]
    behind = next(layer for layer in report.layers if layer.operator == "DEPTHWISE_CONV_2D")
    assert behind.own_snr_db is None
    assert behind not in report.blame
    assert behind.snr_db < 20


def test_the_figures_are_those_of_plain_arithmetic() -> None:
    rng = np.random.default_rng(0)
    x, alone = rng.normal(size=(2, 3, 50)), rng.normal(size=(2, 3, 50))
    q = x + rng.normal(0, 0.1, x.shape)
    sums = ErrorSums((-1.0, 1.0), 0.02)
    for i in range(2):
        sums.add(x[i], q[i], alone[i])
    names = ["operator", "tensor", "quantized_tensor", "dtype", "paired_by", "output"]
    layer = sums.layer(position=0, shape=(3, 50), weight_snr_db=None, **dict.fromkeys(names, ""))
    assert layer.snr_db == pytest.approx(10 * np.log10((x**2).sum() / ((x - q) ** 2).sum()))
    assert layer.cosine == pytest.approx((x * q).sum() / np.sqrt((x**2).sum() * (q**2).sum()))
    assert layer.max_abs_error == pytest.approx(np.abs(x - q).max())
    assert layer.own_rmse == pytest.approx(np.sqrt(((alone - q) ** 2).mean()))
    assert layer.own_steps == pytest.approx(np.sqrt(((alone - q) ** 2).mean()) / 0.02)
    assert layer.float_range == (x.min(), x.max())
    assert layer.clipped == pytest.approx((np.abs(x) > 1.01).mean())


def test_equal_tensors_are_exact_and_a_lost_signal_is_not() -> None:
    equal, lost = ErrorSums(), ErrorSums()
    equal.add(np.zeros(4), np.zeros(4))
    lost.add(np.zeros(4), np.ones(4))
    assert (equal.snr_db, lost.snr_db) == (EXACT_DB, -EXACT_DB)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("int8", "float32", "is the float model .* give the float one first"),
        ("float32", "float32", "the second must be a quantized model"),
        ("int8", "dynamic", "the first must be the float32 model"),
    ],
)
def test_models_in_the_wrong_order_are_refused(tiny_models: Path, first: str, second: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        compare(tiny_models, second, first)


def test_the_same_operators_with_other_weights_are_refused(tiny_models: Path, tmp_path: Path) -> None:
    def retrain(model: Any) -> None:
        from edgeloc.model.flatbuffer import constant, set_constant

        for operator in model.subgraphs[0].operators:
            values = constant(model, operator.inputs[1]) if len(operator.inputs) > 2 else None
            if values is not None:
                set_constant(model, operator.inputs[1], RNG.normal(0, 0.2, values.shape))

    other = edited(tiny_models / "float32.tflite", tmp_path / "other.tflite", retrain)
    with pytest.raises(ModelError, match="the operators are the same but the weights are others"):
        compare(tiny_models, "int8", other)


def test_another_network_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    from edgeloc.model.flatbuffer import pack, unpack

    model = unpack((tiny_models / "float32.tflite").read_bytes())
    graph = model.subgraphs[0]
    # Only the first convolution is left: the rest of the quantized network has nothing to pair with.
    graph.operators, graph.outputs, model.signatureDefs = graph.operators[:1], graph.operators[0].outputs, []
    (tmp_path / "short.tflite").write_bytes(pack(model))
    with pytest.raises(ModelError, match="operators have no counterpart"):
        compare(tiny_models, "int8", tmp_path / "short.tflite")


def test_no_image_and_another_input_are_refused(tiny_models: Path) -> None:
    files = [read_model(tiny_models / f"{name}.tflite") for name in ("float32", "int8")]
    with pytest.raises(DataError, match="at least one image"):
        compare_layers(files[0], files[1], [], CONTRACT)
    wide = Contract(InputSpec("image", 64, 32), OUTPUTS)
    with pytest.raises(ContractError, match="the contract makes an input of 32x64x3"):
        compare_layers(files[0], files[1], IMAGES, wide)


@pytest.fixture
def pair(tiny_models: Path, tmp_path: Path) -> list[str]:
    """The float and the int8 model as files with a contract."""
    paths = []
    for name in ("float32", "int8"):
        write_model(tmp_path / f"{name}.tflite", (tiny_models / f"{name}.tflite").read_bytes(), CONTRACT)
        paths.append(str(tmp_path / f"{name}.tflite"))
    return paths


DATA = ["--validation", "synthetic?count=6&size=48x48"]


def test_the_command_prints_the_worst_and_all(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--compare", *pair, *DATA, "--max-images", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("quantized") and line.endswith("3 images") for line in lines)
    assert sum(line.startswith("output") for line in lines) == 2
    start = next(i for i, line in enumerate(lines) if "worst first" in line) + 2
    alone = [float(line.split()[1]) for line in lines[start : lines.index("", start)]]
    assert alone == sorted(alone)
    assert "all layers in order of execution" in lines


def test_the_command_gives_json_and_a_plot(pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "layers.png"
    assert main(["inspect", "--compare", *pair, *DATA, "--json", "--plot", str(plot)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 6
    assert report["blame"][0] in {layer["tensor"] for layer in report["layers"]}
    assert {"snr_db", "cosine", "own_snr_db", "cause", "range_used"} <= set(report["layers"][0])
    assert cv2.imread(str(plot)).shape[2] == 3


def test_without_matplotlib_the_extra_is_named(
    pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["inspect", "--compare", *pair, *DATA, "--plot", str(tmp_path / "p.png")]) == MissingExtra.exit_status
    captured = capsys.readouterr()
    assert "pip install 'edgeloc[bench]'" in captured.err
    assert captured.out == ""
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], "give one model to look into, or two with --compare"),
        (["m.tflite", "--compare", "a", "b"], "give one model to look into, or two"),
        (["m.tflite", "--plot", "p.png"], "--plot goes with --compare"),
        (["--compare", "a", "b"], "give some with --validation"),
        (
            ["--compare", "net.keras", "b.tflite", *DATA],
            "net.keras has no tensors by TFLite's names: convert it to a float .tflite",
        ),
        (["--compare", "missing.tflite", "b.tflite", *DATA], "missing.tflite: no such file"),
        (
            ["--compare", "a.tflite", "b.tflite", *DATA, "--plot", "p.gif"],
            "--plot is 'p.gif': it must be a name that ends in .pdf, .png, .svg",
        ),
    ],
)
def test_bad_lines_are_refused_in_one_sentence(line: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *line]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_models_without_a_contract_are_refused_and_one_beside_is_used(
    tiny_models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{name}.tflite" for name in ("float32", "int8")]
    for path in paths:
        path.write_bytes((tiny_models / path.name).read_bytes())
    line = ["inspect", "--compare", *map(str, paths), *DATA, "--max-images", "1"]
    assert main(line) == 2
    assert "write one as int8.json beside it" in capsys.readouterr().err
    (tmp_path / "int8.json").write_text(CONTRACT.to_json())
    assert main(line) == 0


def test_inputs_made_in_two_ways_are_refused(
    pair: list[str], tiny_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Contract(InputSpec("image", 32, 32, mean=(0.0,), std=(255.0,)), OUTPUTS)
    write_model(pair[0], (tiny_models / "float32.tflite").read_bytes(), other)
    assert main(["inspect", "--compare", *pair, *DATA]) == 2
    assert "make their input in different ways" in capsys.readouterr().err
