"""Pictures that are frozen or black, and first frames that are late: what a reader and a run get."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest

from edgeloc import Finding, Frame, Observation, Result, UsageError, open_camera, run
from edgeloc.cameras import base, reconnect
from edgeloc.cameras.reconnect import ReconnectingCamera
from edgeloc.errors import CameraError, CameraTimeout
from edgeloc.scenes import SceneGenerator
from edgeloc.testing.cameras import FakeCamera

FAST = "fake://?size=64x48&fps=100"


def nothing(frame: Frame) -> Result:
    return Result()


def seen_in(uri: str) -> tuple[list[Observation], list[str]]:
    """A run over a camera: its observations and the codes of all faults in them."""
    with open_camera(uri) as camera:
        return all_of(camera)


def all_of(camera: base.Camera) -> tuple[list[Observation], list[str]]:
    found: list[Finding] = []
    camera.notify = found.append
    seen = [Observation(frame, Result()) for frame in iter(lambda: patiently(camera), None)]
    return seen, [finding.code for finding in found]


def patiently(camera: base.Camera) -> Frame | None:
    while True:
        try:
            return camera.read(0.1)
        except CameraTimeout:
            assert camera.reconnecting


def test_a_frozen_camera_is_opened_again_and_its_pictures_stop() -> None:
    seen, codes = seen_in(f"{FAST}&freeze=20:0.8&frozen=0.3&frames=300")
    assert codes == ["camera-frozen", "camera-back"]
    numbers = [one.sequence for one in seen]
    assert numbers == sorted(set(numbers))
    # Up to the verdict the pictures are handed out: a still moment is no fault.
    pictures = [one.frame.pixels for one in seen]
    repeated = sum((a == b).all() for a, b in pairwise(pictures))
    assert 5 <= repeated <= 40


def test_a_camera_that_stays_frozen_is_given_up() -> None:
    frozen = r"is frozen: it has given the same picture for .* did not come back"
    with (
        open_camera(f"{FAST}&freeze=5:60&frozen=0.2&reconnect=0.3") as camera,
        pytest.raises(CameraError, match=frozen),
    ):
        list(iter(lambda: patiently(camera), None))


def test_a_still_picture_can_be_allowed() -> None:
    seen, codes = seen_in(f"{FAST}&freeze=5:60&frozen=0&frames=60")
    assert codes == [] and len(seen) >= 30


def test_what_is_small_and_moves_is_not_frozen() -> None:
    watch = reconnect._Watch(0.1, False)
    for number in range(40):
        pixels = np.full((480, 640, 3), 90, np.uint8)
        pixels[100, 3 + number] = 200  # between the samples
        assert watch.judge(Frame(pixels, number / 30, number)) == "new"
    assert [watch.judge(Frame(pixels, 2 + number, 40 + number)) for number in range(8)][-1] == "frozen"


def test_black_pictures_are_left_out_and_the_camera_is_waited_for() -> None:
    seen, codes = seen_in(f"{FAST}&black=20:90&frames=160")
    assert codes == ["camera-black", "camera-back"]
    assert all(one.frame.pixels.max() > 16 for one in seen)
    numbers = [one.sequence for one in seen]
    assert not set(range(20, 110)) & set(numbers) and max(numbers) > 150


def test_darkness_longer_than_a_stall_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "READ_TIMEOUT_S", 0.1)
    seen, codes = seen_in(f"{FAST}&black=20:90&frames=160")
    assert codes == ["camera-black", "camera-back"] and seen[-1].sequence > 150


def test_a_run_survives_the_dark_and_reports_the_gap() -> None:
    seen: list[Observation] = []
    summary = run(f"{FAST}&black=30:100&frames=200", nothing, seen.append)
    assert summary.ended_by == "camera"
    (after,) = [one for one in seen if one.gap_s]
    assert after.gap_s >= 0.9 and [finding.code for finding in after.findings] == ["camera-black", "camera-back"]
    assert [finding.code for finding in summary.findings] == ["camera-gaps"]


def test_one_that_hangs_in_the_dark_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "READ_TIMEOUT_S", 0.1)
    # Also where it has shown nothing yet: it is there.
    for uri in (f"{FAST}&black=0:60&stall=60:0.5&frames=150", f"{FAST}&black=30:60&stall=90:0.5&frames=180"):
        seen, codes = seen_in(uri)
        assert codes == ["camera-black", "camera-away", "camera-back"] and seen


def test_what_was_dark_only_at_first_is_no_fault_at_the_end() -> None:
    with open_camera(f"{FAST}&black=0:80&frames=120") as camera:
        seen, codes = all_of(camera)
        assert seen and codes == ["camera-black", "camera-back"] and camera.findings == camera.gaps == ()


def test_one_that_never_shows_anything_and_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "READ_TIMEOUT_S", 0.1)
    with pytest.raises(CameraError, match=r"did not come back in 0\.3 s"):
        run(f"{FAST}&black=0:60&stall=60:3600&reconnect=0.3", nothing)
    with pytest.raises(CameraTimeout, match="sent no frame"):
        run(f"{FAST}&black=0:60&stall=60:3600&reconnect=0", nothing)


def test_one_that_is_back_and_still_dark_is_not_given_up() -> None:
    seen, codes = seen_in(f"{FAST}&black=20:150&disconnect=90:0.1&reconnect=0.3&frames=200")
    assert codes == ["camera-black", "camera-away", "camera-back"]
    numbers = [one.sequence for one in seen]
    assert numbers == sorted(set(numbers)) and seen[-1].frame.pixels.max() > 16


def test_a_run_that_ends_in_the_dark_says_so() -> None:
    with open_camera(f"{FAST}&black=20:100&frames=100") as camera:
        all_of(camera)
        (finding,) = camera.findings
    assert finding.code == "camera-black" and "at the end" in finding.message


def test_the_dark_frames_of_a_start_are_no_fault_and_black_can_be_allowed() -> None:
    seen, codes = seen_in(f"{FAST}&black=0:5&frames=30")
    assert codes == [] and seen[0].sequence >= 5
    dark = FakeCamera(size=(64, 48), fps=100, frames=30, black={0: 30})
    with ReconnectingCamera(dark, dark=True) as camera:
        assert len(list(camera)) >= 25


def test_night_has_noise_and_stars_and_is_not_black() -> None:
    watch = reconnect._Watch(2.0, False)
    rng = np.random.default_rng(0)
    night = np.clip(rng.normal(12, 4, (480, 640, 3)), 0, 255).astype(np.uint8)
    assert watch.judge(Frame(night, 0.0, 0)) == "new"
    stars = np.zeros((480, 640, 3), np.uint8)
    stars[101, 203] = 120
    assert watch.judge(Frame(stars, 0.1, 1)) == "new"
    assert watch.judge(Frame(np.full((480, 640, 3), 16, np.uint8), 0.2, 2)) == "black"


def test_a_late_first_frame_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "READ_TIMEOUT_S", 0.1)
    seen, codes = seen_in(f"{FAST}&slow_start=0.6&frames=20")
    assert codes == ["camera-late", "camera-back"] and seen


def test_one_that_takes_long_to_open_is_late_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(FakeCamera):
        def _open(self) -> None:
            time.sleep(0.4)
            super()._open()

    monkeypatch.setattr(reconnect, "_LATE_S", 0.1)
    with ReconnectingCamera(Slow(size=(64, 48), fps=100, frames=200, disconnect={20: 0.1})) as camera:
        _, codes = all_of(camera)
    assert caplog.text.count("has not opened yet") == 1
    assert codes == ["camera-back", "camera-away", "camera-back"]


def test_a_compressed_stream_is_waited_for_up_to_its_key_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    class KeyFrames(FakeCamera):
        still_s = 30.0

        def _open(self) -> None:
            super()._open()
            self.ready_at = time.monotonic() + 0.35

        def _read(self, timeout_s: float) -> Frame | None:
            time.sleep(max(0.0, min(timeout_s, self.ready_at - time.monotonic())))
            if time.monotonic() < self.ready_at:
                raise CameraTimeout("no key frame yet")
            return super()._read(timeout_s)

    monkeypatch.setattr(base, "READ_TIMEOUT_S", 0.1)
    with ReconnectingCamera(KeyFrames(size=(64, 48), fps=100, frames=250, disconnect={60: 0.1})) as camera:
        _, codes = all_of(camera)
    assert codes == ["camera-late", "camera-back", "camera-away", "camera-back"]


def test_a_first_frame_that_never_comes_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "READ_TIMEOUT_S", 0.1)
    monkeypatch.setattr(reconnect, "_FIRST_FRAME_S", 0.5)
    began_at = time.monotonic()
    with pytest.raises(CameraTimeout, match="sent no frame in time"):
        run(f"{FAST}&slow_start=60", nothing)
    assert time.monotonic() - began_at >= 0.5


def test_a_week_of_gaps_takes_no_more_memory_than_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "_MOST_GAPS", 3)
    events = dict.fromkeys(range(10, 250, 40), 0.02)
    with ReconnectingCamera(FakeCamera(size=(64, 48), fps=100, frames=290, disconnect=events)) as camera:
        camera.notify = lambda finding: None
        assert list(iter(lambda: patiently(camera), None))
        assert len(camera.gaps) == 3
        assert f"away {len(events)} times" in str(camera.findings[0])


@pytest.mark.parametrize("seed", range(4))
def test_synthetic_scenes_look_neither_frozen_nor_black(seed: int) -> None:
    watch, clip = reconnect._Watch(0.1, False), SceneGenerator(seed, (64, 48)).clip(0, None)
    assert {watch.judge(Frame(clip.frame(at).pixels, at / 30, at)) for at in range(90)} == {"new"}


def test_the_options_of_a_watched_camera_are_checked() -> None:
    with pytest.raises(UsageError, match="frozen"):
        open_camera(f"{FAST}&frozen=soon")
    with pytest.raises(UsageError, match="reconnect"):
        open_camera("gst://videotestsrc ! appsink?reconnect=never")
