"""Trained networks as ONNX files to a float flatbuffer: the same boxes, channels last, and refusals in a sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.checks import check_parity, run_flatbuffer
from edgeloc.converters.sources import Source, open_source
from edgeloc.data import Dataset
from edgeloc.errors import ModelError, UsageError
from edgeloc.model.contract import InputSpec
from edgeloc.model.flatbuffer import parse_flatbuffer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("onnx2tf")]


@pytest.fixture(scope="module")
def converted(
    trained: dict[str, Any], onnx_files: dict[str, Path], onnx2tf: None
) -> Callable[[str], tuple[Source, bytes]]:
    """A trained network by name: its source, and the flatbuffer made of it."""

    @functools.cache
    def convert(name: str) -> tuple[Source, bytes]:
        before = onnx_files[name].read_bytes()
        source = open_source(str(onnx_files[name]))
        flatbuffer = source.to_tflite(trained[name].spec)
        assert onnx_files[name].read_bytes() == before
        return source, flatbuffer

    return convert


@pytest.mark.parametrize("name", ["box", pytest.param("vector", marks=pytest.mark.long)])
def test_a_file_finds_the_same_boxes_after_conversion(
    name: str,
    trained: dict[str, Any],
    converted: Callable[[str], tuple[Source, bytes]],
    validation: Dataset,
    images: Any,
    edges_apart: Callable[..., Any],
) -> None:
    book, (source, flatbuffer) = trained[name], converted(name)
    apart = edges_apart(source, flatbuffer, book.contract, validation)
    assert len(apart) >= 30
    assert np.mean(apart <= 1) >= 0.95
    check_parity(source, flatbuffer, book.spec, images)
    assert source.tools.keys() == {"onnxruntime", "onnx2tf", "onnxsim", "tensorflow"}


def test_the_converted_input_has_its_channels_last_and_no_transpose(
    converted: Callable[[str], tuple[Source, bytes]],
) -> None:
    model = parse_flatbuffer(converted("box")[1], "model")
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


@pytest.mark.long
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
