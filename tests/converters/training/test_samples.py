"""Which images are learned from and which are measured on: never frames of one clip on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.converters.training.batches import gather_samples
from edgeloc.errors import DataError


def write_csv(folder: Path, rows: list[str]) -> str:
    folder.mkdir()
    for row in rows:
        cv2.imwrite(str(folder / row.split(",")[0]), np.full((40, 50, 3), 90, np.uint8))
    (folder / "labels.csv").write_text("file,x1,y1,x2,y2,label\n" + "\n".join(rows) + "\n")
    return str(folder)


def write_manifest(folder: Path, splits: list[str], groups: list[str]) -> str:
    """JSON lines as the real data has them: a split and a clip for each image."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for i, (split, group) in enumerate(zip(splits, groups, strict=True)):
        cv2.imwrite(str(folder / "images" / f"{i}.jpg"), np.full((40, 50, 3), 90, np.uint8))
        lines.append(
            {"file": f"images/{i}.jpg", "split": split, "clip": group, "cls": "bolt",
             "box_xyxy": [5, 5, 20, 25], "w": 50, "h": 40}
        )  # fmt: skip
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return str(folder)


def test_data_without_splits_holds_a_fifth_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = write_csv(tmp_path / "d", [f"{i}.png,5,5,20,20,{'bolt' if i % 2 else 'nut'}" for i in range(10)])
    with caplog.at_level("INFO", "edgeloc"):
        training, validation, labels, _ = gather_samples([uri], "train", None, "val")
    assert (len(training), len(validation)) == (8, 2)
    assert set(labels) == {"bolt", "nut"}
    assert any("2 of 10 images are held out" in line for line in caplog.messages)


def test_the_seed_chooses_what_is_held_out(tmp_path: Path) -> None:
    uri = write_csv(tmp_path / "d", [f"{i}.png,5,5,20,20,bolt" for i in range(20)])

    def held_out(seed: int) -> list[str]:
        return [sample.name for sample in gather_samples([uri], "train", None, "val", seed=seed).validation]

    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)


def test_made_scenes_have_splits_of_their_own() -> None:
    gathered = gather_samples(["synthetic?count=6"], "train", "synthetic?count=4", "val")
    assert (len(gathered.training), len(gathered.validation)) == (6, 4)


def test_a_clip_on_both_sides_is_refused(tmp_path: Path) -> None:
    uri = write_manifest(tmp_path / "d", ["train", "train", "val"], ["a", "b", "b"])
    with pytest.raises(DataError, match=r"share the group 'b' \(1 in all\): split the data"):
        gather_samples([uri], "train", None, "val")


def test_clips_apart_are_taken(tmp_path: Path) -> None:
    uri = write_manifest(tmp_path / "d", ["train", "train", "val"], ["a", "b", "c"])
    gathered = gather_samples([uri], "train", None, "val")
    assert [sample.group for sample in gathered.training] == ["a", "b"]
    assert [sample.group for sample in gathered.validation] == ["c"]


def test_images_alone_are_no_negatives(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(DataError, match="has images without labels"):
        gather_samples([str(tmp_path)], "train", None, "val")


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    uri = write_csv(tmp_path / "d", [f"{i}.png,,,,," for i in range(6)])
    with pytest.raises(DataError, match="hold no labelled object"):
        gather_samples([uri], "train", None, "val")
