"""The hash of a data set: of what is in it, not of where it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeloc.data import open_dataset
from edgeloc.data.sample import fingerprint


def written(folder: Path, *, name: str = "a", box: Any = (1, 2, 30, 40), pixel: int = 0) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[0, 0] = pixel
    cv2.imwrite(str(folder / f"{name}.png"), pixels)
    row = {"file": f"{name}.png", "box_xyxy": list(box), "cls": "bolt", "clip": 1}
    (folder / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    return fingerprint(open_dataset(folder))


def test_another_place_and_name_give_the_same(tmp_path: Path) -> None:
    assert written(tmp_path / "one") == written(tmp_path / "two", name="b")


def test_another_pixel_or_box_gives_another(tmp_path: Path) -> None:
    changed: tuple[dict[str, Any], ...] = ({}, {"pixel": 1}, {"box": (1, 2, 30, 41)})
    assert len({written(tmp_path / "one", **change) for change in changed}) == 3


def test_generated_images_have_one_too() -> None:
    same = [fingerprint(open_dataset("synthetic?count=3&size=64x48&seed=1")) for _ in range(2)]
    assert same[0] == same[1] != fingerprint(open_dataset("synthetic?count=3&size=64x48&seed=2"))


def test_a_file_that_is_gone_is_left_to_who_reads_it(tmp_path: Path) -> None:
    written(tmp_path / "one")
    samples = open_dataset(tmp_path / "one")
    (tmp_path / "one" / "a.png").unlink()
    assert len(fingerprint(samples)) == 64
