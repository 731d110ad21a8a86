"""Preprocessing: from a BGR frame to the model's input tensor; calibration, evaluation and runtime all use it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import ContractError, UsageError
from edgeloc.model.contract import InputSpec
from edgeloc.types import Box, Pixels

__all__ = ["Geometry", "Placement", "Preprocessor", "frame_geometry"]

_INTERPOLATION = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    # INTER_NEAREST takes the top-left neighbour, which shifts the image by half a pixel.
    "nearest": cv2.INTER_NEAREST_EXACT,
}
_AS_IT_IS = -1
_INTEGERS = (np.uint8, np.int8, np.int16)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the frame lies in the model's input: `frame = input * scale + offset`, in pixels, for each axis.

    Coordinates are those of pixel edges, so the input's right edge is its width; a resize maps
    edges linearly, half a pixel included.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_frame(self, box: Box) -> Box:
        """A box in input pixels as a box in frame pixels; not clipped."""
        return Box(
            box[0] * self.scale_x + self.offset_x,
            box[1] * self.scale_y + self.offset_y,
            box[2] * self.scale_x + self.offset_x,
            box[3] * self.scale_y + self.offset_y,
        )

    def to_input(self, box: Box) -> Box:
        """A box in frame pixels as a box in input pixels; not clipped."""
        return Box(
            (box[0] - self.offset_x) / self.scale_x,
            (box[1] - self.offset_y) / self.scale_y,
            (box[2] - self.offset_x) / self.scale_x,
            (box[3] - self.offset_y) / self.scale_y,
        )


@dataclass(frozen=True, slots=True)
class Geometry:
    """Which part of a frame goes to which part of the input.

    `crop` is the part of the frame, `target` that of the input, both (x, y, width, height) in pixels. A crop that is
    larger than the frame stands for one padded on all sides.
    `placement` maps the coordinates of the one to the other.
    """

    crop: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    placement: Placement


@lru_cache(maxsize=256)
def frame_geometry(spec: InputSpec, width: int, height: int) -> Geometry:
    """The geometry of a frame of `width` x `height` pixels for the input `spec`."""
    crop, target = (0, 0, width, height), (0, 0, spec.width, spec.height)
    if spec.resize in ("letterbox", "letterbox-top-left"):
        scale = min(spec.width / width, spec.height / height)
        in_corner = spec.resize == "letterbox-top-left"
        whole = int if in_corner else round  # YOLOX, which places frames there, cuts the fraction off
        w, h = min(spec.width, max(1, whole(width * scale))), min(spec.height, max(1, whole(height * scale)))
        target = (0, 0, w, h) if in_corner else ((spec.width - w) // 2, (spec.height - h) // 2, w, h)
    elif spec.resize == "letterbox-padded":
        w = max(width, round(height * spec.width / spec.height))
        h = max(height, round(width * spec.height / spec.width))
        crop = (-((w - width) // 2), -((h - height) // 2), w, h)
    elif spec.resize == "center-crop":
        w = min(width, max(1, round(height * spec.width / spec.height)))
        h = min(height, max(1, round(width * spec.height / spec.width)))
        crop = ((width - w) // 2, (height - h) // 2, w, h)
    scale_x, scale_y = crop[2] / target[2], crop[3] / target[3]
    placement = Placement(scale_x, scale_y, crop[0] - target[0] * scale_x, crop[1] - target[1] * scale_y)
    return Geometry(crop, target, placement)


class Preprocessor:
    """Turns frames into input tensors.

    `spec` is the contract's input.
    `dtype` is the type of the model's input tensor: float32, uint8, int8 or int16.
    `scale` and `zero_point` are its quantization, real = (q - zero_point) * scale; `scale` is None for a float input,
    or an integer one that takes raw pixels.

    Everything after the resize is a table of 256 values for each channel, and nothing at all where normalizing and
    quantizing cancel out: such pixels go in unconverted.

    Raises ContractError when the contract's normalization does not go with the dtype.
    """

    def __init__(self, spec: InputSpec, dtype: np.dtype[Any], scale: float | None, zero_point: int | None) -> None:
        self.spec = spec
        channels = 1 if spec.color == "gray" else 3
        self._interpolation = _INTERPOLATION[spec.interpolation]
        self._color = {"rgb": cv2.COLOR_BGR2RGB, "gray": cv2.COLOR_BGR2GRAY, "bgr": _AS_IT_IS}[spec.color]
        # The letterbox's border is filled once; the image is then written into its middle.
        self._canvas = np.full((spec.height, spec.width, channels), spec.pad_value, np.uint8)
        self._table = _table(spec, np.dtype(dtype), scale, zero_point)
        self._tensor = self._canvas[np.newaxis] if self._table is None else _empty_like(self._canvas, self._table)
        self._flip_sign = _is_sign_flip(self._table)
        self._planes = None
        if spec.layout == "channels-first":
            self._planes = np.empty((1, channels, spec.height, spec.width), self._tensor.dtype)
        self._frame_size = (0, 0)

    @property
    def passes_pixels(self) -> bool:
        """Whether the resized pixels are the tensor, without any conversion of values."""
        return self._table is None

    def __call__(self, pixels: Pixels) -> tuple[NDArray[Any], Placement]:
        """The tensor, of the contract's size and layout, for a BGR uint8 frame (height, width, 3), and its placement.

        The next call reuses the tensor's memory: copy it to keep it.

        Raises UsageError when `pixels` is not such an array.
        """
        if not isinstance(pixels, np.ndarray):
            raise UsageError(
                f"a frame must be an array, not {pixels!r:.60}",
                hint="cv2.imread returns None for a file that it cannot read",
            )
        if pixels.shape[:2] != self._frame_size or pixels.ndim != 3 or pixels.shape[2] != 3:
            self._lay_out(pixels)
        if pixels.dtype != np.uint8:
            raise UsageError(f"a frame must be uint8, not {pixels.dtype}")
        if self._padded is not None:
            np.copyto(self._padded[self._crop], pixels)
            pixels = self._padded
        elif self._crop is not None:
            pixels = pixels[self._crop]
        if self._small is None:
            cv2.resize(pixels, self._size, dst=self._view, interpolation=self._interpolation)
        else:
            if pixels.shape != self._small.shape:
                cv2.resize(pixels, self._size, dst=self._small, interpolation=self._interpolation)
                pixels = self._small
            cv2.cvtColor(pixels, self._color, dst=self._view)
        if self._flip_sign:
            np.bitwise_xor(self._canvas, 0x80, out=self._tensor.view(np.uint8)[0])
        elif self._table is not None:
            cv2.LUT(self._canvas, self._table, dst=self._tensor[0])
        if self._planes is None:
            return self._tensor, self._placement
        np.copyto(self._planes, self._tensor.transpose(0, 3, 1, 2))
        return self._planes, self._placement

    def _lay_out(self, pixels: Pixels) -> None:
        """Prepare buffers and views for frames of this size."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise UsageError(
                f"a frame must be BGR, an array (height, width, 3), not {pixels.shape}",
                hint="cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) converts a grey one",
            )
        height, width = pixels.shape[:2]
        geometry = frame_geometry(self.spec, width, height)
        x, y, w, h = geometry.crop
        whole = (w, h) == (width, height)
        self._padded = None if w <= width and h <= height else np.full((h, w, 3), self.spec.pad_value, np.uint8)
        if self._padded is not None:
            x, y, w, h = -x, -y, width, height
        self._crop = None if whole else (slice(y, y + h), slice(x, x + w))
        x, y, w, h = geometry.target
        self._canvas[:] = self.spec.pad_value
        self._view = self._canvas[y : y + h, x : x + w]
        self._size = (w, h)
        # Colours are converted after the resize, where there are fewer pixels.
        self._small = None if self._color == _AS_IT_IS else np.empty((h, w, 3), np.uint8)
        self._placement = geometry.placement
        self._frame_size = (height, width)


def _table(spec: InputSpec, dtype: np.dtype[Any], scale: float | None, zero_point: int | None) -> NDArray[Any] | None:
    """The tensor's value for each pixel value, (256,) or (256, 1, channels); None where pixels go in unconverted."""
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    pixels = np.arange(256, dtype=np.float64).reshape(256, 1, 1)
    values = (pixels - mean) / std
    if dtype == np.float32:
        return _shaped(values.astype(np.float32))
    if dtype not in _INTEGERS:
        raise ContractError(f"the model's input is {dtype}: it must be float32, uint8, int8 or int16")
    if not scale and (np.any(mean != 0) or np.any(std != 1)):
        raise ContractError(
            f"the model's input is {dtype} without a scale, so it takes raw pixels: "
            f"input.mean must be 0 and input.std 1, not {list(spec.mean)} and {list(spec.std)}"
        )
    exact = values / (scale or 1.0) + (zero_point or 0)
    if dtype == np.uint8 and _within_half_a_step(exact, pixels):
        return None
    if dtype == np.int8 and _within_half_a_step(exact, pixels - 128):
        return np.arange(-128, 128, dtype=np.int8)
    limits = np.iinfo(dtype)
    # Not rint: it rounds halves to even, which would make one value of two neighbouring pixels.
    return _shaped(np.clip(np.floor(exact + 0.5), limits.min, limits.max).astype(dtype))


def _within_half_a_step(exact: NDArray[np.float64], pixels: NDArray[np.float64]) -> bool:
    """Whether whole pixels are the rounded values; the slack is for a scale that was stored as float32."""
    return bool(np.abs(exact - pixels).max() <= 0.5 + 1e-3)


def _shaped(table: NDArray[Any]) -> NDArray[Any]:
    if table.shape[2] == 1:
        return table.reshape(256)  # one table for all channels is faster
    return table


def _empty_like(canvas: Pixels, table: NDArray[Any]) -> NDArray[Any]:
    return np.empty((1, *canvas.shape), table.dtype)


def _is_sign_flip(table: NDArray[Any] | None) -> bool:
    """Whether the table is pixel - 128 in int8: flipping the sign bit is far faster than a table."""
    return table is not None and table.dtype == np.int8 and np.array_equal(table, np.arange(-128, 128))
