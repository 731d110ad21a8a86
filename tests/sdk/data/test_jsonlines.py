"""The JSON-lines manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeloc.data import open_dataset
from edgeloc.errors import DataError

Write = Callable[..., Path]


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "file": "images/1.png",
        "w": 60,
        "h": 40,
        "cls": "Bolt",
        "box_xyxy": [5, 6.5, 20, 30],
        "clip": 7,
        "split": "val",
    }
    return good | changes


@pytest.fixture
def folder(tmp_path: Path, image: Write) -> Path:
    for number in (1, 2, 3):
        image(tmp_path / f"images/{number}.png")
    return tmp_path


def write(folder: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_manifest_is_read(folder: Path) -> None:
    negative = {"file": "images/3.png", "split": "train"}
    write(folder, row(), row(file="images/2.png", cls="Nut", clip=None, split="train"), "", negative)
    data = open_dataset(folder)
    assert [sample.name for sample in data] == ["images/1.png", "images/2.png", "images/3.png"]
    assert data[0].box == (5, 6.5, 20, 30)
    assert (data[0].label, data[0].group, data[1].group) == ("Bolt", "7", None)
    assert (data[2].box, data[2].label, data[2].labelled) == (None, None, True)
    assert data[0].load().shape == (40, 60, 3)
    assert (data.labels, data.splits, data.findings) == (("Bolt", "Nut"), ("train", "val"), ())


def test_a_split_keeps_the_labels_of_all(folder: Path) -> None:
    write(folder, row(), row(file="images/2.png", cls="Nut", split="train"))
    data = open_dataset(folder, split="val")
    assert [sample.label for sample in data] == ["Bolt"]
    assert data.labels == ("Bolt", "Nut")
    assert data.split == "val"


def test_the_file_itself_can_be_given(folder: Path) -> None:
    assert len(open_dataset(write(folder, row()) / "manifest.jsonl")) == 1


def test_a_box_that_stands_out_by_rounding_is_clipped(folder: Path) -> None:
    assert open_dataset(write(folder, row(box_xyxy=[-0.4, 0, 60.3, 40])))[0].box == (0, 0, 60, 40)


BAD = [
    ('{"file": "images/1.png"', "the line is not JSON"),
    ("[1, 2]", "the line is not a JSON object"),
    (row(file=None), "the field file, the image's path, is missing"),
    (row(file="images/9.png"), r"the image .*images/9\.png does not exist"),
    (row(box_xyxy=[5, 6, 20]), "not a list of four numbers"),
    (row(box_xyxy=[5, 6, "wide", 30]), "box_xyxy is 'wide', not a number"),
    (row(box_xyxy=[5, 6, float("nan"), 30]), "box_xyxy is nan, not a number"),
    (row(box_xyxy=[20, 6, 5, 30]), r"box_xyxy \(20, 6, 5, 30\) is empty or inverted"),
    (row(box_xyxy=[5, 6, 5, 30]), "empty or inverted"),
    (row(w=-60, h=40), "the image's size is -60x40: each side must be at least 1"),
    (row(box_xyxy=[5, 6, 20, 300]), r"box_xyxy \(5, 6, 20, 300\) lies outside the image of 60x40"),
    (row(w="broad"), "w is 'broad', not a number"),
    (row(w=60.5), "w is 60.5, not a whole number"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_row_is_named_or_skipped_and_reported(folder: Path, bad: Any, message: str) -> None:
    write(folder, row(file="images/2.png"), bad, row(file="images/3.png"))
    with pytest.raises(DataError, match=rf"manifest\.jsonl:2: .*{message}"):
        open_dataset(folder)
    data = open_dataset(folder, skip_bad=True)
    assert [sample.name for sample in data] == ["images/2.png", "images/3.png"]
    (finding,) = data.findings
    assert ": 1 bad row was skipped, the first: " in finding.message
    assert "manifest.jsonl:2" in finding.message


def test_bytes_that_are_no_text_spoil_their_line_only(folder: Path) -> None:
    lines = json.dumps(row()).encode() + b"\n\xff\xfe{}\n"
    (folder / "manifest.jsonl").write_bytes(lines)
    with pytest.raises(DataError, match=r"manifest\.jsonl:2: the line is not JSON"):
        open_dataset(folder)
    assert len(open_dataset(folder, skip_bad=True)) == 1


def test_an_image_listed_twice_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r":2: the image images/1\.png is listed twice"):
        open_dataset(write(folder, row(), row()))


def test_an_unknown_split_lists_those_found(folder: Path) -> None:
    write(folder, row(), row(file="images/2.png", split="train"))
    with pytest.raises(DataError, match="there is no split 'holdout'; found: train, val"):
        open_dataset(folder, split="holdout")


def test_an_empty_manifest_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="the data set is empty"):
        open_dataset(write(folder))
    write(folder, row(file="nowhere.png"))
    with pytest.raises(DataError, match=r"is empty.*1 bad row was skipped, the first: .*nowhere"):
        open_dataset(folder, skip_bad=True)


def test_real_photos_are_read(fod_a: Path) -> None:
    data = open_dataset(fod_a, split="val")
    assert len(data) > 1000
    assert len(data.labels) == 16
    assert len({sample.group for sample in data}) > 5
    for sample in data[::400]:
        height, width = sample.load().shape[:2]
        assert sample.box is not None
        assert sample.box.x2 <= width
        assert sample.box.y2 <= height


@pytest.mark.parametrize(("name", "objects"), [("bccd", 4886), ("mirror_mouse", 8 * 89)])
def test_manifests_of_many_objects_are_read_whole(shared_data: Path, name: str, objects: int) -> None:
    if not (shared_data / name).is_dir():
        pytest.skip(f"the real data has no folder {name}")
    data = open_dataset(shared_data / name)
    assert sum(len(sample.objects) for sample in data) == objects and data.findings == ()
    assert {found.label for sample in data for found in sample.objects} == set(data.labels)
    height, width = data[0].load().shape[:2]
    assert all(box.x2 <= width and box.y2 <= height for box, _ in data[0].objects)


def test_several_objects_of_an_image_are_a_list(folder: Path) -> None:
    objects = [{"box": [5, 6.5, 20, 30], "label": "bolt"}, {"box": [1, 1, 50, 39], "label": "nut"}]
    write(folder, {"image": "images/1.png", "width": 60, "height": 40, "objects": objects}, {"image": "images/2.png"})
    data = open_dataset(folder)
    assert data[0].objects == (((5, 6.5, 20, 30), "bolt"), ((1, 1, 50, 39), "nut"))
    assert (data[0].label, data[1].objects, data.labels) == ("nut", (), ("bolt", "nut"))
    assert data.findings == ()


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ("bolt", "objects must be a list"),
        ([3], r"objects\[0\] is 3"),
        ([{"label": "bolt"}], r"objects\[0\].box is None, not a list of four numbers"),
        ([{"box": [1, 2, 3, "x"]}], r"objects\[0\].box is 'x', not a number"),
        ([{"box": [30, 2, 3, 9]}], "an object's box .* is empty or inverted"),
    ],
)
def test_a_bad_list_of_objects_is_named(folder: Path, objects: Any, words: str) -> None:
    write(folder, {"file": "images/1.png", "objects": objects})
    with pytest.raises(DataError, match=f"manifest.jsonl:1: {words}"):
        open_dataset(folder)
