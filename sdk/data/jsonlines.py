"""The JSON-lines manifest: one line an image, with its one object or with a list of objects.

    {"file": "images/1.jpg", "w": 300, "h": 300, "cls": "Bolt", "box_xyxy": [142.6, 6.6, 157.4, 25.0],
     "clip": 24, "split": "val"}
    {"image": "images/2.jpg", "width": 640, "height": 480, "objects": [{"box": [5, 6, 90, 80], "label": "Nut"}]}

`file`, or `image`, is relative to the manifest's folder. Boxes are in pixels, x1, y1, x2, y2; without `box_xyxy` and
`objects` the image holds none. Sizes, classes, `clip` (frames of one clip are not independent) and `split` may be
absent. The names of all classes are those met in the whole file, sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeloc._support.json import parse_json
from edgeloc.data.collecting import Collector, choose_split, number, whole
from edgeloc.data.sample import Dataset
from edgeloc.errors import DataError
from edgeloc.types import Box, LabelledBox

__all__ = ["find", "read"]

_ALIASES = {"image": "file", "width": "w", "height": "h"}


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
    labels = sorted({label for _, row in rows for label in _labels(row)})
    split = choose_split(manifest, splits, split)
    for where, row in rows:
        if split is None or str(row.get("split")) == split:
            with collector.row():
                _add(collector, row, where)
    return collector.dataset(manifest.resolve().parent.name, labels, splits=splits, split=split)


def _labels(row: dict[str, Any]) -> Iterator[str]:
    items = [item for item in row["objects"] if isinstance(item, dict)] if isinstance(row.get("objects"), list) else []
    for label in (row.get("cls"), *(item.get("label") for item in items)):
        if label is not None:
            yield str(label)


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
    row = {_ALIASES.get(name, name): value for name, value in row.items()}
    if not isinstance(row.get("file"), str) or not row["file"]:
        raise DataError(f"{where}: the field file, the image's path, is missing or not text")
    return row


def _add(collector: Collector, row: dict[str, Any], where: str) -> None:
    objects = list(_objects(row, where))
    field = "box_xyxy" if row.get("objects") is None else "an object's box"
    group = None if row.get("clip") is None else str(row["clip"])
    size = None
    if row.get("w") is not None and row.get("h") is not None:
        size = (whole(row["w"], where, "w"), whole(row["h"], where, "h"))
    path = collector.root / row["file"]
    collector.add(path, objects, where=where, size=size, group=group, field=field)


def _objects(row: dict[str, Any], where: str) -> Iterator[LabelledBox]:
    """The row's list of objects, else its one."""
    if row.get("objects") is None:
        if row.get("box_xyxy") is not None:
            yield LabelledBox(_box(row["box_xyxy"], where, "box_xyxy"), _text(row.get("cls")))
        return
    if not isinstance(row["objects"], list) or row.get("box_xyxy") is not None:
        raise DataError(f"{where}: objects must be a list, and box_xyxy does not go beside it")
    for count, item in enumerate(row["objects"]):
        if not isinstance(item, dict):
            raise DataError(f"{where}: objects[{count}] is {item!r:.60}, not an object with box and label")
        yield LabelledBox(_box(item.get("box"), where, f"objects[{count}].box"), _text(item.get("label")))


def _box(edges: Any, where: str, field: str) -> Box:
    if not isinstance(edges, list) or len(edges) != 4:
        raise DataError(f"{where}: {field} is {edges!r:.60}, not a list of four numbers")
    return Box(*(number(edge, where, field) for edge in edges))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
