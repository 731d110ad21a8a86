"""CSV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgeloc.data import open_dataset
from edgeloc.errors import DataError

Write = Callable[..., Path]

HEADER = "file,x1,y1,x2,y2,label,group,split"


@pytest.fixture
def root(tmp_path: Path, image: Write) -> Path:
    for number in (1, 2, 3):
        image(tmp_path / f"{number}.png")
    return tmp_path


def write(root: Path, *lines: str, header: str = HEADER) -> Path:
    (root / "boxes.csv").write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return root


def test_a_file_is_read(root: Path) -> None:
    write(
        root,
        "1.png,1,2,11,12,bolt,7,train",
        "1.png,20,2,50.5,30,nut,7,train",
        "2.png,,,,,,,val",
        '3.png,0,0,60,40,"a, b",,val',
    )
    data = open_dataset(root)
    assert data[0].objects == (((1, 2, 11, 12), "bolt"), ((20, 2, 50.5, 30), "nut"))
    assert [sample.box for sample in data] == [(20, 2, 50.5, 30), None, (0, 0, 60, 40)]
    assert [sample.label for sample in data] == ["nut", None, "a, b"]
    assert [sample.group for sample in data] == ["7", None, None]
    assert data.labels == ("a, b", "bolt", "nut")
    assert data.findings == ()
    assert [sample.name for sample in open_dataset(root / "boxes.csv", split="val")] == ["2.png", "3.png"]


def test_columns_may_come_in_any_order_and_after_a_byte_order_mark(root: Path) -> None:
    write(root, "bolt,9,1,2,11,12,1.png", header="\ufefflabel,score,x1,y1,x2,y2,file")
    assert open_dataset(root)[0].box == (1, 2, 11, 12)


def test_a_quote_may_stand_behind_a_space(root: Path) -> None:
    write(root, '1.png, 1, 2, 11, 12, "a, b"')
    assert open_dataset(root)[0].label == "a, b"


def test_a_quote_that_is_never_closed_takes_in_no_rows(root: Path) -> None:
    write(root, '1.png,1,2,11,12,"bolt', "2.png,1,2,11,12,nut")
    with pytest.raises(DataError, match=r"boxes\.csv:3: the line is not CSV: unexpected end of data"):
        open_dataset(root)


def test_a_header_that_lacks_columns_is_refused(root: Path) -> None:
    write(root, "1.png,1,2,3", header="file,x1,y1,x2")
    with pytest.raises(DataError, match=r"boxes\.csv:1: the header lacks y2, label; it must be file,x1"):
        open_dataset(root / "boxes.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.png,1,2,x,12,bolt", "x2 is 'x', not a number"),
        ("1.png,1,2,,12,bolt", "x2 is '', not a number"),
        ("1.png,1,2,nan,12,bolt", "x2 is 'nan', not a number"),
        ("1.png,1,2", "x2 is '', not a number"),
        ("1.png,9,2,1,12,bolt", "the box x1,y1,x2,y2 .* is empty or inverted"),
        ("1.png,1,2,99,12,bolt", "the box .* lies outside the image of 60x40"),
        ("9.png,1,2,11,12,bolt", r"the image .*9\.png does not exist"),
        (",1,2,11,12,bolt", "the column file is empty"),
    ],
)
def test_a_bad_row_is_named_or_its_image_skipped(root: Path, line: str, message: str) -> None:
    write(root, "2.png,,,,,", line, "3.png,1,2,11,12,bolt")
    with pytest.raises(DataError, match=rf"boxes\.csv:3: .*{message}"):
        open_dataset(root)
    data = open_dataset(root, skip_bad=True)
    assert [sample.name for sample in data] == ["2.png", "3.png"]
    assert data.findings[0].code == "data-rows-skipped"
    assert ": 1 bad row was skipped" in data.findings[0].message


def test_an_unknown_split_lists_those_found(root: Path) -> None:
    with pytest.raises(DataError, match="no split 'train'; found: val"):
        open_dataset(write(root, "1.png,,,,,,,val"), split="train")


def test_a_header_alone_is_empty(root: Path) -> None:
    with pytest.raises(DataError, match="the data set is empty"):
        open_dataset(write(root))
