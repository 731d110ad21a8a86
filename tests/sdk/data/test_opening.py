"""Which format is read, plain images, and made scenes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeloc.data import open_dataset
from edgeloc.data.sample import several_objects
from edgeloc.errors import DataError
from edgeloc.scenes import SCENE_LABELS

Write = Callable[..., Path]


def test_a_folder_of_images_is_not_labelled(tmp_path: Path, image: Write) -> None:
    image(tmp_path / "b.png")
    image(tmp_path / "deep/a.jpg")
    (tmp_path / "readme.txt").write_text("")
    data = open_dataset(tmp_path)
    assert [sample.name for sample in data] == ["b.png", "deep/a.jpg"]
    assert not any(sample.labelled for sample in data)
    assert data.labels == ()
    assert data[1].load().shape == (40, 60, 3)
    assert len(open_dataset(tmp_path / "b.png")) == 1


def test_a_folder_of_images_has_no_split(tmp_path: Path, image: Write) -> None:
    image(tmp_path / "a.png")
    with pytest.raises(DataError, match="images alone, without labels: it has no split 'val'"):
        open_dataset(tmp_path, split="val")


def test_two_formats_are_ambiguous(tmp_path: Path, image: Write) -> None:
    image(tmp_path / "1.png")
    (tmp_path / "manifest.jsonl").write_text('{"file": "1.png"}\n')
    (tmp_path / "boxes.csv").write_text("file,x1,y1,x2,y2,label\n1.png,,,,,\n")
    with pytest.raises(DataError, match=r"JSON lines \(.*manifest\.jsonl\) or CSV \(.*boxes\.csv\): give the path"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path / "boxes.csv")) == 1


def test_what_is_no_data_set_is_refused_with_the_known_formats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set of a known format.*COCO"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="no data set of a known format"):
        open_dataset(tmp_path / "notes.txt")


def test_a_damaged_image_stops_at_its_turn_by_name(tmp_path: Path, image: Write) -> None:
    for name in ("a.jpg", "b.jpg"):
        image(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:300])
    data = open_dataset(tmp_path)
    assert data[0].load().shape == (40, 60, 3)
    with pytest.raises(DataError, match=r"b\.jpg: the JPEG is cut short"):
        data[1].load()


def test_scenes_are_a_data_set() -> None:
    data = open_dataset("synthetic?seed=3&count=30&size=80x60")
    assert (len(data), data.labels) == (30, SCENE_LABELS)
    assert data[0].load().shape == (60, 80, 3)
    assert data[0].load() is not data[0].load()
    assert np.array_equal(data[5].load(), open_dataset("synthetic://?seed=3&count=6&size=80x60")[5].load())
    assert len({sample.name for sample in data}) == 30
    assert any(sample.box is None for sample in data)
    several = open_dataset("synthetic?seed=3&count=30&size=80x60&objects=4")
    assert {len(sample.objects) for sample in several} == {0, 1, 2, 3, 4}


def test_a_localizer_s_user_learns_how_many_images_hold_several_objects() -> None:
    data = open_dataset("synthetic?count=20&objects=3")
    (finding,) = several_objects("scenes", data)
    count = sum(len(sample.objects) > 1 for sample in data)
    assert finding.code == "data-several-objects"
    assert finding.message == f"scenes: {count} images hold several objects, of which a localizer takes the largest"
    assert list(several_objects("scenes", open_dataset("synthetic?count=20"))) == []


def test_splits_and_seeds_of_scenes_share_nothing() -> None:
    parts = [
        open_dataset(f"synthetic?count=20&seed={seed}", split=split)
        for seed in (0, 1)
        for split in ("train", "val", "test")
    ]
    boxes = [{sample.box for sample in part if sample.box} for part in parts]
    assert len(set.union(*boxes)) == sum(map(len, boxes))
    by_uri = open_dataset("synthetic?count=20&split=val")
    assert [sample.box for sample in by_uri] == [sample.box for sample in parts[1]]
    assert by_uri.split == "val"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("synthetic?speed=3", "there is no option 'speed'; known are: seed, count, size, split, objects"),
        ("synthetic?count=0", "count=0 must be a whole number from 1 to 100,000"),
        ("synthetic?count=999999999999", "must be a whole number from 1 to 100,000"),
        ("synthetic?seed=-1", "seed=-1 must be"),
        ("synthetic?objects=17", "objects=17 must be a whole number from 1 to 16"),
        ("synthetic?size=300", "size=300 must be a width and a height"),
        ("synthetic?size=8x8", "32 to 4096"),
        ("synthetic?split=holdout", "no split 'holdout'; found: train, val, test"),
    ],
)
def test_options_of_scenes_that_do_not_fit_are_named(uri: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(uri)
