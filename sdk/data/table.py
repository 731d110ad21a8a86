"""CSV with a header: `file,x1,y1,x2,y2,label[,group][,split]`, a row an object, edges in pixels.

    file,x1,y1,x2,y2,label,group,split
    images/1.jpg,142.6,6.6,157.4,25,Bolt,24,val
    images/2.jpg,,,,,,24,val

`file` is relative to the CSV's folder. A row without edges means that the image holds no object;
several rows of one file are several objects. Columns may come in any order; others are ignored.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from edgeloc.data.collecting import Collector, choose_split, number
from edgeloc.data.sample import Dataset
from edgeloc.errors import DataError
from edgeloc.types import Box, LabelledBox

__all__ = ["find", "read"]

_EDGES = ("x1", "y1", "x2", "y2")
_NEEDED = ("file", *_EDGES, "label")

Row = tuple[str, dict[str, str]]


def find(root: Path) -> list[Path]:
    """The CSV files in a folder whose header fits, or `root` itself where it is one."""
    if root.is_file():
        return [root] if root.suffix == ".csv" else []
    return [file for file in sorted(root.glob("*.csv")) if set(_NEEDED) <= set(_header(file))]


def read(file: Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """Read a CSV; DataError names the line and column of a bad row."""
    missing = [name for name in _NEEDED if name not in _header(file)]
    if missing:
        raise DataError(
            f"{file}:1: the header lacks {', '.join(missing)}; it must be {','.join(_NEEDED)}[,group][,split]"
        )
    collector = Collector(file.parent, skip_bad)
    images: dict[str, list[Row]] = {}
    for where, row in _rows(file):
        with collector.row():
            if not row["file"]:
                raise DataError(f"{where}: the column file is empty")
            images.setdefault(row["file"], []).append((where, row))
    rows = [row for found in images.values() for _, row in found]
    splits = sorted({row["split"] for row in rows if row.get("split")})
    split = choose_split(file, splits, split)
    for name, found in images.items():
        if split is None or found[0][1].get("split") == split:
            with collector.row():
                _add(collector, file.parent / name, found)
    labels = sorted({row["label"] for row in rows if row["label"]})
    return collector.dataset(file.resolve().parent.name, labels, splits=splits, split=split)


def _header(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        return [name.strip() for name in next(csv.reader(stream, skipinitialspace=True), [])]


def _rows(file: Path) -> list[Row]:
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    # Strictly: a quote that is never closed would take in all rows behind it.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    rows = []
    try:
        header = [name.strip() for name in next(reader)]
        for fields in reader:
            if any(field.strip() for field in fields):
                values = [field.strip() for field in fields] + [""] * (len(header) - len(fields))
                rows.append((f"{file}:{reader.line_num}", dict(zip(header, values, strict=False))))
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: the line is not CSV: {error}") from None
    return rows


def _add(collector: Collector, path: Path, rows: list[Row]) -> None:
    objects = []
    for where, row in rows:
        if any(row[name] for name in _EDGES):
            box = Box(*(number(row[name], where, name) for name in _EDGES))
            objects.append(LabelledBox(box, row["label"] or None))
    where, first = rows[0]
    collector.add(path, objects, where=where, group=first.get("group") or None, field="the box x1,y1,x2,y2")
