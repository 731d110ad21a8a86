"""An image is read whole or refused by name; its size is read from its header."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from edgeloc.data.images import image_size, read_image
from edgeloc.errors import DataError

Write = Callable[..., Path]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_an_image_and_its_size_agree(tmp_path: Path, image: Write, suffix: str) -> None:
    path = image(tmp_path / f"a{suffix}", (60, 40))
    assert read_image(path).shape == (40, 60, 3)
    assert image_size(path) == (60, 40)


def test_a_grey_image_is_read_in_colour(tmp_path: Path, image: Write) -> None:
    grey = tmp_path / "grey.png"
    cv2.imwrite(str(grey), read_image(image(tmp_path / "a.png"))[..., 0])
    assert read_image(grey).shape == (40, 60, 3)


def _turned(path: Path, order: str) -> None:
    """Give a JPEG the Exif orientation 6: shown turned by a quarter."""
    mark = b"II" if order == "<" else b"MM"
    tiff = mark + struct.pack(f"{order}HIH", 42, 8, 1) + struct.pack(f"{order}HHIHHI", 0x0112, 3, 1, 6, 0, 0)
    segment = b"Exif\0\0" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_photo_taken_upright_has_the_size_it_is_shown_in(tmp_path: Path, image: Write, order: str) -> None:
    path = image(tmp_path / "a.jpg", (60, 40))
    _turned(path, order)
    assert image_size(path) == (40, 60)
    assert read_image(path).shape == (60, 40, 3)


def test_a_png_that_is_turned_has_the_size_it_is_shown_in(tmp_path: Path, image: Write) -> None:
    path = image(tmp_path / "a.png", (60, 40))
    tiff = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)
    chunk = b"eXIf" + tiff
    data = path.read_bytes()
    behind = len(b"\x89PNG\r\n\x1a\n") + 4 + 4 + 13 + 4  # the first chunk, IHDR
    framed = struct.pack(">I", len(tiff)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data[:behind] + framed + data[behind:])
    height, width = read_image(path).shape[:2]
    assert image_size(path) == (width, height)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zero_tail(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def _scratch(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


DAMAGES = [
    ("a.jpg", _cut, "the JPEG is cut short"),
    ("a.jpg", _zero_tail, "the JPEG is cut short"),
    ("a.jpg", lambda path: path.write_bytes(path.read_bytes()[:8]), "the JPEG is cut short"),
    ("a.png", _cut, "the PNG is cut short or damaged"),
    ("a.png", _scratch, "the PNG is cut short or damaged"),
    ("a.jpg", lambda path: path.write_bytes(b""), "the image file is empty"),
    ("a.jpg", lambda path: path.write_text("<html>not found</html>"), "OpenCV cannot decode this image"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_a_damaged_image_is_refused_by_name(
    tmp_path: Path,
    image: Write,
    capfd: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    path = image(tmp_path / name)
    damage(path)
    with pytest.raises(DataError, match=f"{name}: .*{message}"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_a_thumbnails_end_is_not_taken_for_the_images(tmp_path: Path, image: Write) -> None:
    path = image(tmp_path / "a.jpg")
    data = path.read_bytes()
    thumbnail = b"Exif\0\0 a thumbnail \xff\xd8\xff\xd9"
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    path.write_bytes(data)
    assert read_image(path).shape == (40, 60, 3)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut short"):
        read_image(path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"gone\.jpg: cannot read the image: No such file"):
            read(tmp_path / "gone.jpg")


def test_an_annotation_of_another_size_is_refused(tmp_path: Path, image: Write) -> None:
    path = image(tmp_path / "a.png", (60, 40))
    assert read_image(path, (60, 40)).shape == (40, 60, 3)
    with pytest.raises(DataError, match="is 60x40, its annotation 40x60"):
        read_image(path, (40, 60))


def test_a_small_file_of_huge_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    header = struct.pack(">II", 16000, 16000) + b"\x08\x00\x00\x00\x00"
    row = zlib.compress(bytes(16001 * 16000), 9)
    chunks = [(b"IHDR", header), (b"IDAT", row), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(DataError, match="16000x16000 pixels, more than 67 million pixels"):
        read_image(path)
