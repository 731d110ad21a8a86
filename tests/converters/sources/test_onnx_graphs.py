"""Graphs as detectors have them, from ONNX to a float flatbuffer: outputs, layouts, weights outside, refusals."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.checks import check_parity, run_flatbuffer
from edgeloc.converters.sources import onnx as onnx_source
from edgeloc.converters.sources import open_source
from edgeloc.converters.sources.onnx import OnnxSource
from edgeloc.errors import MissingExtra, ModelError
from edgeloc.model.contract import Contract, InputSpec, Layout, OutputSpec
from edgeloc.model.detector import DetectorSpec
from edgeloc.model.flatbuffer import parse_flatbuffer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("onnx2tf")]


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


IMAGE = InputSpec("image", 32, 24)


def write_graph(folder: Path, nodes: list[Any], outputs: list[str], **constants: Any) -> OnnxSource:
    """An open source of nodes behind a strided convolution: image `x` (1, 3, 24, 32), features `f` (1, 6, 12, 16)."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(3).normal(0, 0.5, (6, 3, 3, 3)).astype(np.float32)
    tensors = [onnx.numpy_helper.from_array(np.array(v), name) for name, v in {"w": weights, **constants}.items()]
    ports = [helper.make_tensor_value_info("x", kind, [1, 3, 24, 32])]
    results = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    made = [helper.make_node(*node[:3], **node[3]) for node in nodes]
    conv = helper.make_node("Conv", ["x", "w"], ["f"], strides=[2, 2], pads=[1, 1, 1, 1])
    graph = helper.make_graph([conv, *made], "graph", ports, results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "graph.onnx")
    return OnnxSource.open(str(folder / "graph.onnx"))


@pytest.fixture(scope="session")
def noise() -> Any:
    return np.random.default_rng(5).random((3, 24, 32, 3), np.float32)


LEVELS = tuple(f"level:{index}" for index in range(12))
# How the graph below has its outputs; those with their channels first become channels-last, but for joined locations.
LAYOUTS: dict[str, Layout] = {
    "map/1": "channels-first",
    "by location": "channels-last",
    "last": "channels-last",
    "by channel": "channels-first",
    "/attended": "channels-first",
    **dict.fromkeys(LEVELS, "channels-first"),
}


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory, onnx2tf: None) -> tuple[OnnxSource, Contract, bytes]:
    """A graph with the outputs of LAYOUTS: its source, the contract that this adopted, and the flatbuffer."""
    # PyTorch's older exporter writes a number as a node, which onnx2tf alone cannot multiply by.
    scale = pytest.importorskip("onnx").numpy_helper.from_array(np.array(0.125, np.float32))
    source = write_graph(
        tmp_path_factory.mktemp("detector"),
        [
            ("Sigmoid", ["f"], ["map/1"], {}),
            ("Transpose", ["f"], ["last"], {"perm": [0, 2, 3, 1]}),
            ("Reshape", ["f", "flat"], ["by channel"], {}),
            ("Transpose", ["by channel"], ["by location"], {"perm": [0, 2, 1]}),
            *[("Add", ["f", f"c{index}"], [name], {}) for index, name in enumerate(LEVELS)],
            ("Reshape", ["f", "heads"], ["values"], {}),
            ("Transpose", ["values"], ["queries"], {"perm": [0, 1, 3, 2]}),
            ("MatMul", ["queries", "values"], ["products"], {}),
            ("Constant", [], ["scale"], {"value": scale}),
            ("Mul", ["products", "scale"], ["scaled"], {}),
            ("Softmax", ["scaled"], ["attention"], {"axis": -1}),
            ("MatMul", ["values", "attention"], ["sums"], {}),
            ("Reshape", ["sums", "map"], ["/attended"], {}),
        ],
        list(LAYOUTS),
        flat=[1, 6, -1],
        heads=[1, 2, 3, 192],
        map=[1, 6, 12, 16],
        **{f"c{index}": np.float32(index) for index in range(len(LEVELS))},
    )
    outputs = tuple(OutputSpec(name, "detections", parts=("box",), layout=layout) for name, layout in LAYOUTS.items())
    given = Contract(dataclasses.replace(IMAGE, layout="channels-first"), outputs, detector=DetectorSpec())
    adopted = source.adopt(given)
    return source, adopted, source.to_tflite(adopted.input)


def test_a_detector_answers_as_before(detector: tuple[OnnxSource, Contract, bytes], noise: Any) -> None:
    source, adopted, flatbuffer = detector
    check_parity(source, flatbuffer, adopted.input, noise)


def test_outputs_keep_their_names_and_order(detector: tuple[OnnxSource, Contract, bytes]) -> None:
    signature = parse_flatbuffer(detector[2], "graph").signature
    assert signature is not None
    assert list(signature.outputs) == list(LAYOUTS)


def test_maps_get_their_channels_last_and_joined_locations_stay(
    detector: tuple[OnnxSource, Contract, bytes], noise: Any
) -> None:
    answer = run_flatbuffer(detector[2], "graph", IMAGE, noise)
    shapes = {name: values.shape[1:] for name, values in answer.items()}
    assert shapes.pop("by channel") == (6, 192)
    assert shapes.pop("by location") == (192, 6)
    assert set(shapes.values()) == {(12, 16, 6)}
    # It had its channels last before, and is not turned a second time.
    assert np.array_equal(answer["last"], answer["level:0"])


def test_the_contract_of_the_graph_becomes_the_one_of_the_flatbuffer(
    detector: tuple[OnnxSource, Contract, bytes],
) -> None:
    adopted = detector[1]
    assert adopted.input.layout == "channels-last"
    layouts = {output.tensor: output.layout for output in adopted.outputs}
    assert layouts.pop("by channel") == "channels-first"
    assert set(layouts.values()) == {"channels-last"}


def test_an_operator_that_cannot_be_translated_is_named(tmp_path: Path) -> None:
    source = write_graph(tmp_path, [("LpPool", ["f"], ["y"], {"kernel_shape": [2, 2]})], ["y"])
    with pytest.raises(ModelError, match=r"graph\.onnx cannot be converted: onnx2tf has no operator LpPool$"):
        source.to_tflite(IMAGE)


def test_a_head_that_selects_its_objects_itself_is_refused(tmp_path: Path) -> None:
    nodes = [
        ("Reshape", ["f", "flat"], ["values"], {}),
        ("TopK", ["values", "k"], ["best", "places"], {}),
        ("Tile", ["places", "three"], ["tiled"], {}),
        ("GatherElements", ["values", "tiled"], ["y"], {"axis": 1}),
    ]
    with pytest.raises(ModelError, match=r"\(TopK\), which onnx2tf cannot translate: export it with its raw outputs$"):
        write_graph(tmp_path, nodes, ["y"], flat=[1, 6, 192], k=[5], three=[1, 1, 3]).to_tflite(IMAGE)


def test_a_translation_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_source, "_TIMEOUT_S", 0.1)
    with pytest.raises(ModelError, match=r"graph\.onnx cannot be converted: the translation did not end within 0\.1 s"):
        write_graph(tmp_path, [("Relu", ["f"], ["y"], {})], ["y"]).to_tflite(IMAGE)
