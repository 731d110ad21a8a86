"""The self-test in a model file: a small picture, and what the model must answer on it."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edgeloc._support.json import from_data
from edgeloc._support.terminal import quiet_stderr
from edgeloc.errors import ModelError
from edgeloc.types import Box, Pixels, Result

__all__ = ["Golden", "make_golden", "read_golden"]

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
_MOST_PIXELS = 1 << 24  # 4096 x 4096
_CANDIDATES = 16
_SIZE = (160, 120)


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """A small image and what the model must answer on it: the self-test on the device.

    Parameters:
        image: BGR uint8 (height, width, 3); `box` is in its pixels, None where the model must find nothing. Every edge
            may differ by `box_px` pixels and the presence by `presence_tolerance`, since kernels and CPUs round
            differently.
    """

    image: Pixels
    presence: float
    box: Box | None
    label: str | None
    box_px: float = 4.0
    presence_tolerance: float = 0.1

    def expected_json(self) -> str:
        """Everything but the image, as the JSON text of the member beside it."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "image"}
        return json.dumps(values, indent=2) + "\n"

    def image_png(self) -> bytes:
        """The image as a PNG."""
        return cv2.imencode(".png", self.image)[1].tobytes()


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the JSON beside the picture holds."""

    presence: float
    box: Box | None
    label: str | None
    box_px: float = 4.0
    presence_tolerance: float = 0.1

    def __post_init__(self) -> None:
        numbers = (self.presence, self.box_px, self.presence_tolerance, *(self.box or ()))
        if not all(map(math.isfinite, numbers)):
            raise ModelError("its numbers must be finite")


def read_golden(png: bytes, image_name: str, data: dict[str, Any], data_name: str) -> Golden:
    """The self-test out of its two members, which the names are of; ModelError when one is damaged."""
    try:
        expected: _Expected = from_data(_Expected, data, strict=True, failure=ModelError)
    except ModelError as error:
        raise ModelError(f"{data_name} does not fit: {error}") from error
    values = {name: getattr(expected, name) for name in expected.__slots__}
    return Golden(_decoded(png, image_name), **values)


def make_golden(localizer: Callable[[Pixels], Result]) -> Golden:
    """Of a few generated scenes the one that the model is surest about; ModelError where it answers no numbers."""
    from edgeloc.scenes import SceneGenerator  # who only tests itself makes none

    scenes = SceneGenerator(seed=0, size=_SIZE)
    pictures = [scenes.scene(index).pixels for index in range(_CANDIDATES)]
    result, pixels = max(((localizer(pixels), pixels) for pixels in pictures), key=lambda answer: answer[0].presence)
    if not np.isfinite(result.presence):
        raise ModelError("the converted model answers with numbers that are not finite")
    return Golden(pixels, result.presence, result.box, result.label)


def _decoded(png: bytes, name: str) -> Pixels:
    """The golden picture, BGR; its size is known before it is decoded, since a small file can hold a huge one."""
    width, height = struct.unpack_from(">II", png, 16) if _is_whole_png(png) else (0, 0)
    if not 0 < width * height <= _MOST_PIXELS:
        allowed = f"a whole PNG of at most {_MOST_PIXELS:,} pixels"
        raise ModelError(f"{name} must be {allowed}", hint="convert the model again")
    with quiet_stderr():  # libpng prints what is wrong
        try:
            image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None
    if image is None:
        raise ModelError(f"{name} is no image", hint="convert the model again")
    return image.astype(np.uint8, copy=False)


def _is_whole_png(data: bytes) -> bool:
    """Whether it begins as a PNG does and its chunks fill it: a decoder allots what a chunk claims to be long."""
    if data[: len(_PNG_START)] != _PNG_START:
        return False
    position, kind = 8, b""
    while kind != b"IEND" and position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length
    return kind == b"IEND" and position == len(data)
