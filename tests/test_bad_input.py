"""What spans the parts: bad files and flags given to each command end in one sentence and the right exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc.cli import main
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model


@pytest.fixture(scope="module")
def model(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    path = tmp_path_factory.mktemp("bad input") / "möd el.tflite"
    write_model(path, (tiny_models / "int8.tflite").read_bytes(), Contract(InputSpec("image", 32, 32), outputs))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three labelled images, the second cut short, in a folder whose name has a space and an umlaut."""
    folder = tmp_path / "zwei wörter"
    folder.mkdir()
    for name in "abc":
        noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}.jpg"), noise)
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:-50])
    rows = "".join(f"{name}.jpg,10,10,40,40,nut\n" for name in "abc")
    (folder / "boxes.csv").write_text("file,x1,y1,x2,y2,label\n" + rows)
    return folder


def sentence(capsys: pytest.CaptureFixture[str], words: list[str], status: int = 2) -> str:
    """The error of a command that must fail with `status`: one line, the last on the standard error."""
    assert main(words) == status
    shown = capsys.readouterr().err
    *progress, error = shown.splitlines()
    assert error.startswith("edgeloc: error: "), shown
    assert not any(line.startswith(("edgeloc:", "warning:", "Traceback")) for line in progress), shown
    return error


def commands(model: str, data: str, out: Path) -> list[list[str]]:
    """A line for each command that reads a model, data or a result, and writes."""
    return [
        ["run", model, "--camera", data, "--sink", f"{out}/o.jsonl", "--sink", f"{out}/o.mp4"],
        ["bench", model, "--validation", data, "--frames", "2", "--out", f"{out}/r.json"],
        ["train", "--training", data, "--backbone-weights", "none", "--out", f"{out}/m.keras"],
    ]


@pytest.mark.parametrize("number", range(3))
def test_a_damaged_image_is_named(
    number: int, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A run had results before it came to that image: what fails then is no bad input of the command line.
    status = 3 if number == 0 else 2
    shown = sentence(capsys, commands(str(model), str(photos), tmp_path / "out")[number], status)
    assert "b.jpg: the JPEG is cut short; replace the file" in shown
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent != photos]
    assert sorted(left) == (["o.jsonl", "o.mp4"] if number == 0 else [])


@pytest.mark.parametrize("number", range(3))
def test_a_place_that_cannot_be_written_is_named(
    number: int, model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.jpg").write_bytes((photos / "a.jpg").read_bytes())
    below = photos / "a.jpg"
    shown = sentence(capsys, commands(str(model), str(photos), below)[number])
    assert "cannot write" in shown and "a.jpg is a file, not a folder" in shown
    assert len(list(photos.iterdir())) == 4


@pytest.mark.parametrize("command", ["inspect", "run", "bench"])
@pytest.mark.parametrize("kind", ["cut", "zip", "folder", "image", "absent", "keras"])
def test_what_is_no_model_is_named(
    command: str, kind: str, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = {"folder": photos, "image": photos / "a.jpg"}.get(kind, tmp_path / f"{kind}.tflite")
    if kind == "cut":
        path.write_bytes(model.read_bytes()[:900])
    elif kind == "zip":
        path.write_bytes(b"PK\x05\x06" + bytes(18))
    elif kind == "keras":
        path = path.with_suffix(".keras")
        path.write_bytes(b"PK\x03\x04 layers")
    more = {"inspect": [], "run": ["--camera", str(photos)], "bench": ["--out", str(tmp_path / "r.json")]}[command]
    assert path.name in sentence(capsys, [command, str(path), *more])
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("kind", ["empty", "unlabelled", "split", "absent"])
@pytest.mark.parametrize("number", [1, 2])
def test_data_that_cannot_serve_is_refused(
    number: int, kind: str, model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.jpg").unlink()
    (photos / "boxes.csv").unlink()
    if kind == "empty":
        (photos / "a.jpg").unlink()
        (photos / "c.jpg").unlink()
    data = "synthetic?count=4" if kind == "split" else "nowhere" if kind == "absent" else str(photos)
    split = ["--validation-split" if number == 1 else "--training-split", "dusk"] if kind == "split" else []
    line = commands(str(model), data, tmp_path / "out")[number] + split
    words = {"empty": "holds no data set", "unlabelled": "label", "split": "no split 'dusk'", "absent": "not exist"}
    assert words[kind] in sentence(capsys, line)


@pytest.mark.parametrize(
    "line",
    [
        ["run", "--camera", "synthetic://", "--frames", "0"],
        ["run", "--camera", "synthetic://", "--threads", "-1"],
        ["run", "--camera", "synthetic://", "--budget-ms", "nan"],
        ["run", "--camera", ""],
        ["bench", "--frames", "99999999999999"],
        ["bench", "--max-images", "1.5"],
        ["bench", "--validation", ""],
        ["inspect", "--jsn"],
    ],
)
def test_a_flag_that_does_not_fit_is_named(line: list[str], model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flag = next(word for word in reversed(line) if word.startswith("--"))
    assert flag.removeprefix("--") in sentence(capsys, [line[0], str(model), *line[1:]])


def test_a_camera_that_is_not_there_is_a_devices_failure(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = sentence(capsys, ["run", str(model), "--camera", "v4l2:///dev/video99"], status=3)
    assert "/dev/video99 is not there" in shown


def test_sizes_from_one_pixel_to_twenty_million(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (height, width) in enumerate([(1, 1), (4000, 5000), (1, 3000)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((height, width, 3), np.uint8))
    assert main(["run", str(model), "--camera", str(tmp_path), "--sink", str(tmp_path / "o.jsonl")]) == 0
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_bench_with_what_it_has(number: signal.Signals, model: Path, tmp_path: Path) -> None:
    # The signal comes with the hundredth frame, whatever the machine's speed.
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from edgeloc.benchmarks.latency import SceneSource
from edgeloc.cli import main
grab, grabbed = SceneSource.grab, []
def counted(self):
    grabbed.append(len(grabbed) == 100 and os.kill(os.getpid(), {int(number)}))
    return grab(self)
SceneSource.grab = counted
sys.exit(main(["bench", sys.argv[1], "--frames", "100000", "--out", "r.json"]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | {"PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(model)], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 128 + number
    *findings, stopped, interrupted = done.stderr.splitlines()
    assert (stopped, interrupted) == ("stopped; what was measured until then is in r.json", "edgeloc: interrupted")
    assert all(line.startswith("warning: ") for line in findings)
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
