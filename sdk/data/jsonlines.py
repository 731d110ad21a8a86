"""The JSON-lines manifest: one object a line, one line an image.

    {"file": "images/1.jpg", "w": 300, "h": 300, "cls": "Bolt", "box_xyxy": [142.6, 6.6, 157.4, 25.0],
     "clip": 24, "split": "val"}

`file` is relative to the manifest's folder. `box_xyxy` is in pixels; where it is null or absent the
image holds no object. `w`, `h`, `cls`, `clip` (frames of one clip are not independent) and `split`
may be absent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeloc.data.collecting import Collector, Labelled, choose_split, number, whole
from edgeloc.data.sample import Dataset
from edgeloc.errors import DataError
from edgeloc.types import Box

__all__ = ["find", "read"]


def find(root: Path) -> Path | None:
    """The manifest in a folder, or `root` itself where it is one."""
    if root.is_file():
        return root if root.suffix == ".jsonl" else None
    found = root / "manifest.jsonl"
    return found if found.is_file() else None


def read(manifest: Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """Read a manifest; DataError names the line and field of a bad row."""
    collector = Collector(manifest.parent, skip_bad)
    splits: set[str] = set()
    labels: set[str] = set()
    # Bytes: a stray byte that is not UTF-8 then spoils its own line only.
    with manifest.open("rb") as file:
        for count, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{manifest}:{count}"
            try:
                row = _row(line, where)
                splits |= {str(row["split"])} if row.get("split") is not None else set()
                labels |= {str(row["cls"])} if row.get("cls") is not None else set()
                if split is None or row.get("split") == split:
                    _add(collector, row, where)
            except DataError as error:
                collector.bad(where, str(error).removeprefix(f"{where}: "))
    choose_split(manifest, splits, split)
    return collector.dataset(manifest.parent.name, sorted(labels), sorted(splits), split)


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: the line is no JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("file"), str) or not row["file"]:
        raise DataError(f"{where}: the field file, the image's path, is missing")
    return row


def _add(collector: Collector, row: dict[str, Any], where: str) -> None:
    edges = row.get("box_xyxy")
    objects = []
    if edges is not None:
        if not isinstance(edges, list) or len(edges) != 4:
            raise DataError(f"{where}: box_xyxy is {edges!r}, not a list of four numbers")
        box = Box(*(number(edge, where, "box_xyxy") for edge in edges))
        objects = [Labelled(box, None if row.get("cls") is None else str(row["cls"]))]
    group = None if row.get("clip") is None else str(row["clip"])
    size = None
    if row.get("w") is not None and row.get("h") is not None:
        size = (whole(row["w"], where, "w"), whole(row["h"], where, "h"))
    path = collector.root / row["file"]
    collector.add(path, objects, where=where, size=size, group=group, field_name="box_xyxy")
