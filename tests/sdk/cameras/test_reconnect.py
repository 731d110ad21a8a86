"""A camera that goes away and comes back: what the reader gets, and what the run and its results hold."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import pytest

from edgeloc.cameras import base, open_camera
from edgeloc.cameras.reconnect import ReconnectingCamera
from edgeloc.errors import CameraError, CameraTimeout, UsageError
from edgeloc.loop.run import run
from edgeloc.testing.cameras import FakeCamera
from edgeloc.types import Frame, Result

FAST = "fake://?size=64x48&fps=100"


def nothing(frame: Frame) -> Result:
    return Result()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera counts as stalled after a tenth of a second instead of two."""
    monkeypatch.setattr(base, "READ_TIMEOUT_S", 0.1)


def test_a_disconnection_is_a_gap_and_the_numbers_go_on() -> None:
    with open_camera(f"{FAST}&disconnect=20:0.3&frames=120") as camera:
        frames = list(camera)
        (gap,) = camera.gaps
    numbers = [frame.sequence for frame in frames]
    times = [frame.captured_at for frame in frames]
    assert numbers == sorted(set(numbers)) and times == sorted(set(times))
    assert gap.seconds >= 0.3 and "unplugged" in gap.reason
    assert not any(gap.began_at < at < gap.ended_at for at in times)
    assert [finding.code for finding in camera.findings] == ["camera-gaps"]
    assert "away once, 0." in str(camera.findings[0])


def test_a_loop_goes_on_where_a_camera_is_away_for_longer_than_a_read_waits(impatient: None) -> None:
    with open_camera(f"{FAST}&disconnect=20:0.3&frames=120") as camera:
        numbers = [frame.sequence for frame in camera]
    assert len(numbers) > 20 and numbers == sorted(set(numbers))


def test_two_disconnections_are_two_gaps() -> None:
    with open_camera(f"{FAST}&disconnect=20:0.1,70:0.1&frames=120") as camera:
        assert list(camera)
        assert len(camera.gaps) == 2 and "2 times" in str(camera.findings[0])


def test_a_source_that_ends_while_it_is_away_has_a_finding() -> None:
    with open_camera(f"{FAST}&disconnect=20:0.15&frames=32") as camera:
        assert list(camera)
        assert camera.gaps == () and [finding.code for finding in camera.findings] == ["camera-away"]
        assert camera.read() is None


def test_while_it_is_away_reading_times_out_as_often_as_it_is_tried() -> None:
    with open_camera(f"{FAST}&disconnect=20") as camera:
        with pytest.raises(CameraTimeout, match=r"unplugged.*it has been tried again for"):
            while camera.read(0.05):
                pass
        assert camera.reconnecting
        with pytest.raises(CameraTimeout):
            camera.read(0.05)
        assert camera.gaps == ()
        (finding,) = camera.findings
        assert "away at the end (camera fake://?seed=0 is gone: it was unplugged" in finding.message


def test_a_camera_that_stays_away_is_given_up_after_the_limit() -> None:
    with open_camera(f"{FAST}&disconnect=20&reconnect=0.3") as camera:
        began_at = time.monotonic()
        with pytest.raises(CameraError, match=r"unplugged.*did not come back in 0\.3 s") as caught:
            list(camera)
        assert not isinstance(caught.value, CameraTimeout)
        assert time.monotonic() - began_at >= 0.3


def test_without_reconnecting_it_is_gone_at_once() -> None:
    with open_camera(f"{FAST}&disconnect=20&reconnect=0") as camera, pytest.raises(CameraError, match="is gone"):
        list(camera)


def test_a_stalled_camera_is_opened_again(impatient: None) -> None:
    with open_camera(f"{FAST}&stall=20:0.4&frames=140") as camera:
        frames = []
        while len(frames) < 100:
            try:
                frame = camera.read(0.15)
            except CameraTimeout:
                assert camera.reconnecting
                continue
            if frame is None:
                break
            frames.append(frame)
        assert len(camera.gaps) == 1 and camera.gaps[0].seconds >= 0.4
    assert [frame.sequence for frame in frames] == sorted({frame.sequence for frame in frames})


def test_a_read_waits_for_a_camera_as_slow_as_it_is() -> None:
    """Without a limit of one's own; a benchmark reads so."""
    with open_camera("fake://?size=64x48&fps=0.4&frames=2") as camera:
        first, second = camera.read(), camera.read()
        assert first is not None and second is not None
        assert second.captured_at - first.captured_at > 2


def test_a_camera_slower_than_the_stall_limit_is_not_away(impatient: None) -> None:
    with open_camera("fake://?size=64x48&fps=4&frames=4") as camera:
        assert camera.stall_s == 0.75 and len(list(camera)) == 4
        assert camera.gaps == ()
    summary = run("fake://?size=64x48&fps=4&frames=4", nothing)
    assert summary.frames == 4 and summary.findings == ()


def test_a_short_timeout_of_the_reader_is_no_reason_to_open_it_again() -> None:
    with open_camera("fake://?size=64x48&fps=5") as camera:
        assert camera.read() is not None
        for _ in range(3):
            with pytest.raises(CameraTimeout, match="no frame in time"):
                camera.read(0.01)
        assert not camera.reconnecting and camera.read() is not None
        assert camera.gaps == ()


def test_a_camera_that_fails_before_its_first_frame_is_not_tried_again() -> None:
    with pytest.raises(CameraError, match="is busy"):
        open_camera("fake://?refuse=busy")
    with open_camera(f"{FAST}&disconnect=0") as camera, pytest.raises(CameraError, match="is gone") as caught:
        camera.read()
    assert not isinstance(caught.value, CameraTimeout)


def test_an_old_frame_after_the_gap_is_not_handed_out() -> None:
    class Stale(FakeCamera):
        """Its driver still holds a frame from before it went away."""

        def _read(self, timeout_s: float) -> Frame | None:
            if self.kept is not None and self.opened > 1:
                frame, self.kept = self.kept, None
                return frame
            frame = super()._read(timeout_s)
            self.kept = frame if self.opened == 1 else None
            return frame

        def _open(self) -> None:
            super()._open()
            self.opened += 1

        kept: Frame | None = None
        opened = 0

    camera = ReconnectingCamera(Stale(size=(64, 48), fps=100, disconnect={20: 0.1}, frames=80))
    with camera:
        times = [frame.captured_at for frame in camera]
    assert times == sorted(set(times)) and len(camera.gaps) == 1


def test_a_run_survives_the_gap_and_its_summary_holds_the_finding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "edgeloc"):
        summary = run(f"{FAST}&disconnect=20:0.3&frames=100", nothing, str(tmp_path / "out.jsonl"))
    assert [finding.code for finding in summary.findings] == ["camera-gaps"]
    assert "opening it again" in caplog.messages[0] and "is back after" in caplog.messages[1]
    assert caplog.messages[2].startswith("the camera was away once")
    assert summary.ended_by == "camera"
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == summary.frames
    (at,) = [number for number, row in enumerate(rows) if "gap_s" in row]
    assert rows[at]["gap_s"] >= 0.3
    assert rows[at]["captured_at"] - rows[at - 1]["captured_at"] >= rows[at]["gap_s"] - 0.001


def test_a_run_waits_for_a_camera_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.loop.slot._HANG_S", 0.3)
    summary = run(f"{FAST}&disconnect=20:0.8&frames=260", nothing)
    assert [finding.code for finding in summary.findings] == ["camera-gaps"]


def test_a_run_whose_camera_stays_away_ends_with_what_it_had() -> None:
    with pytest.raises(CameraError, match=r"did not come back in 0\.2 s \(\d+ results before that are kept\)"):
        run(f"{FAST}&disconnect=20&reconnect=0.2", nothing)
    assert not [thread for thread in threading.enumerate() if thread.name == "edgeloc-capture"]


def test_a_camera_that_was_being_opened_again_is_closed_after_close() -> None:
    class Slow(FakeCamera):
        """Its second opening takes until it is let go."""

        def _open(self) -> None:
            if self.opened:
                opening.set()
                assert let_go.wait(5)
            super()._open()
            self.opened += 1

        def _close(self) -> None:
            super()._close()
            self.closed_last.set()

        opened = 0
        closed_last = threading.Event()

    def read() -> None:
        try:
            while True:
                camera.read(0.5)
        except CameraTimeout:
            read()
        except CameraError as error:
            ended.append(error)

    opening, let_go, ended = threading.Event(), threading.Event(), list[CameraError]()
    slow = Slow(size=(64, 48), fps=100, disconnect={3: 0.01})
    camera = ReconnectingCamera(slow)
    camera.open()
    reader = threading.Thread(target=read)
    reader.start()
    assert opening.wait(5)
    camera.close()
    slow.closed_last.clear()
    let_go.set()
    reader.join(5)
    assert not reader.is_alive() and "is closed" in str(ended[0])
    assert slow.opened == 2 and not slow._opened and slow.closed_last.is_set(), "it holds the device"


def test_after_close_nothing_opens_a_camera_that_was_away() -> None:
    slow = FakeCamera(size=(64, 48), fps=100, disconnect={3: 0.05})
    camera = ReconnectingCamera(slow)
    camera.open()
    with pytest.raises(CameraTimeout):
        while camera.read(0.01):
            pass
    camera.close()
    with pytest.raises(CameraError, match="is not open"):
        camera.read()
    with pytest.raises(CameraError, match="is closed"):
        camera._read(0.5)
    assert not slow._opened


def test_a_limit_below_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="limit_s is -1"):
        ReconnectingCamera(FakeCamera(), -1)
