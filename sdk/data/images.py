"""Reads an image file whole or not at all, and its size from its header."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edgeloc.errors import DataError
from edgeloc.types import Pixels

__all__ = ["IMAGE_SUFFIXES", "image_size", "read_image"]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TURNED = (5, 6, 7, 8)  # Exif orientations that swap width and height
_HEADER_BYTES = 1 << 16
# 8192 x 8192: 200 MB as pixels.
_MOST_PIXELS = 1 << 26


class _JpegHeader(NamedTuple):
    size: tuple[int, int] | None
    scan: int  # where the pixels' data begin; 0 where they are beyond the header


def read_image(path: Path, size: tuple[int, int] | None = None) -> Pixels:
    """The image as BGR uint8 (height, width, 3), turned by its Exif orientation.

    `path`: the file.
    `size`: the annotated (width, height) in pixels; None where there is none.

    Raises DataError where the file is missing, cut short, damaged, not of that size, or a PNG or JPEG of more than 67
    million pixels.
    """
    # OpenCV fills what is missing of a JPEG with grey without an error: look at the end of the file first.
    data = _bytes(path)
    fault = _fault(data) or _excess(data)
    if fault:
        raise DataError(f"{path}: {fault}; replace the file or take it out of the data set")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(f"{path}: OpenCV cannot decode this image; replace it or take it out of the data set")
    found = (pixels.shape[1], pixels.shape[0])
    if size is not None and found != size:
        raise DataError(f"{path}: the image is {_text(found)}, its annotation {_text(size)}")
    return np.asarray(pixels, np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as `read_image` would give them, from the header where that is enough."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}") from error
    size = _header_size(head)
    # A PNG may be turned too, which is rare: it is read.
    if size is None or not all(size) or (head.startswith(_PNG) and b"eXIf" in head):
        height, width = read_image(path).shape[:2]
        size = (width, height)
    return size


def _header_size(head: bytes) -> tuple[int, int] | None:
    if head.startswith(_PNG) and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
        return (width, height)
    return _jpeg_header(head).size if head.startswith(_JPEG) else None


def _excess(data: bytes) -> str:
    """What is wrong with an image that takes too much memory; a small file can hold a huge one of a single colour."""
    width, height = _header_size(data) or (0, 0)
    most = f"{_MOST_PIXELS / 1e6:.0f} million pixels"
    return f"the image has {width}x{height} pixels, more than {most}" if width * height > _MOST_PIXELS else ""


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror or error}") from error


def _fault(data: bytes) -> str:
    if not data:
        return "the image file is empty"
    if data.startswith(_JPEG):
        scan = _jpeg_header(data).scan
        return "" if scan and data.rfind(b"\xff\xd9") > scan else "the JPEG is cut short"
    return _png_fault(data) if data.startswith(_PNG) else ""


def _png_fault(data: bytes) -> str:
    start = len(_PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            break
        if data[start + 4 : start + 8] == b"IEND":
            return ""
        start = end
    return "the PNG is cut short or damaged"


def _jpeg_header(data: bytes) -> _JpegHeader:
    size: tuple[int, int] | None = None
    turned = False
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker = data[start + 1]
        if marker == 0xFF:  # fill byte
            start += 1
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == 0xDA:
            return _JpegHeader(size, end)
        if marker == 0xE1:
            turned = turned or _exif_orientation(data[start + 4 : end]) in _TURNED
        if marker in _FRAME_MARKERS and start + 9 <= len(data):
            height, width = struct.unpack(">HH", data[start + 5 : start + 9])
            size = (height, width) if turned else (width, height)
        start = end
    return _JpegHeader(size, 0)


def _exif_orientation(segment: bytes) -> int:
    if not segment.startswith(b"Exif\0\0"):
        return 1
    tiff = segment[6:]
    order = "<" if tiff.startswith(b"II") else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for number in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * number)
            if tag == 0x0112:
                return int(value)
    except struct.error:
        return 1
    return 1


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
