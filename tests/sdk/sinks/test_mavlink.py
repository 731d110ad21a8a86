"""`mavlink://` against a fake autopilot: angles, times, silence, links that go away; and through MAVProxy."""

from __future__ import annotations

import dataclasses
import math
import os
import pty
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgeloc
from edgeloc import Box, CameraGeometry, Detection, Frame, Observation, OutputError, Result, Sink, Track, UsageError
from edgeloc.sinks import open_sink
from edgeloc.testing import FakeAutopilot, SinkSuite, example_frame

pytest.importorskip("pymavlink", reason="pymavlink is not installed (extra mavlink)")

SIZE = (640, 480)
# Looking down, the top of the picture forward.
DOWN = CameraGeometry.from_hfov(62.2, SIZE, mounting_deg=(0, -90, 0))
FOCAL = 320 / math.tan(math.radians(31.1))
CAMERA = "synthetic://?seed=3&fps=30&size=640x480"


def truth(frame: Frame) -> Result:
    """A localizer that is always right."""
    return Result(() if frame.truth is None else (Detection(frame.truth, 0.9),))


def no_picture() -> Any:
    raise AssertionError("no picture is needed")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def eventually(ready: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def seen_at(x: float, y: float, **changes: Any) -> Observation:
    """An observation of now, whose object is 20 pixels wide and high."""
    box = Box(x - 10, y - 10, x + 10, y + 10)
    frame = example_frame(1, time.monotonic(), SIZE)
    bearing = DOWN.bearing(x, y)
    return dataclasses.replace(
        Observation(frame, Result((Detection(box, 0.9),)), bearing=bearing, angular_size=(0.04, 0.04)), **changes
    )


@pytest.fixture(params=["ardupilot", "px4"])
def autopilot(request: pytest.FixtureRequest) -> Iterator[FakeAutopilot]:
    with FakeAutopilot(request.param) as fake:
        yield fake


@pytest.fixture
def link(autopilot: FakeAutopilot) -> Iterator[Sink]:
    """A sink that knows which autopilot it speaks with."""
    sink = open_sink(f"mavlink://127.0.0.1:{autopilot.port}")
    sink.open(live=True)
    eventually(lambda: sink._autopilot == autopilot.kind and not math.isnan(autopilot.estimated_offset_s))  # type: ignore[attr-defined]
    yield sink
    sink.close()


class TestMavlinkSink(SinkSuite):
    @pytest.fixture
    def sink(self) -> Sink:
        return open_sink("mavlink://127.0.0.1:9")


def of_kind(autopilot: FakeAutopilot, kind: str) -> list[Any]:
    return [one for one in autopilot.messages if one.get_type() == kind]


def test_a_scene_of_known_geometry_is_decoded_to_a_tenth_of_a_degree(autopilot: FakeAutopilot) -> None:
    sent: list[Observation] = []
    uri = f"mavlink://127.0.0.1:{autopilot.port}"
    summary = edgeloc.run(CAMERA + "&frames=90", truth, uri, sent.append, geometry=DOWN, object_width_m=0.4)
    assert summary.sinks[0].state == "open"
    boxes = {round(one.captured_at, 6): one.result.box for one in sent if one.result.box}
    assert len(autopilot.sights) > 20
    compared = 0
    for sight in autopilot.sights:
        # The clock of the camera's machine again.
        captured_at = sight.captured_at - 1000.0
        at = min(boxes, key=lambda one: abs(one - captured_at))
        if abs(at - captured_at) > 0.01:
            continue
        compared += 1
        assert abs(at - captured_at) < 0.002
        x, y = boxes[at].center
        assert math.degrees(sight.right) == pytest.approx(math.degrees(math.atan((x - 320) / FOCAL)), abs=0.1)
        assert math.degrees(sight.back) == pytest.approx(math.degrees(math.atan((y - 240) / FOCAL)), abs=0.1)
        assert 0 <= sight.received_at - sight.captured_at < 1
    assert compared > 20


def test_each_autopilot_gets_the_form_that_it_reads(autopilot: FakeAutopilot, link: Sink) -> None:
    link.write(seen_at(320 + FOCAL * math.tan(math.radians(30)), 240), no_picture)
    eventually(lambda: autopilot.sights)
    (raw,) = of_kind(autopilot, "LANDING_TARGET")
    assert raw.angle_x == pytest.approx(
        {"ardupilot": math.radians(30), "px4": math.tan(math.radians(30))}[autopilot.kind]
    )
    assert autopilot.sights[0].right == pytest.approx(math.radians(30))
    assert autopilot.sights[0].back == pytest.approx(0, abs=1e-6)


def test_with_a_distance_ardupilot_gets_a_position_in_the_body(autopilot: FakeAutopilot, link: Sink) -> None:
    link.write(seen_at(320, 240 - FOCAL, distance_m=10.0), no_picture)
    eventually(lambda: autopilot.sights)
    (raw,) = of_kind(autopilot, "LANDING_TARGET")
    assert raw.distance == pytest.approx(10)
    half = 10 / math.sqrt(2)
    if autopilot.kind == "ardupilot":
        assert autopilot.sights[0].position == pytest.approx((half, 0, half), abs=1e-4)
    else:
        assert not raw.position_valid


def test_what_is_lost_stale_or_old_is_not_reported(autopilot: FakeAutopilot, link: Sink) -> None:
    now = time.monotonic()
    old = dataclasses.replace(seen_at(1, 1), frame=example_frame(1, now - 1.5, SIZE))
    lost = seen_at(1, 1, track=Track("lost", now), bearing=None)
    nothing = Observation(example_frame(1, now, SIZE), Result())
    for silent in (old, lost, nothing, seen_at(1, 1, stale=True)):
        link.write(silent, no_picture)
    link.write(seen_at(320, 240), no_picture)
    eventually(lambda: autopilot.sights)
    assert len(of_kind(autopilot, "LANDING_TARGET")) == len(of_kind(autopilot, "CAMERA_TRACKING_IMAGE_STATUS")) == 1


def test_follow_modes_get_the_place_and_whether_it_is_predicted(autopilot: FakeAutopilot, link: Sink) -> None:
    box = Box(160, 120, 800, 360)
    predicted = Track("predicted", time.monotonic(), box, id=3)
    for one in (seen_at(320, 240), seen_at(320, 240, track=predicted)):
        link.write(one, no_picture)
    eventually(lambda: len(of_kind(autopilot, "CAMERA_TRACKING_IMAGE_STATUS")) == 2)
    measured, coasting = of_kind(autopilot, "CAMERA_TRACKING_IMAGE_STATUS")
    assert (measured.tracking_status, coasting.tracking_status) == (1, 1 | 8)
    assert measured.tracking_mode == 2 and measured.target_data == 4
    corners = coasting.rec_top_x, coasting.rec_top_y, coasting.rec_bottom_x, coasting.rec_bottom_y
    assert corners == (0.25, 0.25, 1.0, 0.75)


def test_it_is_alive_and_answers_for_its_clock(autopilot: FakeAutopilot, link: Sink) -> None:
    assert autopilot.estimated_offset_s == pytest.approx(1000.0, abs=0.002)
    eventually(lambda: len(of_kind(autopilot, "HEARTBEAT")) >= 2)
    beat = of_kind(autopilot, "HEARTBEAT")[0]
    assert (beat.type, beat.autopilot, beat.get_srcComponent()) == (18, 8, 191)


def test_until_the_autopilot_is_known_no_direction_is_sent_that_it_could_misread() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(0.5)
        sink = open_sink(f"mavlink://127.0.0.1:{silent.getsockname()[1]}")
        sink.open(live=True)
        for _ in range(5):
            sink.write(seen_at(320, 240), no_picture)
        sink.close()
        kinds = set()
        with pytest.raises(TimeoutError):
            while True:
                kinds.add(int.from_bytes(silent.recv(1000)[7:10], "little"))
    assert kinds == {0, 275}


def test_an_autopilot_that_calls_is_answered_where_it_is() -> None:
    port = free_port()
    sink = open_sink(f"mavlink://:{port}?autopilot=px4")
    sink.open(live=True)
    with FakeAutopilot("px4", call=("127.0.0.1", port)) as autopilot:
        eventually(lambda: autopilot.messages)
        sink.write(seen_at(320, 240), no_picture)
        eventually(lambda: autopilot.sights)
        with pytest.raises(OutputError, match="cannot be opened: Address already in use"):
            open_sink(f"mavlink://:{port}").open()
    sink.close()


def test_a_serial_line_that_is_pulled_out_and_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("serial", reason="pyserial is not installed (extra mavlink)")
    from edgeloc.sinks.mavlink import MavlinkSink, _Serial

    device = tmp_path / "tty"

    def plug() -> tuple[int, int]:
        ours, theirs = pty.openpty()
        device.symlink_to(os.ttyname(theirs))
        return ours, theirs

    ours, theirs = plug()
    sink = MavlinkSink(_Serial(str(device), 921600), "mavlink:///dev/serial0", autopilot="ardupilot")
    sink.open(live=True)
    sink.write(seen_at(320, 240), no_picture)
    assert os.read(ours, 1000)[:1] == b"\xfd"
    device.unlink()
    os.close(ours)
    os.close(theirs)
    with pytest.raises(OutputError, match="takes nothing"):
        for _ in range(3):
            sink.write(seen_at(320, 240), no_picture)
    ours, theirs = plug()
    sink.write(seen_at(320, 240), no_picture)
    assert os.read(ours, 1000)[:1] == b"\xfd"
    sink.close()
    os.close(ours)
    os.close(theirs)


def test_the_measured_lag_is_reported_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), FakeAutopilot() as autopilot:
        camera = CAMERA + "&frames=40"
        edgeloc.run(camera, truth, f"mavlink://127.0.0.1:{autopilot.port}?autopilot=ardupilot", geometry=DOWN)
    (record,) = [one for one in caplog.records if getattr(one, "finding", None) and one.finding.code == "mavlink-lag"]
    assert "PLND_LAG = 0.0" in record.getMessage()


def test_without_the_cameras_geometry_a_run_is_refused_before_it_begins() -> None:
    with pytest.raises(UsageError, match="mavlink://127.0.0.1:14550 needs the camera's geometry"):
        edgeloc.run(CAMERA, truth, "mavlink://127.0.0.1:14550")


@pytest.mark.parametrize(
    "uri", ["mavlink://", "mavlink://host", "mavlink://host:0", "mavlink://a/b:5", "mavlink://:99999"]
)
def test_what_is_no_link_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="give mavlink://127.0.0.1:14550"):
        open_sink(uri)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match="ardupilot or px4"):
        open_sink("mavlink://127.0.0.1:1?autopilot=betaflight")
    with pytest.raises(UsageError, match="only a serial device has a baud rate"):
        open_sink("mavlink://127.0.0.1:1?baud=9600")
    with pytest.raises(OutputError, match="there is no /dev/nothing-here"):
        open_sink("mavlink:///dev/nothing-here").open()


def mavproxy() -> list[str]:
    found = shutil.which("mavproxy.py", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip("MAVProxy is not installed (pip install MAVProxy)")
    return [sys.executable, found]


def test_through_mavproxy_as_a_router_nothing_is_lost_or_changed(tmp_path: Path) -> None:
    command = mavproxy()
    port = free_port()
    with FakeAutopilot("ardupilot") as autopilot:
        master, out = f"udpout:127.0.0.1:{autopilot.port}", f"udpout:127.0.0.1:{port}"
        line = [
            *command,
            "--master",
            master,
            "--out",
            out,
            "--daemon",
            "--non-interactive",
            "--default-modules",
            "link",
        ]
        router = subprocess.Popen(
            line, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        sink = open_sink(f"mavlink://:{port}")
        sink.open(live=True)
        try:
            eventually(lambda: sink._autopilot == "ardupilot", 30)  # type: ignore[attr-defined]
            eventually(lambda: not math.isnan(autopilot.estimated_offset_s), 10)
            for step in range(30):
                sink.write(seen_at(320 + FOCAL * math.tan(math.radians(step)), 240), no_picture)
                time.sleep(0.02)
            eventually(lambda: len(autopilot.sights) >= 30)
        finally:
            router.kill()
            router.wait()
            sink.close()
    assert [math.degrees(one.right) for one in autopilot.sights] == pytest.approx(list(range(30)), abs=0.1)
