"""The bag that an `.mcap` holds: as two readers see it, as it grows, and after a kill or on a full disk."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import edgeloc
from edgeloc.errors import MissingExtra, OutputError
from edgeloc.observation import Observation, Track
from edgeloc.sinks import Sink, open_sink
from edgeloc.sinks.mcap import McapSink
from edgeloc.sinks.ros_messages import DEFINITIONS, TYPES, definition
from edgeloc.testing import FileSinkSuite, SyntheticCamera, example_frame, example_observation
from edgeloc.types import Box, Result

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mcap_ros2") is None, reason="needs the extra ros")


class TestMcapSink(FileSinkSuite):
    suffix = ".mcap"

    def make(self, path: Path) -> Sink:
        return open_sink(path)


def record(path: Path, *observations: Observation, live: bool = True, fps: float | None = 10, **options: Any) -> None:
    sink = McapSink(path, **options)
    sink.open(fps=fps, live=live)
    for one in observations:
        sink.write(one, lambda: pytest.fail("a bag has frames as they were taken"))
    sink.close()


def messages(path: Path) -> dict[str, list[Any]]:
    """What mcap-ros2-support reads, by topic; of a cut file what comes before the cut."""
    from mcap.exceptions import McapError
    from mcap.reader import NonSeekingReader
    from mcap_ros2.decoder import DecoderFactory

    found: dict[str, list[Any]] = {}
    with path.open("rb") as file:
        reader = NonSeekingReader(file, decoder_factories=[DecoderFactory()])
        with suppress(McapError, struct.error):
            for _, channel, _, message in reader.iter_decoded_messages(log_time_order=False):
                found.setdefault(channel.topic.removeprefix("/edgeloc/"), []).append(message)
    return found


def by_rosbags(path: Path) -> Iterator[tuple[str, str, int, Any]]:
    highlevel = pytest.importorskip("rosbags.highlevel")
    with highlevel.AnyReader([path]) as reader:
        for connection, stamp_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            yield connection.topic.removeprefix("/edgeloc/"), connection.msgtype, stamp_ns, message


def seen(number: int, *boxes: Box, age_s: float = 0.0, track: Track | None = None) -> Observation:
    frame = example_frame(number, time.monotonic() - age_s)
    return dataclasses.replace(example_observation(frame, *boxes), track=track)


def test_both_readers_find_the_picture_and_the_boxes(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    record(path, seen(3, Box(1, 2, 3.5, 4), Box(10, 20, 30, 40)), seen(4), frame_id="front")
    found = messages(path)
    ours = [(topic, message) for topic, several in found.items() for message in several]
    theirs = [(topic, message) for topic, _, _, message in by_rosbags(path)]
    for readings in (ours, theirs):
        image, empty = (message for topic, message in readings if topic == "image/compressed")
        assert (image.format, image.header.frame_id) == ("jpeg", "front")
        shown = cv2.imdecode(np.frombuffer(bytes(image.data), np.uint8), cv2.IMREAD_COLOR)
        assert shown.shape == (48, 64, 3) and abs(float(shown.mean()) - 50) < 2
        first, second = (message for topic, message in readings if topic == "detections")
        best, other = first.detections
        assert (best.bbox.center.position.x, best.bbox.center.position.y) == (2.25, 3)
        assert (best.bbox.size_x, best.bbox.size_y, best.bbox.center.theta) == (2.5, 2, 0)
        assert (best.results[0].hypothesis.class_id, best.results[0].hypothesis.score) == ("nut", 0.9)
        assert best.results[0].pose.pose.orientation.w == 1 and len(best.results[0].pose.covariance) == 36
        assert (other.bbox.size_x, other.results[0].hypothesis.score) == (20, 0.8)
        assert len(second.detections) == 0
        for stamp in (first.header.stamp, best.header.stamp):
            assert (stamp.sec, stamp.nanosec) == (image.header.stamp.sec, image.header.stamp.nanosec)
        assert empty.header.stamp.sec >= image.header.stamp.sec


def test_a_uri_names_the_coordinate_frame(tmp_path: Path) -> None:
    sink = open_sink(f"{tmp_path}/out.mcap?frame_id=front_camera")
    sink.open(live=True)
    sink.write(seen(0), lambda: pytest.fail("drawn"))
    sink.close()
    assert messages(tmp_path / "out.mcap")["detections"][0].header.frame_id == "front_camera"


def test_types_are_those_that_ros_knows(tmp_path: Path) -> None:
    """By the hashes that rosbags computes of its own definitions and of those in the bag."""
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    for kind in DEFINITIONS:
        name = kind.replace("/", "/msg/")
        if name in store.fielddefs:
            mine = typesys.get_typestore(typesys.Stores.EMPTY)
            mine.register(typesys.get_types_from_msg(definition(kind), name))
            assert mine.hash_rihs01(name) == store.hash_rihs01(name), kind
    path = tmp_path / "out.mcap"
    record(path, seen(0, track=Track("lost", 0.0)))
    assert {topic: kind for topic, kind, _, _ in by_rosbags(path)} == {
        topic: kind.replace("/", "/msg/") for topic, kind in TYPES.items()
    }


def test_stamps_are_the_wall_time_of_capture(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    taken_at = time.time() - 2.5
    record(path, seen(0, Box(1, 2, 3, 4), age_s=2.5))
    for topic, _, stamp_ns, message in by_rosbags(path):
        assert stamp_ns / 1e9 == pytest.approx(taken_at, abs=0.5)
        if hasattr(message, "header"):
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp_ns, topic


def test_a_files_frames_are_as_far_apart_as_they_were_taken(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    began_at = time.time()
    record(path, *(example_observation(example_frame(number)) for number in (0, 1, 5)), live=False, fps=4)
    stamps = [stamp for topic, _, stamp, _ in by_rosbags(path) if topic == "record"]
    assert stamps[0] / 1e9 == pytest.approx(began_at, abs=1)
    assert [(stamp - stamps[0]) / 1e9 for stamp in stamps] == [0, 0.25, 1.25]


def test_a_track_has_the_time_for_which_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    at = time.monotonic()
    frame = example_frame(0, at)
    predicted = Track("predicted", at + 0.15, Box(-4, 6, 10, 20), id=3)
    for number, track in enumerate((predicted, Track("lost", at))):
        record(path.with_stem(f"out-{number}"), dataclasses.replace(example_observation(frame), track=track))
    found = messages(tmp_path / "out-0.mcap")
    (track,), (detections,) = found["track"], found["detections"]
    (one,) = track.detections
    assert (one.id, one.bbox.center.position.x, one.bbox.size_y, one.results) == ("3", 3, 14, [])
    later = [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for message in (track, detections)]
    assert later[0] - later[1] == pytest.approx(150_000_000, abs=1000)
    assert messages(tmp_path / "out-1.mcap")["track"][0].detections == []


def test_every_track_has_its_number_and_its_class(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    other = Track("predicted", 0.0, Box(5, 6, 7, 8), id=4, label="nut", score=0.7)
    record(path, seen(0, track=Track("measured", 0.0, Box(1, 2, 3, 4), id=2, others=(other,))))
    (track,), (drawn,) = (messages(path)[topic] for topic in ("track", "annotations"))
    assert [one.id for one in track.detections] == ["2", "4"]
    (found,) = track.detections[1].results
    assert (found.hypothesis.class_id, found.hypothesis.score) == ("nut", 0.7)
    assert [one.text for one in drawn.texts] == ["track 2", "4"]


def test_the_record_is_the_line_of_a_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    record(path, seen(7, Box(1, 2, 3, 4)))
    line = json.loads(messages(path)["record"][0].data)
    assert (line["sequence"], line["box"], line["age_ms"]) == (7, [1, 2, 3, 4], 12.5)


def test_foxglove_draws_the_boxes_over_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    record(path, seen(0, Box(1, 2, 3, 4), track=Track("measured", 0.0, Box(5, 6, 7, 8), id=1)))
    (drawn,) = messages(path)["annotations"]
    assert [[(point.x, point.y) for point in one.points] for one in drawn.points] == [
        [(1, 2), (3, 2), (3, 4), (1, 4)],
        [(5, 6), (7, 6), (7, 8), (5, 8)],
    ]
    assert [one.text for one in drawn.texts] == ["nut 0.75", "track 1"]
    assert all(one.type == 2 and one.outline_color.a == 1 for one in drawn.points)


def test_a_bag_can_be_read_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    sink = McapSink(path)
    sink.open(fps=1, live=True)
    for number in range(3):
        sink._chunk_at = float("-inf")  # as if a second had passed
        sink.write(seen(number, Box(1, 2, 3, 4)), lambda: pytest.fail("drawn"))
        assert len(messages(path)["detections"]) == number + 1
    sink.close()
    assert len(list(by_rosbags(path))) == 3 * 4


KILLED = """
import os, signal, sys, time
import edgeloc
from edgeloc.testing import SyntheticCamera

def killed(observation):
    if observation.sequence >= 60:
        os.kill(os.getpid(), signal.SIGKILL)

camera = SyntheticCamera(fps=30, size=(320, 240), frames=100)
edgeloc.run(camera, lambda frame: edgeloc.Result(), sys.argv[1], killed)
"""


def test_what_a_killed_run_wrote_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    found = messages(path)
    numbers = [json.loads(message.data)["sequence"] for message in found["record"]]
    # Of a live camera some frames may be dropped.
    assert numbers and numbers == sorted(set(numbers)) and max(numbers) >= 10
    assert len(found["image/compressed"]) == len(numbers)


def test_a_cut_at_any_byte_leaves_the_chunks_before_it(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    sink = McapSink(path)
    sink.open(fps=1, live=True)
    ends = []
    for number in range(4):
        sink._chunk_at = float("-inf")
        sink.write(seen(number), lambda: pytest.fail("drawn"))
        ends.append(path.stat().st_size)
    sink.close()
    cut = tmp_path / "cut.mcap"
    for at in np.linspace(ends[0], ends[-1] - 1, 60).astype(int):
        cut.write_bytes(path.read_bytes()[:at])
        whole = sum(end <= at for end in ends)
        assert len(messages(cut)["record"]) in (whole, whole + 1)


FULL = """
import resource, sys
import numpy as np
from edgeloc.errors import OutputError
from edgeloc.sinks.mcap import McapSink
from edgeloc.observation import Observation
from edgeloc.types import Frame, Result
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, most))
sink = McapSink(sys.argv[1])
sink.open(fps=10)
noise = np.random.default_rng(0)
failed = []
for number in range(20):
    sink._chunk_at = float("-inf")
    pixels = noise.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    try:
        sink.write(Observation(Frame(pixels, 0.0, number), Result()), None)
    except OutputError as error:
        failed.append(number)
        print(error)
    if len(failed) == 3 and sys.argv[2] == "freed":
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    sink.close()
except OutputError as error:
    print("closing:", error)
print("failed", failed)
"""


@pytest.mark.parametrize("after", ["freed", "full"])
def test_a_full_disk_keeps_what_was_written_and_goes_on_when_there_is_room(tmp_path: Path, after: str) -> None:
    path = tmp_path / "out.mcap"
    done = subprocess.run([sys.executable, "-c", FULL, str(path), after], capture_output=True, text=True, check=True)
    assert "out.mcap cannot be written to" in done.stdout
    failed = json.loads(done.stdout.rpartition("failed ")[2])
    numbers = [json.loads(message.data)["sequence"] for message in messages(path)["record"]]
    if after == "freed":
        assert numbers == [number for number in range(20) if number not in failed] and len(failed) == 3
        assert len([topic for topic, *_ in by_rosbags(path) if topic == "record"]) == 17
    else:
        # The last one before the failure was taken, and waited for room in vain.
        assert numbers == list(range(failed[0] - 1)) and len(numbers) >= 3
        assert "closing: " in done.stdout


def test_a_large_bag_goes_on_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeloc.sinks.mcap.MOST_CHUNKS", 3)
    sink = McapSink(tmp_path / "out.mcap")
    sink.open(fps=10)
    for number in range(8):
        sink._chunk_at = float("-inf")
        sink.write(seen(number), lambda: pytest.fail("drawn"))
    sink.close()
    parts = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert parts[0].name == "out.mcap" and len(parts) == 3
    numbers = [
        json.loads(message.data)["sequence"]
        for path in parts
        for topic, _, _, message in by_rosbags(path)
        if topic == "record"
    ]
    assert numbers == list(range(8))


def test_without_the_packages_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcap_ros2", None)
    with pytest.raises(MissingExtra, match=r"writing \.mcap.*edgeloc\[ros\]"):
        open_sink(tmp_path / "out.mcap").open()
    assert list(tmp_path.iterdir()) == []


def test_other_sinks_and_the_package_load_none_of_it(tmp_path: Path) -> None:
    code = """
import sys
import edgeloc
from edgeloc.sinks import open_sink
edgeloc.run("synthetic://?frames=2&live=0", lambda frame: edgeloc.Result(), "out.jsonl")
open_sink("out.mcap")
print([name for name in sys.modules if name.partition(".")[0] in ("mcap", "mcap_ros2", "rosbags", "rclpy")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_run_writes_every_frame_of_a_file(tmp_path: Path) -> None:
    camera = SyntheticCamera(fps=30, size=(160, 120), frames=5, live=False)
    edgeloc.run(camera, lambda frame: Result(), str(tmp_path / "out.mcap"))
    assert len(messages(tmp_path / "out.mcap")["image/compressed"]) == 5


def test_a_failure_to_complete_it_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = McapSink(tmp_path / "out.mcap")
    sink.open(fps=10)
    sink.write(seen(0), lambda: pytest.fail("drawn"))

    def full(data: bytes) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(sink, "_append", full)
    with pytest.raises(OutputError, match="disk is full"):
        sink.close()
    sink.close()
    assert len(messages(tmp_path / "out.mcap")["record"]) == 1
