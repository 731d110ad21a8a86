"""`edgeloc demo`: the whole job in one line, on scenes and on a data set of one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.cli import main
from edgeloc.commands import demo
from edgeloc.model.file import read_model
from edgeloc.models import SHIPPED_KERAS

RESULTS = ("boxes.mp4", "model-int8.tflite", "model-float32.tflite", "result.json", "report.html")


@pytest.fixture
def _shipped() -> None:
    for package in ("tensorflow", "matplotlib", "jinja2"):
        pytest.importorskip(package)
    if not SHIPPED_KERAS.is_file():
        pytest.skip("the package's own model is not there")


def write_photos(folder: Path) -> str:
    """Eight photos of a bright box on the ground, in two splits, as CSV."""
    folder.mkdir()
    rows = ["file,x1,y1,x2,y2,label,split"]
    for i in range(8):
        pixels = np.random.default_rng(i).integers(60, 110, (120, 160, 3)).astype(np.uint8)
        cv2.rectangle(pixels, (20 + 5 * i, 30), (69 + 5 * i, 79), (220, 220, 220), -1)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
        rows.append(f"{i}.png,{20 + 5 * i},30,{70 + 5 * i},80,Bolt,{'val' if i < 4 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return str(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("_shipped")
@pytest.mark.parametrize(
    ("task", "objects", "figure"), [("localize", 1, "IoU"), pytest.param("detect", 3, "mAP", marks=pytest.mark.long)]
)
def test_demo_on_scenes(
    task: str,
    objects: int,
    figure: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(demo._SCENES, task, f"synthetic?count=12&seed=1&size=96x96&objects={objects}")
    video = f"synthetic://?seed=3&size=160x120&fps=30&frames=6&live=0&objects={objects}"
    monkeypatch.setitem(demo._VIDEO, task, video)
    out = tmp_path / "out"
    assert main(["demo", "--task", task, "--out", str(out)]) == 0
    check_results(out, capsys.readouterr().out, figure)
    calibration = read_model(out / "model-int8.tflite").calibration
    assert calibration is not None
    assert calibration["split"] == "train"
    assert json.loads((out / "result.json").read_text())["data"]["split"] == "val"


@pytest.mark.slow
@pytest.mark.usefixtures("_shipped")
@pytest.mark.long
def test_demo_on_one_s_own_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_FRAMES_OF_DATA", 6)
    out = tmp_path / "out"
    data = write_photos(tmp_path / "photos")
    assert main(["demo", "--data", data, "--validation-split", "val", "--out", str(out)]) == 0
    check_results(out, capsys.readouterr().out)
    calibration = read_model(out / "model-int8.tflite").calibration
    assert calibration is not None
    assert (calibration["split"], calibration["count"]) == ("train", 4)  # not the images it is measured on
    assert json.loads((out / "result.json").read_text())["regression"]["images"] == 4


def check_results(out: Path, printed: str, figure: str = "IoU") -> None:
    for name in RESULTS:
        assert (out / name).stat().st_size > 1000, name
    commands = re.findall(r"^\$ edgeloc (\w+)", printed, flags=re.MULTILINE)
    assert commands == ["convert", "convert", "inspect", "run", "bench", "report"]
    titles = re.findall(r"^(\d)\. \w[\w ]+\n\$ edgeloc", printed, flags=re.MULTILINE)
    assert titles == list("123456")  # each step is announced before it begins
    video = cv2.VideoCapture(str(out / "boxes.mp4"))
    assert video.read()[0]
    video.release()
    closing = printed[printed.rindex("video ") :].splitlines()
    for line, name in zip(closing, ("boxes.mp4", "model-int8.tflite", "result.json", "report.html"), strict=False):
        assert line.endswith(str(out / name))
    assert re.search(rf"^{figure} +\d\.\d+ float, \d\.\d+ int8: a drop of ", printed, flags=re.MULTILINE)
    assert re.search(r"^time +[\d.]+ ms a frame at the median, [\d.]+ ms at p99", printed, flags=re.MULTILINE)
    assert re.search(r"^size +[\d.]+ MB, [\d.]+ MB in float", printed, flags=re.MULTILINE)
    assert "<html" in (out / "report.html").read_text()


@pytest.mark.usefixtures("_shipped")
def test_bad_data_ends_the_demo_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert "nowhere does not exist" in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_shipped")
def test_the_first_command_that_fails_ends_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    data = write_photos(tmp_path / "photos")
    assert main(["demo", "--data", data, "--out", str(tmp_path / "file" / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("$ edgeloc") == 1
    assert "cannot write" in printed.err
