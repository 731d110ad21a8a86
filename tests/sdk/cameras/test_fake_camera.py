"""The fake camera fails when and how it is asked to; wrong options are refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from edgeloc.cameras import open_camera
from edgeloc.errors import CameraError, CameraTimeout, DataError, UsageError
from edgeloc.loop.run import run
from edgeloc.scenes import Clip
from edgeloc.types import Result

FAST = "fake://?size=64x48&fps=200&reconnect=0"


def test_it_shows_the_same_scenes_as_the_synthetic_camera_with_their_truth() -> None:
    with open_camera("synthetic://?seed=4&size=64x48&frames=8&live=0") as camera:
        expected = list(camera)
    with open_camera(f"{FAST}&seed=4&frames=8") as camera:
        for frame in camera:
            assert (frame.pixels == expected[frame.sequence].pixels).all()
            assert frame.truth == expected[frame.sequence].truth


@pytest.mark.parametrize("uri", ["synthetic://?size=64x48&fps=20", "fake://?size=64x48&fps=20"])
def test_a_frame_is_made_before_its_exposure_so_that_its_age_is_the_loops(uri: str, monkeypatch: Any) -> None:
    """A sensor needs no time to draw: what a scene takes is no age."""
    made: list[tuple[int, float]] = []
    make = Clip.frame
    monkeypatch.setattr(
        Clip, "frame", lambda self, number: (made.append((number, time.monotonic())), make(self, number))[1]
    )
    with open_camera(uri) as camera:
        frames = [camera.read(1) for _ in range(8)]
    began = dict(made)
    in_time = [frame for frame in frames if frame is not None and began[frame.sequence] < frame.captured_at]
    assert len(in_time) >= 4, "a busy machine may be late for some"


def test_a_stall_is_a_timeout_and_then_it_goes_on() -> None:
    with open_camera(f"{FAST}&stall=5:0.2") as camera:
        with pytest.raises(CameraTimeout):
            while (frame := camera.read(0.05)) is not None:
                before = frame
        after = camera.read(1)
    assert after is not None
    assert after.captured_at - before.captured_at >= 0.2
    assert before.sequence <= 4 and after.sequence >= 45


def test_a_disconnected_camera_is_gone_then_absent_then_back() -> None:
    # A frame lasts 50 ms: the first one after opening is read in time on a busy machine too.
    camera = open_camera("fake://?size=64x48&fps=20&reconnect=0&disconnect=5:0.2")
    with pytest.raises(CameraError, match="is gone: it was unplugged"):
        list(camera)
    camera.close()
    with pytest.raises(CameraError, match="is not there"):
        camera.open()
    time.sleep(0.25)
    camera.open()
    frame = camera.read()
    assert frame is not None and frame.sequence == 0
    camera.close()


def test_corrupt_frames_are_counted_and_not_handed_out() -> None:
    with open_camera(f"{FAST}&frames=60&corrupt=0:20,40") as camera:
        numbers = [frame.sequence for frame in camera]
    assert min(numbers) >= 20 and 40 not in numbers
    with (
        open_camera(f"{FAST}&corrupt=0:1000") as camera,
        pytest.raises(CameraError, match="frames that cannot be decoded"),
    ):
        camera.read(0.05)


@pytest.mark.parametrize("jump", ["3:-5", "3:5", "3:-5000", "3:60,6:-60"])
def test_a_clock_that_jumps_does_not_move_capture_times(jump: str) -> None:
    began_at = time.monotonic()
    with open_camera(f"{FAST}&frames=20&clock={jump}") as camera:
        times = [frame.captured_at for frame in camera]
    assert times == sorted(times)
    assert began_at <= times[0] and times[-1] <= time.monotonic()


def test_a_slow_start_is_waited_for() -> None:
    with open_camera(f"{FAST}&slow_start=0.15") as camera:
        with pytest.raises(CameraTimeout):
            camera.read(0.02)
        assert camera.read(1) is not None


@pytest.mark.parametrize(
    ("how", "words"), [("absent", "not there"), ("busy", "busy"), ("forbidden", "permission"), ("format", "format")]
)
def test_it_refuses_to_open_when_asked_to(how: str, words: str) -> None:
    with pytest.raises(CameraError, match=words) as caught:
        open_camera(f"fake://?refuse={how}")
    assert caught.value.exit_status == 3


def test_the_options_may_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "flight.json"
    path.write_text(json.dumps({"size": "64x48", "fps": 200, "frames": 10, "corrupt": "0:5"}))
    with open_camera(f"fake://{path}") as camera:
        assert camera.size == (64, 48)
        assert all(frame.sequence >= 5 for frame in camera)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("fake://?stall=40", ["stall=40", "FRAME:VALUE"]),
        ("fake://?stall=40:x", ["FRAME:VALUE", "seconds"]),
        ("fake://?disconnect=x", ["FRAME:VALUE"]),
        ("fake://?refuse=maybe", ["maybe", "absent, busy, forbidden, format"]),
        ("fake://?explode=3", ["explode", "disconnect"]),
        ("fake:///nothing/here.json", ["here.json", "cannot be read"]),
        ("fake://?reconnect=-1", ["reconnect=-1", "seconds"]),
    ],
)
def test_a_wrong_option_is_named(uri: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        open_camera(uri)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_file_that_holds_no_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(DataError, match=r"bad\.json"):
        open_camera(f"fake://{tmp_path / 'bad.json'}")


def test_corrupt_frames_at_the_start_count_as_dropped() -> None:
    for options in ("corrupt=0:5", "corrupt=10:5", "stall=0:0.1"):
        with open_camera(f"{FAST}&frames=40&{options}") as camera:
            summary = run(camera, lambda frame: Result())
        # Where the machine is busy, the last frames have passed before they could be read.
        assert 35 <= summary.frames + summary.dropped <= 40, options
        assert summary.dropped >= 5


def test_frames_read_before_a_run_are_not_dropped_by_it() -> None:
    with open_camera("synthetic://?size=64x48&frames=10&live=0") as camera:
        assert camera.read() and camera.read()
        summary = run(camera, lambda frame: Result())
    assert (summary.frames, summary.dropped) == (8, 0)
