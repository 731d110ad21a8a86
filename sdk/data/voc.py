"""Pascal VOC: one XML file an image in `Annotations/`, images in `JPEGImages/`, splits in `ImageSets/Main/*.txt`.

Pixels are counted from 1 and both edges belong to the object, so that `xmin` 1 and `xmax` 300 are
the whole of a row of 300. XML files beside their images, without those folders, are read as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from edgeloc.data.collecting import Collector, choose_split, number, whole
from edgeloc.data.images import IMAGE_SUFFIXES
from edgeloc.data.sample import Dataset
from edgeloc.errors import DataError
from edgeloc.findings import Finding
from edgeloc.types import Box, LabelledBox

__all__ = ["find", "read"]

_NO_XML = Finding("data-images-without-annotation", "warning", "images without an annotation file were left out")


def find(root: Path) -> list[Path]:
    """The folder of annotations: `Annotations` in `root` or `root` itself."""
    if not root.is_dir():
        return []
    return [folder for folder in (root / "Annotations", root) if folder.is_dir() and any(folder.glob("*.xml"))][:1]


def read(annotations: Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """Read a folder of annotations; DataError names the file, the object and the field of a bad one."""
    root = annotations.parent if annotations.name == "Annotations" else annotations
    lists = {
        file.stem: file
        for file in sorted(root.glob("ImageSets/Main/*.txt"))
        if "_" not in file.stem  # those list the images of one class
    }
    split = choose_split(root, lists, split)
    collector = Collector(root, skip_bad)
    labels: set[str] = set()
    for where, name in _listed(lists[split]) if split else _all(annotations):
        with collector.row():
            labels |= _add(collector, annotations / f"{name}.xml", root, where)
    if split is None:
        _count_unannotated(collector, annotations, root)
    return collector.dataset(root.resolve().name, sorted(labels), splits=lists, split=split)


def _listed(file: Path) -> Iterator[tuple[str, str]]:
    for count, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            yield f"{file}:{count}", line.split()[0]


def _all(annotations: Path) -> Iterator[tuple[str, str]]:
    return ((str(file), file.stem) for file in sorted(annotations.glob("*.xml")))


def _add(collector: Collector, file: Path, root: Path, where: str) -> set[str]:
    """Add the image that an XML file describes; the names of the classes in it."""
    if not file.is_file():
        raise DataError(f"{where}: the annotation {file} does not exist")
    content = file.read_bytes()
    try:
        _refuse_entities(content, file)
        tree = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise DataError(f"{file}:{error.position[0]}: the file is not XML: {error}") from None
    objects = [_labelled(item, f"{file}: object {count}") for count, item in enumerate(tree.iter("object"), 1)]
    size = None
    if tree.findtext("size/width", "0") != "0" and tree.findtext("size/height", "0") != "0":
        size = (
            whole(tree.findtext("size/width"), str(file), "width"),
            whole(tree.findtext("size/height"), str(file), "height"),
        )
    collector.add(_image(file, root, tree.findtext("filename")), objects, where=str(file), size=size, field="bndbox")
    return {item.label for item in objects if item.label is not None}


def _refuse_entities(content: bytes, file: Path) -> None:
    """Stop at a document type: entities in it can grow without end, and no annotation has one."""

    def refuse(*_: object) -> None:
        raise DataError(f"{file}: the file has a document type (<!DOCTYPE>), which no annotation needs")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    with suppress(expat.ExpatError):  # which the tree's parser reports
        parser.Parse(content, True)


def _labelled(item: ElementTree.Element, where: str) -> LabelledBox:
    label = item.findtext("name")
    if not label:
        raise DataError(f"{where}: the field name is missing")
    edges = {}
    for name in ("xmin", "ymin", "xmax", "ymax"):
        edges[name] = number(item.findtext(f"bndbox/{name}"), where, f"bndbox/{name}")
    return LabelledBox(Box(edges["xmin"] - 1, edges["ymin"] - 1, edges["xmax"], edges["ymax"]), label)


def _image(file: Path, root: Path, name: str | None) -> Path:
    """Where the image is: by the file name in the XML, else by the XML's own."""
    names = [Path(name).name] if name else []
    names += [file.stem + suffix for suffix in IMAGE_SUFFIXES]
    folders = (root / "JPEGImages", root / "images", root, file.parent)
    paths = [folder / name for folder in folders for name in names]
    return next((path for path in paths if path.is_file()), paths[0])


def _count_unannotated(collector: Collector, annotations: Path, root: Path) -> None:
    folder = root / "JPEGImages"
    if folder.is_dir():
        annotated = {file.stem for file in annotations.glob("*.xml")}
        for file in folder.iterdir():
            if file.suffix.lower() in IMAGE_SUFFIXES and file.stem not in annotated:
                collector.left_out(_NO_XML)
