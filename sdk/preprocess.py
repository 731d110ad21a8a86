"""Preprocessing: from a BGR frame to the model's input tensor; calibration, evaluation and runtime all use it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from edgeloc.errors import ContractError, UsageError
from edgeloc.model.contract import InputSpec
from edgeloc.types import Box, Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Geometry", "InputMemory", "Placement", "Preprocessor", "frame_geometry"]

_INTERPOLATION = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    # INTER_NEAREST takes the top-left neighbour, which shifts the image by half a pixel.
    "nearest": cv2.INTER_NEAREST_EXACT,
}
_INTEGERS = (np.uint8, np.int8, np.int16)

_UINT8 = np.dtype(np.uint8)
_Cut = Callable[[Pixels], Pixels]
_Paint = Callable[[Pixels, Any], Any]


class Placement(NamedTuple):
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


class Geometry(NamedTuple):
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


class InputMemory:
    """Where a runtime reads its input.

    Parameters:
        array: gives it as an array, to be let go of before the model runs.

    Attributes:
        border: around which part (x, y, width, height) of it lies a border of which value; None for any tensor.
    """

    __slots__ = ("array", "border")

    def __init__(self, array: Callable[[], NDArray[Any]]) -> None:
        self.array = array
        self.border: tuple[tuple[int, int, int, int], int] | None = None


class Preprocessor:
    """Turns frames into input tensors.

    `spec` is the contract's input.
    `dtype` is the type of the model's input tensor: float32, uint8, int8 or int16.
    `scale` and `zero_point` are its quantization, real = (q - zero_point) * scale; `scale` is None for a float input,
    or an integer one that takes raw pixels.

    Attributes:
        writes_pixels: whether `write` can be used: pixels are the tensor as they are, in the order of a picture.

    Values are converted by a table of 256 for each channel, and not at all where normalizing and quantizing cancel out:
    such pixels go in as they are.

    Raises ContractError when the contract's normalization does not go with the dtype.
    """

    def __init__(self, spec: InputSpec, dtype: np.dtype[Any], scale: float | None, zero_point: int | None) -> None:
        self.spec = spec
        channels = 1 if spec.color == "gray" else 3
        self._planar = spec.layout == "channels-first"
        self._table = _table(spec, np.dtype(dtype), scale, zero_point)
        self.writes_pixels = self._table is None and not self._planar
        sides = (channels, spec.height, spec.width) if self._planar else (spec.height, spec.width, channels)
        self._tensor = np.empty((1, *sides), np.uint8 if self._table is None else self._table.dtype)
        self._frame_shape: tuple[int, ...] = ()

    @property
    def passes_pixels(self) -> bool:
        """Whether the resized pixels are the tensor, without any conversion of values."""
        return self._table is None

    def __call__(self, pixels: Pixels) -> tuple[NDArray[Any], Placement]:
        """The tensor, of the contract's size and layout, for a BGR uint8 frame (height, width, 3), and its placement.

        The next call reuses the tensor's memory: copy it to keep it.

        Raises UsageError when `pixels` is not such an array.
        """
        if type(pixels) is not np.ndarray or pixels.shape != self._frame_shape or pixels.dtype != _UINT8:
            self._prepare(pixels)
        if self._cut is not None:
            pixels = self._cut(pixels)
        self._paint(pixels, self._landing)
        for step in self._conversion:
            step()
        return self._tensor, self._placement

    def write(self, pixels: Pixels, memory: InputMemory) -> Placement:
        """Write the tensor into the runtime's memory, where `writes_pixels`, and answer the frame's placement.

        The letterbox's border is drawn for the first frame of a size alone: runtimes leave their input as it is.

        Raises UsageError like a call, before it asks for the memory.
        """
        if type(pixels) is not np.ndarray or pixels.shape != self._frame_shape or pixels.dtype != _UINT8:
            self._prepare(pixels)
        if self._cut is not None:
            pixels = self._cut(pixels)
        tensor = memory.array()
        if memory.border != self._surround:
            for edge in _around(self._surround[0], self.spec):
                tensor[edge] = self.spec.pad_value
            memory.border = self._surround
        self._paint(pixels, tensor[self._window])
        return self._placement

    def _prepare(self, pixels: Pixels) -> None:
        """Refuse what is no frame, and prepare for one of another size than before."""
        if not isinstance(pixels, np.ndarray):
            raise UsageError(
                f"a frame must be an array, not {pixels!r:.60}",
                hint="cv2.imread returns None for a file that it cannot read",
            )
        if pixels.shape != self._frame_shape:
            self._lay_out(pixels.shape)
        if pixels.dtype != _UINT8:
            raise UsageError(f"a frame must be uint8, not {pixels.dtype}")

    def _lay_out(self, shape: tuple[int, ...]) -> None:
        """Prepare for frames of this shape: the steps from one to the tensor, with memory for what each makes."""
        if len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise UsageError(
                f"a frame must be BGR, an array (height, width, 3), not {shape}",
                hint="cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR) converts a grey one",
            )
        height, width = shape[:2]
        geometry = frame_geometry(self.spec, width, height)
        self._fill()
        x, y, w, h = geometry.target
        rows, columns = slice(y, y + h), slice(x, x + w)
        region = self._tensor[0, :, rows, columns] if self._planar else self._tensor[0, rows, columns]
        # What takes the pixels: the tensor itself, where they have its size.
        in_place = self._table is None or _is_sign_flip(self._table)
        landing = region.view(np.uint8) if in_place else np.empty(region.shape, np.uint8)
        self._landing = landing[0] if self._planar and self.spec.color == "gray" else landing
        self._window, self._surround = (0, rows, columns), (geometry.target, self.spec.pad_value)
        self._cut = _cut(geometry.crop, (width, height), self.spec.pad_value)
        self._paint = self._resize(geometry)
        self._conversion = self._convert(landing, region)
        self._placement, self._frame_shape = geometry.placement, shape

    def _fill(self) -> None:
        """Fill the tensor with the letterbox's border; images are then written into its middle."""
        border: Any = self.spec.pad_value if self._table is None else self._table.reshape(256, -1)[self.spec.pad_value]
        self._tensor[:] = border.reshape(-1, 1, 1) if self._planar and self._table is not None else border

    def _resize(self, geometry: Geometry) -> _Paint:
        """From a part of a frame to pixels of the input's size, colours and layout in what is given."""
        size, color = geometry.target[2:], self.spec.color
        mode = _INTERPOLATION[self.spec.interpolation]

        if color == "bgr" and not self._planar:
            return lambda pixels, into: cv2.resize(pixels, size, into, 0, 0, mode)
        # Colours are converted after the resize, where there are fewer pixels.
        small, resized = np.empty((size[1], size[0], 3), np.uint8), geometry.crop[2:] == size
        if color != "gray" and self._planar:
            planes: Any = list(self._landing[::-1] if color == "rgb" else self._landing)
            return lambda pixels, _: cv2.split(
                pixels if resized else cv2.resize(pixels, size, small, 0, 0, mode), planes
            )
        code = cv2.COLOR_BGR2GRAY if color == "gray" else cv2.COLOR_BGR2RGB
        if resized:
            return lambda pixels, into: cv2.cvtColor(pixels, code, into)
        # In one step: a call of Python's own costs as much as the colours, where the network has emptied the caches.
        return lambda pixels, into: cv2.cvtColor(cv2.resize(pixels, size, small, 0, 0, mode), code, into)

    def _convert(self, landing: NDArray[np.uint8], region: NDArray[Any]) -> list[Callable[[], Any]]:
        """The steps from these pixels to the tensor's values in `region`."""
        table = self._table
        if table is None:
            return []
        if _is_sign_flip(table):
            return [lambda: np.bitwise_xor(landing, 0x80, out=landing)]
        if not self._planar:
            convert = _converter(table)
            return [lambda: convert(landing, region)]
        own = [table] * len(landing) if table.ndim == 1 else [table[:, 0, i].copy() for i in range(len(landing))]
        planes = list(zip(map(_converter, own), landing, region, strict=True))
        return [lambda: [convert(plane, into) for convert, plane, into in planes]]


def _converter(table: NDArray[Any]) -> Callable[[NDArray[np.uint8], NDArray[Any]], Any]:
    """From pixels to the values that the table has for them, in what is given."""
    if table.ndim == 1 and table.dtype == np.float32:
        # A straight line is computed in two thirds of the time that it takes to look it up.
        slope, first = float(table[255] - table[0]) / 255, float(table[0])
        return lambda pixels, into: cv2.addWeighted(pixels, slope, pixels, 0, first, into, cv2.CV_32F)
    return lambda pixels, into: cv2.LUT(pixels, table, into)


def _around(target: tuple[int, int, int, int], spec: InputSpec) -> list[tuple[int, slice, slice]]:
    """The parts of an input around `target`, as indices."""
    x, y, w, h = target
    rows, columns = (slice(0, y), slice(y + h, spec.height)), (slice(0, x), slice(x + w, spec.width))
    parts = [(0, own, slice(None)) for own in rows] + [(0, slice(y, y + h), own) for own in columns]
    return [part for part in parts if all(own.stop is None or own.stop > own.start for own in part[1:])]


def _cut(crop: tuple[int, int, int, int], frame: tuple[int, int], pad_value: int) -> _Cut | None:
    """From a frame of this (width, height) to the part of it that `crop` means; None for all of it."""
    (x, y, w, h), (width, height) = crop, frame
    if (w, h) == frame:
        return None
    if w <= width and h <= height:
        return lambda pixels: pixels[y : y + h, x : x + w]
    padded = np.full((h, w, 3), pad_value, np.uint8)
    middle = padded[-y : -y + height, -x : -x + width]

    def pad(pixels: Pixels) -> Pixels:
        np.copyto(middle, pixels)
        return padded

    return pad


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


def _is_sign_flip(table: NDArray[Any]) -> bool:
    """Whether the table is pixel - 128 in int8: flipping the sign bit is far faster than a table."""
    return table.dtype == np.int8 and np.array_equal(table, np.arange(-128, 128))
