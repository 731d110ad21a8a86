"""PyTorch and ONNX localizers of the textbook's shape, trained for real on a few hundred drawn scenes."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloc.converters.sources import Source
from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.decode import Decoder
from edgeloc.localizer import Localizer
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec
from edgeloc.model.file import ModelFile
from edgeloc.preprocess import Preprocessor
from edgeloc.scenes import SceneGenerator

SIDE = 96
SCENE = 300
LABELS = ("Bolt", "LuggageTag", "Rock")
# Scenes of each split.
SCENES = {"train": 600, "val": 60}
CONTRACTS = {
    "box": Contract(
        InputSpec("image", SIDE, SIDE, resize="stretch"),
        (OutputSpec("output_0", "box"),),
        box=BoxEncoding("cxcywh"),
    ),
    "vector": Contract(
        InputSpec("image", SIDE, SIDE, resize="stretch"),
        (
            OutputSpec(
                "vector",
                "vector",
                "sigmoid",
                ("presence", "cx", "cy", "h", "w", "class:0", "class:1", "class:2"),
                "softmax",
            ),
        ),
        labels=LABELS,
    ),
}


@dataclass(frozen=True)
class Textbook:
    """One trained network on disk: what `edgeloc convert` is given, and its contract as JSON.

    `factory` is importable from `folder`, `weights` its state_dict there; `exported` the .pt2 and
    `onnx` the .onnx of the same network.
    """

    folder: Path
    factory: str
    weights: Path
    contract: Contract
    contract_file: Path
    name: str

    @property
    def spec(self) -> InputSpec:
        return self.contract.input


@pytest.fixture(scope="session")
def tiny_saved_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SavedModel of open batch, height and width: `presence` and `box`, sensitive to where and in which channel."""
    import tensorflow as tf

    rng = np.random.default_rng(11)
    kernel, point = (tf.constant(rng.normal(0, 0.3, shape), tf.float32) for shape in ((5, 5, 3, 12), (12, 5)))

    def network(image: Any) -> dict[str, Any]:
        features = tf.nn.relu(tf.nn.conv2d(image, kernel, 2, "SAME"))
        numbers = tf.reduce_max(features, [1, 2]) @ point
        return {"presence": numbers[:, :1], "box": tf.sigmoid(numbers[:, 1:])}

    module = tf.Module()
    module.call = tf.function(network, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32, "x")])
    folder = str(tmp_path_factory.mktemp("saved-model"))
    tf.saved_model.save(module, folder, signatures=module.call)
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder of 300x300 scenes with a manifest: splits train and val, three classes, an eighth empty."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for seed, (split, count) in enumerate(SCENES.items()):
        generator = SceneGenerator(seed, (SCENE, SCENE))
        for index in _chosen(generator, count):
            scene, file = generator.scene(index), f"images/{split}-{index:05d}.png"
            cv2.imwrite(str(folder / file), scene.pixels)
            row = {"file": file, "w": SCENE, "h": SCENE, "split": split}
            rows.append(row if scene.box is None else {**row, "cls": scene.label, "box_xyxy": list(scene.box)})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _chosen(generator: SceneGenerator, count: int) -> list[int]:
    """Numbers of `count` scenes of the three classes, every eighth empty."""
    labels = [(i, next((found.label for found in generator.truth(i)), None)) for i in range(count * 8)]
    empty = [i for i, label in labels if label is None][: count // 8]
    return empty + [i for i, label in labels if label in LABELS][: count - len(empty)]


@pytest.fixture(scope="session")
def validation(scenes: Path) -> Dataset:
    """The scenes that no network was trained on."""
    return open_dataset(scenes, split="val")


@pytest.fixture(scope="session")
def images(validation: Dataset) -> NDArray[np.float32]:
    """The first validation scenes as the networks take them: float32 (8, 96, 96, 3), normalized."""
    return _tensors(list(validation)[:8])


@pytest.fixture(scope="session")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Textbook]:
    """The networks `box` and `vector`, trained and saved; their folder holds `textbook_net.py`."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'edgeloc[torch]'")
    folder = tmp_path_factory.mktemp("textbook")
    shutil.copy(Path(__file__).with_name("textbook.py"), folder / "textbook_net.py")
    networks = _train(_imported(folder / "textbook_net.py"), list(open_dataset(scenes, split="train")))
    found = {}
    for name, network in networks.items():
        weights, contract = folder / f"{name}.pt", folder / f"{name}.json"
        torch.save(network.state_dict(), weights)
        contract.write_text(CONTRACTS[name].to_json())
        factory = f"textbook_net:{name}_network"
        found[name] = Textbook(folder, factory, weights, CONTRACTS[name], contract, name)
    return found


@pytest.fixture
def beside(trained: dict[str, Textbook], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Textbook]]:
    """The trained networks, with the current folder where their module lies, as a user would stand."""
    folder = trained["box"].folder
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield trained
    sys.modules.pop("textbook_net", None)


@pytest.fixture(scope="session")
def exported(trained: dict[str, Textbook]) -> dict[str, Path]:
    """The trained networks as torch.export files."""
    import torch

    paths = {}
    for name, network in _networks(trained).items():
        paths[name] = trained[name].folder / f"{name}.pt2"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(network, (torch.zeros(1, 3, SIDE, SIDE),)), paths[name])
    return paths


@pytest.fixture(scope="session")
def export_onnx() -> Callable[..., None]:
    """Write a PyTorch network as an ONNX file: network, example image, path, options of torch.onnx.export."""
    pytest.importorskip("onnxscript", reason="PyTorch writes ONNX through onnxscript: pip install onnx onnxscript")
    torch = pytest.importorskip("torch")

    def export(network: Any, image: Any, path: Path, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(network.eval(), (image,), path, dynamo=True, verbose=False, **options)

    return export


@pytest.fixture(scope="session")
def onnx2tf() -> None:
    """The test is skipped where the packages that convert ONNX are not installed."""
    for package in ("onnxruntime", "onnx2tf", "onnxsim"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'edgeloc[onnx]'")


@pytest.fixture(scope="session")
def onnx_files(trained: dict[str, Textbook], export_onnx: Callable[..., None]) -> dict[str, Path]:
    """The trained networks as ONNX files with an open batch, output `output_0` and `vector`."""
    import torch

    paths = {}
    for name, network in _networks(trained).items():
        paths[name] = trained[name].folder / f"{name}.onnx"
        export_onnx(
            network,
            torch.zeros(2, 3, SIDE, SIDE),
            paths[name],
            input_names=["picture"],
            output_names=[CONTRACTS[name].outputs[0].tensor],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    return paths


def _networks(trained: dict[str, Textbook]) -> dict[str, Any]:
    import torch

    module = _imported(trained["box"].folder / "textbook_net.py")
    networks = {}
    for name, textbook in trained.items():
        networks[name] = getattr(module, f"{name}_network")().eval()
        networks[name].load_state_dict(torch.load(textbook.weights, weights_only=True))
    return networks


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("textbook_of_the_fixtures", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tensors(samples: list[Sample]) -> Any:
    preprocess = Preprocessor(CONTRACTS["box"].input, np.dtype(np.float32), None, None)
    return np.concatenate([preprocess(sample.load())[0].copy() for sample in samples])


def _train(module: Any, samples: list[Sample]) -> dict[str, Any]:
    import torch

    pictures = torch.from_numpy(_tensors(samples)).permute(0, 3, 1, 2).contiguous()
    boxes = torch.tensor([_fractions(sample) for sample in samples])
    present = torch.tensor([sample.box is not None for sample in samples])
    kinds = torch.tensor([LABELS.index(sample.label) if sample.label else 0 for sample in samples])
    networks: dict[str, Any] = module.train(pictures, boxes, present, kinds)
    return networks


def _fractions(sample: Sample) -> list[float]:
    if sample.box is None:
        return [0.0, 0.0, 0.0, 0.0]
    x1, y1, x2, y2 = (edge / SCENE for edge in sample.box)
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


@pytest.fixture
def edges_apart() -> Callable[[Source, bytes, Contract, Dataset], NDArray[np.float64]]:
    """For each image the largest distance, in its pixels, between an edge of the source's box and of the flatbuffer's.

    Infinite where one of the two finds a box and the other none; images where both find none are left out.
    """

    def apart(source: Source, flatbuffer: bytes, contract: Contract, dataset: Dataset) -> NDArray[np.float64]:
        localizer = Localizer(ModelFile(Path("converted"), flatbuffer, "tflite", contract=contract, trusted=True))
        preprocess, decode = Preprocessor(contract.input, np.dtype(np.float32), None, None), Decoder(contract)
        found = []
        for sample in dataset:
            pixels = sample.load()
            tensor, placement = preprocess(pixels)
            answer = {name: values[0] for name, values in source.answer(tensor).items()}
            before = decode(answer, placement, (pixels.shape[1], pixels.shape[0])).box
            after = localizer(pixels).box
            if before is not None and after is not None:
                found.append(max(abs(a - b) for a, b in zip(before, after, strict=True)))
            elif (before is None) != (after is None):
                found.append(np.inf)
        return np.array(found)

    return apart
