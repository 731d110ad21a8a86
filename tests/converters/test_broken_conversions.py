"""Five conversions that users really break: each is refused, fails the gate or is warned of, in one sentence."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters import ConvertOptions, GateLimits, GateRefused, convert
from edgeloc.converters.gate import GateReport
from edgeloc.converters.sources import open_source
from edgeloc.data import Dataset, Sample, open_dataset
from edgeloc.errors import DataError, GateFailed
from edgeloc.findings import Finding
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec
from edgeloc.models import SHIPPED_KERAS
from edgeloc.types import Box, LabelledBox, Pixels

pytest.importorskip("tensorflow")

IMAGES = 60


def scenes(split: str, count: int = IMAGES) -> Dataset:
    return open_dataset(f"synthetic?count={count}&size=300x300", split=split)


class Conversion:
    """The shipped network, or another, on its way to int8; `logged` is what the user is shown."""

    def __init__(self, model: Path, contract: Contract, out: Path, logged: pytest.LogCaptureFixture) -> None:
        self.model, self.contract, self.out, self.logged = model, contract, out, logged
        self.gate: GateReport | None = None

    def run(self, calibration: Dataset, validation: Dataset | None = None, **options: Any) -> None:
        drop = options.pop("max_iou_drop", None)
        limits = None if drop is None else GateLimits(max_iou_drop=drop)
        self.logged.clear()
        try:
            self.gate = convert(
                self.model,
                self.out,
                ConvertOptions(calibration_images=IMAGES, limits=limits, **options),
                calibration=calibration,
                validation=validation,
                contract=self.contract,
            ).gate
        except GateRefused as refused:
            self.gate = refused.report
            raise

    @property
    def findings(self) -> list[Finding]:
        return [record.finding for record in self.logged.records if hasattr(record, "finding")]

    def warnings(self, code: str) -> list[str]:
        return [str(finding) for finding in self.findings if finding.severity == "warning" and code == finding.code]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contract]:
    """The shipped network as a float `.tflite` without its contract, and the contract."""
    if not SHIPPED_KERAS.is_file():
        pytest.skip("the shipped model is not there")
    source = open_source(str(SHIPPED_KERAS))
    assert source.contract is not None
    path = tmp_path_factory.mktemp("float") / "localizer.tflite"
    path.write_bytes(source.to_tflite(source.contract.input))
    return path, source.contract


@pytest.fixture
def conversion(shipped: tuple[Path, Contract], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Conversion:
    return Conversion(*shipped, tmp_path / "int8.tflite", caplog)


def with_input(contract: Contract, **changes: Any) -> Contract:
    return dataclasses.replace(contract, input=dataclasses.replace(contract.input, **changes))


def noise(index: int) -> Pixels:
    return np.random.default_rng(index).integers(0, 256, (256, 256, 3)).astype(np.uint8)


@pytest.mark.slow
def test_nothing_is_said_of_a_sound_conversion(conversion: Conversion) -> None:
    conversion.run(scenes("train"), scenes("val"), max_iou_drop=0.02)
    doubtful = ("calibration", "contract", "validation", "head")
    assert [finding for finding in conversion.findings if finding.code.startswith(doubtful)] == []
    assert conversion.out.is_file()


@pytest.mark.slow
def test_calibrated_on_noise(conversion: Conversion) -> None:
    samples = tuple(Sample(f"noise-{i}", labelled=False, read=partial(noise, i)) for i in range(IMAGES))
    with pytest.raises(GateFailed, match="mean IoU is"):
        conversion.run(Dataset("noise", "noise", (), samples), scenes("val", 120))
    (warning,) = conversion.warnings("calibration-noise")
    assert "60 of the 60 calibration images look like noise" in warning
    assert not conversion.out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"color": "bgr"}, "check input.color of the contract"),
        ({"mean": (0.0,), "std": (1.0,)}, "check input.mean and input.std of the contract"),
    ],
    ids=["BGR for RGB", "0..255 for -1..1"],
)
def test_a_contract_that_is_not_how_the_network_was_trained(
    conversion: Conversion, changes: dict[str, Any], sentence: str
) -> None:
    conversion.contract = with_input(conversion.contract, **changes)
    conversion.run(scenes("train", 160))
    (warning,) = conversion.warnings("contract-suspect")
    assert warning.endswith(sentence)
    assert "the model is clearly better" in warning


VECTOR = Contract(
    InputSpec("image", 32, 32, resize="stretch"),
    (OutputSpec("vector", "vector", "sigmoid", ("presence", "x1", "y1", "x2", "y2")),),
    BoxEncoding("xyxy"),
)


def rectangle(index: int) -> tuple[Pixels, Box]:
    """A dark image of 96x64 with one bright rectangle, and its box."""
    rng = np.random.default_rng(index)
    w, h = int(rng.integers(20, 40)), int(rng.integers(14, 28))
    x, y = int(rng.integers(8, 88 - w)), int(rng.integers(6, 58 - h))
    pixels = rng.integers(0, 40, (64, 96, 3)).astype(np.uint8)
    pixels[y : y + h, x : x + w] = 235
    return pixels, Box(x, y, x + w, y + h)


def rectangles(first: int, count: int = 80) -> Dataset:
    def sample(index: int) -> Sample:
        return Sample(f"{index}.png", (LabelledBox(rectangle(index)[1]),), read=lambda: rectangle(index)[0])

    return Dataset("rectangles", "rectangles", (), tuple(sample(first + i) for i in range(count)))


@pytest.fixture
def mixed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Conversion:
    """A network whose one vector holds a presence from -40 to 60 and four edges from -2.2 to 2.2, all logits.

    Nothing is trained: lit columns and rows, summed from either side, are the edges.
    """
    import keras
    from keras import layers

    constant, ones = keras.initializers.Constant, np.ones((32, 32), np.float32)
    image = keras.Input((32, 32, 3), name="image")
    lit = layers.Conv2D(1, 1, activation="relu", kernel_initializer=constant(1 / 3), bias_initializer=constant(0.3))
    ends, lit_image = {}, lit(image)
    for axis, size in (("x", (32, 1)), ("y", (1, 32))):
        profile = layers.Flatten()(layers.AveragePooling2D(size)(lit_image))
        for side, sums in (("1", np.triu(ones)), ("2", np.tril(ones))):
            gain = layers.Dense(32, kernel_initializer=constant(0), name=f"gain_{axis}{side}")
            summed = layers.Dense(32, name=f"sum_{axis}{side}")
            ends[axis + side] = layers.ReLU(6.0)(summed(layers.ReLU(6.0)(gain(profile))))
            gain.set_weights([np.eye(32) * 40, np.zeros(32)])
            summed.set_weights([sums, np.zeros(32)])
    parts = [layers.Dense(1, kernel_initializer=constant(0.8), bias_initializer=constant(-40.0))(ends["x1"])]
    for end, (sign, offset) in {"x1": (-1, 1), "y1": (-1, 1), "x2": (1, 0), "y2": (1, 0)}.items():
        # sigmoid(4.4 v - 2.2) is v within 0.04 between the image's edges.
        kernel, bias = constant(4.4 * sign / (6 * 32)), constant(4.4 * offset - 2.2)
        parts.append(layers.Dense(1, kernel_initializer=kernel, bias_initializer=bias)(ends[end]))
    network = keras.Model(image, {"vector": layers.Concatenate()(parts)})
    network.save(tmp_path / "mixed.keras")
    return Conversion(tmp_path / "mixed.keras", VECTOR, tmp_path / "mixed.tflite", caplog)


def drop(conversion: Conversion) -> float:
    """How much mean IoU int8 costs, by the gate."""
    assert conversion.gate is not None and conversion.gate.regression.mean_iou_drop is not None
    return conversion.gate.regression.mean_iou_drop


def test_one_vector_of_unlike_ranges(mixed: Conversion) -> None:
    with pytest.raises(GateFailed, match="mean IoU is"):
        mixed.run(rectangles(1000), rectangles(0))
    (warning,) = mixed.warnings("head-shares-scale")
    assert "the output vector has parts of unlike ranges" in warning
    assert "fix_head" in warning
    assert not mixed.out.exists()

    broken = drop(mixed)
    mixed.run(rectangles(1000), rectangles(0), fix_head=True, max_iou_drop=0.02)
    assert mixed.out.is_file()
    assert mixed.warnings("head-shares-scale") == []
    assert drop(mixed) < broken / 5


def test_calibrated_on_validation_images(mixed: Conversion) -> None:
    data = rectangles(0)
    with pytest.raises(DataError, match="60 of the 60 calibration images are also in the validation data") as refused:
        mixed.run(data, data)
    assert "calibrate on other images" in str(refused.value)
    assert not mixed.out.exists()
