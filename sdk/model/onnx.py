"""Reads and writes the model file for TensorRT: an ONNX model with the same zip behind it as a `.tflite`; runs nothing.

An ONNX file is one protobuf message, and a reader of protobuf passes over fields that it does not
know. The zip travels as such a field at the end: ONNX tools load the file as it is, `unzip -l`
lists what is inside, and a device without any ONNX package cuts it off by walking the top fields.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeloc._support.files import atomic_path
from edgeloc.errors import ModelError
from edgeloc.model.contract import Contract
from edgeloc.model.file import CONTRACT, Golden, ModelFile, append_zip, contract_in, members_of

__all__ = ["is_onnx", "join_onnx", "read_onnx_model", "split_onnx", "write_onnx_model"]

# Far above what ONNX numbers its fields with, below what protobuf keeps for itself (19000 to 19999).
_ARCHIVE_FIELD = 18765
_IR_VERSION, _GRAPH, _OPSETS = 1, 7, 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError, ValueError)


def is_onnx(data: bytes) -> bool:
    """Whether the bytes are an ONNX model as far as its outermost message tells; nothing inside is looked at."""
    try:
        found = {field for field, _, _ in _fields(data)}
    except ValueError:
        return False
    return {_IR_VERSION, _GRAPH, _OPSETS} <= found


def split_onnx(data: bytes) -> tuple[bytes, bytes]:
    """The ONNX model, and the zip that lies in it (empty where there is none).

    Raises ValueError when a field's length points outside the bytes: they are cut or no ONNX.
    """
    for field, start, content in _fields(data):
        if field == _ARCHIVE_FIELD:
            return data[:start], content
    return data, b""


def join_onnx(model: bytes, archive: bytes) -> bytes:
    """The model with the zip `archive` in it, in place of one that it may hold already."""
    bare, _ = split_onnx(model)
    return bare + _varint(_ARCHIVE_FIELD << 3 | _BYTES) + _varint(len(archive)) + archive


def read_onnx_model(path: str | Path) -> ModelFile:
    """Read an `.onnx` file and what lies in it; `flatbuffer` of the result is the bare ONNX model.

    Raises ModelError when the file is missing, is no ONNX, is truncated or altered, or carries no
    contract (then it was not made for this package), and ContractError when its contract is bad.
    """
    path = Path(path)
    try:
        model, archive = split_onnx(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; give an .onnx model") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; give an .onnx model") from error
    except ValueError as error:
        raise ModelError(f"{path} is truncated or no ONNX model ({error}); copy or convert it anew") from error
    members = _members(path, archive)
    if CONTRACT not in members:
        raise ModelError(f"{path} carries no contract: make it with `edgeloc convert --target tensorrt`")
    contract = contract_in(path, members[CONTRACT])
    if hashlib.sha256(model).hexdigest() != contract.hashes.get("flatbuffer"):
        raise ModelError(f"{path} is truncated or altered: it is not the model its contract was written for")
    return ModelFile(path, model, members, contract, verified=True)


def write_onnx_model(
    path: str | Path,
    model: bytes,
    contract: Contract,
    *,
    calibration: dict[str, Any] | None = None,
    golden: Golden | None = None,
) -> None:
    """Write an ONNX model with contract, labels, calibration manifest and self-test inside.

    The contract is stored with the model's SHA-256 in `hashes["flatbuffer"]`. The same arguments
    give the same bytes. Raises ModelError when `model` is no ONNX, OutputError when the path
    cannot be written.
    """
    if not is_onnx(model):
        raise ModelError(f"{path}: what should be written is no ONNX model")
    model, _ = split_onnx(model)
    archive = io.BytesIO()
    append_zip(archive, members_of(model, contract, calibration, golden))
    with atomic_path(path) as temporary:
        temporary.write_bytes(join_onnx(model, archive.getvalue()))


def _members(path: Path, archive: bytes) -> dict[str, bytes]:
    if not archive:
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return {entry.filename: opened.read(entry) for entry in opened.infolist()}
    except _DAMAGED_ZIP as error:
        raise ModelError(f"{path} is truncated or altered: the zip in the model is broken ({error})") from error


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The fields of a protobuf message: number, where it starts, and the content of one that has a length.

    Wire format: https://protobuf.dev/programming-guides/encoding/
    """
    position = 0
    while position < len(data):
        start = position
        tag, position = _read_varint(data, position)
        field, kind = tag >> 3, tag & 7
        content = b""
        if kind == _VARINT:
            _, position = _read_varint(data, position)
        elif kind == _BYTES:
            length, position = _read_varint(data, position)
            content = data[position : position + length]
            position += length
        elif kind in (_FIXED32, _FIXED64):
            position += 4 if kind == _FIXED32 else 8
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


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
