"""`ros2://` with a fake rclpy: there is none to be installed here, so this shows only what is handed to ROS."""

from __future__ import annotations

import re
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgeloc import Box, OutputError, Sink, UsageError, open_sink
from edgeloc.sinks.ros2 import Ros2Sink
from edgeloc.sinks.ros_messages import DEFINITIONS
from edgeloc.testing import SinkSuite, example_frame, example_observation


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
            setattr(module, name, message_class(name, [line.split()[1] for line in lines]))
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


def message_class(name: str, fields: list[str]) -> type:
    def init(self: Any, **given: Any) -> None:
        assert set(given) <= set(fields), f"{name} has no {set(given) - set(fields)}"
        for field, value in given.items():
            setattr(self, field, value)

    return type(name, (), {"__init__": init})


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


def test_without_vision_msgs_the_package_is_named(ros: FakeRos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vision_msgs.msg")
    with pytest.raises(OutputError, match="vision_msgs.*apt install ros-"):
        open_sink("ros2://").open()


@pytest.mark.parametrize("node", ["1drone", "a__b", "a//b", "drone front"])
def test_names_that_ros_refuses_are_refused_before(node: str) -> None:
    with pytest.raises(UsageError, match="node"):
        Ros2Sink(node)
