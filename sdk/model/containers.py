"""The file formats of a model: the network's own bytes, and beside them a zip that every other reader passes over.

In a `.tflite` the zip stands behind the flatbuffer, which is the TFLite Metadata convention. An ONNX file is one
protobuf message, and readers of protobuf pass over fields that they do not know: there the zip is such a field, the
last one. `unzip -l` lists both, and neither needs a package of the format to be read or written.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Literal, NamedTuple, Protocol
from zlib import crc32

from edgeloc.errors import MissingExtra, ModelError

__all__ = [
    "CONTAINERS",
    "Container",
    "Format",
    "OnnxContainer",
    "Split",
    "TfliteContainer",
    "encode_varint",
    "format_of",
    "read_fields",
]

# A .keras file is read by Keras itself and never written here; it has a format, so that no other is claimed for it.
Format = Literal["tflite", "onnx", "keras"]
Members = dict[str, bytes]

_CONTRACT = b"edgeloc.json"
# The parts of a zip: what stands before a member, an entry of the directory behind them all, and the end.
# Numbered 4.3.7, 4.3.12 and 4.3.16 in https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
_LOCAL_HEADER, _HEADER = b"PK\x03\x04", Struct("<4s5H3L2H")
_ENTRY_MARK, _ENTRY = b"PK\x01\x02", Struct("<4s6H3L5H2L")
_END_MARK, _END = b"PK\x05\x06", Struct("<4s4H2LH")
_LONGEST_COMMENT = 0xFFFF
_STORED, _ENCRYPTED, _UTF8 = 0, 1, 0x800
_MOST_IN_ZIP, _MOST_MEMBERS = 64 << 20, 1000
_EPOCH = (1980, 1, 1, 0, 0, 0)

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
        if _end_of_zip(data) < 0:
            start = data.find(_CONTRACT) - _HEADER.size
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
    import zipfile  # it takes 5 ms to import, and who only runs a model writes none

    stream = io.BytesIO(before)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return stream.getvalue()


class _Entry(NamedTuple):
    """What a zip's directory says of a member; `start` is where the header before it stands in the bytes."""

    name: bytes
    utf8: bool
    method: int
    checksum: int
    size: int
    start: int

    @property
    def text(self) -> str:
        """The name."""
        return self.name.decode() if self.utf8 or self.name.isascii() else self.name.decode("cp437")


def _read_zip(data: bytes, name: str) -> tuple[int, Members]:
    """Where the zip in the bytes starts, and its members; ModelError when it is damaged or holds too much.

    Only what `_append_zip` writes is read. To import the standard library's reader takes 5 ms, a fifth of what this
    package adds to a process's start.
    """
    try:
        entries = _directory(data)
        _require_plain(entries, name)
        members = {entry.text: _member(data, entry) for entry in entries}
    except ModelError:
        raise
    except (ValueError, StructError) as error:
        raise ModelError(f"{name} is truncated or altered: the zip in it is broken ({error})") from error
    return min((entry.start for entry in entries), default=len(data)), members


def _end_of_zip(data: bytes) -> int:
    """Where the record stands that ends a zip, with no more than a comment behind it; -1 where there is none."""
    return data.rfind(_END_MARK, max(0, len(data) - _END.size - _LONGEST_COMMENT), len(data) - _END.size + 4)


def _directory(data: bytes) -> list[_Entry]:
    """The entries of the zip at the end of the bytes; ValueError where they do not lie as they must."""
    end = _end_of_zip(data)
    if end < 0:
        raise ValueError("it has no end")
    _, disk, first_disk, on_disk, count, size, offset, _ = _END.unpack_from(data, end)
    # Offsets count from where the zip starts, or from the start of the file.
    at, before = end - size, end - size - offset
    if (disk, first_disk, on_disk) != (0, 0, count) or before < 0:
        raise ValueError("its end does not fit the rest")
    entries = []
    for _ in range(count):
        mark, _, _, flags, method, _, _, checksum, packed, full, *lengths, _, _, _, start = _ENTRY.unpack_from(data, at)
        name_at, at = at + _ENTRY.size, at + _ENTRY.size + sum(lengths)
        if mark != _ENTRY_MARK or at > end or flags & _ENCRYPTED:
            raise ValueError("its directory is damaged")
        name = data[name_at : name_at + lengths[0]]
        entries.append(_Entry(name, bool(flags & _UTF8), method, checksum, max(packed, full), before + start))
    if at != end:
        raise ValueError("its directory is damaged")
    return entries


def _member(data: bytes, entry: _Entry) -> bytes:
    """A stored member's content; ValueError where it is not what the directory says."""
    mark, *_, name_length, extra_length = _HEADER.unpack_from(data, entry.start)
    name_at = entry.start + _HEADER.size
    begin = name_at + name_length + extra_length
    content = data[begin : begin + entry.size]
    if mark != _LOCAL_HEADER or data[name_at : name_at + name_length] != entry.name:
        raise ValueError(f"{entry.text!r} is not where its directory says")
    if len(content) < entry.size or crc32(content) != entry.checksum:
        raise ValueError(f"{entry.text!r} is damaged")
    return content


def _require_plain(entries: list[_Entry], name: str) -> None:
    """Whatever unpacks may be a bomb, whatever lies twice is read otherwise by others: neither is ever written here."""
    if len(entries) > _MOST_MEMBERS or sum(entry.size for entry in entries) > _MOST_IN_ZIP:
        raise ModelError(
            f"{name}: the zip in it holds more than 64 MB or {_MOST_MEMBERS} members; convert the model again"
        )
    if len({entry.text for entry in entries}) < len(entries):
        raise ModelError(f"{name}: the zip in it holds two members of one name; convert the model again")
    packed = [entry for entry in entries if entry.method != _STORED]
    if packed:
        raise ModelError(
            f"{name}: the zip in it holds {packed[0].text!r} compressed, and only stored members are read; "
            "convert the model again, or store them with `zip -0`"
        )


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
