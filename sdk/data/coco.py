"""COCO JSON: lists of images, annotations (`bbox`: left, top, width, height in pixels) and categories.

Open the file, or a folder that holds it at its top, in `annotations/`, or in a folder a split. A
split is a file whose name, or whose folder's, contains train, val or test (`instances_val2017.json`).
Images are searched beside the file, in `images/`, and in folders with the split's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeloc._support.json import parse_json
from edgeloc.data.collecting import Collector, choose_split, number, split_word, whole
from edgeloc.data.sample import Dataset
from edgeloc.errors import DataError
from edgeloc.findings import Finding
from edgeloc.types import Box, LabelledBox

__all__ = ["find", "read"]

_PEEK = 1 << 16
_CROWDS = Finding(
    "data-crowds-left-out",
    "note",
    "annotations of crowds (iscrowd) were left out, with the images that hold nothing else",
)


def find(root: Path) -> list[Path]:
    """The annotation file `root`, or the folder where it holds annotation files."""
    if root.is_file():
        return [root] if root.suffix == ".json" and _looks_right(root) else []
    return [root] if _files(root) else []


def read(source: Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """Read one annotation file, or those of a folder; DataError names the file and the record of a bad one."""
    if source.is_file():
        files = [source]
        root = source.parent.parent if source.parent.name == "annotations" else source.parent
    else:
        files, root = _files(source), source
    parts = {file: _split_of(file, root) for file in files}
    splits = sorted({part for part in parts.values() if part})
    split = choose_split(source, splits, split)
    files = [file for file in files if split in (None, parts[file])]
    _refuse_ambiguity(source, [parts[file] for file in files], files)
    collector = Collector(root, skip_bad)
    labels: dict[str, None] = {}
    for file in files:
        labels |= dict.fromkeys(_read_file(file, root, collector))
    return collector.dataset(root.resolve().name, labels, splits=splits, split=split)


def _files(folder: Path) -> list[Path]:
    found = [*folder.glob("*.json"), *folder.glob("annotations/*.json"), *folder.glob("*/_annotations.coco.json")]
    # A hidden one is what a program left that was killed while it wrote.
    found = sorted(file for file in set(found) if not file.name.startswith(".") and _looks_right(file))
    # COCO itself has captions and keypoints beside the boxes.
    return [file for file in found if file.name.startswith("instances")] or found


def _looks_right(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(_PEEK)
    if b'"images"' in head or b'"annotations"' in head:
        return True
    # The lists may come in any order, the first of them long.
    return b'"categories"' in head and b'"images"' in file.read_bytes()


def _split_of(file: Path, root: Path) -> str | None:
    return split_word(file.stem) or (split_word(file.parent.name) if file.parent != root else None)


def _refuse_ambiguity(source: Path, parts: Sequence[str | None], files: Sequence[Path]) -> None:
    if len(set(parts)) < len(parts):
        names = ", ".join(str(file) for file in files)
        raise DataError(f"{source}: several annotation files fit: {names}; give the path of one")


def _read_file(file: Path, root: Path, collector: Collector) -> list[str]:
    """Add a file's images; the names of its categories, by their ids' order."""
    content = _content(file)
    names = _categories(content["categories"], file)
    folders = _image_folders(file, root)
    by_image: dict[Any, list[dict[str, Any]]] = {}
    known = {image.get("id") for image in content["images"] if isinstance(image, dict) and _is_id(image.get("id"))}
    for count, record in enumerate(content["annotations"]):
        with collector.row():
            by_image.setdefault(_image_id(record, known, f"{file}: annotation number {count}"), []).append(record)
    for count, image in enumerate(content["images"]):
        with collector.row():
            if (
                not isinstance(image, dict)
                or not _is_id(image.get("id"))
                or not isinstance(image.get("file_name"), str)
            ):
                raise DataError(f"{file}: image number {count}: the field id or file_name is missing")
            _add(collector, image, by_image.get(image["id"], ()), names, folders, file)
    return list(names.values())


def _content(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: the file is not JSON: {error}") from None
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DataError(f"{file}: this is not a COCO file: the list {name} is missing")
    return dict(content)


def _categories(records: list[Any], file: Path) -> dict[int, str]:
    names = {}
    for count, record in enumerate(records):
        if not isinstance(record, dict) or "id" not in record or "name" not in record:
            raise DataError(f"{file}: category number {count}: the field id or name is missing")
        names[whole(record["id"], f"{file}: category number {count}", "id")] = str(record["name"])
    return dict(sorted(names.items()))


def _image_folders(file: Path, root: Path) -> list[Path]:
    part = file.stem.removeprefix("instances_")
    word = split_word(file.stem)
    inner = [name for name in (part, word) if name]
    tops = [root, root / "images"]
    folders = [file.parent, *tops, *(top / name for top in tops for name in inner)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _image_id(record: Any, known: set[Any], where: str) -> Any:
    if not isinstance(record, dict) or "image_id" not in record:
        raise DataError(f"{where}: the field image_id is missing")
    if not _is_id(record["image_id"]) or record["image_id"] not in known:
        raise DataError(f"{where}: image_id {record['image_id']!r} is not among the images")
    return record["image_id"]


def _is_id(value: object) -> bool:
    return isinstance(value, (int, str))


def _add(
    collector: Collector,
    image: dict[str, Any],
    records: Sequence[dict[str, Any]],
    names: dict[int, str],
    folders: Sequence[Path],
    file: Path,
) -> None:
    where = f"{file}: image {image['id']}"
    objects = []
    for record in records:
        if record.get("iscrowd"):
            collector.left_out(_CROWDS)
        else:
            objects.append(_labelled(record, names, f"{file}: annotation {record.get('id')} of image {image['id']}"))
    if records and not objects:
        return  # a crowd is there: the image is not a negative
    size = None
    if image.get("width") and image.get("height"):
        size = (whole(image["width"], where, "width"), whole(image["height"], where, "height"))
    paths = [folder / image["file_name"] for folder in folders]
    path = next((path for path in paths if path.is_file()), paths[0])
    collector.add(path, objects, where=where, size=size, field="bbox as corners")


def _labelled(record: dict[str, Any], names: dict[int, str], where: str) -> LabelledBox:
    edges = record.get("bbox")
    if not isinstance(edges, list) or len(edges) != 4:
        raise DataError(f"{where}: bbox is {edges!r}, not a list of four numbers")
    category = whole(record.get("category_id"), where, "category_id")
    if category not in names:
        raise DataError(f"{where}: category_id {category} is not among the categories")
    x, y, width, height = (number(edge, where, "bbox") for edge in edges)
    return LabelledBox(Box(x, y, x + width, y + height), names[category])
