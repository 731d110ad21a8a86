"""Small sources that the camera tests write themselves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

FRAMES = 6


@pytest.fixture(scope="session")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames of 64x48 at 25 a second, each brighter than the one before."""
    path = tmp_path_factory.mktemp("video") / "tiny.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for index in range(FRAMES):
        writer.write(np.full((48, 64, 3), 30 * index + 20, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of two sizes, a text file and a folder."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(FRAMES):
        size = (32, 24) if index % 2 else (24, 32)
        cv2.imwrite(str(folder / f"{index:02d}.png"), np.full((*size, 3), 30 * index + 20, np.uint8))
    (folder / "notes.txt").write_text("no image")
    (folder / "more.png").mkdir()
    return folder


@pytest.fixture(scope="session")
def tiny_labelled(tiny_folder: Path) -> Path:
    """Some images of the folder with boxes, as a JSON-lines data set."""
    row = '{{"file": "{:02d}.png", "cls": "thing", "box_xyxy": [4, 4, 20, 16]}}\n'
    (tiny_folder / "manifest.jsonl").write_text("".join(row.format(index) for index in range(FRAMES)))
    return tiny_folder
