"""The run loop: modes, ages, drops, and every way in which a run can end."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc._support.backend import Uri
from edgeloc.cameras import Camera, open_camera
from edgeloc.errors import CameraError, CameraTimeout, DataError, DeviceError, EngineError, OutputError, UsageError
from edgeloc.loop.run import run
from edgeloc.loop.summary import Ages
from edgeloc.loop.tracking import Tracker
from edgeloc.observation import Observation
from edgeloc.sinks import Sink, open_sink
from edgeloc.types import Box, Detection, Frame, Pixels, Result


class FakeCamera(Camera):
    """Gives `count` frames, one every `period_s`, then ends or raises `failure`."""

    def __init__(
        self, count: int, *, failure: Exception | None = None, live: bool = False, period_s: float = 0.0
    ) -> None:
        self.count, self.failure, self.live, self.period_s = count, failure, live, period_s
        self.next = 0
        self.closed = False

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> FakeCamera:
        raise NotImplementedError

    @property
    def name(self) -> str:
        return "fake"

    def _open(self) -> None:
        self.next, self.fps, self.size = 0, 30.0, (32, 24)

    def _read(self, timeout_s: float) -> Frame | None:
        if self.next >= self.count:
            if self.failure:
                raise self.failure
            return None
        time.sleep(self.period_s)
        self.next += 1
        return Frame(np.full((24, 32, 3), 90, np.uint8), time.monotonic(), self.next - 1)

    def _close(self) -> None:
        self.closed = True


class Recorder(Sink):
    """Keeps the observations; ends the run after `ends_after` of them, or fails with `failure` at the second."""

    capacity = 1000

    def __init__(self, *, ends_after: int | None = None, failure: Exception | None = None, draws: bool = False) -> None:
        self.seen: list[Observation] = []
        self.ends_after, self.failure, self.draws = ends_after, failure, draws
        self.opened_with: dict[str, Any] = {}
        self.closed = 0
        self.drawings: list[Pixels] = []

    @property
    def name(self) -> str:
        return "recorder"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        self.opened_with = {"fps": fps, "live": live}

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        if self.failure and self.seen:
            raise self.failure
        self.seen.append(observation)
        if self.draws:
            self.drawings.append(drawn())
        self.ended = len(self.seen) == self.ends_after

    def close(self) -> None:
        self.closed += 1


def found(frame: Frame) -> Result:
    return Result((Detection(Box(5, 5, 20, 20), 0.9),))


def slowly(seconds: float) -> Callable[[Frame], Result]:
    def localize(frame: Frame) -> Result:
        time.sleep(seconds)
        return found(frame)

    return localize


def capture_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "edgeloc-capture"]


def test_a_file_gives_every_frame_in_order() -> None:
    sink = Recorder()
    summary = run(FakeCamera(5), found, sink)
    assert [one.sequence for one in sink.seen] == [0, 1, 2, 3, 4]
    assert (summary.frames, summary.dropped, summary.present, summary.ended_by) == (5, 0, 5, "camera")
    assert sink.opened_with == {"fps": 30.0, "live": False}
    assert sink.closed == 1


def test_results_carry_capture_time_and_age() -> None:
    sink = Recorder()
    before = time.monotonic()
    summary = run(FakeCamera(3), slowly(0.01), sink)
    for one in sink.seen:
        assert before <= one.captured_at <= time.monotonic()
        assert one.age_ms >= 10
        assert one.result.box == Box(5, 5, 20, 20)
    assert summary.age_ms_p50 is not None and summary.age_ms_p99 is not None
    assert 10 <= summary.age_ms_p50 <= summary.age_ms_p99


def test_observations_carry_the_engine_that_answered_even_when_it_changes() -> None:
    class FallingBack:
        """A localizer whose engine falls back after the first frame."""

        class engine:
            name = "edgetpu"

        def __call__(self, frame: Frame) -> Result:
            self.engine.name = "edgetpu" if frame.sequence == 0 else "litert"
            return found(frame)

    sink = Recorder()
    run(FakeCamera(2), FallingBack(), sink)
    assert [one.engine for one in sink.seen] == ["edgetpu", "litert"]
    run(FakeCamera(1), found, sink := Recorder())
    assert sink.seen[0].engine == ""


def test_a_result_over_the_budget_is_stale() -> None:
    sink = Recorder()
    summary = run(FakeCamera(3), slowly(0.02), sink, budget_ms=5)
    assert [one.stale for one in sink.seen] == [True] * 3
    assert summary.stale == 3 and "3 stale" in str(summary)


def test_a_live_camera_drops_what_the_localizer_is_too_slow_for() -> None:
    sink = Recorder()
    summary = run(FakeCamera(40, live=True, period_s=0.002), slowly(0.02), sink)
    numbers = [one.sequence for one in sink.seen]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 39
    assert summary.frames + summary.dropped == 40
    assert sum(one.dropped for one in sink.seen) == summary.dropped > 0
    assert sink.opened_with["live"] is True


def test_fresh_mode_takes_only_frames_exposed_after_it_was_ready() -> None:
    ready: list[float] = []

    def localize(frame: Frame) -> Result:
        assert not ready or frame.captured_at >= ready[-1]
        time.sleep(0.01)
        ready.append(time.monotonic())
        return found(frame)

    summary = run(FakeCamera(60, live=True, period_s=0.004), localize, mode="fresh")
    assert summary.frames == len(ready) >= 2


def test_as_many_frames_as_asked_for() -> None:
    for live in (False, True):
        sink = Recorder()
        summary = run(FakeCamera(10**9, live=live, period_s=0.001), found, sink, frames=3)
        assert (summary.frames, len(sink.seen), summary.ended_by) == (3, 3, "frames")


def test_a_sink_can_end_the_run() -> None:
    summary = run(FakeCamera(10**9), found, Recorder(ends_after=2))
    assert (summary.frames, summary.ended_by) == (2, "sink")


def test_the_picture_is_drawn_once_for_all_sinks_and_the_frame_stays() -> None:
    first, second = Recorder(draws=True), Recorder(draws=True)
    run(FakeCamera(1), found, first, second)
    assert first.drawings[0] is second.drawings[0]
    assert (first.drawings[0] != 90).any()


@pytest.mark.parametrize("live", [False, True])
def test_a_camera_lost_in_the_middle_leaves_what_was_written(tmp_path: Path, live: bool) -> None:
    camera = FakeCamera(4, failure=CameraError("camera fake is gone"), live=live, period_s=0.01)
    paths = [tmp_path / "out.jsonl", tmp_path / "out.mp4"]
    with pytest.raises(CameraError, match=r"camera fake is gone \(\d results before that are kept\)") as caught:
        run(camera, found, *map(str, paths))
    assert caught.value.exit_status == 3
    # On a busy machine a frame may have been replaced by the next.
    kept = len(paths[0].read_text().splitlines())
    assert f"({kept} results" in str(caught.value) and (1 <= kept <= 4 if live else kept == 4)
    assert cv2.VideoCapture(str(paths[1])).read()[0]


def test_the_fix_of_a_lost_camera_stays_at_the_end_of_the_sentence() -> None:
    camera = FakeCamera(4, failure=CameraError("camera fake is gone", hint="check its cable"))
    with pytest.raises(CameraError, match=r"gone \(4 results before that are kept\): check its cable$") as caught:
        run(camera, found)
    assert caught.value.hint == "check its cable"


def test_a_stalled_camera_is_a_timeout() -> None:
    camera = FakeCamera(1, failure=CameraTimeout("camera fake sent no frame for 2 s"), live=True)
    with pytest.raises(CameraTimeout, match="no frame"):
        run(camera, found)


def test_a_camera_whose_read_never_returns_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.loop.slot._HANG_S", 0.05)
    monkeypatch.setattr("edgeloc.loop.slot._JOIN_S", 0.05)
    with pytest.raises(CameraTimeout, match="hangs"):
        run(FakeCamera(1, live=True, period_s=0.5), found)
    for thread in capture_threads():
        thread.join()


def test_a_full_disk_loses_one_sink_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failing = Recorder(failure=OSError(28, "No space left on device"))
    summary = run(FakeCamera(9), found, str(tmp_path / "out.jsonl"), failing)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == summary.frames == 9
    assert failing.closed == 1
    (lost,) = (sink for sink in summary.sinks if sink.state == "lost")
    assert (lost.name, lost.delivered) == ("recorder", 1)
    assert "recorder cannot be written to: No space left" in lost.reason
    assert [finding.code for finding in summary.findings] == ["sink-lost"]
    assert caplog.text.count("goes on without it") == 1
    assert "recorder failed after 1 results" in str(summary)


def test_the_last_sink_that_fails_ends_the_run_with_the_status_of_a_failure() -> None:
    class Watchdog(Recorder):
        auxiliary = True

    failing, watchdog = Recorder(failure=OSError(28, "No space left on device")), Watchdog()
    with pytest.raises(OutputError, match=r"No space left on device \(1 results before that are kept\)") as caught:
        run(FakeCamera(9), found, failing, watchdog)
    assert caught.value.exit_status == 3  # a service is started again after 3, never after 2
    assert (failing.closed, watchdog.closed) == (1, 1)


def test_a_failure_after_the_first_result_is_not_bad_input() -> None:
    failure = DataError("images/3.png is damaged", hint="remove it")
    with pytest.raises(DataError, match=r"damaged \(2 results before that are kept\): remove it") as caught:
        run(FakeCamera(2, failure=failure), found)
    assert caught.value.exit_status == 3
    with pytest.raises(DataError) as caught:
        run(FakeCamera(0, failure=failure), found)
    assert caught.value.exit_status == 2


def test_a_signal_while_sinks_close_keeps_every_file(tmp_path: Path) -> None:
    class Impatient(Recorder):
        def close(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            super().close()

    def localize(frame: Frame) -> Result:
        if frame.sequence == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return found(frame)

    paths = [tmp_path / "out.jsonl", tmp_path / "out.mp4"]
    summary = run(FakeCamera(10**9), localize, Impatient(), *map(str, paths))
    assert summary.ended_by == "interrupt"
    assert len(paths[0].read_text().splitlines()) == summary.frames == 4
    assert cv2.VideoCapture(str(paths[1])).read()[0]


def test_a_sink_that_raises_an_interrupt_while_closing_keeps_no_other_from_it(tmp_path: Path) -> None:
    class Bad(Recorder):
        def close(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(OutputError, match="recorder was not closed"):
        run(FakeCamera(4), found, Bad(), str(tmp_path / "out.jsonl"))
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4


def test_a_failure_to_close_is_told_beside_the_one_that_ended_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Full(Recorder):
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(CameraError, match="gone"):
        run(FakeCamera(2, failure=CameraError("camera fake is gone")), found, Full())
    assert "recorder cannot be written to: No space left on device" in caplog.text
    with pytest.raises(OutputError, match=r"recorder cannot be written to: No space.*\(2 results") as caught:
        run(FakeCamera(2), found, Full())
    assert caught.value.exit_status == 3


def test_a_sink_that_takes_nothing_keeps_nothing() -> None:
    class Full(Recorder):
        def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left on device$") as caught:
        run(FakeCamera(2), found, Full())
    assert caught.value.exit_status == 3


def test_a_sink_given_twice_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("yesterday")
    sink = open_sink(path, overwrite=True)
    for twice in ([sink, sink], [str(path), f"file://{path}"]):
        with pytest.raises(UsageError, match="given twice"):
            run(FakeCamera(2), found, *twice, overwrite=True)
    assert path.read_text() == "yesterday"


NAN = float("nan")


@pytest.mark.parametrize(
    "answer",
    [
        Result((Detection(Box(1, 2, NAN, 4), 0.9),)),
        Result((Detection(Box(1, 2, 3, float("inf")), 0.9),)),
        Result((Detection(None, 0.9, "nut", np.array([NAN], np.float32)),)),
        Result((), Detection(None, NAN)),
    ],
)
def test_an_answer_that_is_no_number_is_an_error_of_the_engine(answer: Result) -> None:
    with pytest.raises(EngineError, match="the localizer's answer is no number"):
        run(FakeCamera(3), lambda frame: answer)
    with pytest.raises(UsageError, match=r"the localizer gave tuple: return an edgeloc\.Result"):
        run(FakeCamera(3), lambda frame: (1, 2, 3, 4))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("numbers", "times", "fault"),
    [
        ((0, 1), (0.0, float("nan")), r"captured at nan s.*time\.monotonic"),
        ((0, 1), (0.0, 1e12), "captured at 1000000000000"),
        ((0, 1), (0.0, float("-inf")), "captured at -inf s"),
        ((0, 5, 4), (0.0, 0.1, 0.2), r"frame 4 after frame 5.*grow"),
    ],
)
def test_times_and_numbers_that_cannot_be_are_refused(
    numbers: tuple[int, ...], times: tuple[float, ...], fault: str
) -> None:
    class Wrong(FakeCamera):
        def _read(self, timeout_s: float) -> Frame | None:
            frame = super()._read(timeout_s)
            assert frame is not None
            at = self.next - 1
            return Frame(frame.pixels, times[at], numbers[at])

    with pytest.raises(CameraError, match=fault):
        run(Wrong(len(numbers)), found)


def test_an_error_of_the_system_after_a_result_is_a_failure_and_not_bad_input() -> None:
    def localize(frame: Frame) -> Result:
        if frame.sequence == 2:
            raise OSError(5, "Input/output error")
        return found(frame)

    with pytest.raises(DeviceError, match=r"Input/output error \(2 results before that are kept\)") as caught:
        run(FakeCamera(4), localize)
    assert caught.value.exit_status == 3


def test_percentiles_of_a_week_need_no_more_memory_than_those_of_a_minute() -> None:
    ages, exact = Ages(), np.random.default_rng(0).gamma(9, 5, 200_000)
    for age in exact:
        ages.add(float(age))
    for percent in (50, 90, 99):
        assert ages.percentiles(percent) == [pytest.approx(np.percentile(exact, percent), rel=2e-3)]
    assert len(ages._bins) < 6000


def test_a_sink_that_does_not_open_ends_the_run_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    camera, first = FakeCamera(3), Recorder()
    with pytest.raises(OutputError):
        run(camera, found, first, str(tmp_path / "file" / "out.mp4"))
    assert camera.next == 0
    assert first.closed == 1


def test_a_failing_localizer_closes_the_sinks_and_the_capture_thread() -> None:
    def localize(frame: Frame) -> Result:
        raise EngineError("invoke failed")

    sink = Recorder()
    with pytest.raises(EngineError, match="invoke failed"):
        run(FakeCamera(10**9, live=True, period_s=0.001), localize, sink)
    assert sink.closed == 1
    assert not capture_threads()


def test_a_bug_in_a_camera_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        run(FakeCamera(1, failure=ZeroDivisionError("bug"), live=True), found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("live", [False, True])
def test_a_signal_ends_the_run_with_everything_kept(tmp_path: Path, number: signal.Signals, live: bool) -> None:
    def localize(frame: Frame) -> Result:
        if frame.sequence >= 3:
            os.kill(os.getpid(), number)
        return found(frame)

    before = signal.getsignal(number)
    paths = [tmp_path / "out.jsonl", tmp_path / "out.mp4"]
    summary = run(FakeCamera(10**9, live=live, period_s=0.005), localize, *map(str, paths))
    assert summary.ended_by == ("interrupt" if number == signal.SIGINT else "terminated")
    assert ("interrupted" if number == signal.SIGINT else "terminated") in str(summary)
    lines = paths[0].read_text().splitlines()
    assert len(lines) == summary.frames
    assert json.loads(lines[-1])["sequence"] >= 3
    assert cv2.VideoCapture(str(paths[1])).read()[0]
    assert signal.getsignal(number) is before


def test_a_signal_ends_the_wait_for_a_camera_that_sends_nothing() -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    summary = run(FakeCamera(10**9, live=True, period_s=0.8), found)
    timer.join()
    assert (summary.frames, summary.ended_by) == (0, "interrupt")
    assert str(summary).startswith("0 results")


@pytest.mark.parametrize("live", [False, True])
def test_a_callback_that_exits_ends_the_program(live: bool) -> None:
    class Exits(Recorder):
        def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
            raise SystemExit("enough")

    other, exits = Recorder(), Exits()
    with pytest.raises(SystemExit, match="enough"):
        run(FakeCamera(1000, live=live, period_s=0.01), lambda frame: Result(), exits, other)
    assert exits.closed and other.closed


def test_what_closing_takes_after_an_interrupt_is_not_a_part_of_the_run() -> None:
    class Slow(Recorder):
        def close(self) -> None:
            time.sleep(1)

    def localize(frame: Frame) -> Result:
        if frame.sequence == 2:
            raise KeyboardInterrupt
        return Result()

    summary = run(FakeCamera(3), localize, Slow())
    assert (summary.frames, summary.ended_by) == (2, "interrupt")
    assert summary.seconds < 1


def test_an_interrupt_raised_inside_ends_the_run_too() -> None:
    def localize(frame: Frame) -> Result:
        raise KeyboardInterrupt

    assert run(FakeCamera(3), localize).ended_by == "interrupt"


def test_uris_do_for_camera_and_sinks(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    summary = run("synthetic://?seed=3&size=64x48&frames=5&live=0", found, str(path))
    assert summary.frames == 5
    assert all("truth" in json.loads(line) for line in path.read_text().splitlines())


def right_by_a_pixel_a_frame(frame: Frame) -> Result:
    return Result((Detection(Box(5 + frame.sequence, 5, 15 + frame.sequence, 20), 0.9),))


def test_without_a_tracker_there_is_no_track() -> None:
    sink = Recorder()
    run(FakeCamera(2), found, sink)
    assert [one.track for one in sink.seen] == [None, None]


def test_a_video_is_tracked_in_its_own_time_and_the_answer_stays_the_models() -> None:
    sink = Recorder(draws=True)
    run(FakeCamera(30), right_by_a_pixel_a_frame, sink, tracker=Tracker(predict_ms=100))
    last = sink.seen[-1]
    assert last.track is not None and last.track.velocity == pytest.approx((30, 0), abs=1)
    assert last.track.at == pytest.approx(last.captured_at + 0.1)
    assert last.result == right_by_a_pixel_a_frame(last.frame)
    assert [one.track.state for one in sink.seen if one.track] == ["measured"] * 30


def test_a_live_camera_is_tracked_by_its_time_stamps() -> None:
    sink = Recorder()
    began_at = time.monotonic()

    def right_by_50_a_second(frame: Frame) -> Result:
        x = 50 * (frame.captured_at - began_at)
        return Result((Detection(Box(x, 5, x + 10, 15), 0.9),))

    run(FakeCamera(40, live=True, period_s=0.005), right_by_50_a_second, sink, tracker=Tracker())
    track = sink.seen[-1].track
    assert track is not None and track.velocity == pytest.approx((50, 0), abs=5)
    assert track.at == sink.seen[-1].captured_at


def test_a_camera_given_by_uri_is_tracked_too() -> None:
    sink = Recorder()
    run("synthetic://?seed=1&frames=2&live=0", found, sink, tracker=Tracker())
    assert all(one.track is not None for one in sink.seen)


def test_an_opened_camera_stays_open_for_its_owner() -> None:
    with FakeCamera(3) as camera:
        run(camera, found, frames=1)
        assert camera.read() is not None


@pytest.mark.parametrize("wrong", [{"mode": "latest"}, {"budget_ms": 0}, {"frames": 0}])
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        run(FakeCamera(1), found, **wrong)
    with pytest.raises(UsageError, match=r"the localizer is 'model\.tflite': give a Localizer"):
        run(FakeCamera(1), "model.tflite")  # type: ignore[arg-type]


def test_a_real_video_becomes_a_video_of_as_many_frames(videos: Path, tmp_path: Path) -> None:
    with open_camera(videos / "drone" / "IR_DRONE_069.mp4") as camera:
        summary = run(camera, found, open_sink(str(tmp_path / "out.mp4")), frames=40)
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == summary.frames > 10
