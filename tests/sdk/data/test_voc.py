"""Pascal VOC XML."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc.data import open_dataset
from edgeloc.errors import DataError

Write = Callable[..., Path]

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def annotate(
    root: Path, name: str, *objects: str, size: str = "<size><width>60</width><height>40</height></size>"
) -> None:
    folder = root / "Annotations"
    folder.mkdir(exist_ok=True)
    text = f"<annotation>\n<filename>{name}.png</filename>\n{size}\n{''.join(objects)}\n</annotation>"
    (folder / f"{name}.xml").write_text(text)


@pytest.fixture
def root(tmp_path: Path, image: Write) -> Path:
    for name in ("a", "b", "c"):
        image(tmp_path / f"JPEGImages/{name}.png")
    annotate(tmp_path, "a", OBJECT.format("bolt", 1, 1, 60, 40), OBJECT.format("nut", 5, 5, 9, 9))
    annotate(tmp_path, "b", OBJECT.format("nut", 11, 6, 20, 15), size="")
    annotate(tmp_path, "c")
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\nc\n")
    (lists / "bolt_val.txt").write_text("b -1\nc -1\n")
    return tmp_path


def test_a_folder_is_read(root: Path) -> None:
    data = open_dataset(root)
    assert [sample.name for sample in data] == ["JPEGImages/a.png", "JPEGImages/b.png", "JPEGImages/c.png"]
    assert [sample.box for sample in data] == [(0, 0, 60, 40), (10, 5, 20, 15), None]
    assert [sample.label for sample in data] == ["bolt", "nut", None]
    assert (data.labels, data.splits) == (("bolt", "nut"), ("train", "val"))
    assert data.findings == () and len(data[0].objects) == 2
    assert data[2].load().shape == (40, 60, 3)


def test_a_split_is_read_from_its_list(root: Path) -> None:
    assert [sample.name for sample in open_dataset(root, split="val")] == ["JPEGImages/b.png", "JPEGImages/c.png"]
    with pytest.raises(DataError, match="no split 'test'; found: train, val"):
        open_dataset(root, split="test")


def test_a_listed_image_without_annotation_is_named(root: Path) -> None:
    (root / "ImageSets/Main/val.txt").write_text("b\n\nd\n")
    with pytest.raises(DataError, match=r"val\.txt:3: the annotation .*d\.xml does not exist"):
        open_dataset(root, split="val")
    assert len(open_dataset(root, split="val", skip_bad=True)) == 1


def test_an_image_nobody_annotated_is_left_out_and_reported(root: Path, image: Write) -> None:
    image(root / "JPEGImages/d.png")
    data = open_dataset(root)
    assert len(data) == 3
    assert data.findings[-1].code == "data-images-without-annotation"
    assert data.findings[-1].message.endswith(": 1 images without an annotation file were left out")


def test_files_beside_their_images_are_read(tmp_path: Path, image: Write) -> None:
    image(tmp_path / "a.png")
    annotate(tmp_path, "a", OBJECT.format("bolt", 1, 1, 60, 40))
    (tmp_path / "Annotations/a.xml").rename(tmp_path / "a.xml")
    (tmp_path / "Annotations").rmdir()
    assert open_dataset(tmp_path)[0].label == "bolt"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (OBJECT.format("nut", "x", 6, 20, 15), r"b\.xml: object 1: bndbox/xmin is 'x', not a number"),
        (OBJECT.format("nut", "nan", 6, 20, 15), r"b\.xml: object 1: bndbox/xmin is 'nan', not a number"),
        (OBJECT.format("", 1, 6, 20, 15), r"b\.xml: object 1: the field name is missing"),
        (OBJECT.format("nut", 30, 6, 20, 15), r"b\.xml: bndbox .* is empty or inverted"),
        (OBJECT.format("nut", 1, 6, 90, 15), r"b\.xml: bndbox .* lies outside the image of 60x40"),
        ("<object><name>nut</name></object>", "object 1: bndbox/xmin is None, not a number"),
        ("<object>", r"b\.xml:5: the file is not XML"),
    ],
)
def test_a_bad_annotation_is_named_or_skipped(root: Path, item: str, message: str) -> None:
    annotate(root, "b", item)
    with pytest.raises(DataError, match=message):
        open_dataset(root)
    data = open_dataset(root, skip_bad=True)
    assert [sample.name[-5:] for sample in data] == ["a.png", "c.png"]
    assert data.findings[0].code == "data-rows-skipped"
    assert ": 1 bad row was skipped" in data.findings[0].message


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE a [<!ENTITY e "' + "x" * 100_000 + '">]><annotation><filename>' + "&e;" * 100_000,
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><filename>&e;',
    ],
)
def test_entities_are_refused_before_they_grow(root: Path, document: str) -> None:
    (root / "Annotations/b.xml").write_text(f"{document}</filename></annotation>")
    with pytest.raises(DataError, match=r"b\.xml: the file has a document type"):
        open_dataset(root)


def test_a_missing_image_is_named(root: Path) -> None:
    (root / "JPEGImages/c.png").unlink()
    with pytest.raises(DataError, match=r"c\.xml: the image .*JPEGImages/c\.png does not exist"):
        open_dataset(root)
