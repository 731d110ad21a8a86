"""Box correction: boxes that int8 moved the same way everywhere come back to the float model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.conversion import ConvertOptions, convert
from edgeloc.converters.quantization.bias_correction import add_to_bias
from edgeloc.converters.quantization.box_correction import BoxCorrection
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.data import Dataset
from edgeloc.decode.heads import head_reader
from edgeloc.engines import open_engine
from edgeloc.findings import Finding
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations, Selection
from edgeloc.model.file import read_model
from edgeloc.model.flatbuffer import operator_name, pack, unpack

SPEC = InputSpec("image", 32, 32)
PRESENCE = OutputSpec("presence", "presence", "sigmoid")
Build = Callable[[Any, Any], dict[str, Any]]


def heads() -> dict[str, tuple[Build, Contract]]:
    """By name: what makes the outputs of a feature map and of its mean, and the contract."""
    from keras import layers

    def presence(mean: Any) -> Any:
        return layers.Dense(1, bias_initializer="ones", name="presence")(0 * mean)

    def four(x: Any, mean: Any) -> dict[str, Any]:
        return {"presence": presence(mean), "moved": layers.Dense(4, name="moved")(mean)}

    def bins(x: Any, mean: Any) -> dict[str, Any]:
        return {"presence": presence(mean), "moved": layers.Dense(4 * 9, name="moved")(mean)}

    def vector(x: Any, mean: Any) -> dict[str, Any]:
        parts = [presence(mean), layers.Dense(4, name="moved")(mean)]
        return {"all": layers.Concatenate(name="all")(parts)}

    def grid(x: Any, mean: Any) -> dict[str, Any]:
        maps = {name: layers.Conv2D(size, 1, name=name)(x) for name, size in (("weights", 1), ("moved", 4))}
        return {"presence": presence(mean), **maps}

    slots = ("presence", "x1", "y1", "w", "h")
    described = {
        "four numbers": (four, (PRESENCE, OutputSpec("moved", "box", "sigmoid")), BoxEncoding("cxcywh")),
        "bins": (bins, (PRESENCE, OutputSpec("moved", "box-bins")), BoxEncoding("distribution")),
        "vector": (vector, (OutputSpec("all", "vector", "sigmoid", slots),), BoxEncoding()),
        "grid": (
            grid, (PRESENCE, OutputSpec("weights", "grid-weights"), OutputSpec("moved", "grid-distances")),
            BoxEncoding("grid"),
        ),
    }  # fmt: skip
    found = {name: (build, Contract(SPEC, outputs, box)) for name, (build, outputs, box) in described.items()}
    return {**found, "levels of a detector": (levels, DETECTOR)}


def levels(x: Any, mean: Any) -> dict[str, Any]:
    """Two levels, whose boxes are joined in one output behind a layer each; every location holds an object."""
    from keras import layers

    maps = [x, layers.AveragePooling2D(2)(x)]
    boxes = [layers.Conv2D(4, 1, name=f"moved{level}")(found) for level, found in enumerate(maps)]
    scores = [layers.Conv2D(1, 1, bias_initializer="ones", name=f"score{level}")(0 * f) for level, f in enumerate(maps)]
    rows = {"box": boxes, "score": scores}
    return {
        name: layers.Concatenate(axis=1, name=name)([layers.Reshape((-1, 4 if name == "box" else 1))(m) for m in maps])
        for name, maps in rows.items()
    }


DETECTOR = Contract(
    SPEC,
    (OutputSpec("box", "detections", parts=("box",)), OutputSpec("score", "detections", parts=("score",))),
    labels=("object",),
    detector=DetectorSpec(
        Locations((8, 16), 0.0), DetectorBox("cxcywh", "stride", size="exp"), selection=Selection("none")
    ),
)
NAMES = ("four numbers", "bins", "vector", "grid", "levels of a detector")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(4)
    return rng.uniform(-1, 1, (24, 4, 4, 3)).astype(np.float32).repeat(8, axis=1).repeat(8, axis=2)


def built(build: Build, folder: Path) -> bytes:
    import keras
    from keras import layers

    keras.utils.set_random_seed(6)
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(12, 8, 8, activation="relu")(image)
    network = keras.Model(image, build(x, layers.GlobalAveragePooling2D()(x)))
    network.save(folder / "m.keras")
    return KerasSource(folder / "m.keras", network).to_tflite(SPEC)


def shifted(flatbuffer: bytes, by: Sequence[float]) -> bytes:
    """The model with the biases of the layers that make the box changed, as int8 might move their outputs."""
    model = unpack(flatbuffer)
    for operator in model.subgraphs[0].operators:
        size = int(model.subgraphs[0].tensors[int(operator.outputs[0])].shape[-1])
        if operator_name(model, operator) in ("CONV_2D", "FULLY_CONNECTED") and size in (4, 4 * 9):
            slopes = np.linspace(0, 1, size // 4) if size > 4 else np.ones(1)
            add_to_bias(model, operator, 2, np.outer(by, slopes).ravel().astype(np.float32))
    return pack(model)


def corners(flatbuffer: bytes, contract: Contract, images: np.ndarray) -> np.ndarray:
    engine, read = open_engine("auto", flatbuffer), head_reader(contract)
    found = [read(engine.invoke(image[np.newaxis])).corners for image in images]
    return np.concatenate([boxes for boxes in found if boxes is not None])


def corrected(flatbuffer: bytes, contract: Contract, images: np.ndarray, make: Any) -> tuple[bytes, list[Finding]]:
    findings: list[Finding] = []
    return BoxCorrection(flatbuffer, contract, images, findings.append)(flatbuffer, make), findings


@pytest.mark.parametrize("name", NAMES)
def test_boxes_that_all_moved_alike_come_back(name: str, images: np.ndarray, tmp_path: Path) -> None:
    build, contract = heads()[name]
    flatbuffer = built(build, tmp_path)
    moved = lambda model: shifted(model, (0.1, -0.08, 0.06, 0.2))  # noqa: E731
    after, findings = corrected(flatbuffer, contract, images, moved)
    wanted = corners(flatbuffer, contract, images)
    far = np.abs(corners(moved(flatbuffer), contract, images) - wanted).mean()
    assert np.abs(corners(after, contract, images) - wanted).mean() < 0.05 * far
    assert not findings


def test_a_correction_that_does_not_help_is_not_kept(images: np.ndarray, tmp_path: Path) -> None:
    build, contract = heads()["four numbers"]
    flatbuffer = built(build, tmp_path)
    made: list[bytes] = []

    def make(model: bytes) -> bytes:
        made.append(shifted(model, (0.3, 0.3, 0.3, 0.3) if made else (0.01, 0, 0, 0)))
        return made[-1]

    assert corrected(flatbuffer, contract, images, make)[0] == made[0]
    assert len(made) == 2


@pytest.mark.parametrize(("threshold", "count", "reason"), [(0.99, 24, "finds 0 objects"), (0.5, 9, "finds 9 objects")])
def test_too_few_objects(threshold: float, count: int, reason: str, images: np.ndarray, tmp_path: Path) -> None:
    build, contract = heads()["four numbers"]
    contract = replace(contract, thresholds=replace(contract.thresholds, presence=threshold))
    flatbuffer = built(build, tmp_path)
    made = shifted(flatbuffer, (1, 0, 0, 0))
    after, (finding,) = corrected(flatbuffer, contract, images[:count], lambda model: made)
    assert after == made
    assert (finding.code, finding.severity) == ("boxes-not-corrected", "note")
    assert reason in finding.message


def test_a_box_that_no_layer_leaves_as_it_is(images: np.ndarray, tmp_path: Path) -> None:
    def build(x: Any, mean: Any) -> dict[str, Any]:
        outputs = heads()["four numbers"][0](x, mean)
        from keras import layers

        return {**outputs, "moved": layers.Activation("sigmoid", name="curved")(outputs["moved"])}

    contract = heads()["four numbers"][1]
    flatbuffer = built(build, tmp_path)
    contract = replace(contract, outputs=(PRESENCE, OutputSpec("moved", "box")))
    after, (finding,) = corrected(flatbuffer, contract, images, lambda model: model)
    assert after == flatbuffer
    assert "no layer" in finding.message


def test_only_biases_change_in_a_conversion(
    make_network: Callable[..., Any], save_keras: Callable[..., Path], contract: Contract, dataset: Dataset,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    certain = replace(contract, thresholds=replace(contract.thresholds, presence=0.01))
    path = save_keras(make_network(), changed=certain)
    options = ConvertOptions(calibration_images=16)
    before = _written(path, tmp_path / "plain.tflite", options, dataset, monkeypatch)
    monkeypatch.undo()
    done = convert(path, tmp_path / "m.tflite", options, calibration=dataset)
    assert not [finding for finding in done.findings if finding.code == "boxes-not-corrected"]
    after = read_model(done.path)
    assert before.contract is not None and after.contract is not None
    assert {**before.contract.hashes, "payload": ""} == {**after.contract.hashes, "payload": ""}
    assert replace(before.contract, hashes={}) == replace(after.contract, hashes={})
    assert _kinds(before.payload) == _kinds(after.payload)
    assert before.payload != after.payload


def _written(path: Path, out: Path, options: ConvertOptions, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(BoxCorrection, "__call__", lambda self, model, make: make(model))
    return read_model(convert(path, out, options, calibration=dataset).path)


def _kinds(payload: bytes) -> list[str]:
    model = unpack(payload)
    return [operator_name(model, operator) for operator in model.subgraphs[0].operators]
