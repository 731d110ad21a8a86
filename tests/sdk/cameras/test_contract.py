"""The contract that every camera holds to, over those without hardware; tests/device and tests/hardware reuse it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeloc.cameras import Camera, open_camera
from edgeloc.errors import CameraError

KINDS = ("video", "folder", "image", "data", "synthetic", "synthetic-live", "scripted", "scripted-bare")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def opener(kind: str, tiny_video: Path, tiny_folder: Path, tiny_labelled: Path) -> Callable[[], Camera]:
    """Opens a camera of the kind."""
    uris = {
        "video": str(tiny_video),
        "folder": str(tiny_folder),
        "image": str(tiny_folder / "00.png"),
        "data": f"data://{tiny_labelled}?frames=5",
        "synthetic": "synthetic://?seed=1&size=64x48&frames=6&live=0",
        "synthetic-live": "synthetic://?seed=1&size=64x48&frames=6&fps=200",
        "scripted": "scripted://?size=64x48&fps=100&frames=100&corrupt=2&disconnect=30:0.05",
        "scripted-bare": "scripted://?size=64x48&fps=100&frames=100&clock=2:-5&reconnect=0",
    }
    return lambda: open_camera(uris[kind])


@pytest.fixture
def camera(opener: Callable[[], Camera]) -> Iterator[Camera]:
    with opener() as camera:
        yield camera


def some(camera: Camera, count: int = 4) -> list:
    frames = []
    for frame in camera:
        frames.append(frame)
        if len(frames) == count:
            break
    return frames


def test_frames_are_bgr_images_of_the_size_told(camera: Camera) -> None:
    frames = some(camera)
    assert frames
    for frame in frames:
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.ndim == 3 and frame.pixels.shape[2] == 3
        if camera.size is not None:
            assert (frame.pixels.shape[1], frame.pixels.shape[0]) == camera.size


def test_sequence_starts_at_zero_or_later_and_grows(camera: Camera) -> None:
    numbers = [frame.sequence for frame in some(camera)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0 or camera.live


def test_capture_times_do_not_go_back_and_are_not_in_the_future(camera: Camera) -> None:
    last = -np.inf
    for _ in range(4):
        frame = camera.read()
        if frame is None:
            break
        assert last <= frame.captured_at <= time.monotonic()
        last = frame.captured_at


def test_a_frame_belongs_to_the_caller(camera: Camera) -> None:
    first = camera.read()
    assert first is not None
    kept = first.pixels.copy()
    for frame in some(camera, 3):
        assert not np.shares_memory(frame.pixels, first.pixels)
        frame.pixels[:] = 0
    assert (first.pixels == kept).all()


def test_an_ended_source_stays_ended(camera: Camera, kind: str) -> None:
    if kind not in KINDS:
        pytest.skip("this source does not end")
    assert some(camera, 1000)
    assert camera.read() is None
    assert camera.read() is None


def test_a_camera_opened_again_starts_from_its_beginning(camera: Camera) -> None:
    first = some(camera)
    camera.close()
    camera.open()
    again = some(camera)
    assert first and again
    if not camera.live:
        assert [frame.sequence for frame in again] == [frame.sequence for frame in first]
        assert all((a.pixels == b.pixels).all() for a, b in zip(first, again, strict=True))


def test_closing_twice_is_fine_and_a_closed_camera_says_so(camera: Camera) -> None:
    camera.close()
    camera.close()
    with pytest.raises(CameraError, match="not open"):
        camera.read()


def test_opening_an_open_camera_changes_nothing(camera: Camera) -> None:
    assert camera.read() is not None
    camera.open()
    following = camera.read()
    assert following is None or following.sequence > 0


def test_a_live_camera_names_its_rate(camera: Camera) -> None:
    if not camera.live:
        pytest.skip("not live")
    assert camera.fps is not None and camera.fps > 0
