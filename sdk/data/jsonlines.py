"""The JSON-lines manifest: one object a line, one line an image.

    {"file": "images/1.jpg", "w": 300, "h": 300, "cls": "Bolt", "box_xyxy": [142.6, 6.6, 157.4, 25.0],
     "clip": 24, "split": "val"}

`file` is relative to the manifest's folder. `box_xyxy` is in pixels; where it is null or absent the
image holds no object. `w`, `h`, `cls`, `clip` (frames of one clip are not independent) and `split`
may be absent. The names of all classes are those met in the whole file, sorted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeloc._support.json import parse_json
from edgeloc.data.collecting import Collector, Labelled, choose_split, number, whole
from edgeloc.data.sample import Dataset
from edgeloc.errors import DataError
from edgeloc.types import Box

__all__ = ["find", "read"]


def find(root: Path) -> list[Path]:
    """The manifests in a folder, or `root` itself where it is one."""
    if root.is_file():
        return [root] if root.suffix == ".jsonl" else []
    return sorted(root.glob("*.jsonl"))


def read(manifest: Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """Read a manifest; DataError names the line and field of a bad row."""
    collector = Collector(manifest.parent, skip_bad)
    rows = list(_rows(manifest, collector))
    splits = sorted({str(row["split"]) for _, row in rows if row.get("split") is not None})
    labels = sorted({str(row["cls"]) for _, row in rows if row.get("cls") is not None})
    split = choose_split(manifest, splits, split)
    for where, row in rows:
        if split is None or str(row.get("split")) == split:
            with collector.row():
                _add(collector, row, where)
    return collector.dataset(manifest.parent.name, labels, splits=splits, split=split)


def _rows(manifest: Path, collector: Collector) -> list[tuple[str, dict[str, Any]]]:
    rows = []
    # Bytes, so that a line that is not UTF-8 spoils itself only.
    for count, line in enumerate(manifest.read_bytes().splitlines(), 1):
        if line.strip():
            where = f"{manifest}:{count}"
            with collector.row():
                rows.append((where, _row(line, where)))
    return rows


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise DataError(f"{where}: the line is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: the line is not a JSON object")
    if not isinstance(row.get("file"), str) or not row["file"]:
        raise DataError(f"{where}: the field file, the image's path, is missing or not text")
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
    collector.add(path, objects, where=where, size=size, group=group, field="box_xyxy")
