"""The file formats of a model: the network's own bytes, and beside them a zip that every other reader passes over.

In a `.tflite` the zip stands behind the flatbuffer, which is the TFLite Metadata convention. An ONNX file is one
protobuf message, and readers of protobuf pass over fields that they do not know: there the zip is such a field, the
last one. `unzip -l` lists both, and neither needs a package of the format to be read or written.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from edgeloc.errors import MissingExtra, ModelError

__all__ = [
    "CONTAINERS",
    "DAMAGED_ZIP",
    "Container",
    "Format",
    "OnnxContainer",
    "Split",
    "TfliteContainer",
    "encode_varint",
    "format_of",
    "read_fields",
    "read_member",
]

# A .keras file is read by Keras itself and never written here; it has a format, so that no other is claimed for it.
Format = Literal["tflite", "onnx", "keras"]
Members = dict[str, bytes]

_CONTRACT = b"edgeloc.json"
_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_SIZE = 30
_MOST_IN_ZIP, _MOST_MEMBERS = 64 << 20, 1000
_EPOCH = (1980, 1, 1, 0, 0, 0)
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError, ValueError)

# Far above what ONNX numbers its fields with, below what protobuf keeps for itself (19000 to 19999).
_ZIP_FIELD = 18765
_IR_VERSION, _GRAPH, _OPSETS = 1, 7, 8
_MOST_FIELDS = 200_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Split(NamedTuple):
    """A model file taken apart: the network, and the members of the zip by name."""

    payload: bytes
    members: Members


class Container(Protocol):
    """One file format; `title` is its name in sentences, `suffix` that of its files."""

    title: str
    suffix: str

    def matches(self, data: bytes) -> bool:
        """Whether the bytes look like this format from outside."""

    def split(self, data: bytes, name: str) -> Split:
        """Take a file apart; ModelError, naming the file, when it is not of this format, truncated or damaged."""

    def join(self, payload: bytes, members: Mapping[str, bytes]) -> bytes:
        """The bytes of a file that holds both; the same arguments give the same bytes."""

    def check(self, payload: bytes, name: str) -> None:
        """Raise ModelError when the network's structure is broken, as far as it can be followed without running it."""


class TfliteContainer:
    """A TFLite flatbuffer with a zip behind it."""

    title = "TFLite"
    suffix = ".tflite"

    def matches(self, data: bytes) -> bool:
        """Whether the flatbuffer's mark stands where it should."""
        return data[4:8] == b"TFL3"

    def split(self, data: bytes, name: str) -> Split:
        """Cut the zip off; one that lost its end is found by the contract's local header."""
        if not self.matches(data):
            raise ModelError(f"{name} is no TFLite model: {_what_it_is(data, name)}")
        if not zipfile.is_zipfile(io.BytesIO(data)):
            start = data.find(_CONTRACT) - _LOCAL_HEADER_SIZE
            if start > 0 and data[start : start + len(_LOCAL_HEADER)] == _LOCAL_HEADER:
                raise ModelError(f"{name} is truncated: the zip in it has no end; copy it again")
            return Split(data, {})
        start, members = _read_zip(data, name)
        return Split(data[:start], members)

    def join(self, payload: bytes, members: Mapping[str, bytes]) -> bytes:
        """Append the zip, whose offsets count from the start of the file, as TFLite's own metadata reader needs it."""
        return _append_zip(payload, members)

    def check(self, payload: bytes, name: str) -> None:
        """Follow the flatbuffer's offsets; without a package that describes them the engine's trial must do."""
        from edgeloc.model.flatbuffer import parse_flatbuffer  # not needed where the contract has the hash

        try:
            parse_flatbuffer(payload, name)
        except MissingExtra:
            return


class OnnxContainer:
    """An ONNX model with a zip in a field of its own; the protobuf message is walked by its outermost fields alone."""

    title = "ONNX"
    suffix = ".onnx"

    def matches(self, data: bytes) -> bool:
        """Whether the outermost message has what an ONNX model must have."""
        try:
            found = {field for field, _, _ in _fields(data)}
        except ValueError:
            return False
        return {_IR_VERSION, _GRAPH, _OPSETS} <= found

    def split(self, data: bytes, name: str) -> Split:
        """Cut the zip's field off, and what follows it."""
        try:
            payload, archive = self._cut(data)
        except ValueError as error:
            raise ModelError(f"{name} is truncated or no ONNX model ({error}); copy or convert it again") from error
        if not self.matches(payload):
            raise ModelError(f"{name} is no ONNX model: {_what_it_is(data, name)}")
        return Split(payload, _read_zip(archive, name)[1] if archive else {})

    def join(self, payload: bytes, members: Mapping[str, bytes]) -> bytes:
        """Append the zip as one more field."""
        archive = _append_zip(b"", members)
        return payload + encode_varint(_ZIP_FIELD << 3 | _BYTES) + encode_varint(len(archive)) + archive

    def check(self, payload: bytes, name: str) -> None:
        """Nothing beyond the outermost fields, which `split` has walked."""

    @staticmethod
    def _cut(data: bytes) -> tuple[bytes, bytes]:
        for field, start, content in _fields(data):
            if field == _ZIP_FIELD and isinstance(content, bytes):
                return data[:start], content
        return data, b""


CONTAINERS: dict[Format, Container] = {"tflite": TfliteContainer(), "onnx": OnnxContainer()}


def format_of(data: bytes, suffix: str = "") -> Format:
    """The format of a file by its content; by its suffix where the content is of none, TFLite for any other suffix."""
    for name, container in CONTAINERS.items():
        if container.matches(data):
            return name
    return next((name for name, container in CONTAINERS.items() if container.suffix == suffix), "tflite")


def _what_it_is(data: bytes, name: str) -> str:
    if not data:
        return "the file is empty"
    if Path(name).suffix in (".keras", ".h5", ".pb", ".pt"):
        return "convert it first with `edgeloc convert`"
    if data[:4] == _LOCAL_HEADER:
        return "it is a zip with no model before it"
    if Path(name).suffix == OnnxContainer.suffix:
        return "it lacks a graph, its version or its operator sets"
    return "it does not begin with the mark TFL3"


def _append_zip(before: bytes, members: Mapping[str, bytes]) -> bytes:
    """The bytes with a zip behind them: stored, and without clocks, so that the same members give the same bytes."""
    stream = io.BytesIO(before)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return stream.getvalue()


def _read_zip(data: bytes, name: str) -> tuple[int, Members]:
    """Where the zip in the bytes starts, and its members; ModelError when it is damaged or unpacks to too much."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _require_plain(entries, name)
            members = {entry.filename: archive.read(entry) for entry in entries}
    except ModelError:
        raise
    except DAMAGED_ZIP as error:
        raise ModelError(f"{name} is truncated or altered: the zip in it is broken ({error})") from error
    return min((entry.header_offset for entry in entries), default=len(data)), members


def _require_plain(entries: list[zipfile.ZipInfo], name: str) -> None:
    """Whatever unpacks may be a bomb, whatever lies twice is read otherwise by others: neither is ever written here."""
    if len(entries) > _MOST_MEMBERS or sum(entry.file_size for entry in entries) > _MOST_IN_ZIP:
        raise ModelError(
            f"{name}: the zip in it holds more than 64 MB or {_MOST_MEMBERS} members; convert the model again"
        )
    if len({entry.filename for entry in entries}) < len(entries):
        raise ModelError(f"{name}: the zip in it holds two members of one name; convert the model again")
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ModelError(
            f"{name}: the zip in it holds {packed[0].filename!r} compressed, and only stored members are read; "
            "convert the model again, or store them with `zip -0`"
        )


def read_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A member of another program's zip, stored or deflated; ValueError where it is longer than `most` bytes.

    The size is counted while it is read: the one in the zip may be false.
    """
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack to any length at once
        raise ValueError(f"{name} is compressed in an uncommon way")
    try:
        with archive.open(entry) as member:
            content = member.read(most + 1)
    except DAMAGED_ZIP as error:
        raise ValueError(f"{name} is damaged ({error})") from error
    if len(content) > most:
        raise ValueError(f"{name} is longer than {most:,} bytes")
    return content


def read_fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a protobuf message: number, and the content of one that has a length, else its whole number.

    Raises ValueError when a field's length points outside the bytes.
    """
    return ((field, content) for field, _, content in _fields(data))


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """The fields of a protobuf message: number, where it starts, and its content.

    Wire format: https://protobuf.dev/programming-guides/encoding/
    """
    position = count = 0
    while position < len(data):
        count += 1
        if count > _MOST_FIELDS:
            raise ValueError("a message of too many fields")
        start = position
        tag, position = _read_varint(data, position)
        field, kind = tag >> 3, tag & 7
        content: bytes | int = 0
        if kind == _VARINT:
            content, position = _read_varint(data, position)
        elif kind == _BYTES:
            length, position = _read_varint(data, position)
            content = data[position : position + length]
            position += length
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
            content = data[position : position + size]
            position += size
        else:
            raise ValueError(f"no such kind of field: {kind}")
        if position > len(data) or field == 0:
            raise ValueError("a field ends behind the file")
        yield field, start, content


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if position + index >= len(data):
            raise ValueError("it ends amid a number")
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise ValueError("a number has no end")


def encode_varint(value: int) -> bytes:
    """A whole number as protobuf writes it, seven bits a byte."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
