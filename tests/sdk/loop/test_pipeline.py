"""`pipeline=True`: the next frame is made ready meanwhile, and all that the plain loop promises holds."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeloc
from edgeloc import (
    Box,
    Camera,
    DataError,
    Detection,
    EngineError,
    Follower,
    Frame,
    Localizer,
    Observation,
    Result,
    Tracker,
    Uri,
    UsageError,
)
from edgeloc.loop.pipeline import prepared_ahead
from edgeloc.models import SHIPPED_INT8
from edgeloc.testing import FakeEngine

CLIP = "synthetic://?seed=1&size=64x48&frames=20&live=0"
LIVE = "synthetic://?seed=1&size=64x48&fps=100"


@pytest.fixture(scope="module")
def localizer() -> Localizer:
    return Localizer(SHIPPED_INT8)


class Counting(Camera):
    """Frames of 24 x 32 in order, each grey as its number; `failure` is raised after `count` of them."""

    def __init__(self, count: int, failure: Exception | None = None, shape: tuple[int, ...] = (24, 32, 3)) -> None:
        self.count, self.failure, self.shape, self.closed = count, failure, shape, False
        self.read_in: set[int] = set()

    @classmethod
    def from_uri(cls, uri: Uri, size: tuple[int, int] | None) -> Counting:
        raise NotImplementedError

    @property
    def name(self) -> str:
        return "counting"

    def _open(self) -> None:
        self.next, self.closed = 0, False

    def _read(self, timeout_s: float) -> Frame | None:
        assert not self.closed
        self.read_in.add(threading.get_ident())
        if self.next >= self.count:
            if self.failure is not None:
                raise self.failure
            return None
        self.next += 1
        return Frame(np.full(self.shape, (self.next - 1) % 256, np.uint8), time.monotonic(), self.next - 1)

    def _close(self) -> None:
        self.closed = True


def found(frame: Frame) -> Result:
    return Result((Detection(Box(5, 5, 20, 20), 0.9),))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgeloc-")]


def boxes(camera: str, localizer: Callable[[Frame], Result], **options: Any) -> list[tuple[int, Box | None, float]]:
    """Number, box and presence of each result."""
    seen = edgeloc.stream(camera, localizer, **options)
    return [(one.sequence, one.result.box, one.result.presence) for one in seen]


def test_the_answers_are_those_of_the_plain_loop(localizer: Localizer) -> None:
    camera = "synthetic://?seed=4&size=320x240&frames=25&live=0"
    plain = boxes(camera, localizer)
    assert boxes(camera, localizer, pipeline=True) == plain
    assert len({box for _, box, _ in plain}) > 5


def test_a_frame_that_waits_keeps_its_tensor() -> None:
    """Every answer is of its own frame, however many are made ready before the first of them is asked for."""
    shown: list[int] = []
    contract = edgeloc.Contract(
        edgeloc.InputSpec("image", 8, 8, mean=(0.0,), std=(1.0,)), (edgeloc.OutputSpec("presence", "presence"),)
    )

    class Watching(FakeEngine):
        def invoke(self, tensor: Any) -> Any:
            shown.append(int(tensor[0, 4, 4, 0]))
            return super().invoke(tensor)

    model = edgeloc.ModelFile(Path("m"), b"", "tflite", contract=contract)
    prepare = prepared_ahead(Localizer(model, engine=Watching(contract)))
    camera = Counting(4)
    with camera:
        waiting = [prepare(frame) for frame in camera]
    for captured in waiting:
        captured.answer()
    assert shown == [0, 1, 2, 3]


def test_the_next_frame_is_captured_and_preprocessed_while_this_one_is_in_the_network(localizer: Localizer) -> None:
    camera = Counting(10)
    ahead: list[int] = []

    class Watching(FakeEngine):
        def invoke(self, tensor: Any) -> Any:
            number = self.invocations
            deadline = time.monotonic() + 5
            while camera.next <= number + 1 < camera.count and time.monotonic() < deadline:
                time.sleep(0.001)
            ahead.append(camera.next - number - 1)
            return super().invoke(tensor)

    contract = localizer.contract
    fake = Localizer(edgeloc.ModelFile(Path("m"), b"", "tflite", contract=contract), engine=Watching(contract))
    with camera:
        edgeloc.run(camera, fake, pipeline=True)
    assert ahead[:9] == [1] * 9
    assert camera.read_in.isdisjoint({threading.get_ident()})


def test_memory_is_bounded_by_one_frame_ahead_of_a_slow_loop() -> None:
    camera, ahead = Counting(8), list[int]()
    for observation in edgeloc.stream(camera, found, pipeline=True):
        time.sleep(0.02)
        ahead.append(camera.next - observation.sequence - 1)
    assert max(ahead) <= 1
    assert threads() == []


def test_files_are_written_whole_and_in_order(tmp_path: Path) -> None:
    path, slow = tmp_path / "out.jsonl", list[int]()

    def sink(observation: Observation) -> None:
        time.sleep(0.002)
        slow.append(observation.sequence)

    summary = edgeloc.run(CLIP, found, str(path), sink, pipeline=True)
    assert slow == list(range(20)) and len(path.read_text().splitlines()) == 20
    assert (summary.frames, summary.dropped, summary.ended_by) == (20, 0, "camera")


def test_a_failed_inference_is_skipped_and_the_next_frame_is_right() -> None:
    def localize(frame: Frame) -> Result:
        if frame.sequence in (3, 4):
            raise EngineError("failed")
        return Result((Detection(Box(0, 0, frame.sequence + 1, 1), 0.9),))

    seen: list[Observation] = []
    summary = edgeloc.run(CLIP, localize, seen.append, pipeline=True)
    assert (summary.frames, summary.failed) == (18, 2)
    assert all(one.result.box == Box(0, 0, one.sequence + 1, 1) for one in seen)
    assert threads() == []


def test_a_damaged_image_ends_the_run_after_all_before_it_have_their_results() -> None:
    camera = Counting(4, DataError("images/4.png is damaged", hint="remove it"))
    seen: list[Observation] = []
    with pytest.raises(DataError, match=r"damaged \(4 results before that are kept\): remove it"):
        edgeloc.run(camera, found, seen.append, pipeline=True)
    assert [one.sequence for one in seen] == [0, 1, 2, 3] and threads() == []


def test_a_frame_that_is_no_image_and_a_disk_that_times_out_end_it_too(localizer: Localizer) -> None:
    with pytest.raises(UsageError, match=r"an array \(height, width, 3\), not \(24, 32\)"):
        edgeloc.run(Counting(4, shape=(24, 32)), localizer, pipeline=True)
    with pytest.raises(edgeloc.DeviceError, match=r"Connection timed out \(2 results"):
        edgeloc.run(Counting(2, TimeoutError(110, "Connection timed out")), found, pipeline=True)
    assert threads() == []


@pytest.mark.parametrize("camera", [CLIP.replace("frames=20&", ""), LIVE])
def test_every_way_to_end_leaves_no_thread_and_closes_the_camera_afterwards(camera: str) -> None:
    summary = edgeloc.run(camera, found, frames=3, pipeline=True)
    assert (summary.frames, summary.ended_by) == (3, "frames") and threads() == []
    for observation in edgeloc.stream(camera, found, pipeline=True):
        if observation.sequence > 3:
            break
    assert threads() == []

    def interrupting(frame: Frame) -> Result:
        if frame.sequence >= 3:
            os.kill(os.getpid(), signal.SIGINT)
        return found(frame)

    summary = edgeloc.run(camera, interrupting, pipeline=True)
    assert summary.ended_by == "interrupt" and summary.frames >= 1 and threads() == []
    with pytest.raises(ZeroDivisionError):
        edgeloc.run(camera, lambda frame: 1 // 0, pipeline=True)  # type: ignore[arg-type, return-value]
    assert threads() == []


def test_a_camera_is_not_closed_while_it_is_read() -> None:
    class Slow(Counting):
        def _read(self, timeout_s: float) -> Frame | None:
            frame = super()._read(timeout_s)
            time.sleep(0.05)
            assert not self.closed
            return frame

    camera = Slow(10**6)
    with camera:
        edgeloc.run(camera, found, frames=2, pipeline=True)
        assert not camera.closed and threads() == []


def test_a_live_camera_keeps_to_the_newest_frame_and_counts_what_it_drops() -> None:
    def slow(frame: Frame) -> Result:
        time.sleep(0.03)
        return found(frame)

    seen: list[Observation] = []
    summary = edgeloc.run(f"{LIVE}&frames=40", slow, seen.append, pipeline=True)
    assert summary.frames + summary.dropped == 40 and summary.dropped > 0
    assert sorted(one.age_ms for one in seen)[len(seen) // 2] < 3 * 30


def test_fresh_frames_are_exposed_after_the_last_answer() -> None:
    ready: list[float] = []

    def localize(frame: Frame) -> Result:
        assert not ready or frame.captured_at >= ready[-1]
        time.sleep(0.01)
        ready.append(time.monotonic())
        return found(frame)

    summary = edgeloc.run(f"{LIVE}&frames=30", localize, mode="fresh", pipeline=True)
    assert summary.frames == len(ready) >= 2


def test_tracks_and_views_that_follow_them_are_those_of_the_plain_loop(localizer: Localizer) -> None:
    camera = "synthetic://?seed=5&size=1280x960&frames=15&live=0"

    def followed(pipeline: bool) -> list[Any]:
        tracker = Tracker(localizer.contract)
        seen = edgeloc.stream(camera, Follower(localizer, tracker), tracker=tracker, pipeline=pipeline)
        return [(one.result.box, one.track and one.track.box and tuple(one.track.box)) for one in seen]

    assert followed(True) == followed(False)


def test_a_deadline_holds_and_the_engine_is_started_again() -> None:
    localizer = Localizer(SHIPPED_INT8, engine="fake://?hang=3:30", deadline_ms=300)
    summary = edgeloc.run("synthetic://?seed=1&size=64x48&frames=8&live=0", localizer, pipeline=True)
    assert (summary.frames, summary.failed) == (7, 1)
    assert "engine-restarted" in [finding.code for finding in summary.findings]


def test_an_image_of_the_loops_body_does_not_disturb_the_frame_that_is_made_ready(localizer: Localizer) -> None:
    camera = "synthetic://?seed=3&size=320x240&frames=15&live=0"
    white = np.full((480, 640, 3), 255, np.uint8)
    seen = []
    for one in edgeloc.stream(camera, localizer, pipeline=True):
        seen.append((one.sequence, one.result.box, one.result.presence))
        localizer(white)
    assert seen == boxes(camera, localizer)
