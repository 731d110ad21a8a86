"""YOLO text: for each image a text file with a line an object, `class x y width height` in fractions of the image.

    images/val/1.jpg  labels/val/1.txt      or  val/images/1.jpg  val/labels/1.txt
    images/1.jpg      labels/1.txt          or  1.jpg             1.txt

The folder of a part, such as `val`, may hold others. The classes' names are in `classes.txt`, one a line, or in
`data.yaml` under `names`. x and y are the box's centre. A line of a class and three or more points (a segment) gives
the box around it; where `data.yaml` has a `kpt_shape`, what follows the box is the object's keypoints and is left out.
An image without a text file, or with an empty one, holds no object.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from edgeloc.data.collecting import Collector, choose_split, number, split_word, whole
from edgeloc.data.images import IMAGE_SUFFIXES, image_size
from edgeloc.data.sample import Dataset
from edgeloc.errors import DataError, MissingExtra
from edgeloc.types import Box, LabelledBox

__all__ = ["find", "read"]

_NAME_FILES = ("classes.txt", "labels/classes.txt", "data.yaml", "dataset.yaml")


def find(root: Path) -> list[Path]:
    """The file with the classes' names, or the folder of labels where there is none."""
    if root.is_file():
        return [root] if root.name in ("classes.txt", "data.yaml", "dataset.yaml") else []
    found = [root / name for name in _NAME_FILES if (root / name).is_file()]
    if not found and (root / "images").is_dir() and (root / "labels").is_dir():
        found = [root / "labels"]
    return found[:1]


def read(source: Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """Read a folder by the file of its classes' names; DataError names the file, line and field of a bad row."""
    root = source.parent.parent if source.parent.name == "labels" else source.parent
    names, has_keypoints = _described(source)
    pairs = _folders(root)
    splits = sorted({part for part, _, _ in pairs if part})
    split = choose_split(root, splits, split)
    collector = Collector(root, skip_bad)
    for part, images, labels in pairs:
        if split is None or part == split:
            if not labels.is_dir():
                raise DataError(f"{labels} does not exist: the images in {images} have no labels")
            for path in sorted(images.rglob("*") if part else images.iterdir()):
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    with collector.row():
                        text = (labels / path.relative_to(images)).with_suffix(".txt")
                        collector.add(path, _objects(text, path, names, has_keypoints), where=str(text))
    return collector.dataset(root.resolve().name, names, splits=splits, split=split)


def _folders(root: Path) -> list[tuple[str | None, Path, Path]]:
    """Split, images and labels of each part; no split for images beside the parts' folders."""
    parts: list[tuple[str | None, Path, Path]] = [
        (split_word(folder.name) or folder.name, folder, root / "labels" / folder.name)
        for folder in sorted(root.glob("images/*"))
        if folder.is_dir()
    ]
    parts += [
        (split_word(folder.parent.name) or folder.parent.name, folder, folder.parent / "labels")
        for folder in sorted(root.glob("*/images"))
        if folder.is_dir()
    ]
    if not (root / "images").is_dir():
        return parts or [(None, root, root)]
    beside = any(path.suffix.lower() in IMAGE_SUFFIXES for path in (root / "images").iterdir())
    return [*parts, (None, root / "images", root / "labels")] if beside or not parts else parts


def _described(source: Path) -> tuple[list[str], bool]:
    """The classes' names, and whether lines have keypoints behind the box."""
    has_keypoints = False
    if source.suffix == ".txt":
        text = source.read_text(encoding="utf-8-sig", errors="replace")
        names = [line.strip() for line in text.splitlines()]
        while names and not names[-1]:
            names.pop()
    elif source.suffix == ".yaml":
        names, has_keypoints = _from_yaml(source)
    else:
        raise DataError(f"{source}: the classes have no names: put a file classes.txt beside it, one name a line")
    if not names or not all(names):
        raise DataError(f"{source}: the list of the classes' names is empty or has an empty name")
    return names, has_keypoints


def _from_yaml(source: Path) -> tuple[list[str], bool]:
    try:
        yaml = import_module("yaml")
    except ImportError:
        raise MissingExtra("PyYAML", "convert", f"reading {source} (or put a classes.txt beside it)") from None
    try:
        content = yaml.safe_load(source.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{source}: the file is not YAML: {' '.join(str(error).split())}") from None
    table = content if isinstance(content, dict) else {}
    names = table.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    # Lists in lists by references, a few bytes each, are endless as text.
    if not isinstance(names, list) or any(isinstance(name, (list, dict)) for name in names):
        raise DataError(f"{source}: names must be a list of the classes' names, or a table of them by 0, 1, 2 ...")
    return [str(name) for name in names], table.get("kpt_shape") is not None


def _objects(text: Path, image: Path, names: list[str], has_keypoints: bool) -> list[LabelledBox]:
    return [
        LabelledBox(_in_pixels(values, image), _label(fields[0], names, where))
        for where, fields, values in _lines(text, 5 if has_keypoints else None)
    ]


def _lines(text: Path, most: int | None) -> Iterator[tuple[str, list[str], list[float]]]:
    """Where each line stands, its first `most` fields, and the numbers among them."""
    if not text.is_file():
        return
    for count, line in enumerate(text.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        fields = line.split()[:most]
        if fields:
            where = f"{text}:{count}"
            if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
                raise DataError(
                    f"{where}: a line has a class and 4 numbers (x y width height), not {len(fields)} fields"
                )
            yield where, fields, _values(fields[1:], where)


def _values(fields: list[str], where: str) -> list[float]:
    names = ("x", "y", "width", "height") if len(fields) == 4 else tuple(f"point {k // 2}" for k in range(len(fields)))
    values = [number(field, where, name) for field, name in zip(fields, names, strict=True)]
    for value, name in zip(values, names, strict=True):
        if not -0.001 <= value <= 1.001:
            raise DataError(f"{where}: {name} is {value:g}, not a fraction of the image between 0 and 1")
    return values


def _in_pixels(values: list[float], image: Path) -> Box:
    width, height = image_size(image)
    if len(values) == 4:
        x, y, w, h = values
        edges = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    else:
        edges = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    return Box(edges[0] * width, edges[1] * height, edges[2] * width, edges[3] * height)


def _label(field: str, names: list[str], where: str) -> str:
    index = whole(field, where, "class")
    if not 0 <= index < len(names):
        raise DataError(f"{where}: class {index} is unknown: there are {len(names)} names, 0 to {len(names) - 1}")
    return names[index]
