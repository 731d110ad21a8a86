"""The metadata that TensorFlow's own tools put into a `.tflite` (TFLITE_METADATA): a start for a contract.

It names the classes and how pixels are normalized, not how a detector's numbers become boxes. Slots are those of
tensorflow/tflite-support's metadata_schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeloc.errors import ModelError
from edgeloc.model.file import read_model
from edgeloc.model.flatbuffer import named_buffer

__all__ = ["LegacyMetadata", "read_legacy_metadata"]

_NAME = "TFLITE_METADATA"
# Slots of the tables, in the schema's order.
_MODEL_NAME, _SUBGRAPHS = 0, 3
_INPUTS, _OUTPUTS, _SUBGRAPH_FILES = 2, 3, 4
_CONTENT, _PROCESS_UNITS, _TENSOR_FILES = 3, 4, 6
_FILE_NAME, _FILE_TYPE = 0, 2
_LABEL_FILES = (2, 3)  # of an axis, of a value
_OPTIONS_TYPE, _OPTIONS, _NORMALIZATION = 0, 1, 1
_PROPERTIES_TYPE, _PROPERTIES, _IMAGE = 0, 1, 2
_MOST_ENTRIES = 10_000
_COLORS = {1: "rgb", 2: "gray"}


@dataclass(frozen=True, slots=True)
class LegacyMetadata:
    """What a file's TFLITE_METADATA says.

    Parameters:
        name: the model's, "" without.
        labels: the lines of its label file, in order; empty without one.
        labels_file: that file's name in the model's zip.
        mean, std: of the input, (pixel - mean) / std; empty without.
        color: of the input, rgb or gray; "" without.
    """

    name: str = ""
    labels: tuple[str, ...] = ()
    labels_file: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    color: str = ""


def read_legacy_metadata(path: str | Path) -> LegacyMetadata | None:
    """The metadata of a `.tflite`, None where it has none; ModelError where it is damaged."""
    file = read_model(path)
    data = named_buffer(file.payload, _NAME, str(path)) if file.format == "tflite" else None
    if data is None:
        return None
    try:
        return _read(data, file.members)
    except (struct.error, IndexError, ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{path}: its {_NAME} is damaged", hint="write the contract by hand") from error


def _read(data: bytes, members: Mapping[str, bytes]) -> LegacyMetadata:
    root = _Table.root(data)
    graphs = root.tables(_SUBGRAPHS)
    if not graphs:
        return LegacyMetadata(root.text(_MODEL_NAME))
    inputs, outputs = graphs[0].tables(_INPUTS), graphs[0].tables(_OUTPUTS)
    mean, std = _normalization(inputs)
    file = _label_file([*graphs[0].tables(_SUBGRAPH_FILES), *(f for one in outputs for f in one.tables(_TENSOR_FILES))])
    lines = members.get(file, b"").decode("utf-8").splitlines()
    return LegacyMetadata(
        root.text(_MODEL_NAME), tuple(line.strip() for line in lines), file if lines else "", mean, std, _color(inputs)
    )


def _normalization(inputs: list[_Table]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for unit in (unit for one in inputs[:1] for unit in one.tables(_PROCESS_UNITS)):
        options = unit.table(_OPTIONS)
        if unit.byte(_OPTIONS_TYPE) == _NORMALIZATION and options is not None:
            return options.floats(0), options.floats(1)
    return (), ()


def _color(inputs: list[_Table]) -> str:
    content = inputs[0].table(_CONTENT) if inputs else None
    image = content.table(_PROPERTIES) if content is not None and content.byte(_PROPERTIES_TYPE) == _IMAGE else None
    return "" if image is None else _COLORS.get(image.byte(0), "")


def _label_file(files: list[_Table]) -> str:
    return next((one.text(_FILE_NAME) for one in files if one.byte(_FILE_TYPE) in _LABEL_FILES), "")


class _Table:
    """A table of a flatbuffer of which no generated reader is installed; an absent field is empty, or 0."""

    def __init__(self, data: bytes, place: int) -> None:
        from flatbuffers.table import Table

        if not 0 <= place < len(data):
            raise ValueError("a table points outside the file")
        self._data, self._table = data, Table(data, place)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _offset(self, slot: int) -> int:
        return int(self._table.Offset(4 + 2 * slot))

    def byte(self, slot: int) -> int:
        offset = self._offset(slot)
        return self._data[self._table.Pos + offset] if offset else 0

    def text(self, slot: int) -> str:
        offset = self._offset(slot)
        return bytes(self._table.String(self._table.Pos + offset)).decode("utf-8") if offset else ""

    def table(self, slot: int) -> _Table | None:
        offset = self._offset(slot)
        return _Table(self._data, self._table.Indirect(self._table.Pos + offset)) if offset else None

    def tables(self, slot: int) -> list[_Table]:
        start, count = self._vector(slot)
        return [_Table(self._data, self._table.Indirect(start + 4 * number)) for number in range(count)]

    def floats(self, slot: int) -> tuple[float, ...]:
        start, count = self._vector(slot)
        return struct.unpack_from(f"<{count}f", self._data, start)

    def _vector(self, slot: int) -> tuple[int, int]:
        offset = self._offset(slot)
        if not offset:
            return 0, 0
        count = int(self._table.VectorLen(offset))
        if count > _MOST_ENTRIES:
            raise ValueError("too many entries")
        return int(self._table.Vector(offset)), count
