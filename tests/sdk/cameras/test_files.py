"""Videos and folders of images: every frame, in order, and bad files named."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeloc import Result, run
from edgeloc.cameras import open_camera
from edgeloc.cameras.files import DatasetCamera
from edgeloc.data import open_dataset
from edgeloc.errors import DataError, UsageError
from edgeloc.sinks import open_sink


def test_a_video_gives_every_frame_in_order(tiny_video: Path) -> None:
    with open_camera(tiny_video) as camera:
        frames = list(camera)
        assert (camera.fps, camera.size, camera.live) == (25.0, (64, 48), False)
    levels = [float(frame.pixels.mean()) for frame in frames]
    assert levels == pytest.approx([20, 50, 80, 110, 140, 170], abs=6)
    assert [frame.sequence for frame in frames] == list(range(6))


def test_a_percent_sign_in_a_name_is_no_pattern(tiny_video: Path, tmp_path: Path) -> None:
    path = tmp_path / "100%05d really.mp4"
    path.write_bytes(tiny_video.read_bytes())
    with open_camera(path) as camera:
        assert len(list(camera)) == 6


def test_a_folder_gives_its_images_by_name_whatever_their_size(tiny_folder: Path) -> None:
    with open_camera(tiny_folder) as camera:
        frames = list(camera)
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [20, 50, 80, 110, 140, 170]
    assert frames[0].pixels.shape != frames[1].pixels.shape
    assert [frame.file for frame in frames] == [f"{index:02d}.png" for index in range(6)]


def test_an_image_of_a_data_set_has_its_name_and_a_video_or_a_made_scene_has_none(
    tiny_labelled: Path, tiny_video: Path
) -> None:
    def names(uri: str | Path) -> list[str | None]:
        with open_camera(uri) as camera:
            return [frame.file for frame in camera]

    assert names(f"data://{tiny_labelled}?frames=2") == ["00.png", "03.png"]
    assert set(names(tiny_video)) == {None}
    assert set(names("data://synthetic?frames=2")) == {None}


def test_grey_and_transparent_images_come_as_bgr(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((8, 8, 4), 77, np.uint8))
    with open_camera(tmp_path) as camera:
        assert [frame.pixels.shape for frame in camera] == [(8, 8, 3), (8, 8, 3)]


def test_a_corrupt_image_in_the_middle_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((tiny_folder / "00.png").read_bytes())
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with open_camera(tmp_path) as camera:
        assert camera.read() is not None
        with pytest.raises(DataError, match=r"b\.jpg"):
            camera.read()


def test_a_folder_without_images_lists_which_are_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.jpg"):
        open_camera(tmp_path)


def test_real_videos_give_as_many_frames_as_they_announce(videos: Path) -> None:
    for name in ("drone/V_BIRD_014.mp4", "opencv/vtest.avi"):
        path = videos / name
        announced = int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))
        with open_camera(path) as camera:
            assert sum(1 for _ in camera) == announced
            assert camera.fps is not None and camera.size is not None


def test_a_video_that_ends_early_is_reported_and_a_whole_one_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(20):
        writer.write(noise.integers(0, 255, (48, 64, 3)).astype(np.uint8))
    writer.release()
    with open_camera(path) as camera:
        assert sum(1 for _ in camera) == 20
        assert camera.findings == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_camera(path) as camera:
        given = sum(1 for _ in camera)
        assert 0 < given < 20
        (finding,) = camera.findings
        assert finding.code == "video-cut-short" and f"gave {given} of the 20 frames" in finding.message
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged, cut short"):
        open_camera(path)
    assert capfd.readouterr().err == ""


def test_a_name_that_is_not_utf8_is_refused_where_opencv_would_crash(tiny_video: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    path.write_bytes(tiny_video.read_bytes())
    with pytest.raises(UsageError, match=r"caf\\udce9.mp4' is not UTF-8"):
        open_camera(path)
    with pytest.raises(UsageError, match="rename it"):
        open_sink(path).open()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["folder", "data"])
def test_damaged_images_are_skipped_counted_and_named_where_that_was_asked_for(tmp_path: Path, kind: str) -> None:
    for number in range(8):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((20, 30, 3), 10 * number, np.uint8))
        if number in (0, 2, 3, 5, 7):
            path.write_bytes(path.read_bytes()[:60])
    uri = str(tmp_path) if kind == "folder" else f"data://{tmp_path}"
    with open_camera(uri, skip_bad=True) as camera:
        for _ in range(2):
            assert [frame.file for frame in camera] == ["1.png", "4.png", "6.png"]
            (finding,) = camera.findings
            assert finding.code == "images-skipped"
            assert finding.message == "5 images that cannot be read were skipped: 0.png, 2.png, 3.png and 2 more"
            camera.close()
            camera.open()
    with open_camera(uri) as camera, pytest.raises(DataError, match=r"0\.png"):
        list(camera)


def test_what_was_skipped_is_known_before_the_source_has_ended(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 30, 3), np.uint8))
    with open_camera(tmp_path, skip_bad=True) as camera:
        summary = run(camera, lambda frame: Result(), frames=1)
    assert [finding.code for finding in summary.findings] == ["images-skipped"]
    assert (summary.frames, summary.dropped) == (1, 1)


def test_frames_of_a_data_set_know_all_objects() -> None:
    uri = "synthetic?count=12&size=80x60&objects=3"
    data = open_dataset(uri)
    with DatasetCamera(uri) as camera:
        assert [frame.truth for frame in camera] == [sample.objects for sample in data]


def test_frames_of_images_without_labels_know_nothing(tiny_labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((tiny_labelled / "00.png").read_bytes())
    with open_camera(f"data://{tmp_path}") as camera:
        assert [frame.truth for frame in camera] == [None]


def test_bad_rows_are_skipped_too(tiny_labelled: Path, tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index:02d}.png").write_bytes((tiny_labelled / f"{index:02d}.png").read_bytes())
    # Its header is whole, so that only decoding it fails.
    (tmp_path / "01.png").write_bytes((tmp_path / "01.png").read_bytes()[:60])
    row = '{{"file": "{:02d}.png", "cls": "thing", "box_xyxy": [4, 4, 20, 16]}}\n'
    (tmp_path / "manifest.jsonl").write_text("".join(map(row.format, range(3))) + row.format(9))
    with pytest.raises(DataError, match=r"09\.png"):
        open_camera(f"data://{tmp_path}")
    # The flag beside the option is no contradiction.
    with open_camera(f"data://{tmp_path}?skip_bad=1", skip_bad=True) as camera:
        assert [frame.file for frame in camera] == ["00.png", "02.png"]
        assert [finding.code for finding in camera.findings] == ["data-rows-skipped", "images-skipped"]


@pytest.mark.parametrize("kind", ["folder", "data"])
def test_a_source_of_damaged_images_only_is_an_error(tmp_path: Path, kind: str) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    words = r"holds no image that can be read: 2 images .* skipped: a\.png, b\.png"
    with open_camera(str(tmp_path) if kind == "folder" else f"data://{tmp_path}", skip_bad=True) as camera:
        for _ in range(2):
            with pytest.raises(DataError, match=words):
                camera.read()


@pytest.mark.parametrize("uri", ["synthetic://?seed=1", "gst://videotestsrc", "http://127.0.0.1/video", "video"])
def test_only_images_can_be_skipped(uri: str, tiny_video: Path) -> None:
    with pytest.raises(UsageError, match="has no image that can be skipped: only a folder and a data set have"):
        open_camera(tiny_video if uri == "video" else uri, skip_bad=True)
