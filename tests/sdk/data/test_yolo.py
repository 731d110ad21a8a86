"""YOLO text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc.data import open_dataset
from edgeloc.errors import DataError, MissingExtra

Write = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path, image: Write) -> Path:
    for part in ("train", "val"):
        image(tmp_path / f"images/{part}/1.png")
        image(tmp_path / f"images/{part}/2.png")
        (tmp_path / f"labels/{part}").mkdir(parents=True)
    (tmp_path / "labels/val/1.txt").write_text("1 0.5 0.5 0.5 0.25\n0 0.1 0.1 0.1 0.1\n")
    (tmp_path / "classes.txt").write_text("bolt\nnut\n\n")
    return tmp_path


def test_a_folder_is_read(root: Path) -> None:
    data = open_dataset(root, split="val")
    assert [sample.name for sample in data] == ["images/val/1.png", "images/val/2.png"]
    assert data[0].box == pytest.approx((15, 15, 45, 25))
    assert (data[0].label, data[1].box, data[1].labelled) == ("nut", None, True)
    assert (data.labels, data.splits) == (("bolt", "nut"), ("train", "val"))
    assert data.findings == () and len(data[0].objects) == 2
    assert len(open_dataset(root)) == 4


def test_parts_that_hold_images_and_labels_are_read(tmp_path: Path, image: Write) -> None:
    image(tmp_path / "valid/images/1.png")
    (tmp_path / "valid/labels").mkdir()
    (tmp_path / "valid/labels/1.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "classes.txt").write_text("bolt")
    data = open_dataset(tmp_path, split="val")
    assert data[0].box == (0, 0, 60, 40)
    assert len(open_dataset(tmp_path, split="valid")) == 1


def test_a_flat_folder_is_read(tmp_path: Path, image: Write) -> None:
    image(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "classes.txt").write_text("bolt")
    assert open_dataset(tmp_path)[0].label == "bolt"
    assert len(open_dataset(tmp_path / "classes.txt")) == 1


def test_folders_in_a_part_and_images_beside_the_parts_are_read(root: Path, image: Write) -> None:
    image(root / "images/val/clip/1.png")
    (root / "labels/val/clip").mkdir()
    (root / "labels/val/clip/1.txt").write_text("1 0.5 0.5 1 1")
    image(root / "images/9.png")
    (root / "labels/9.txt").write_text("1 0.5 0.5 1 1")
    val = open_dataset(root, split="val")
    assert {sample.name: sample.label for sample in val}["images/val/clip/1.png"] == "nut"
    assert len(val) == 3 and len(open_dataset(root)) == 6


def test_a_byte_order_mark_is_no_part_of_a_name(root: Path) -> None:
    (root / "classes.txt").write_text("bolt\r\nnut\r\n", encoding="utf-8-sig")
    (root / "labels/val/1.txt").write_text("0 0.5 0.5 1 1", encoding="utf-8-sig")
    data = open_dataset(root, split="val")
    assert (data.labels, data[0].label) == (("bolt", "nut"), "bolt")


def test_keypoints_are_left_out(root: Path) -> None:
    pytest.importorskip("yaml")
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text("names: [bolt, nut]\nkpt_shape: [2, 3]\n")
    (root / "labels/val/1.txt").write_text("1 0.5 0.5 0.5 0.25 0.1 0.9 2 0.9 0.1 1")
    assert open_dataset(root, split="val")[0].box == pytest.approx((15, 15, 45, 25))


def test_a_segment_gives_the_box_around_it(root: Path) -> None:
    (root / "labels/val/1.txt").write_text("0 0.1 0.1 0.9 0.2 0.5 0.75")
    assert open_dataset(root, split="val")[0].box == pytest.approx((6, 4, 54, 30))


@pytest.mark.parametrize("names", ["[bolt, nut]", "{0: bolt, 1: nut}"])
def test_names_are_read_from_yaml(root: Path, names: str) -> None:
    pytest.importorskip("yaml")
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    assert open_dataset(root).labels == ("bolt", "nut")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: 3", "names must be a list"),
        ("names: [", "the file is not YAML"),
        ("names: " + "[" * 5000, "the file is not YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]", "names must be a list of the classes' names"),
    ],
)
def test_yaml_without_names_is_refused(root: Path, text: str, message: str) -> None:
    pytest.importorskip("yaml")
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(root)


def test_without_pyyaml_the_error_names_the_extra(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text("names: [bolt]")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtra, match=r"classes\.txt .*pip install 'edgeloc\[convert\]'"):
        open_dataset(root)
    (root / "classes.txt").write_text("bolt\nnut")
    assert open_dataset(root).labels == ("bolt", "nut")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.5 0.5", "class 2 is unknown: there are 2 names, 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "class -1 is unknown"),
        ("bolt 0.5 0.5 0.5 0.5", "class is 'bolt', not a number"),
        ("0 0.5 0.5 0.5", "a line has a class and 4 numbers"),
        ("0 0.5 0.5 0.5 0.5 0.9", "a line has a class and 4 numbers"),
        ("0 0.5 nan 0.5 0.5", "y is 'nan', not a number"),
        ("0 30 20 10 10", "x is 30, not a fraction of the image between 0 and 1"),
        ("0 0.5 0.5 0 0.5", "is empty or inverted"),
        ("0 0.9 0.5 0.5 0.5", "lies outside the image of 60x40"),
    ],
)
def test_a_bad_line_is_named_or_its_image_skipped(root: Path, line: str, message: str) -> None:
    (root / "labels/val/1.txt").write_text(f"0 0.1 0.1 0.1 0.1\n{line}\n")
    with pytest.raises(DataError, match=rf"labels/val/1\.txt.*{message}"):
        open_dataset(root, split="val")
    data = open_dataset(root, split="val", skip_bad=True)
    assert [sample.name for sample in data] == ["images/val/2.png"]
    assert data.findings[0].code == "data-rows-skipped"
    assert ": 1 bad row was skipped" in data.findings[0].message


def test_images_without_a_folder_of_labels_are_no_negatives(root: Path) -> None:
    (root / "labels/train").rmdir()
    with pytest.raises(DataError, match=r"labels/train does not exist"):
        open_dataset(root, split="train")


def test_classes_without_names_are_refused(root: Path) -> None:
    (root / "classes.txt").write_text("\n")
    with pytest.raises(DataError, match="list of the classes' names is empty"):
        open_dataset(root)
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"put a file classes\.txt"):
        open_dataset(root)


def test_an_unknown_split_lists_those_found(root: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'; found: train, val"):
        open_dataset(root, split="test")


def test_a_folder_without_images_is_empty(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("bolt")
    with pytest.raises(DataError, match="the data set is empty"):
        open_dataset(tmp_path)
