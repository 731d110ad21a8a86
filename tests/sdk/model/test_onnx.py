"""What inspect reports of an ONNX model, read without the package onnx, which only builds the models here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc import cli
from edgeloc.engines.onnxruntime import OnnxRuntimeEngine
from edgeloc.errors import ModelError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model
from edgeloc.model.inspection import inspect_model

onnx = pytest.importorskip("onnx")
helper, TensorProto, from_array = onnx.helper, onnx.TensorProto, onnx.numpy_helper.from_array

CONTRACT = Contract(InputSpec("image", 8, 8), (OutputSpec("presence", "presence"),))


def make(weights: np.ndarray, *, pairs: bool = False, integer_weights: bool = False) -> bytes:
    """A 3x3 convolution of an 8x8 image and a mean: in float, in Q/DQ pairs, or with dequantized weights."""
    stored, nodes = {"w": weights}, []
    read, kernel = "image", "w"
    if pairs or integer_weights:
        stored["w"] = np.ones_like(weights, np.int8)
        stored |= {"ws": np.full(4, 0.01, np.float32), "wz": np.zeros(4, np.int8)}
        nodes.append(helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0))
        kernel = "wf"
    if pairs:
        stored |= {"s": np.float32(0.02), "z": np.int8(0)}
        nodes.append(helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"]))
        read = "f"
    nodes.append(helper.make_node("Conv", [read, kernel], ["features"], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("ReduceMean", ["features"], ["presence"], axes=[1, 2, 3], keepdims=0))
    info = helper.make_tensor_value_info
    kind = helper.np_dtype_to_tensor_dtype(weights.dtype)
    graph = helper.make_graph(
        nodes,
        "g",
        [info("image", kind, ["batch", 3, 8, 8])],
        [info("presence", kind, ["batch"])],
        [from_array(np.asarray(values), name) for name, values in stored.items()],
        value_info=[info("features", kind, [1, 4, 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


WEIGHTS = np.ones((4, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("weights", "options", "precision"),
    [
        (WEIGHTS, {}, "float32"),
        (WEIGHTS.astype(np.float16), {}, "float16 weights"),
        (WEIGHTS, {"integer_weights": True}, "int8 weights, float arithmetic"),
        (WEIGHTS, {"pairs": True}, "int8 in Q/DQ pairs"),
    ],
)
def test_the_precision_is_read_out_of_the_graph(
    weights: np.ndarray, options: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(make(weights, **options))
    report = inspect_model(path)
    assert report.precision == precision
    assert (report.format, report.operators["Conv"], report.macs, report.parameters) == ("onnx", 1, 8 * 8 * 4 * 27, 108)
    (port,) = report.inputs
    assert (port.tensor, port.shape, port.dtype) == ("image", (-1, 3, 8, 8), str(weights.dtype))


def test_scales_stand_at_the_tensors_that_they_belong_to(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(make(WEIGHTS, pairs=True))
    (weights,) = inspect_model(path).weights
    assert (weights.dtype, weights.tensors, weights.per_channel, weights.per_tensor) == ("int8", 1, 1, 0)


def test_a_graph_that_is_cut_is_refused(tmp_path: Path) -> None:
    data = make(WEIGHTS)
    graph = helper.make_model(onnx.load_from_string(data).graph).graph.SerializeToString()
    broken = b"\x08\x08" + b"\x3a" + bytes([40]) + graph[:40] + data[-4:]
    path = tmp_path / "m.onnx"
    path.write_bytes(broken)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        inspect_model(path)


def no_weights(model: Any) -> None:
    del model.graph.node[0].input[1:]


def no_output(model: Any) -> None:
    del model.graph.node[0].output[:]


def weights_elsewhere(model: Any) -> None:
    model.graph.initializer[0].data_location = 1
    model.graph.initializer[0].ClearField("raw_data")
    for key, value in (("location", "w.bin"), ("length", "432")):
        entry = model.graph.initializer[0].external_data.add()
        entry.key, entry.value = key, value


def endless_fields(model: Any) -> None:
    model.graph.initializer[0].dims.extend([0] * 210_000)


def endless_shape(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [2**62] * 500


@pytest.mark.parametrize("damage", [no_weights, no_output, weights_elsewhere, endless_fields, endless_shape])
def test_a_graph_that_says_nonsense_is_refused(damage: Callable[[Any], None], tmp_path: Path) -> None:
    model = onnx.load_from_string(make(WEIGHTS))
    damage(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx"):
        inspect_model(path)


def test_the_command_reports_an_onnx_model_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    write_model(path, make(WEIGHTS), CONTRACT)
    assert cli.main(["inspect", str(path), "--json", "--no-self-test"]) == 2  # three colours first are no image here
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["precision"]) == ("onnx", "float32")
    assert report["contract"]["outputs"][0]["role"] == "presence"
    assert report["self_test"]["status"] == "not present"
    assert [finding["code"] for finding in report["findings"]] == ["contract-misfit"]


def test_open_shapes_are_those_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    path.write_bytes(make(WEIGHTS))
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, str(path))
    assert inspect_model(path).outputs[0].shape == (-1,)
    assert cli.main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"][0]["shape"] == [1]


def test_a_strangers_file_sends_nothing_to_the_terminal_and_no_nan_into_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    write_model(path, make(WEIGHTS), CONTRACT, calibration={"\x1b[31mred": "\x1b]0;title\x07", "count": float("nan")})
    cli.main(["inspect", str(path), "--no-self-test"])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and r"\x1b[31mred" in shown.out
    cli.main(["inspect", str(path), "--no-self-test", "--json"])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["calibration"]["count"] is None


def test_no_weights_are_read_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    model = onnx.load_from_string(make(WEIGHTS))
    weights_elsewhere(model)
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="refuses the model"):
        OnnxRuntimeEngine(model.SerializeToString())
