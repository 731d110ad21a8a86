"""`mavlink://` against a fake autopilot: angles, times, silence, links that go away; and through MAVProxy."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgeloc
from edgeloc import (
    Box,
    CameraGeometry,
    Detection,
    Finding,
    Frame,
    Observation,
    OutputError,
    Result,
    Sink,
    Track,
    UsageError,
)
from edgeloc.sinks import open_sink
from edgeloc.sinks.mavlink import MavlinkSink
from edgeloc.sinks.mavlink.links import SerialLink, UdpLink
from edgeloc.testing import FakeAutopilot, Sight, SinkSuite, example_frame

pytest.importorskip("pymavlink", reason="pymavlink is not installed (extra mavlink)")

SIZE = (640, 480)
# Looking down, the top of the picture forward.
DOWN = CameraGeometry.from_hfov(62.2, SIZE, mounting_deg=(0, -90, 0))
FOCAL = 320 / math.tan(math.radians(31.1))
CAMERA = "synthetic://?seed=3&fps=30&size=640x480"
# With a round trip of TIMESYNC below this, times are right to 2 ms.
IN_STEP_S = 0.004


def truth(frame: Frame) -> Result:
    """A localizer that is always right."""
    return Result(tuple(Detection(box, 0.9) for box, _ in frame.truth or ()))


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


def observation_of(sight: Sight, sent: list[Observation]) -> Observation:
    """That which was captured when the autopilot takes it to be, to 2 ms."""
    # In the clock of the camera's machine again.
    captured_at = sight.captured_at - 1000.0
    (found,) = [one for one in sent if abs(one.captured_at - captured_at) < 0.002]
    return found


def test_a_scene_of_known_geometry_is_decoded_to_a_tenth_of_a_degree(autopilot: FakeAutopilot) -> None:
    def truth_once_in_step(frame: Frame) -> Result:
        eventually(lambda: autopilot.round_trip_s < IN_STEP_S)
        return truth(frame)

    uri = f"mavlink://127.0.0.1:{autopilot.port}"
    sent = list(edgeloc.stream(CAMERA, truth_once_in_step, uri, geometry=DOWN, frames=60))
    assert len(autopilot.sights) > 20
    for sight in autopilot.sights:
        seen = observation_of(sight, sent)
        assert seen.result.box is not None
        x, y = seen.result.box.center
        assert math.degrees(sight.right) == pytest.approx(math.degrees(math.atan((x - 320) / FOCAL)), abs=0.1)
        assert math.degrees(sight.back) == pytest.approx(math.degrees(math.atan((y - 240) / FOCAL)), abs=0.1)
        assert 0 <= sight.received_at - sight.captured_at < 1


def test_each_autopilot_gets_the_form_that_it_reads(autopilot: FakeAutopilot, link: Sink) -> None:
    link.write(seen_at(320 + FOCAL * math.tan(math.radians(30)), 240), no_picture)
    eventually(lambda: autopilot.sights)
    (raw,) = of_kind(autopilot, "LANDING_TARGET")
    assert raw.angle_x == pytest.approx(
        {"ardupilot": math.radians(30), "px4": math.tan(math.radians(30))}[autopilot.kind]
    )
    assert autopilot.sights[0].right == pytest.approx(math.radians(30))
    assert autopilot.sights[0].back == pytest.approx(0, abs=1e-6)
    assert raw.size_x == pytest.approx({"ardupilot": 0.04, "px4": 2 * math.tan(0.02)}[autopilot.kind])


def test_a_direction_above_the_horizon_is_none_to_land_in(autopilot: FakeAutopilot, link: Sink) -> None:
    """The tangents of an angle beyond 90 degrees are those of the opposite direction."""
    forward = dataclasses.replace(DOWN, mounting_deg=(0.0, 0.0, 0.0))
    for y in (200, 280):
        link.write(seen_at(320, y, bearing=forward.bearing(320, y)), no_picture)
    eventually(lambda: len(of_kind(autopilot, "CAMERA_TRACKING_IMAGE_STATUS")) == 2)
    assert [one.back for one in autopilot.sights] == pytest.approx([math.atan2(-1, 40 / FOCAL)])


def test_a_predicted_direction_has_the_time_that_it_is_for(autopilot: FakeAutopilot, link: Sink) -> None:
    eventually(lambda: autopilot.round_trip_s < IN_STEP_S)
    ahead = Track("measured", time.monotonic() + 0.15, Box(310, 230, 330, 250), id=1)
    link.write(seen_at(320, 240, track=ahead), no_picture)
    eventually(lambda: autopilot.sights)
    assert autopilot.sights[0].captured_at - 1000.0 == pytest.approx(ahead.at, abs=0.002)


def test_a_gap_is_bridged_by_prediction_and_ends_in_silence(autopilot: FakeAutopilot) -> None:
    times: list[float] = []

    def seen_for_half_a_second(frame: Frame) -> Result:
        eventually(lambda: autopilot.round_trip_s < IN_STEP_S)
        times.append(frame.captured_at)
        seen = times[-1] - times[0] < 0.5
        return Result((Detection(Box(300, 200, 340, 240), 0.9),) if seen else ())

    uri = f"mavlink://127.0.0.1:{autopilot.port}"
    tracker = edgeloc.Tracker(bridge_s=0.5)
    sent = list(edgeloc.stream(CAMERA, seen_for_half_a_second, uri, geometry=DOWN, tracker=tracker, frames=50))
    assert {one.track.state for one in sent if one.track is not None} == {"measured", "predicted", "lost"}
    reported = {observation_of(sight, sent).track for sight in autopilot.sights}
    assert {track.state for track in reported if track is not None} == {"measured", "predicted"}
    statuses = [one.tracking_status for one in of_kind(autopilot, "CAMERA_TRACKING_IMAGE_STATUS")]
    assert set(statuses) == {1, 1 | 8} and statuses == sorted(statuses)


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
    eventually(lambda: of_kind(autopilot, "CAMERA_TRACKING_IMAGE_STATUS"))
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
    # The quickest answer counts: a busy machine may delay the first ones.
    eventually(lambda: autopilot.estimated_offset_s == pytest.approx(1000.0, abs=0.002))
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


def message_of(sender: int, component: int, kind: int) -> bytes:
    """A HEARTBEAT."""
    from pymavlink.dialects.v20 import common

    beat = common.MAVLink_heartbeat_message(2, kind, 0, 0, 4, 3)
    return bytes(beat.pack(common.MAVLink(None, srcSystem=sender, srcComponent=component)))


def test_strangers_do_not_take_the_line_over() -> None:
    """Garbage, a ground station, another vehicle: what is sent goes to the autopilot that was asked for."""
    port = free_port()
    sink = open_sink(f"mavlink://:{port}?system=7")
    sink.open(live=True)
    with FakeAutopilot("ardupilot", call=("127.0.0.1", port), system=7) as autopilot:
        eventually(lambda: sink._autopilot == "ardupilot")  # type: ignore[attr-defined]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.1", 0))
            for data in (b"", os.urandom(2000), message_of(255, 190, 8), message_of(8, 1, 12), b"\xfd\xff"):
                stranger.sendto(data, ("127.0.0.1", port))
            before = len(of_kind(autopilot, "TIMESYNC"))
            eventually(lambda: len(of_kind(autopilot, "TIMESYNC")) > before + 3)
            sink.write(seen_at(320, 240), no_picture)
            eventually(lambda: autopilot.sights)
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(1000)
    sink.close()
    assert {one.get_srcSystem() for one in of_kind(autopilot, "LANDING_TARGET")} == {7}


@pytest.mark.parametrize("option", ["", "?autopilot=px4"])
def test_without_a_number_of_its_own_it_takes_the_vehicles(option: str) -> None:
    with FakeAutopilot("px4", system=42) as autopilot:
        sink = open_sink(f"mavlink://127.0.0.1:{autopilot.port}{option}")
        sink.open(live=True)
        eventually(lambda: autopilot.round_trip_s < 1)
        sink.write(seen_at(320, 240), no_picture)
        eventually(lambda: autopilot.sights)
        sink.close()
    assert of_kind(autopilot, "LANDING_TARGET")[0].get_srcSystem() == 42


def findings(caplog: pytest.LogCaptureFixture, code: str) -> list[Finding]:
    found = [record.finding for record in caplog.records if hasattr(record, "finding")]
    return [one for one in found if one.code == code]


def test_an_autopilot_that_is_not_heard_is_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeloc.sinks.mavlink._SILENT_S", 0.5)
    port = free_port()
    sink = open_sink(f"mavlink://:{port}")
    sink.open(live=True)
    eventually(lambda: findings(caplog, "mavlink-silent"))
    (found,) = findings(caplog, "mavlink-silent")
    assert found.severity == "warning" and "sends no LANDING_TARGET until it does" in found.message
    with caplog.at_level("INFO"), FakeAutopilot("px4", call=("127.0.0.1", port)):
        eventually(lambda: "hears the autopilot" in caplog.text)
        assert len(findings(caplog, "mavlink-silent")) == 1
    eventually(lambda: len(findings(caplog, "mavlink-silent")) == 2)
    sink.close()
    assert "LANDING_TARGET" not in findings(caplog, "mavlink-silent")[1].message


def takes(sink: Sink) -> bool:
    """Whether the sink takes a result, as the loop offers one again and again."""
    try:
        sink.write(seen_at(320, 240), no_picture)
    except OutputError:
        return False
    return True


def test_every_ground_station_of_a_network_is_sent_to() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 0))
        receiver.settimeout(10)
        link = UdpLink("127.255.255.255", receiver.getsockname()[1])
        link.open()
        link.send(b"\xfd")
        assert receiver.recv(100) == b"\xfd"
        link.close()


def test_a_serial_line_carries_both_ways_and_holds_nobody_when_it_is_full(tmp_path: Path) -> None:
    pytest.importorskip("serial", reason="pyserial is not installed (extra mavlink)")
    ours, theirs = pty.openpty()
    sink = MavlinkSink(SerialLink(os.ttyname(theirs), 921600), "mavlink:///dev/serial0")
    sink.open(live=True)
    with pytest.raises(OutputError, match="cannot be opened: .*lock"):
        MavlinkSink(SerialLink(os.ttyname(theirs), 921600), "mavlink:///dev/serial0").open()
    os.write(ours, message_of(1, 1, 12))
    eventually(lambda: sink._autopilot == "px4")
    with pytest.raises(OutputError, match="takes nothing: Write timeout"):
        for _ in range(1000):
            sink.write(seen_at(320, 240), no_picture)
    while select.select([ours], [], [], 0.1)[0]:
        os.read(ours, 65536)
    eventually(lambda: takes(sink))
    assert b"\xfd" in os.read(ours, 1000)
    sink.close()
    os.close(ours)
    os.close(theirs)


def test_a_serial_line_that_is_pulled_out_and_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("serial", reason="pyserial is not installed (extra mavlink)")
    device = tmp_path / "tty"

    def plug() -> tuple[int, int]:
        ours, theirs = pty.openpty()
        device.symlink_to(os.ttyname(theirs))
        return ours, theirs

    ours, theirs = plug()
    sink = MavlinkSink(SerialLink(str(device), 921600), "mavlink:///dev/serial0")
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
    eventually(lambda: takes(sink))
    assert os.read(ours, 1000)[:1] == b"\xfd"
    os.write(ours, message_of(1, 1, 3))
    eventually(lambda: sink._autopilot == "ardupilot")
    sink.close()
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("autopilot", "says"),
    [
        ("ardupilot", "ArduPilot's PLND_LAG = 0."),
        ("px4", "PX4 counts from its arrival: give track and predict_ms"),
    ],
    indirect=["autopilot"],
)
def test_the_measured_lag_is_reported_at_the_end(
    autopilot: FakeAutopilot, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"mavlink://127.0.0.1:{autopilot.port}?autopilot={autopilot.kind}"
    with caplog.at_level("INFO"):
        edgeloc.run(CAMERA, truth, uri, geometry=DOWN, frames=20)
    (found,) = findings(caplog, "mavlink-lag")
    assert "LANDING_TARGET was sent" in found.message and says in str(found)


def test_a_lag_beyond_what_ardupilot_takes_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sink = open_sink("mavlink://127.0.0.1:9?autopilot=ardupilot")
    sink.open(live=True)
    sink.write(seen_at(320, 240, frame=example_frame(1, time.monotonic() - 0.4, SIZE)), no_picture)
    sink.close()
    (found,) = findings(caplog, "mavlink-lag")
    assert found.severity == "warning" and "PLND_LAG = 0.250, the most that it takes" in found.message


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


@pytest.mark.parametrize("autopilot", ["ardupilot"], indirect=True)
@pytest.mark.parametrize("listens", [True, False])
def test_through_mavproxy_as_a_router_nothing_is_lost_or_changed(
    autopilot: FakeAutopilot, listens: bool, tmp_path: Path
) -> None:
    if importlib.util.find_spec("MAVProxy") is None:
        pytest.skip("MAVProxy is not installed (pip install --no-deps MAVProxy)")
    port = free_port()
    links = ["--master", f"udpout:127.0.0.1:{autopilot.port}"]
    links += ["--out", f"{'udpout' if listens else 'udpin'}:127.0.0.1:{port}"]
    options = ["--daemon", "--non-interactive", "--no-state", "--default-modules", "link"]
    router = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "MAVProxy.mavproxy", *links, *options],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    sink = open_sink(f"mavlink://:{port}" if listens else f"mavlink://127.0.0.1:{port}")
    sink.open(live=True)
    sent = []
    try:
        eventually(lambda: sink._autopilot == "ardupilot", 60)  # type: ignore[attr-defined]
        eventually(lambda: autopilot.round_trip_s < IN_STEP_S, 60)
        for step in range(30):
            sent.append(seen_at(320 + FOCAL * math.tan(math.radians(step)), 240))
            sink.write(sent[-1], no_picture)
            time.sleep(0.02)
        eventually(lambda: len(autopilot.sights) >= 30)
    finally:
        router.kill()
        router.wait()
        sink.close()
    assert [math.degrees(one.right) for one in autopilot.sights] == pytest.approx(list(range(30)), abs=0.1)
    captured = [one.captured_at - 1000.0 for one in autopilot.sights]
    assert captured == pytest.approx([one.captured_at for one in sent], abs=0.002)
