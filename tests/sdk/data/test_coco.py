"""COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeloc.data import open_dataset
from edgeloc.errors import DataError

Write = Callable[..., Path]


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 1, "file_name": "1.png", "width": 60, "height": 40},
            {"id": 2, "file_name": "2.png"},
            {"id": 3, "file_name": "3.png", "width": 60, "height": 40},
        ],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 9, "bbox": [5, 6, 10, 10]},
            {"id": 11, "image_id": 1, "category_id": 4, "bbox": [20, 5, 30.5, 20], "iscrowd": 0},
            {"id": 12, "image_id": 2, "category_id": 4, "bbox": [0, 0, 60, 40]},
        ],
        "categories": [{"id": 9, "name": "nut"}, {"id": 4, "name": "bolt"}],
    }


@pytest.fixture
def root(tmp_path: Path, image: Write) -> Path:
    for number in (1, 2, 3):
        image(tmp_path / f"images/val2017/{number}.png")
    (tmp_path / "annotations").mkdir()
    return tmp_path


def write(root: Path, data: Any, name: str = "annotations/instances_val2017.json") -> Path:
    (root / name).write_text(data if isinstance(data, str) else json.dumps(data))
    return root


def test_a_folder_is_read(root: Path) -> None:
    data = open_dataset(write(root, content()), split="val")
    assert [sample.name for sample in data] == [f"images/val2017/{number}.png" for number in (1, 2, 3)]
    assert data[0].box == (20, 5, 50.5, 25) and len(data[0].objects) == 2
    assert [sample.label for sample in data] == ["bolt", "bolt", None]
    assert data.labels == ("bolt", "nut")
    assert data.splits == ("val",)
    assert data[0].objects == (((5, 6, 15, 16), "nut"), ((20, 5, 50.5, 25), "bolt")) and data.findings == ()
    assert data[0].load().shape == (40, 60, 3)


def test_the_file_itself_can_be_given(root: Path) -> None:
    write(root, content())
    assert len(open_dataset(root / "annotations" / "instances_val2017.json")) == 3


def test_a_file_beside_its_images_is_read(tmp_path: Path, image: Write) -> None:
    for number in (1, 2, 3):
        image(tmp_path / f"{number}.png")
    assert len(open_dataset(write(tmp_path, content(), "labels.json"))) == 3


def test_folders_named_by_split_are_read(tmp_path: Path, image: Write) -> None:
    for part in ("train", "valid"):
        for number in (1, 2, 3):
            image(tmp_path / part / f"{number}.png")
        write(tmp_path, content(), f"{part}/_annotations.coco.json")
    assert open_dataset(tmp_path).splits == ("train", "val")
    data = open_dataset(tmp_path, split="valid")
    assert [sample.name for sample in data] == ["valid/1.png", "valid/2.png", "valid/3.png"]


def test_crowds_are_left_out_and_are_no_negatives(root: Path) -> None:
    data = content()
    data["annotations"][2]["iscrowd"] = 1
    found = open_dataset(write(root, data))
    assert [sample.name[-5:] for sample in found] == ["1.png", "3.png"]
    assert "data-crowds-left-out" in [finding.code for finding in found.findings]


def changed(where: str, index: int, **fields: Any) -> dict[str, Any]:
    data = content()
    record = data[where][index]
    record.update(fields)
    data[where][index] = {name: value for name, value in record.items() if value != "gone"}
    return data


BAD = [
    (changed("annotations", 1, category_id=5), "annotation 11 of image 1: category_id 5 is not among the categories"),
    (changed("annotations", 1, bbox=[1, 2, 3]), r"annotation 11 of image 1: bbox is \[1, 2, 3\]"),
    (changed("annotations", 1, bbox=[20, 5, -3, 4]), "image 1: bbox as corners .* is empty or inverted"),
    (changed("annotations", 1, bbox=[20, 5, 300, 4]), "image 1: bbox as corners .* lies outside the image of 60x40"),
    (changed("annotations", 1, bbox=[20, 5, None, 4]), "bbox is None, not a number"),
    (changed("images", 0, file_name="gone"), "image number 0: the field id or file_name is missing"),
    (changed("images", 0, id=[1]), "not among the images|image number 0"),
    (changed("images", 0, file_name="nowhere.png"), "image 1: the image .*nowhere.png does not exist"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_a_bad_record_is_named_or_its_image_skipped(root: Path, data: dict[str, Any], message: str) -> None:
    write(root, data)
    with pytest.raises(DataError, match=rf"instances_val2017\.json: .*({message})"):
        open_dataset(root)
    found = open_dataset(root, skip_bad=True)
    assert [sample.name[-5:] for sample in found] == ["2.png", "3.png"]
    assert found.findings[0].code == "data-rows-skipped"


def test_an_annotation_of_no_image_is_named(root: Path) -> None:
    write(root, changed("annotations", 2, image_id=77))
    with pytest.raises(DataError, match="annotation number 2: image_id 77 is not among the images"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "the file is not JSON"),
        ('{"images": []}', "the list annotations is missing"),
        ('{"images": [], "annotations": [], "categories": []}', "the data set is empty"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "category number 0: the field id or name"),
    ],
)
def test_a_file_that_is_none_is_refused(root: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(write(root, text))


def test_an_unknown_split_lists_those_found(root: Path) -> None:
    write(root, content(), "annotations/instances_train2017.json")
    with pytest.raises(DataError, match="no split 'test'; found: train, val"):
        open_dataset(write(root, content()), split="test")


def test_two_files_of_one_split_are_ambiguous(root: Path) -> None:
    write(root, content(), "annotations/boxes_val.json")
    write(root, content(), "annotations/other_val.json")
    with pytest.raises(DataError, match=r"boxes_val\.json, .*other_val\.json; give the path of one"):
        open_dataset(root, split="val")
