"""A contract that is not what the model was made for shows on labelled images; a right one raises no finding."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.data import Dataset, Sample
from edgeloc.errors import ContractError, DataError
from edgeloc.evaluation.suspicion import try_contract
from edgeloc.findings import Finding
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec
from edgeloc.model.file import ModelFile
from edgeloc.types import Box, LabelledBox, Pixels

tf = pytest.importorskip("tensorflow")

SIDE = 32
CONTRACT = Contract(InputSpec("image", SIDE, SIDE), (OutputSpec("box", "box"),))
WIDTH, HEIGHT = 0.4, 0.2


@pytest.fixture(scope="module")
def red_finder(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model that boxes what is clearly redder than blue, for RGB from -1 to 1: its centre, and a fixed size."""
    grid = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE

    def network(image: Any) -> dict[str, Any]:
        red = tf.nn.relu(image[..., 0] - image[..., 2] - 0.5) + 1e-6
        red /= tf.reduce_sum(red, [1, 2], keepdims=True)
        x = tf.reduce_sum(red * grid[None, None, :], [1, 2])
        y = tf.reduce_sum(red * grid[None, :, None], [1, 2])
        return {"box": tf.stack([x, y, tf.fill([1], WIDTH), tf.fill([1], HEIGHT)], -1)}

    module = tf.Module()
    module.call = tf.function(network, input_signature=[tf.TensorSpec((1, SIDE, SIDE, 3), tf.float32, "image")])
    folder = str(tmp_path_factory.mktemp("red"))
    tf.saved_model.save(module, folder, signatures=module.call)
    flatbuffer: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return flatbuffer


def picture(index: int, size: tuple[int, int]) -> Pixels:
    pixels = np.full((*size[::-1], 3), 60, np.uint8)
    pixels[..., 2] += 55  # a reddish ground, as of a brick wall
    x1, y1, x2, y2 = map(int, place(index, size))
    pixels[y1:y2, x1:x2] = (20, 40, 220)
    return pixels


def place(index: int, size: tuple[int, int]) -> Box:
    rng = np.random.default_rng(index)
    width, height = size[0] * WIDTH, size[1] * HEIGHT
    x, y = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
    return Box(round(x), round(y), round(x + width), round(y + height))


def pictures(count: int = 24, size: tuple[int, int] = (64, 64)) -> Dataset:
    samples = tuple(
        Sample(f"p{i}", (LabelledBox(place(i, size)),), read=partial(picture, i, size)) for i in range(count)
    )
    return Dataset("red things", "red things", (), samples)


def check_contract(flatbuffer: bytes, contract: Contract, data: Dataset, **options: Any) -> Finding | None:
    model = ModelFile(Path("model"), flatbuffer, "tflite", contract=contract, trusted=True)
    trial = try_contract(model, contract, data, fewest=16, **options)
    return None if trial is None else trial.suspicion


def with_input(**changes: Any) -> Contract:
    return dataclasses.replace(CONTRACT, input=dataclasses.replace(CONTRACT.input, **changes))


def test_a_right_contract_is_left_in_peace(red_finder: bytes) -> None:
    assert check_contract(red_finder, CONTRACT, pictures()) is None


@pytest.mark.parametrize(
    ("contract", "change", "field"),
    [
        (with_input(color="bgr"), "with red and blue swapped", "input.color"),
        (with_input(mean=(0.0,), std=(1.0,)), "with pixels normalized to -1..1", "input.mean and input.std"),
        (dataclasses.replace(CONTRACT, box=BoxEncoding("cxcyhw")), "with its box read as cxcywh", "box.form"),
        (
            dataclasses.replace(CONTRACT, outputs=(OutputSpec("box", "vector", slots=("cx", "cy", "h", "w")),)),
            "with its box's slots read as cx, cy, w, h",
            "outputs[box].slots",
        ),
    ],
    ids=["BGR for RGB", "0..255 for -1..1", "height before width", "height before width in a vector"],
)
def test_a_wrong_one_is_named_in_a_sentence(red_finder: bytes, contract: Contract, change: str, field: str) -> None:
    warning = check_contract(red_finder, contract, pictures())
    assert warning is not None
    assert (warning.code, warning.severity) == ("contract-suspect", "warning")
    assert warning.message.startswith(f"{change} the model is clearly better on 24 labelled objects (mean IoU ")
    assert warning.fix == f"check {field} of the contract"
    better, given = (float(part[:4]) for part in warning.message.split("mean IoU ")[1].split(" instead of "))
    assert better > 0.7 > given + 0.1


def test_the_wrong_resize_is_named(red_finder: bytes) -> None:
    wide = pictures(size=(128, 64))
    assert check_contract(red_finder, with_input(resize="stretch"), wide) is None
    warning = check_contract(red_finder, with_input(resize="letterbox"), wide)
    assert warning is not None
    assert "resized by stretch" in warning.message


def test_few_or_no_objects_show_nothing(red_finder: bytes) -> None:
    wrong = with_input(color="bgr")
    assert check_contract(red_finder, wrong, pictures(10)) is None
    data = pictures()
    empty = tuple(dataclasses.replace(sample, objects=()) for sample in data)
    assert check_contract(red_finder, wrong, dataclasses.replace(data, samples=empty)) is None


def test_a_damaged_image_stops_or_is_left_out(red_finder: bytes) -> None:
    def broken() -> Pixels:
        raise DataError("photo.jpg is damaged")

    data = pictures()
    damaged = dataclasses.replace(data, samples=(*data.samples, dataclasses.replace(data[0], read=broken)))
    with pytest.raises(DataError, match=r"photo\.jpg is damaged"):
        check_contract(red_finder, CONTRACT, damaged)
    assert check_contract(red_finder, CONTRACT, damaged, skip_bad=True) is None


def test_a_contract_that_does_not_fit_is_refused(red_finder: bytes) -> None:
    wrong = dataclasses.replace(CONTRACT, outputs=(OutputSpec("boxes", "box"),))
    with pytest.raises(ContractError, match="boxes"):
        check_contract(red_finder, wrong, pictures())
