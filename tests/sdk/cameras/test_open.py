"""Opening cameras by URI: what is found, and the error for a wrong URI."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeloc.cameras import CAMERAS, open_camera
from edgeloc.cameras.files import ImageCamera, VideoCamera
from edgeloc.errors import CameraError, CameraTimeout, DataError, UsageError


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("webcam://0", ["webcam://", "v4l2:///dev/video0", "synthetic://"]),
        ("", ["empty"]),
        ("nothing/here.mp4", ["nothing/here.mp4", "not there"]),
        ("file:///nothing/here.mp4", ["not there"]),
        ("synthetic://?sed=1", ["sed", "seed, size, fps, frames, live"]),
        ("synthetic://?seed=x", ["seed=x", "whole number"]),
        ("synthetic://?seed=1&seed=2", ["twice"]),
        ("synthetic://?size=640", ["size=640", "640x480"]),
        ("synthetic://?size=0x480", ["640x480"]),
        ("synthetic://?fps=0", ["above 0"]),
        ("synthetic://?fps=nan", ["above 0"]),
        ("synthetic://?frames=0", ["from 1"]),
        ("synthetic://?live=yes", ["1 or 0"]),
        ("synthetic://?seed", ["seed"]),
        ("synthetic://[", ["no URI"]),
        ("synthetic://seed=1", ["'seed=1' means nothing here", "behind a ?"]),
        ("rtsp:///stream", ["names no server", "rtsp://HOST/STREAM"]),
        ("rtsp://u:secret@host:99999/stream", ["rtsp://u:***@host:99999/stream names no server"]),
        ("v4l2:///dev/video0?brightness=3", ["brightness", "size, fps, format"]),
        ("v4l2:///dev/video0?format=H264", ["H264", "MJPG or YUYV"]),
        ("v4l2:///dev/video0?reconnect=soon", ["reconnect=soon", "seconds"]),
        ("synthetic://?reconnect=5", ["reconnect", "seed, size, fps, frames, live"]),
        ("picamera://0?format=NV12", ["format", "size, fps"]),
        ("csi://0?mode=small", ["mode=small", "640x480"]),
    ],
)
def test_a_wrong_uri_is_an_error_that_lists_what_is_known(uri: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        open_camera(uri)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_status == 2


def test_paths_and_file_uris_are_distinguished_by_what_they_are(tiny_video: Path, tiny_folder: Path) -> None:
    kinds = {
        str(tiny_video): VideoCamera,
        f"file://{tiny_video}": VideoCamera,
        str(tiny_folder): ImageCamera,
        str(tiny_folder / "00.png"): ImageCamera,
    }
    for uri, kind in kinds.items():
        with open_camera(uri) as camera:
            assert type(camera) is kind


def test_a_hash_belongs_to_the_name_of_a_file(tiny_video: Path, tmp_path: Path) -> None:
    named = tmp_path / "take #2.mp4"
    named.write_bytes(tiny_video.read_bytes())
    with open_camera(f"file://{named}") as camera:
        assert camera.name == str(named)


def test_a_pathlike_opens_too(tiny_video: Path) -> None:
    with open_camera(tiny_video) as camera:
        assert camera.size == (64, 48)


def test_a_device_that_is_not_there_is_a_device_failure() -> None:
    for uri in ("v4l2:///dev/video987", "v4l2://987", "/dev/video987"):
        with pytest.raises(CameraError, match="/dev/video987 is not there") as caught:
            open_camera(uri)
        assert caught.value.exit_status == 3


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\0\0\0\x20ftypisom" + bytes(3000)])
def test_a_file_that_is_no_video_is_bad_input(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.mp4"):
        open_camera(path)


def test_every_camera_in_the_table_loads() -> None:
    import importlib

    for entry in CAMERAS.own.values():
        module, _, name = entry.partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), type)


def test_a_live_synthetic_camera_loses_what_nobody_reads() -> None:
    import time

    with open_camera("synthetic://?size=64x48&fps=100") as camera:
        assert camera.read() is not None
        time.sleep(0.1)
        late = camera.read()
        assert late is not None and late.sequence >= 5


def test_a_synthetic_camera_shows_several_objects() -> None:
    with open_camera("synthetic://?seed=2&size=160x120&frames=90&live=0&objects=3") as camera:
        counts = [len(frame.truth or ()) for frame in camera]
    assert max(counts) == 3
    with pytest.raises(UsageError, match="objects is 17"):
        open_camera("synthetic://?objects=17")


def test_a_synthetic_camera_knows_the_truth_and_repeats_itself() -> None:
    def scenes() -> list:
        with open_camera("synthetic://?seed=7&size=64x48&frames=80&live=0") as camera:
            return list(camera)

    first, again = scenes(), scenes()
    assert len(first) == 80
    assert all((a.pixels == b.pixels).all() and a.truth == b.truth for a, b in zip(first, again, strict=True))
    assert all(frame.truth is not None for frame in first)
    assert any(found.label for frame in first for found in frame.truth or ())


def test_a_slow_live_camera_times_out_instead_of_waiting_for_ever() -> None:
    with open_camera("synthetic://?size=64x48&fps=0.1") as camera:
        assert camera.read() is not None
        with pytest.raises(CameraTimeout):
            camera.read(0.01)
