"""`ros2://` with a fake rclpy: there is none to be installed here, so this shows only what is handed to ROS."""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from array import array
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgeloc import Box, OutputError, Sink, Track, UsageError, open_sink
from edgeloc.sinks.ros2 import Ros2Sink
from edgeloc.sinks.ros_messages import DEFINITIONS
from edgeloc.testing import SinkSuite, example_frame, example_observation

INTEGERS = {"uint8": (0, 2**8), "int32": (-(2**31), 2**31), "uint32": (0, 2**32)}


class FakePublisher:
    def __init__(self, kind: type, topic: str, ros: FakeRos) -> None:
        self.kind, self.topic, self._ros = kind, topic, ros

    def get_subscription_count(self) -> int:
        return int(self.topic in self._ros.subscribed)

    def publish(self, message: Any) -> None:
        assert isinstance(message, self.kind)
        if self._ros.failure:
            raise self._ros.failure
        self._ros.published.append((self.topic, message))


class FakeRos:
    """As much of rclpy as is used, with messages whose fields are checked as ROS does."""

    def __init__(self) -> None:
        self.subscribed = {"~/detections", "~/image/compressed", "~/record", "~/track"}
        self.published: list[tuple[str, Any]] = []
        self.nodes: list[str] = []
        self.open_contexts = 0
        self.failure: Exception | None = None

    def modules(self) -> dict[str, ModuleType]:
        rclpy, signals = ModuleType("rclpy"), ModuleType("rclpy.signals")
        rclpy.context = SimpleNamespace(Context=lambda: FakeContext(self))  # type: ignore[attr-defined]
        rclpy.init = lambda args, context, signal_handler_options: context.begin()  # type: ignore[attr-defined]
        rclpy.create_node = self.create_node  # type: ignore[attr-defined]
        signals.SignalHandlerOptions = SimpleNamespace(NO=0)  # type: ignore[attr-defined]
        found = {"rclpy": rclpy, "rclpy.signals": signals}
        for kind, lines in DEFINITIONS.items():
            package, _, name = kind.partition("/")
            module = found.setdefault(f"{package}.msg", ModuleType(f"{package}.msg"))
            setattr(module, name, message_class(kind, dict(line.split()[1::-1] for line in lines)))
        return found

    def create_node(self, name: str, *, context: Any, namespace: str, start_parameter_services: bool) -> Any:
        self.nodes.append(f"{namespace}/{name}")
        return SimpleNamespace(
            create_publisher=lambda kind, topic, depth: FakePublisher(kind, topic, self),
            destroy_node=lambda: self.nodes.remove(f"{namespace}/{name}"),
        )


class FakeContext:
    def __init__(self, ros: FakeRos) -> None:
        self._ros = ros

    def begin(self) -> None:
        self._ros.open_contexts += 1

    def try_shutdown(self) -> None:
        self._ros.open_contexts -= 1


def message_class(kind: str, fields: dict[str, str]) -> type:
    def init(self: Any, **given: Any) -> None:
        assert set(given) <= set(fields), f"{kind} has no {set(given) - set(fields)}"
        for field, value in given.items():
            assert is_of(fields[field], value), f"{field} of {kind} is no {fields[field]}: {value!r}"
            setattr(self, field, value)

    return type(kind, (), {"__init__": init})


def is_of(kind: str, value: Any) -> bool:
    """Whether ROS takes the value for a field of the type; its messages assert that for each field."""
    if kind == "uint8[]":
        return isinstance(value, array) and value.typecode == "B"
    if kind.endswith("[]"):
        return isinstance(value, list) and all(is_of(kind[:-2], one) for one in value)
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return type(value) is int and low <= value < high
    return type(value) is {"string": str, "float64": float}.get(kind) or type(value).__name__ == kind


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> FakeRos:
    fake = FakeRos()
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake


@pytest.mark.usefixtures("ros")
class TestRos2Sink(SinkSuite):
    @pytest.fixture
    def sink(self) -> Sink:
        return open_sink("ros2://")


def no_picture() -> Any:
    raise AssertionError("ROS gets the frame as it is")


def test_subscribers_get_picture_boxes_and_record(ros: FakeRos) -> None:
    sink = open_sink("ros2:///drone/front?frame_id=front_camera")
    sink.open(live=True)
    assert ros.nodes == ["/drone/front"]
    sink.write(example_observation(example_frame(3, time.monotonic()), Box(10, 20, 30, 60)), no_picture)
    got = dict(ros.published)
    assert set(got) == {"~/detections", "~/image/compressed", "~/record"}
    (found,) = got["~/detections"].detections
    assert (found.bbox.size_x, found.bbox.size_y) == (20, 40)
    assert (found.bbox.center.position.x, found.bbox.center.position.y) == (20, 40)
    assert found.results[0].hypothesis.class_id == "nut"
    assert got["~/detections"].header.frame_id == "front_camera"
    assert abs(got["~/detections"].header.stamp.sec - time.time()) < 5
    assert bytes(got["~/image/compressed"].data[:2]) == b"\xff\xd8"
    sink.close()
    assert ros.nodes == [] and ros.open_contexts == 0


def test_a_track_is_published_for_the_time_for_which_it_holds(ros: FakeRos) -> None:
    sink = open_sink("ros2://")
    sink.open(live=True)
    frame = example_frame(0, time.monotonic())
    for track in (Track("predicted", frame.captured_at + 2, Box(1, 2, 3, 4), id=7), Track("lost", frame.captured_at)):
        sink.write(dataclasses.replace(example_observation(frame), track=track), no_picture)
    sink.close()
    followed, lost = (message for topic, message in ros.published if topic == "~/track")
    assert [one.id for one in followed.detections] == ["7"] and lost.detections == []
    assert 1 <= followed.header.stamp.sec - lost.header.stamp.sec <= 3


def test_what_nobody_subscribes_to_is_not_made(ros: FakeRos) -> None:
    ros.subscribed = {"~/record"}
    sink = open_sink("ros2://")
    sink.open(live=True)
    sink.write(example_observation(example_frame(0, time.monotonic())), no_picture)
    assert [topic for topic, _ in ros.published] == ["~/record"]
    sink.close()


def test_a_failure_of_ros_is_one_of_the_sink(ros: FakeRos) -> None:
    sink = open_sink("ros2://")
    sink.open(live=True)
    ros.failure = RuntimeError("Failed to publish: publisher's context is invalid")
    with pytest.raises(OutputError, match="ros2:///edgeloc cannot publish: Failed to publish"):
        sink.write(example_observation(example_frame(0, time.monotonic())), no_picture)
    sink.close()


def test_without_ros_the_fix_is_named() -> None:
    if "rclpy" in sys.modules:
        pytest.skip("rclpy is installed here")
    with pytest.raises(
        OutputError, match=r"needs rclpy of ROS 2, and there is none here.*source /opt/ros/DISTRO"
    ) as caught:
        open_sink("ros2://").open()
    assert re.search(rf"Python, {sys.version_info[0]}\.{sys.version_info[1]}", str(caught.value))


def test_a_ros_for_another_python_is_told_from_none(ros: FakeRos, monkeypatch: pytest.MonkeyPatch) -> None:
    """rclpy is found then, and its C part is not."""

    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "rclpy.signals":
                raise ModuleNotFoundError("No module named 'rclpy._rclpy_pybind11'", name="rclpy._rclpy_pybind11")

    monkeypatch.delitem(sys.modules, "rclpy.signals")
    monkeypatch.setattr(sys.modules["rclpy"], "__path__", [], raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(
        OutputError, match=r"does not load here \(No module named 'rclpy\._rclpy_pybind11'\).*Python, 3"
    ):
        open_sink("ros2://").open()


def test_without_vision_msgs_the_package_is_named(ros: FakeRos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vision_msgs.msg")
    with pytest.raises(OutputError, match="vision_msgs.*apt install ros-"):
        open_sink("ros2://").open()


@pytest.mark.parametrize("node", ["1drone", "a__b", "a//b", "drone front"])
def test_names_that_ros_refuses_are_refused_before(node: str) -> None:
    with pytest.raises(UsageError, match="node"):
        Ros2Sink(node)
