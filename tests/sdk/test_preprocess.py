"""Frames into input tensors: values, colours, geometry in both directions, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.errors import ContractError, UsageError
from edgeloc.model.contract import InputSpec
from edgeloc.preprocess import Preprocessor, frame_geometry
from edgeloc.types import Box

RESIZES = ("letterbox", "letterbox-top-left", "letterbox-padded", "stretch", "center-crop")
INPUTS: dict[Any, tuple[float | None, int | None]] = {
    np.uint8: (1 / 127.5, 128),
    np.int8: (1 / 127.5, -1),
    np.int16: (1 / 32767, 0),
    np.float32: (None, None),
}


def real_values(tensor: np.ndarray[Any, Any], scale: float | None, zero_point: int | None) -> np.ndarray[Any, Any]:
    return tensor.astype(float) if scale is None else (tensor.astype(float) - (zero_point or 0)) * scale


def by_hand(spec: InputSpec, frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    height, width = frame.shape[:2]
    geometry = frame_geometry(spec, width, height)
    x, y, w, h = geometry.crop
    if x < 0 or y < 0:
        part = cv2.copyMakeBorder(
            frame, -y, h + y - height, -x, w + x - width, cv2.BORDER_CONSTANT, value=(spec.pad_value,) * 3
        )
    else:
        part = frame[y : y + h, x : x + w]
    x, y, w, h = geometry.target
    modes = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "cubic": cv2.INTER_CUBIC}
    small = cv2.resize(part, (w, h), interpolation=modes[spec.interpolation])
    if spec.color == "gray":
        small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)[..., np.newaxis]
    elif spec.color == "rgb":
        small = small[..., ::-1]
    canvas = np.full((spec.height, spec.width, small.shape[2]), float(spec.pad_value))
    canvas[y : y + h, x : x + w] = small
    return (canvas - np.array(spec.mean)) / np.array(spec.std)


@pytest.mark.parametrize("dtype", INPUTS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("color", ["rgb", "bgr", "gray"])
def test_the_tensor_is_the_normalized_frame_within_half_a_step(color: Any, resize: Any, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (120, 160, 3), np.uint8)
    scale, zero_point = INPUTS[dtype]
    for interpolation, size in itertools.product(("linear", "area", "cubic"), ((96, 64), (64, 96))):
        spec = InputSpec("x", *size, color=color, resize=resize, interpolation=interpolation)  # type: ignore[arg-type]
        preprocess = Preprocessor(spec, np.dtype(dtype), scale, zero_point)
        for view in (frame, frame[::-1], frame[:30], frame[:64, :96], frame[:, :20]):
            tensor, _ = preprocess(view)
            assert tensor.dtype == dtype
            assert tensor.shape == (1, spec.height, spec.width, 1 if color == "gray" else 3)
            error = np.abs(real_values(tensor[0], scale, zero_point) - by_hand(spec, view)).max()
            # int16 has 32767 steps to the right of zero and one more to the left.
            assert error <= (1e-6 if scale is None else scale * 0.502 + (dtype == np.int16) * scale)


def test_pixels_go_in_unconverted_where_the_scale_says_the_same() -> None:
    spec = InputSpec("x", 32, 24)
    for zero_point in (127, 128):
        assert Preprocessor(spec, np.dtype(np.uint8), 1 / 127.5, zero_point).passes_pixels
    assert not Preprocessor(spec, np.dtype(np.uint8), 1 / 100, 128).passes_pixels
    assert Preprocessor(InputSpec("x", 8, 8, mean=(0.0,), std=(1.0,)), np.dtype(np.uint8), None, None).passes_pixels


def test_neighbouring_pixel_values_stay_apart_in_int8() -> None:
    spec = InputSpec("x", 256, 1, color="gray", resize="stretch")
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis], 3, axis=2)
    tensor, _ = Preprocessor(spec, np.dtype(np.int8), 1 / 127.5, -1)(ramp)
    assert len(np.unique(tensor)) == 256


def test_each_channel_is_normalized_by_its_own_numbers() -> None:
    spec = InputSpec("x", 4, 4, mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    frame = np.full((4, 4, 3), (50, 60, 70), np.uint8)
    tensor, _ = Preprocessor(spec, np.dtype(np.float32), None, None)(frame)
    assert tensor[0, 0, 0].tolist() == [60.0, 20.0, 5.0]  # RGB of a BGR frame


def test_the_letterbox_is_filled_anew_when_the_frame_size_changes() -> None:
    spec = InputSpec("x", 32, 32, mean=(0.0,), std=(1.0,), pad_value=7)
    preprocess = Preprocessor(spec, np.dtype(np.uint8), None, None)
    preprocess(np.full((32, 32, 3), 200, np.uint8))
    tensor, _ = preprocess(np.full((16, 32, 3), 100, np.uint8))
    assert np.unique(tensor[0, :8]).tolist() == [7]
    assert np.unique(tensor[0, 8:24]).tolist() == [100]
    assert np.unique(tensor[0, 24:]).tolist() == [7]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (300, 300), (1, 7), (1919, 1081)])
def test_boxes_go_to_the_input_and_back(resize: Any, size: tuple[int, int]) -> None:
    placement = frame_geometry(InputSpec("x", 224, 192, resize=resize), *size).placement
    box = Box(3.25, 1.5, 77.75, 60.0)
    assert placement.to_frame(placement.to_input(box)) == pytest.approx(box)


@pytest.mark.parametrize("resize", RESIZES)
def test_the_placement_agrees_with_where_the_pixels_went(resize: Any) -> None:
    spec = InputSpec("x", 160, 160, color="gray", mean=(0.0,), std=(1.0,), resize=resize, pad_value=0)
    frame = np.zeros((480, 640, 3), np.uint8)
    frame[120:360, 200:440] = 255
    tensor, placement = Preprocessor(spec, np.dtype(np.float32), None, None)(frame)
    weight = tensor[0, ..., 0] / 255
    columns, rows = weight.sum(axis=0), weight.sum(axis=1)
    # The centre of mass, in coordinates of pixel edges, is that of the square: half a pixel off would show.
    x = (columns * (np.arange(160) + 0.5)).sum() / columns.sum()
    y = (rows * (np.arange(160) + 0.5)).sum() / rows.sum()
    centre = placement.to_frame(Box(x, y, x, y))
    assert centre[:2] == pytest.approx((320, 240), abs=0.02)


def test_the_same_memory_is_used_again() -> None:
    preprocess = Preprocessor(InputSpec("x", 16, 16), np.dtype(np.uint8), 1 / 127.5, 128)
    frame = np.zeros((20, 20, 3), np.uint8)
    assert np.shares_memory(preprocess(frame)[0], preprocess(frame)[0])


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (np.zeros((20, 20), np.uint8), "BGR"),
        (np.zeros((20, 20, 4), np.uint8), "BGR"),
        (np.zeros((0, 20, 3), np.uint8), "BGR"),
        (np.zeros((20, 20, 3), np.float32), "uint8"),
    ],
)
def test_what_is_no_frame_is_refused(frame: Any, words: str) -> None:
    preprocess = Preprocessor(InputSpec("x", 16, 16), np.dtype(np.uint8), 1 / 127.5, 128)
    for _ in range(2):  # the second time the size is known already
        with pytest.raises(UsageError, match=words):
            preprocess(frame)


def test_integers_without_a_scale_take_raw_pixels_only() -> None:
    with pytest.raises(ContractError, match=r"input\.mean must be 0"):
        Preprocessor(InputSpec("x", 16, 16), np.dtype(np.uint8), None, None)


def test_an_input_of_another_dtype_is_refused() -> None:
    with pytest.raises(ContractError, match="int64"):
        Preprocessor(InputSpec("x", 16, 16), np.dtype(np.int64), None, None)


def test_channels_come_first_where_the_contract_says_so() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    last, first = (Preprocessor(InputSpec("i", 24, 16, layout=layout), np.dtype(np.float32), None, None)(frame)[0]
                   for layout in ("channels-last", "channels-first"))  # fmt: skip
    assert first.shape == (1, 3, 16, 24) and first.flags.c_contiguous
    assert np.array_equal(first, last.transpose(0, 3, 1, 2))


def test_a_letterbox_in_the_corner_cuts_fractions_off() -> None:
    """As YOLOX does: 416 / 1352 of 900 rows are 276.9."""
    geometry = frame_geometry(InputSpec("i", 416, 416, resize="letterbox-top-left"), 1352, 900)
    assert geometry.target == (0, 0, 416, 276)
