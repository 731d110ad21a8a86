"""A result's file while it grows: whatever moment the process is killed at, it holds what was measured until then.

Its first line is a result with nothing measured yet, and each further one adds to it: `add` holds what lists gained,
`set` fields of the result. The last line may be torn. The finished result takes the file's place.
"""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from edgeloc._support.files import atomic_path
from edgeloc._support.json import parse_json
from edgeloc.errors import OutputError

__all__ = ["Journal", "packed", "read_journal", "unpacked"]

_EVERY_S = 1.0
_GZIP = b"\x1f\x8b"
# Far beyond any result; a small file can be packed so that it would fill the memory.
_MOST_BYTES = 1 << 30


class Journal:
    """Appends to `path` what lists gained since the last time; it is made, or replaced, with the first of them."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file: BinaryIO | None = None
        self._written: dict[str, int] = {}
        self._at = float("-inf")

    @property
    def due(self) -> bool:
        """Whether a second has passed since the last time."""
        return time.monotonic() - self._at >= _EVERY_S

    def write(self, head: Any, lists: Mapping[str, Sequence[Any]], facts: Mapping[str, Any]) -> None:
        """Append what is new; OutputError where the disk is full.

        Parameters:
            head: the result, a dataclass, without what grows.
            lists: all of what grows, by name; of each, what was written before is not written again.
            facts: fields of the result as they are now.
        """
        try:
            self._append(self._file or self._begin(head), lists, facts)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}", hint="make room") from error

    def _append(self, file: BinaryIO, lists: Mapping[str, Sequence[Any]], facts: Mapping[str, Any]) -> None:
        added = {name: _rounded(items[self._written.get(name, 0) :]) for name, items in lists.items()}
        line = self._line({"add": {name: items for name, items in added.items() if items}, "set": facts})
        before = file.tell()
        if file.write(line) < len(line):
            # The disk was full in the middle of it; the next line must not follow half of one.
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for name, items in added.items():
            self._written[name] = self._written.get(name, 0) + len(items)
        self._at = time.monotonic()

    def _begin(self, head: Any) -> BinaryIO:
        with atomic_path(self._path) as temporary:
            temporary.write_bytes(self._line(head))
            # The file keeps its place when it gets its name.
            self._file = temporary.open("ab", buffering=0)
        return self._file

    def _line(self, value: Any) -> bytes:
        return packed(self._path, json.dumps(value, default=dataclasses.asdict, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file; harmless when called again."""
        if self._file is not None:
            self._file.close()


def _rounded(items: Sequence[Any]) -> list[Any]:
    """Milliseconds and seconds to four decimals: a tenth of a microsecond in ms."""
    return [round(item, 4) if isinstance(item, float) else item for item in items]


def packed(path: Path, text: str) -> bytes:
    """The bytes of a text as `path` holds them: compressed, if its name ends in .gz."""
    data = text.encode("utf-8")
    return gzip.compress(data, mtime=0) if path.suffix == ".gz" else data


def unpacked(data: bytes) -> str:
    """The text of a file's bytes, up to where a compressed one is torn; ValueError where it is damaged or huge."""
    if not data.startswith(_GZIP):
        return data.decode("utf-8")
    text = bytearray()
    try:
        while data:
            part = zlib.decompressobj(zlib.MAX_WBITS | 16)
            text += part.decompress(data, _MOST_BYTES - len(text))
            if part.unconsumed_tail:
                raise ValueError(f"it holds more than {_MOST_BYTES >> 30} GiB")
            data = part.unused_data
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from error
    return text.decode("utf-8", errors="ignore")


def read_journal(text: str) -> tuple[Any, dict[str, list[Any]]] | None:
    """The result's JSON data with its facts, and what its lists gained; None where `text` is no journal.

    ValueError for a line that is damaged, unless it is the last one.
    """
    first, _, rest = text.partition("\n")
    try:
        head = parse_json(first)
    except ValueError:
        return None
    if not rest.strip() or not isinstance(head, dict):
        return None
    *lines, _torn = rest.split("\n")
    lists: dict[str, list[Any]] = {}
    for line in lines:
        entry = parse_json(line)
        for name, items in entry["add"].items():
            lists.setdefault(name, []).extend(items)
        head.update(entry["set"])
    return head, lists
