"""Trained networks as ONNX files to a float flatbuffer: the same boxes, channels last, and refusals in a sentence."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.checks import check_parity, run_flatbuffer
from edgeloc.converters.sources import open_source
from edgeloc.data import Dataset
from edgeloc.errors import ModelError, UsageError
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import parse_flatbuffer

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install 'edgeloc[onnx]'")

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("onnx2tf")
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
    assert onnx_files[name].read_bytes() == before  # onnx2tf itself changes the file that it reads
    apart = edges_apart(source, flatbuffer, book.contract, validation)
    assert len(apart) >= 30
    assert np.mean(apart <= 1) >= 0.95
    check_parity(source, flatbuffer, book.spec, images)
    assert source.tools.keys() == {"onnxruntime", "onnx2tf"}


@pytest.mark.usefixtures("onnx2tf")
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


def test_weights_in_a_file_of_any_name_are_converted(
    outside: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "tools" / "onnx2tf"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$1" = -V ] && echo 2.6.9 && exit\necho "error: given $(echo *)"; exit 1\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}:/bin:/usr/bin")
    with pytest.raises(ModelError, match=r"given model\.onnx model\.onnx_data"):
        open_source(str(outside)).to_tflite(InputSpec("image", 8, 8))


def test_without_onnx2tf_the_line_to_install_it_is_told(
    onnx_files: dict[str, Path], trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UsageError, match="needs the command onnx2tf: pipx install .* onnx2tf"):
        open_source(str(onnx_files["box"])).to_tflite(trained["box"].spec)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo 1.29.24", "is version 1.29.24, and 2 or newer is needed"),
        ("echo 'ImportError: no numpy' >&2; exit 1", r"does not run \(ImportError: no numpy\)"),
        ('[ "$1" = -V ] && echo 2.6.9 && exit; echo "ERROR: op Foo is unknown"; exit 1', "ERROR: op Foo is unknown"),
    ],
)
def test_an_onnx2tf_that_is_old_or_broken_or_fails_is_told(
    script: str,
    sentence: str,
    onnx_files: dict[str, Path],
    trained: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    tool = tmp_path / "onnx2tf"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises((UsageError, ModelError), match=sentence):
        open_source(str(onnx_files["box"])).to_tflite(trained["box"].spec)


@pytest.mark.usefixtures("onnx2tf")
def test_a_contract_of_another_size_is_refused(onnx_files: dict[str, Path]) -> None:
    with pytest.raises(
        ModelError, match=r"box\.onnx takes \(\?, 3, 96, 96\), the contract's image is \(1, 64, 80, 3\)"
    ):
        open_source(str(onnx_files["box"])).to_tflite(InputSpec("image", 80, 64))


@pytest.mark.usefixtures("onnx2tf")
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


@pytest.mark.usefixtures("onnx2tf")
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
