"""What each sink writes, when it refuses, and what it leaves behind when a run ends early."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edgeloc.errors import DeviceError, MissingExtra, OutputError, UsageError
from edgeloc.observation import Observation, Track
from edgeloc.sinks import SINKS, Sink, open_sink
from edgeloc.sinks.video import Mp4Sink, fit
from edgeloc.testing import FileSinkSuite, example_frame, example_observation
from edgeloc.types import Box, Detection, Frame, LabelledBox, Pixels, Result


def write(sink: Sink, frames: Iterable[Frame]) -> None:
    for one in frames:
        sink.write(example_observation(one, Box(1, 2, 3.456, 4)), _picture_of(one))


def _picture_of(one: Frame) -> Callable[[], Pixels]:
    return lambda: one.pixels


def pictures(path: Path) -> list[Pixels]:
    capture = cv2.VideoCapture(str(path))
    found = []
    while (read := capture.read())[0]:
        found.append(np.asarray(read[1], np.uint8))
    return found


@pytest.mark.parametrize("uri", ["", "out.mov", "gopher://x", "nosuffix", "out.mp4/"])
def test_an_unknown_sink_is_an_error_that_lists_the_known_ones(uri: str) -> None:
    with pytest.raises(UsageError, match=r"window.*\.mp4.*\.jsonl") as caught:
        open_sink(f"{uri}x" if uri.endswith("/") else uri)
    assert caught.value.exit_status == 2


def test_every_sink_in_the_table_loads() -> None:
    for kind in SINKS:
        whole = {
            "window": "window",
            "-": "-",
            "unix": "unix:///run/edgeloc.sock",
            "shm": "shm://edgeloc",
            "ros2": "ros2://",
        }
        uri = f"a{kind}" if kind.startswith(".") else whole.get(kind, f"{kind}://localhost:5005")
        assert open_sink(uri).name


class TestEveryFileSink(FileSinkSuite):
    @pytest.fixture(params=[".mp4", ".avi", ".jsonl"], autouse=True)
    def kind(self, request: pytest.FixtureRequest) -> None:
        self.suffix = request.param

    def make(self, path: Path) -> Sink:
        return open_sink(f"file://{path}")


def test_a_line_of_json_for_each_result(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "out.jsonl"))
    sink.open()
    known = example_frame(4, 7.25, truth=(LabelledBox(Box(0, 1, 2, 3), "nut"), LabelledBox(Box(4, 4, 6, 6), None)))
    sink.write(example_observation(known, Box(1, 2, 3.456, 4), Box(5, 5, 9, 9)), lambda: known.pixels)
    empty = example_frame(5, truth=())
    sink.write(example_observation(empty), lambda: empty.pixels)
    write(sink, [example_frame(6)])
    sink.close()
    first, second, third = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (first["sequence"], first["age_ms"], first["presence"]) == (4, 12.5, 0.9)
    assert (first["box"], first["label"], first["label_score"]) == ([1, 2, 3.46, 4], "nut", 0.75)
    assert [(one["box"], one["score"], one["label"]) for one in first["objects"]] == [
        ([1, 2, 3.46, 4], 0.9, "nut"),
        ([5, 5, 9, 9], 0.8, "nut"),
    ]
    assert (first["captured_at"], first["engine"], first["present"]) == (7.25, "fake", True)
    assert first["stale"] is False and first["dropped"] == 0
    assert first["truth"] == [{"box": [0, 1, 2, 3], "label": "nut"}, {"box": [4, 4, 6, 6], "label": None}]
    assert (second["box"], second["label"], second["label_score"]) == (None, None, None)
    assert (second["present"], second["presence"], second["objects"]) == (False, 0.2, [])
    assert second["truth"] == []
    assert "truth" not in third


def test_a_track_is_told_apart_from_the_answer(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "out.jsonl"))
    sink.open()
    other = Track("measured", 7.45, Box(5, 6, 7, 8), id=3)
    track = Track("predicted", 7.45, Box(-3.456, 2, 3, 4), (12.3456, -1), 0.3004, 2, "nut", 0.123456, (other,))
    for one in (track, Track("lost", 7.45), None):
        sink.write(dataclasses.replace(example_observation(example_frame()), track=one), lambda: pytest.fail("drawn"))
    sink.close()
    predicted, lost, none = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert predicted["box"] is None and predicted["track"] == {
        "id": 2, "state": "predicted", "label": "nut", "score": 0.12346, "box": [-3.46, 2, 3, 4], "at": 7.45,
        "velocity": [12.35, -1], "unseen_s": 0.3,
    }  # fmt: skip
    assert predicted["tracks"][0] == predicted["track"] and lost["tracks"] == []
    assert [(one["id"], one["box"], one["label"]) for one in predicted["tracks"][1:]] == [(3, [5, 6, 7, 8], None)]
    assert (lost["track"]["state"], lost["track"]["box"], lost["track"]["id"]) == ("lost", None, None)
    assert "track" not in none and "tracks" not in none


def test_lines_are_on_the_disk_as_they_come(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "out.jsonl"))
    sink.open()
    write(sink, [example_frame(0), example_frame(1)])
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    sink.close()


def test_a_jsonl_sink_does_not_have_frames_drawn(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "out.jsonl"))
    sink.open()
    sink.write(example_observation(example_frame(0)), lambda: pytest.fail("drawn for nothing"))
    sink.close()


FULL = """
import resource, sys
from edgeloc.errors import OutputError
from edgeloc.sinks import open_sink
from edgeloc.observation import Observation
from edgeloc.types import Frame, Result
import numpy as np
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, most))
sink = open_sink(sys.argv[1])
sink.open()
pixels = np.zeros((8, 8, 3), np.uint8)
try:
    for number in range(100):
        sink.write(Observation(Frame(pixels, 0.0, number), Result()), lambda: pixels)
except OutputError as error:
    print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sink.write(Observation(Frame(pixels, 0.0, number), Result()), lambda: pixels)
sink.close()
"""


def test_a_full_disk_keeps_the_whole_lines_before_it(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert "out.jsonl cannot be written to" in done.stdout
    lines = path.read_text().splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == list(range(len(lines)))
    assert len(lines) > 5


def test_a_file_gives_a_video_with_each_frame_once(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "out.mp4"))
    sink.open(fps=12.5)
    write(sink, [example_frame(number) for number in range(7)])
    sink.close()
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    levels = [float(picture.mean()) for picture in pictures(tmp_path / "out.mp4")]
    assert levels == pytest.approx([20 + 10 * number for number in range(7)], abs=6)


def test_a_live_avi_holds_pictures_so_that_time_stays_true(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "out.avi"))
    sink.open(fps=10, live=True)
    write(sink, [example_frame(0, 5.0), example_frame(10, 5.3), example_frame(20, 5.4)])
    sink.close()
    levels = [float(picture.mean()) for picture in pictures(tmp_path / "out.avi")]
    assert levels == pytest.approx([20, 20, 20, 120, 220], abs=6)


def test_an_avi_of_a_camera_slower_than_a_picture_a_second(tmp_path: Path) -> None:
    """OpenCV makes none of under 1 fps: pictures are repeated."""
    sink = open_sink(tmp_path / "out.avi")
    sink.open(fps=0.5)
    write(sink, [example_frame(0), example_frame(10)])
    sink.close()
    levels = [float(picture.mean()) for picture in pictures(tmp_path / "out.avi")]
    assert levels == pytest.approx([20, 20, 120], abs=6)


def test_a_long_gap_in_an_avi_is_held_once(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.avi")
    sink.open(fps=10, live=True)
    write(sink, [example_frame(number, at) for number, at in enumerate([0, 0.1, 60, 60.1, 60.2])])
    sink.close()
    assert len(pictures(tmp_path / "out.avi")) == 2 + 100 + 3


def test_an_avi_goes_on_in_another_file_before_opencv_would_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("edgeloc.sinks.video.MOST_BYTES", 100_000)
    sink = open_sink(tmp_path / "out.avi")
    sink.open(fps=10)
    noise = np.random.default_rng(0)
    for number in range(20):
        write(sink, [Frame(noise.integers(0, 256, (96, 128, 3)).astype(np.uint8), number / 10, number)])
    sink.close()
    parts = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert parts[0].name == "out.avi" and len(parts) > 1
    assert all(path.stat().st_size < 200_000 for path in parts)
    assert sum(len(pictures(path)) for path in parts) == 20
    assert f"{parts[0]} is full and goes on in {parts[1]}" in caplog.text


def test_a_name_with_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = open_sink("12:30.mp4")
    sink.open(fps=10)
    write(sink, [example_frame(0), example_frame(1)])
    sink.close()
    assert len(pictures(tmp_path / "12:30.mp4")) == 2


def test_an_encoder_that_cannot_be_made_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an FFmpeg that was built without x264."""
    av = pytest.importorskip("av")

    class Container:
        def add_stream(self, codec: str, rate: float) -> None:
            raise av.codec.codec.UnknownCodecError(codec)

        def close(self) -> None:
            pass

    monkeypatch.setattr(av, "open", lambda *_, **__: Container())
    sink = open_sink(tmp_path / "out.mp4")
    sink.open(fps=10)
    with pytest.raises(OutputError, match="libx264"):
        write(sink, [example_frame(0)])
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_two_runs_never_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    first, second = (open_sink(path, overwrite=True) for _ in range(2))
    for _ in range(2):
        first.open()
        write(first, [example_frame(0)])
        with pytest.raises(UsageError, match="being written by another run"):
            second.open()
        first.close()
        assert len(path.read_text().splitlines()) == 1
    second.open()
    second.close()


def test_the_time_stands_in_the_name_of_a_file_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name of a folder"):
        open_sink(tmp_path / "{time}" / "out.jsonl").open()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_removed_but_not_another_that_took_its_name(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = open_sink(path)
    sink.open()
    path.unlink()
    path.write_text("")
    sink.close()
    assert path.exists()


def test_the_free_space_is_that_of_the_disk_that_a_link_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "card").mkdir()
    path = tmp_path / "out.avi"
    path.symlink_to(tmp_path / "card" / "out.avi")
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(str(path)) or SimpleNamespace(free=2**40))
    sink = open_sink(path)
    sink.open(fps=10)
    write(sink, [example_frame(0)])
    sink.close()
    assert asked == [str(tmp_path / "card")]


def test_a_live_mp4_shows_each_picture_at_its_time_of_capture(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "out.mp4"))
    sink.open(fps=10, live=True)
    write(sink, [example_frame(0, 5.0), example_frame(10, 5.3), example_frame(20, 5.4)])
    sink.close()
    capture, times = cv2.VideoCapture(str(tmp_path / "out.mp4")), []
    while capture.read()[0]:
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    assert times == pytest.approx([0, 300, 400], abs=1)


def test_a_frame_of_another_size_is_fitted_in(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "out.mp4"))
    sink.open(fps=10)
    write(sink, [example_frame(5), example_frame(6, size=(200, 100)), example_frame(7, size=(10, 90))])
    sink.close()
    assert [picture.shape for picture in pictures(tmp_path / "out.mp4")] == [(48, 64, 3)] * 3


@pytest.mark.parametrize("size", [(33, 35), (1, 1), (640, 481)])
def test_odd_sizes_are_filled_up(tmp_path: Path, size: tuple[int, int]) -> None:
    sink = open_sink(str(tmp_path / "out.mp4"))
    sink.open(fps=10)
    write(sink, [example_frame(5, size=size)] * 2)
    sink.close()
    assert pictures(tmp_path / "out.mp4")[0].shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)


def test_fitting_keeps_the_shape_and_adds_black() -> None:
    fitted = fit(np.full((50, 100, 3), 200, np.uint8), (64, 48))
    assert fitted.shape == (48, 64, 3)
    assert (fitted[8:40] == 200).all() and not fitted[:8].any() and not fitted[40:].any()


def test_a_video_without_a_frame_is_not_left(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "out.mp4"))
    sink.open(fps=10)
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_a_video_and_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Mp4Sink(tmp_path / "out.mp4")
    sink.open(fps=10)
    write(sink, [example_frame(number) for number in range(4)])
    monkeypatch.setattr("edgeloc.sinks.video.LEAST_FREE_BYTES", 2**80)
    with pytest.raises(OutputError, match="disk is full"):
        write(sink, [example_frame(4)])
    sink.close()
    assert len(pictures(tmp_path / "out.mp4")) == 4


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_without_its_end_plays(tmp_path: Path, suffix: str) -> None:
    """As after a kill: what is under the name in the middle of a run is a video."""
    path = tmp_path / f"out{suffix}"
    sink = open_sink(path)
    sink.open(fps=10)
    noise = np.random.default_rng(0)
    for number in range(60):
        pixels = noise.integers(0, 256, (96, 128, 3)).astype(np.uint8)
        write(sink, [Frame(pixels, number / 10, number)])
    copy = path.with_name(f"copy{suffix}")
    copy.write_bytes(path.read_bytes())
    sink.close()
    assert 40 <= len(pictures(copy)) <= len(pictures(path)) == 60


def test_a_live_video_has_a_key_frame_each_second_however_few_its_pictures(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.mp4")
    sink.open(fps=30, live=True)
    write(sink, [example_frame(number, number / 2) for number in range(9)])
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((tmp_path / "out.mp4").read_bytes())
    sink.close()
    assert len(pictures(copy)) >= 6


def test_a_video_without_pyav_names_the_extra_and_the_other_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"\.avi does not.*edgeloc\[video\]"):
        open_sink(tmp_path / "out.mp4").open()
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_with_a_name_is_written_into_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    os.mkfifo(path)
    with pytest.raises(OutputError, match="nobody reads from the pipe"):
        open_sink(path).open()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = open_sink(path)
    sink.open()
    write(sink, [example_frame(0), example_frame(1)])
    assert [json.loads(line)["sequence"] for line in os.read(reader, 65536).splitlines()] == [0, 1]
    os.close(reader)
    with pytest.raises(OutputError, match="Broken pipe"):
        write(sink, [example_frame(2)])
    sink.close()
    assert path.is_fifo()


def test_a_pipe_takes_a_line_in_parts(tmp_path: Path) -> None:
    """A pipe holds 64 KB: a longer line is whole once its reader has taken the first part."""
    path = tmp_path / "out.jsonl"
    os.mkfifo(path)
    taken: list[bytes] = []
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    reader = threading.Thread(target=lambda: taken.extend(iter(lambda: os.read(descriptor, 4096), b"")))
    sink = open_sink(path)
    sink.open()
    reader.start()
    one = example_frame()
    objects = tuple(Detection(Box(1, 2, 3, 4), 0.9, "nut") for _ in range(3000))
    sink.write(Observation(one, Result(objects)), lambda: one.pixels)
    sink.close()
    reader.join(10)
    os.close(descriptor)
    assert len(json.loads(b"".join(taken))["objects"]) == 3000


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_into_a_pipe_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OutputError, match="is no file"):
        open_sink(path).open()
    os.close(descriptor)
    assert path.is_fifo()


def test_a_name_with_a_nul_is_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match="NUL"):
        open_sink("file:///x%00.jsonl")


def test_a_window_without_a_screen_is_an_error_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")
    with pytest.raises(DeviceError, match=r"no screen here.*out\.mp4|cannot show windows.*opencv-python") as caught:
        open_sink("window").open()
    assert caught.value.exit_status == 3


@pytest.mark.parametrize(
    ("key", "visible", "ended"), [(255, 1.0, False), (ord("q"), 1.0, True), (27, 1.0, True), (255, 0.0, True)]
)
def test_keys_and_the_closed_window_end_the_run(
    monkeypatch: pytest.MonkeyPatch, key: int, visible: float, ended: bool
) -> None:
    monkeypatch.setattr("edgeloc.sinks.window._require_screen", lambda: None)
    for name in ("namedWindow", "resizeWindow", "imshow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "waitKey", lambda _: key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible)
    sink = open_sink("window")
    sink.open()
    write(sink, [example_frame(0)])
    assert sink.ended is ended
    sink.close()
