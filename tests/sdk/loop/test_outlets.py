"""Sinks of a live camera: none holds the loop, each heals by itself, and what became of the results is counted."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import edgeloc
from edgeloc import (
    Box,
    Detection,
    Finding,
    Frame,
    Observation,
    OutputError,
    Pixels,
    Result,
    RunSummary,
    Sink,
    SinkSummary,
)
from edgeloc._support.backend import Uri
from edgeloc.cameras.base import Gap
from edgeloc.loop import outlets
from edgeloc.loop.run import run


class LiveCamera(edgeloc.Camera):
    """`count` frames, one every `period_s`."""

    live = True

    def __init__(self, count: int, period_s: float = 0.005) -> None:
        self.count, self.period_s, self.next = count, period_s, 0

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> LiveCamera:
        raise NotImplementedError

    @property
    def name(self) -> str:
        return "live"

    def _open(self) -> None:
        self.next, self.fps, self.size = 0, 1 / self.period_s, (32, 24)

    def _read(self, timeout_s: float) -> Frame | None:
        time.sleep(self.period_s)
        if self.next >= self.count:
            return None
        self.next += 1
        return Frame(np.full((24, 32, 3), self.next, np.uint8), time.monotonic(), self.next - 1)

    def _close(self) -> None:
        pass


class Keeper(Sink):
    """Keeps what it gets; `taking` is called before each."""

    capacity = 1000

    def __init__(self, name: str = "keeper", taking: Callable[[Observation], object] = lambda one: None) -> None:
        self._name, self.taking = name, taking
        self.seen: list[Observation] = []
        self.threads: set[str] = set()
        self.closed = 0

    @property
    def name(self) -> str:
        return self._name

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        pass

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        self.threads.add(threading.current_thread().name)
        self.taking(observation)
        self.seen.append(observation)

    def close(self) -> None:
        self.closed += 1

    @property
    def numbers(self) -> list[int]:
        return [one.sequence for one in self.seen]


class Newest(Keeper):
    capacity = 1


def found(frame: Frame) -> Result:
    return Result((Detection(Box(5, 5, 20, 20), 0.9),))


def of(summary: RunSummary, name: str) -> SinkSummary:
    (found,) = (sink for sink in summary.sinks if sink.name == name)
    return found


def codes(seen: list[Observation]) -> list[str]:
    return [finding.code for one in seen for finding in one.findings]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(outlets, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(outlets, "LONGEST_PAUSE_S", 0.05)
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "edgeloc-sink"] == []


def test_a_slow_sink_skips_and_holds_neither_the_loop_nor_another_sink() -> None:
    slow, quick = Newest("slow", lambda one: time.sleep(0.3)), Keeper("quick")
    summary = run(LiveCamera(100), found, slow, quick)
    assert quick.numbers == sorted(quick.numbers) and len(quick.seen) == summary.frames
    assert summary.frames >= 50 and 1 <= len(slow.seen) <= 10
    assert slow.numbers[-1] == quick.numbers[-1]
    told = of(summary, "slow")
    assert told.delivered == len(slow.seen) and told.skipped == summary.frames - told.delivered > 0
    assert f"slow skipped {told.skipped} results" in str(summary)
    assert told.delivered_ms_p50 is not None and told.delivered_ms_p50 >= 300
    assert of(summary, "quick").skipped == 0
    assert slow.threads == quick.threads == {"edgeloc-sink"}


def test_gaps_drops_and_faults_of_skipped_results_are_in_the_next_one() -> None:
    class Away(LiveCamera):
        """Gone for a while after frame 20."""

        def _read(self, timeout_s: float) -> Frame | None:
            frame = super()._read(timeout_s)
            if frame is not None and frame.sequence == 20:
                self.gaps = (Gap(frame.captured_at - 1.5, frame.captured_at, "unplugged"),)
                self._notice(Finding("camera-back", "note", "it is back"))
            return frame

    slow, quick = Newest("slow", lambda one: time.sleep(0.05)), Keeper("quick")
    run(Away(60), found, slow, quick)
    assert 20 not in slow.numbers or len(slow.seen) < 30
    for sink in (slow, quick):
        assert sum(one.gap_s for one in sink.seen) == pytest.approx(1.5)
        assert codes(sink.seen) == ["camera-back"]
        assert sum(one.dropped + 1 for one in sink.seen) == sink.numbers[-1] + 1


def test_a_file_waits_for_every_sink_in_the_runs_own_thread() -> None:
    slow = Newest("slow", lambda one: time.sleep(0.01))
    summary = run("synthetic://?seed=1&size=64x48&frames=20&live=0", found, slow)
    assert slow.numbers == list(range(20))
    assert of(summary, "slow").skipped == 0
    assert slow.threads == {threading.current_thread().name}


def test_a_sink_that_fails_for_a_while_gets_what_it_missed() -> None:
    fails_until = time.monotonic() + 0.2

    def full(one: Observation) -> None:
        if time.monotonic() < fails_until:
            raise OSError(28, "No space left on device")

    sink = Keeper("disk", full)
    summary = run(LiveCamera(100), found, sink)
    assert sink.numbers == list(range(100)) or len(sink.seen) == summary.frames
    assert sink.numbers == sorted(sink.numbers)
    told = of(summary, "disk")
    assert (told.state, told.skipped, told.failed_s) == ("open", 0, None)
    assert "No space left on device" in told.reason
    assert codes(sink.seen) == ["sink-down", "sink-back"]
    assert [finding.code for finding in summary.findings] == ["sink-down", "sink-back"]
    assert sink.closed == 1


def test_a_sink_that_keeps_the_newest_gets_no_old_result_after_a_failure() -> None:
    fails_until = time.monotonic() + 0.2

    def away(one: Observation) -> None:
        if time.monotonic() < fails_until:
            raise OutputError("the broker is away")

    sink, all_of_it = Newest("broker", away), Keeper()
    run(LiveCamera(100), found, sink, all_of_it)
    assert sink.seen[0].captured_at > fails_until - 0.2
    assert sink.numbers == sorted(set(sink.numbers))
    assert codes(all_of_it.seen) == ["sink-down", "sink-back"]


def test_a_run_whose_sinks_are_all_down_at_its_end_has_failed() -> None:
    def full(one: Observation) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="disk cannot be written to: No space left on device$") as caught:
        run(LiveCamera(10), found, Keeper("disk", full))
    assert caught.value.exit_status == 3
    summary = run(LiveCamera(10), found, Keeper("disk", full), Keeper())
    assert of(summary, "disk").state == "down"


def test_a_sink_with_a_bug_is_given_up_and_the_last_one_ends_the_run() -> None:
    def buggy(one: Observation) -> None:
        raise ZeroDivisionError("bug")

    bad, good = Keeper("bad", buggy), Keeper("good")
    summary = run(LiveCamera(20), found, bad, good)
    assert of(summary, "bad").state == "lost" and "ZeroDivisionError: bug" in of(summary, "bad").reason
    assert bad.closed == 1 and len(good.seen) == summary.frames
    assert codes(good.seen) == ["sink-lost"]
    with pytest.raises(ZeroDivisionError):
        run(LiveCamera(10**6), found, Keeper("bad", buggy))


def test_a_hung_sink_ends_with_the_run_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "SLOW_S", 0.05)
    monkeypatch.setattr(outlets, "DRAIN_S", 0.1)
    monkeypatch.setattr(outlets, "CLOSE_S", 0.2)
    free = threading.Event()
    hung, good = Keeper("hung", lambda one: free.wait()), Keeper("good")
    with pytest.raises(OutputError, match=r"hung hangs: it was not closed in 0\.2 s"):
        run(LiveCamera(60), found, hung, good)
    assert codes(good.seen) == ["sink-slow"]
    assert good.closed == 1
    free.set()
    for thread in threading.enumerate():
        if thread.name == "edgeloc-sink":
            thread.join()


def test_staleness_is_judged_where_a_result_is_delivered() -> None:
    slow, quick = Keeper("slow", lambda one: time.sleep(0.05)), Keeper("quick")
    summary = run(LiveCamera(20), found, slow, quick, budget_ms=40)
    assert not any(one.stale for one in quick.seen) and summary.stale == 0
    assert slow.seen[-1].stale
    assert of(summary, "slow").stale == sum(one.stale for one in slow.seen)


def test_what_does_not_look_at_pictures_gets_none() -> None:
    class Numbers(Keeper):
        pictures = False

    for camera in (LiveCamera(5), "synthetic://?seed=1&size=64x48&frames=5&live=0"):
        sink, pictures = Numbers(), Keeper("pictures")
        run(camera, found, sink, pictures)
        assert all(one.frame.pixels.strides == (0, 0, 0) for one in sink.seen) and sink.seen
        assert {one.frame.pixels.shape for one in sink.seen} == {one.frame.pixels.shape for one in pictures.seen}
        assert all(one.frame.pixels.max() > 0 for one in pictures.seen)


def test_results_that_wait_for_a_sink_without_pictures_hold_none() -> None:
    class Numbers(Keeper):
        pictures = False

    free = threading.Event()
    waiting, frames = Numbers("waiting", lambda one: free.wait()), list[weakref.ref[Pixels]]()

    def localize(frame: Frame) -> Result:
        frames.append(weakref.ref(frame.pixels))
        if len(frames) == 30:
            gc.collect()
            assert sum(one() is not None for one in frames) < 5
            free.set()
        return found(frame)

    run(LiveCamera(40), localize, waiting)
    assert len(frames) >= 30


def test_an_inline_sink_is_written_to_by_the_runs_own_thread() -> None:
    class Inline(Keeper):
        inline = True

    sink = Inline()
    run(LiveCamera(5), found, sink)
    assert sink.threads == {threading.current_thread().name}


def test_a_function_is_a_sink() -> None:
    seen: list[Observation] = []
    summary = run("synthetic://?seed=1&size=64x48&frames=5&live=0", found, seen.append)
    assert [one.sequence for one in seen] == [0, 1, 2, 3, 4]
    assert summary.sinks[0].name == "list.append"
    with pytest.raises(edgeloc.UsageError, match="the sink is 5: give a URI, a Sink, or a function"):
        run("synthetic://?frames=1", found, 5)  # type: ignore[arg-type]


def test_a_sink_can_ask_for_the_figures_so_far() -> None:
    told: list[RunSummary] = []

    class Page(Keeper):
        def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
            super().write(observation, drawn)
            assert self.status is not None
            told.append(self.status())

    page = Page("page")
    summary = run(LiveCamera(5), found, page)
    assert told[-1].ended_by is None and told[-1].camera == "live"
    assert 1 <= told[-1].frames <= 5 and told[-1].last_at is not None
    assert of(told[-1], "page").delivered == len(page.seen) - 1
    assert page.status is None
    assert summary.sinks[0].delivered == len(page.seen)
