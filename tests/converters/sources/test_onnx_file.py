"""Trained networks as ONNX files to a float flatbuffer: the same boxes, channels last, and refusals in a sentence."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.checks import check_parity, run_flatbuffer
from edgeloc.converters.sources import onnx as onnx_source
from edgeloc.converters.sources import open_source
from edgeloc.converters.sources.onnx import OnnxSource
from edgeloc.data import Dataset
from edgeloc.errors import MissingExtra, ModelError, UsageError
from edgeloc.model.contract import Contract, InputSpec, Layout, OutputSpec
from edgeloc.model.detector import DetectorSpec
from edgeloc.model.flatbuffer import parse_flatbuffer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("onnx2tf")]


@pytest.mark.parametrize("name", ["box", "vector"])
def test_a_file_finds_the_same_boxes_after_conversion(
    name: str,
    trained: dict[str, Any],
    onnx_files: dict[str, Path],
    validation: Dataset,
    images: Any,
    edges_apart: Callable[..., Any],
) -> None:
    book, before = trained[name], onnx_files[name].read_bytes()
    source = open_source(str(onnx_files[name]))
    flatbuffer = source.to_tflite(book.spec)
    assert onnx_files[name].read_bytes() == before
    apart = edges_apart(source, flatbuffer, book.contract, validation)
    assert len(apart) >= 30
    assert np.mean(apart <= 1) >= 0.95
    check_parity(source, flatbuffer, book.spec, images)
    assert source.tools.keys() == {"onnxruntime", "onnx2tf", "onnxsim", "tensorflow"}


def test_the_converted_input_has_its_channels_last_and_no_transpose(
    trained: dict[str, Any], onnx_files: dict[str, Path]
) -> None:
    book = trained["box"]
    model = parse_flatbuffer(open_source(str(onnx_files["box"])).to_tflite(book.spec), "model")
    assert model.signature is not None
    assert list(model.signature.inputs) == ["image"]
    assert list(model.signature.outputs) == ["output_0"]
    graph = model.graphs[0]
    assert graph.tensors[graph.inputs[0]].shape == (1, 96, 96, 3)
    assert not {"TRANSPOSE", "PADV2"} & {operator.name for operator in graph.operators}


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"model\.onnx is no ONNX file that can be run"):
        open_source(str(tmp_path / "model.onnx"))


def test_a_file_takes_no_other_weights(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="holds its own weights: leave weights out"):
        open_source(str(tmp_path / "model.onnx"), weights="model.pt")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A graph whose weights lie in a file of another name than PyTorch's."""
    onnx = pytest.importorskip("onnx")
    helper, kind, path = onnx.helper, onnx.TensorProto.FLOAT, tmp_path / "model.onnx"
    weights = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weights")
    ports = [helper.make_tensor_value_info("x", kind, [1, 3, 8, 8])], [helper.make_tensor_value_info("y", kind, None)]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "weights"], ["y"])], "graph", *ports, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    return path


def test_weights_in_a_file_of_any_name_are_part_of_the_model(outside: Path) -> None:
    before = open_source(str(outside)).digest
    data = outside.with_name("model.onnx_data")
    data.write_bytes(data.read_bytes()[::-1])
    assert open_source(str(outside)).digest != before


def test_weights_in_a_file_of_any_name_are_converted_without_a_network(
    outside: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # onnx2tf would download images to try the graph on.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    source, spec = open_source(str(outside)), InputSpec("image", 8, 8)
    pictures = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    check_parity(source, source.to_tflite(spec), spec, pictures)
    assert sorted(path.name for path in outside.parent.iterdir()) == ["elsewhere", "model.onnx", "model.onnx_data"]
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("package", ["onnxruntime", "onnx2tf", "onnxsim"])
def test_a_missing_package_names_the_extra(package: str, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingExtra, match=rf"needs the package {package}: pip install 'edgeloc\[onnx\]'"):
        open_source(str(outside))


@pytest.fixture
def write_graph(tmp_path: Path) -> Callable[..., OnnxSource]:
    """An open source of nodes behind a strided convolution: image `x` (1, 3, 24, 32), features `f` (1, 6, 12, 16)."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    conv = helper.make_node("Conv", ["x", "w"], ["f"], strides=[2, 2], pads=[1, 1, 1, 1])

    def write(nodes: list[Any], outputs: list[str], **constants: Any) -> OnnxSource:
        weights = np.random.default_rng(3).normal(0, 0.5, (6, 3, 3, 3)).astype(np.float32)
        tensors = [onnx.numpy_helper.from_array(np.array(v), name) for name, v in {"w": weights, **constants}.items()]
        ports = [helper.make_tensor_value_info("x", kind, [1, 3, 24, 32])]
        results = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        graph = helper.make_graph(
            [conv, *(helper.make_node(*node[:3], **node[3]) for node in nodes)], "graph", ports, results, tensors
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, tmp_path / "graph.onnx")
        return OnnxSource.open(str(tmp_path / "graph.onnx"))

    return write


GRAPH = InputSpec("image", 32, 24)


@pytest.fixture(scope="session")
def noise() -> Any:
    return np.random.default_rng(5).random((3, 24, 32, 3), np.float32)


def test_a_detectors_outputs_keep_their_names_order_and_joined_locations(
    write_graph: Callable[..., OnnxSource], noise: Any
) -> None:
    source = write_graph(
        [
            ("Reshape", ["f", "flat"], ["by channel"], {}),
            ("Transpose", ["by channel"], ["by location"], {"perm": [0, 2, 1]}),
            ("Sigmoid", ["f"], ["map/1"], {}),
        ],
        ["map/1", "by location", "f", "by channel"],
        flat=[1, 6, -1],
    )
    flatbuffer = source.to_tflite(GRAPH)
    answer = run_flatbuffer(flatbuffer, "graph", GRAPH, noise)
    assert {name: values.shape[1:] for name, values in answer.items()} == {
        "map/1": (12, 16, 6),
        "by location": (192, 6),
        "f": (12, 16, 6),
        "by channel": (6, 192),
    }
    check_parity(source, flatbuffer, GRAPH, noise)


def test_the_contract_of_the_graph_becomes_the_one_of_the_flatbuffer(
    write_graph: Callable[..., OnnxSource], noise: Any
) -> None:
    nodes = [
        ("Transpose", ["f"], ["last"], {"perm": [0, 2, 3, 1]}),
        ("Reshape", ["f", "flat"], ["joined"], {}),
    ]
    source = write_graph(nodes, ["f", "last", "joined"], flat=[1, 6, -1])
    layouts: dict[str, Layout] = {"f": "channels-first", "last": "channels-last", "joined": "channels-first"}
    contract = Contract(
        dataclasses.replace(GRAPH, layout="channels-first"),
        tuple(
            OutputSpec(name, "detections", parts=("box", "score", "unused:1"), layout=layouts[name]) for name in layouts
        ),
        detector=DetectorSpec(),
    )
    adopted = source.adopt(contract)
    assert adopted.input.layout == "channels-last"
    assert {output.tensor: output.layout for output in adopted.outputs} == {
        "f": "channels-last",
        "last": "channels-last",  # as it was, and not turned a second time
        "joined": "channels-first",
    }
    flatbuffer = source.to_tflite(adopted.input)
    answer = run_flatbuffer(flatbuffer, "graph", GRAPH, noise)
    assert {name: values.shape[1:] for name, values in answer.items()} == {
        "f": (12, 16, 6),
        "last": (12, 16, 6),
        "joined": (6, 192),
    }
    assert np.array_equal(answer["f"], answer["last"])
    check_parity(source, flatbuffer, GRAPH, noise)


def test_a_dozen_outputs_of_one_shape_keep_their_order(write_graph: Callable[..., OnnxSource], noise: Any) -> None:
    names = [f"level {index}" for index in range(12)]
    nodes = [("Add", ["f", f"c{index}"], [name], {}) for index, name in enumerate(names)]
    source = write_graph(nodes, names, **{f"c{index}": np.float32(index) for index in range(12)})
    flatbuffer = source.to_tflite(GRAPH)
    signature = parse_flatbuffer(flatbuffer, "graph").signature
    assert signature is not None and list(signature.outputs) == names
    check_parity(source, flatbuffer, GRAPH, noise)


def test_an_operator_that_cannot_be_translated_is_named(write_graph: Callable[..., OnnxSource]) -> None:
    source = write_graph([("LpPool", ["f"], ["y"], {"kernel_shape": [2, 2]})], ["y"])
    with pytest.raises(ModelError, match=r"graph\.onnx cannot be converted: onnx2tf has no operator LpPool$"):
        source.to_tflite(GRAPH)


def test_attention_is_translated(write_graph: Callable[..., OnnxSource], noise: Any) -> None:
    # PyTorch's older exporter writes the number as a node, which onnx2tf alone cannot multiply by.
    scale = pytest.importorskip("onnx").numpy_helper.from_array(np.array(0.125, np.float32))
    nodes = [
        ("Reshape", ["f", "heads"], ["values"], {}),
        ("Transpose", ["values"], ["queries"], {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["queries", "values"], ["products"], {}),
        ("Constant", [], ["scale"], {"value": scale}),
        ("Mul", ["products", "scale"], ["scaled"], {}),
        ("Softmax", ["scaled"], ["attention"], {"axis": -1}),
        ("MatMul", ["values", "attention"], ["sums"], {}),
        ("Reshape", ["sums", "map"], ["/y"], {}),
    ]
    source = write_graph(nodes, ["/y"], heads=[1, 2, 3, 192], map=[1, 6, 12, 16])
    check_parity(source, source.to_tflite(GRAPH), GRAPH, noise)


def test_a_head_that_selects_its_objects_itself_is_refused(write_graph: Callable[..., OnnxSource]) -> None:
    nodes = [
        ("Reshape", ["f", "flat"], ["values"], {}),
        ("TopK", ["values", "k"], ["best", "places"], {}),
        ("Tile", ["places", "three"], ["tiled"], {}),
        ("GatherElements", ["values", "tiled"], ["y"], {"axis": 1}),
    ]
    with pytest.raises(ModelError, match=r"\(TopK\), which onnx2tf cannot translate: export it with its raw outputs$"):
        write_graph(nodes, ["y"], flat=[1, 6, 192], k=[5], three=[1, 1, 3]).to_tflite(GRAPH)


def test_a_translation_without_end_is_stopped(
    write_graph: Callable[..., OnnxSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_source, "_TIMEOUT_S", 0.1)
    with pytest.raises(ModelError, match=r"graph\.onnx cannot be converted: the translation did not end within 0\.1 s"):
        write_graph([("Relu", ["f"], ["y"], {})], ["y"]).to_tflite(GRAPH)


def test_a_contract_of_another_size_is_refused(onnx_files: dict[str, Path]) -> None:
    with pytest.raises(
        ModelError, match=r"box\.onnx takes \(\?, 3, 96, 96\), the contract's image is \(1, 64, 80, 3\)"
    ):
        open_source(str(onnx_files["box"])).to_tflite(InputSpec("image", 80, 64))


def test_maps_leave_with_their_channels_last_and_open_sizes_become_the_contracts(
    tmp_path: Path, images: Any, export_onnx: Callable[..., None]
) -> None:
    import torch

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 5, 3, 2, 1)

        def forward(self, image: Any) -> Any:
            features = self.layer(image)
            return features, features.mean((2, 3))

    path, names = tmp_path / "maps.onnx", ["map/out", "mean:0"]
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    image = torch.zeros(2, 3, 64, 80)
    export_onnx(Maps(), image, path, input_names=["the image"], output_names=names, dynamic_shapes=(sizes,))
    source, spec = open_source(str(path)), InputSpec("image", 80, 64)
    flatbuffer = source.to_tflite(spec)
    pictures = np.ascontiguousarray(images[:4, :64, :80])
    answer = run_flatbuffer(flatbuffer, "maps", spec, pictures)
    assert {name: values.shape for name, values in answer.items()} == {"map/out": (4, 32, 40, 5), "mean:0": (4, 5)}
    check_parity(source, flatbuffer, spec, pictures)


def test_a_file_that_takes_its_channels_last_keeps_them_there(
    tmp_path: Path, images: Any, export_onnx: Callable[..., None]
) -> None:
    import torch

    class ChannelsLast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 5, 3, 2, 1)

        def forward(self, image: Any) -> Any:
            return self.layer(image.permute(0, 3, 1, 2)).mean((2, 3))

    path = tmp_path / "last.onnx"
    export_onnx(ChannelsLast(), torch.zeros(1, 64, 80, 3), path)
    source, spec = open_source(str(path)), InputSpec("image", 80, 64)
    pictures = np.ascontiguousarray(images[:4, :64, :80])
    check_parity(source, source.to_tflite(spec), spec, pictures)
