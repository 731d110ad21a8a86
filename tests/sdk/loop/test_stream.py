"""`stream`: the run loop as a generator, and what a run does about a localizer that fails."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import edgeloc
from edgeloc import Box, CameraGeometry, Detection, EngineError, Frame, Observation, Result, UsageError
from edgeloc.loop.tally import MOST_FAILURES

CLIP = "synthetic://?seed=1&size=64x48&frames=20&live=0"
LIVE = "synthetic://?seed=1&size=64x48&fps=100"


def found(frame: Frame) -> Result:
    return Result((Detection(Box(5, 5, 20, 20), 0.9),))


class Failing:
    """Answers but for the frames in `fails`."""

    def __init__(self, *fails: int) -> None:
        self.fails, self.calls, self.failed = set(fails), 0, 0

    def __call__(self, frame: Frame) -> Result:
        self.calls += 1
        if frame.sequence in self.fails:
            self.failed += 1
            raise EngineError(f"frame {frame.sequence} failed")
        return found(frame)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgeloc-")]


def test_a_stream_gives_what_the_sinks_get(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    seen = [one.sequence for one in edgeloc.stream(CLIP, found, str(path))]
    assert seen == list(range(20))
    assert len(path.read_text().splitlines()) == 20


def test_leaving_a_stream_closes_what_it_opened(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for observation in edgeloc.stream(LIVE, found, str(path)):
        if observation.sequence > 3:
            break
    assert threads() == []
    assert path.read_text().endswith("}\n")


def test_an_exception_in_the_loops_body_is_the_callers_own() -> None:
    with pytest.raises(KeyError):
        for _ in edgeloc.stream(LIVE, found):
            raise KeyError("mine")
    assert threads() == []


def test_the_body_gets_the_newest_frame_however_slow_it_is() -> None:
    ages = []
    for observation in edgeloc.stream(LIVE, found, frames=5):
        ages.append(time.monotonic() - observation.captured_at)
        time.sleep(0.1)
    assert observation.dropped >= 5
    assert sorted(ages)[2] < 0.05


def test_a_signal_in_a_stream_is_the_programs_own() -> None:
    with pytest.raises(KeyboardInterrupt):
        for _ in edgeloc.stream(LIVE, found):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert threads() == []


def test_wrong_arguments_are_refused_before_the_first_frame() -> None:
    with pytest.raises(UsageError, match="mode"):
        edgeloc.stream(CLIP, found, mode="latest")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="object_width_m"):
        edgeloc.stream(CLIP, found, object_width_m=1.0)


@pytest.mark.parametrize("camera", [CLIP, "synthetic://?seed=1&size=64x48&frames=40&fps=100"])
def test_a_failed_inference_is_skipped_counted_and_reported_once(camera: str) -> None:
    localizer, seen = Failing(3, 4, 5, 9), list[Observation]()
    summary = edgeloc.run(camera, localizer, seen.append)
    # A live camera may drop one of them on a busy machine.
    assert summary.failed == localizer.failed > 0 and summary.frames + summary.failed == localizer.calls
    codes = [finding.code for finding in summary.findings]
    assert codes == ["inference-failed", "inference-back"]
    assert f"{localizer.failed} inferences failed" in str(summary)
    if localizer.failed == len(localizer.fails):
        assert "(2 times; this was the last)" in summary.findings[0].message


def test_findings_go_out_with_the_next_result() -> None:
    seen: list[Observation] = []
    edgeloc.run(CLIP, Failing(3, 4), seen.append)
    told = {one.sequence: [finding.code for finding in one.findings] for one in seen if one.findings}
    assert told == {5: ["inference-failed", "inference-back"]}
    assert "frame 3 failed; the frame is skipped" in seen[3].findings[0].message


def test_only_ten_failures_in_a_row_end_a_run() -> None:
    localizer = Failing(*range(5, 5 + MOST_FAILURES - 1))
    assert edgeloc.run(CLIP, localizer).failed == MOST_FAILURES - 1
    with pytest.raises(EngineError, match="frame 14 failed") as caught:
        edgeloc.run(CLIP, Failing(*range(5, 5 + MOST_FAILURES)))
    assert caught.value.exit_status == 3


def test_a_run_without_any_answer_has_failed() -> None:
    with pytest.raises(EngineError, match="frame 2 failed"):
        edgeloc.run("synthetic://?seed=1&size=64x48&frames=3&live=0", Failing(0, 1, 2))


def test_with_the_cameras_geometry_each_box_has_a_direction() -> None:
    geometry = CameraGeometry.from_hfov(90, (128, 96))
    box = Box(44, 20, 52, 28)
    localizer = {True: Result((Detection(box, 0.9),)), False: Result()}
    seen: list[Observation] = []
    edgeloc.run(CLIP, lambda frame: localizer[frame.sequence > 0], seen.append, geometry=geometry, object_width_m=0.5)
    assert (seen[0].bearing, seen[0].angular_size, seen[0].distance_m) == (None, None, None)
    # 64 pixels wide at 90 degrees: a focal length of 32 pixels.
    one = seen[1]
    assert one.bearing is not None and one.angular_size is not None
    assert one.bearing.angle_x == pytest.approx(math.atan(16 / 32)) and one.bearing.angle_y == pytest.approx(0)
    assert one.angular_size[0] == pytest.approx(math.atan(20 / 32) - math.atan(12 / 32))
    assert one.distance_m == pytest.approx(geometry.for_size((64, 48)).distance_m(box, width_m=0.5))
    with pytest.raises(UsageError, match="size"):
        edgeloc.run(CLIP, found, geometry=CameraGeometry.from_hfov(90, (128, 128)))
