"""Trained PyTorch networks to a float flatbuffer: the same boxes, channels last, and refusals in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.checks import check_parity, run_flatbuffer
from edgeloc.converters.sources import open_source
from edgeloc.data import Dataset
from edgeloc.errors import ModelError, UsageError
from edgeloc.model.contract import Contract, InputSpec, Layout, OutputSpec
from edgeloc.model.detector import DetectorSpec
from edgeloc.model.flatbuffer import parse_flatbuffer
from edgeloc.model.precision import judge

pytest.importorskip("litert_torch", reason="litert-torch is not installed: pip install 'edgeloc[torch]'")

pytestmark = pytest.mark.slow

NAMES = ("box", "vector")
SIDE = 32


@pytest.mark.parametrize("name", NAMES)
def test_a_factory_finds_the_same_boxes_after_conversion(
    name: str, beside: dict[str, Any], validation: Dataset, images: Any, edges_apart: Callable[..., Any]
) -> None:
    book = beside[name]
    source = open_source(book.factory, weights=str(book.weights))
    flatbuffer = source.to_tflite(book.spec)
    apart = edges_apart(source, flatbuffer, book.contract, validation)
    assert len(apart) >= 30
    assert np.mean(apart <= 1) >= 0.95
    check_parity(source, flatbuffer, book.spec, images)


@pytest.mark.parametrize("name", NAMES)
def test_a_torch_export_file_finds_the_same_boxes_after_conversion(
    name: str,
    trained: dict[str, Any],
    exported: dict[str, Path],
    validation: Dataset,
    images: Any,
    edges_apart: Callable[..., Any],
) -> None:
    book = trained[name]
    source = open_source(str(exported[name]))
    flatbuffer = source.to_tflite(book.spec)
    apart = edges_apart(source, flatbuffer, book.contract, validation)
    assert np.mean(apart <= 1) >= 0.95
    check_parity(source, flatbuffer, book.spec, images)


def test_the_converted_input_has_its_channels_last_and_no_transpose(beside: dict[str, Any]) -> None:
    book = beside["vector"]
    model = parse_flatbuffer(open_source(book.factory, weights=str(book.weights)).to_tflite(book.spec), "model")
    assert judge(model).precision == "float32"
    assert model.signature is not None
    assert (model.signature.key, list(model.signature.inputs)) == ("serving_default", ["image"])
    assert list(model.signature.outputs) == ["vector"]
    graph = model.graphs[0]
    assert graph.tensors[graph.inputs[0]].shape == (1, 96, 96, 3)
    # Neither a shuffled image nor a border of minus infinity, which no int8 scale can hold.
    assert not {"TRANSPOSE", "PADV2"} & {operator.name for operator in graph.operators}


@pytest.mark.parametrize("name", NAMES)
def test_the_network_has_learnt_where_objects_are(name: str, beside: dict[str, Any], validation: Dataset) -> None:
    # Without this the boxes of two networks might agree only because neither ever moves.
    book = beside[name]
    answer = open_source(book.factory, weights=str(book.weights)).answer(_normalized(validation))
    vector = answer[book.contract.outputs[0].tensor]
    centres = vector[:, :2] if name == "box" else 1 / (1 + np.exp(-vector[:, 1:3]))
    found = centres[[sample.box is not None for sample in validation]]
    truth = np.array([((s.box[0] + s.box[2]) / 600, (s.box[1] + s.box[3]) / 600) for s in validation if s.box])
    assert min(np.corrcoef(found[:, axis], truth[:, axis])[0, 1] for axis in (0, 1)) > 0.6


def _normalized(dataset: Dataset) -> Any:
    import cv2

    frames = [cv2.resize(sample.load(), (96, 96))[..., ::-1] for sample in dataset]
    return ((np.array(frames, np.float32) - 127.5) / 127.5).astype(np.float32)


def test_weights_change_the_digest_and_may_be_safetensors(beside: dict[str, Any], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    book = beside["box"]
    state = torch.load(book.weights, weights_only=True)
    save_file(state, tmp_path / "box.safetensors")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "c.pth")
    kinds = (str(book.weights), str(tmp_path / "box.safetensors"), str(tmp_path / "c.pth"))
    assert len({open_source(book.factory, weights=file).digest for file in kinds}) == 1
    assert open_source(book.factory).digest != open_source(book.factory, weights=kinds[0]).digest


def test_a_prefix_that_is_the_networks_own_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    (tmp_path / "wrapped_net.py").write_text(
        "from torch import nn\n\n\nclass Wrapped(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.module = nn.Conv2d(3, 4, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    state = torch.nn.ModuleDict({"module": torch.nn.Conv2d(3, 4, 1)}).state_dict()
    torch.save(state, tmp_path / "own.pt")
    torch.save({"model": {f"_orig_mod.module.{key}": value for key, value in state.items()}}, tmp_path / "wrapped.pt")
    digests = [
        open_source("wrapped_net:Wrapped", weights=str(tmp_path / name)).digest for name in ("own.pt", "wrapped.pt")
    ]
    assert digests[0] == digests[1]


def test_weights_of_another_network_are_refused(beside: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"weights of another network than textbook_net:vector_network: it lacks head"):
        open_source(beside["vector"].factory, weights=str(beside["box"].weights))


def test_a_file_that_would_run_code_is_not_read(beside: dict[str, Any], tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": Harmless()}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="holds more than weights, and reading it would run its code"):
        open_source(beside["box"].factory, weights=str(tmp_path / "evil.pt"))


def test_a_file_of_other_things_than_weights(beside: dict[str, Any], tmp_path: Path) -> None:
    import torch

    torch.save({1: torch.zeros(2)}, tmp_path / "numbered.pt")
    with pytest.raises(ModelError, match="is no state_dict"):
        open_source(beside["box"].factory, weights=str(tmp_path / "numbered.pt"))


class Harmless:
    """Stands for a class that a pickle would bring to life."""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "no such file; give the weights as"), (b"no weights", "cannot be read as weights|holds more than weights")],
)
def test_missing_and_damaged_weights_are_told(
    content: bytes | None, sentence: str, beside: dict[str, Any], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ModelError, match=sentence):
        open_source(beside["box"].factory, weights=str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def network(:", "SyntaxError"),
        ("raise ValueError('no data')", "ValueError: no data"),
        ("from json import nothing", "ImportError"),
        ("raise SystemExit(1)", "SystemExit"),
    ],
)
def test_a_module_that_cannot_be_imported(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{reason[:6].lower()}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=rf"the module {name} cannot be imported \({reason}"):
        open_source(f"{name}:network")


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("nowhere_net:network", "there is no module nowhere_net; run from the folder that holds nowhere_net"),
        ("textbook_net:nothing", "has no attribute 'nothing'"),
        ("textbook_net:Localizer", "does not build a network when called without arguments"),
        ("textbook_net:Any", "when called without arguments|gives a"),
        ("pathlib:Path", "gives a PosixPath: it must give a torch.nn.Module"),
    ],
)
def test_a_factory_that_gives_no_network_is_told(factory: str, sentence: str, beside: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=sentence):
        open_source(factory)


def test_a_network_that_takes_another_image_is_told(beside: dict[str, Any]) -> None:
    source = open_source(beside["box"].factory)
    with pytest.raises(ModelError, match=r"does not run on an image of \(1, 1, 96, 96\)"):
        source.to_tflite(InputSpec("image", 96, 96, color="gray"))


def test_an_export_of_another_size_is_refused(exported: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"takes \(1, 3, 96, 96\), the contract's image is \(1, 64, 80, 3\)"):
        open_source(str(exported["box"])).to_tflite(InputSpec("image", 80, 64))


@pytest.mark.parametrize(("layer", "value"), [("BatchNorm2d", 3), ("Dropout", 0.5)])
def test_an_export_in_training_mode_is_refused(tmp_path: Path, layer: str, value: float) -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), getattr(torch.nn, layer)(value))
    image = torch.zeros(1, 3, SIDE, SIDE)
    torch.export.save(torch.export.export(network.train(), (image,)), tmp_path / "train.pt2")
    with pytest.raises(ModelError, match=r"train\.pt2 was exported in training mode.*network\.eval\(\)"):
        open_source(str(tmp_path / "train.pt2"))
    torch.export.save(torch.export.export(network.eval(), (image,)), tmp_path / "eval.pt2")
    open_source(str(tmp_path / "eval.pt2"))


def test_a_damaged_export_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"model\.pt2 is no torch\.export file that can be read"):
        open_source(str(tmp_path / "model.pt2"))


def test_maps_leave_with_their_channels_last_and_pooling_after_any_activation_can_be_quantized(
    beside: dict[str, Any], images: Any
) -> None:
    (beside["box"].folder / "maps_net.py").write_text(_MAPS)
    spec = InputSpec("image", 96, 96)
    source = open_source("maps_net:Maps")
    flatbuffer = source.to_tflite(spec)
    names = {operator.name for operator in parse_flatbuffer(flatbuffer, "maps").graphs[0].operators}
    assert "PADV2" not in names
    assert "MIRROR_PAD" in names
    check_parity(source, flatbuffer, spec, images)
    assert {name: values.shape for name, values in source.answer(images).items()} == {
        "output_0": (8, 24, 24, 5),
        "output_1": (8, 5),
    }


def test_maps_that_the_contract_has_with_their_channels_last_stay_so(beside: dict[str, Any], images: Any) -> None:
    (beside["box"].folder / "detector_net.py").write_text(
        _MAPS.replace("maps.amax((2, 3))", "maps.permute(0, 2, 3, 1)")
    )
    spec = InputSpec("image", 96, 96, layout="channels-first")
    layouts: tuple[Layout, ...] = ("channels-first", "channels-last")
    outputs = [OutputSpec(f"output_{i}", "detections", parts=("box",), layout=layouts[i]) for i in range(2)]
    source = open_source("detector_net:Maps")
    adopted = source.adopt(Contract(spec, tuple(outputs), detector=DetectorSpec()))
    assert {part.layout for part in (adopted.input, *adopted.outputs)} == {"channels-last"}
    flatbuffer = source.to_tflite(adopted.input)
    check_parity(source, flatbuffer, adopted.input, images)
    first, last = run_flatbuffer(flatbuffer, "maps", adopted.input, images).values()
    assert np.array_equal(first, last)


_MAPS = """
import torch
from torch import nn

class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.SiLU(), nn.MaxPool2d(5, 2, 2), nn.Conv2d(5, 5, 1))

    def forward(self, image):
        maps = self.layers(image)
        return maps, maps.amax((2, 3))
"""
