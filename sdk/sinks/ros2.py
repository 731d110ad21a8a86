"""Publishes observations as ROS 2 topics, where rclpy is installed."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edgeloc._support.backend import Uri
from edgeloc.errors import OutputError, UsageError, first_line
from edgeloc.observation import Observation
from edgeloc.sinks.base import Sink
from edgeloc.sinks.ros_messages import FRAME_ID, TYPES, Messages, WallClock
from edgeloc.types import Pixels

__all__ = ["Ros2Sink"]

# Foxglove's boxes are for bags; a robot has no package for them.
_TOPICS = [topic for topic in TYPES if topic != "annotations"]
_NAME = re.compile(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


class Ros2Sink(Sink):
    """A ROS 2 node whose topics lie below its name: the frame, what was found in it, the track, the JSON record.

    A topic to which nobody subscribes costs nothing. Needs rclpy, which ROS 2 brings, and its package vision_msgs.

    Parameters:
        node: the node's name, with its namespace before it, as in "drone/front".
        frame_id: the coordinate frame that the messages name.
    """

    def __init__(self, node: str = "edgeloc", *, frame_id: str = FRAME_ID) -> None:
        if not _NAME.fullmatch(node) or "__" in node:
            raise UsageError(
                field="node", value=node, allowed="letters, digits and single _, with / between namespaces and name"
            )
        self._node_name, self._frame_id = node, frame_id
        self._context: Any = None
        self._node: Any = None
        self._publishers: dict[str, Any] = {}

    @classmethod
    def from_uri(cls, uri: Uri) -> Ros2Sink:
        """`ros2://`, or `ros2:///drone/front?frame_id=front_camera` with the node's name."""
        return cls(uri.path.strip("/") or "edgeloc", **uri.options({"frame_id": str}))

    @property
    def name(self) -> str:
        """The sink's URI."""
        return f"ros2:///{self._node_name}"

    def open(self, *, fps: float | None = None, live: bool = False) -> None:
        """Start the node; OutputError where ROS 2 is not there, is another version, or refuses."""
        self.close()
        try:
            rclpy = importlib.import_module("rclpy")
            signals = importlib.import_module("rclpy.signals")
            types = {topic: _class_of(TYPES[topic]) for topic in _TOPICS}
        except ImportError as error:
            raise _not_there(error) from error
        try:
            # A context of its own: the program may be a ROS node itself, and its signals are not ours.
            self._context = rclpy.context.Context()
            rclpy.init(args=[], context=self._context, signal_handler_options=signals.SignalHandlerOptions.NO)
            namespace, _, name = self._node_name.rpartition("/")
            self._node = rclpy.create_node(
                name, context=self._context, namespace=f"/{namespace}", start_parameter_services=False
            )
            # One message is kept for a slow subscriber: the newest.
            self._publishers = {topic: self._node.create_publisher(types[topic], f"~/{topic}", 1) for topic in _TOPICS}
        except Exception as error:
            self.close()
            raise OutputError(f"{self.name}: ROS 2 does not start: {first_line(error)}") from error
        self._clock = WallClock(fps, live)

    def write(self, observation: Observation, drawn: Callable[[], Pixels]) -> None:
        """Publish the messages that somebody subscribes to; OutputError where ROS refuses."""
        try:
            wanted = [topic for topic, publisher in self._publishers.items() if publisher.get_subscription_count()]
            for topic, message in Messages(_make, observation, self._clock(observation), self._frame_id).of(wanted):
                self._publishers[topic].publish(message)
        # Those of rclpy's C++ part.
        except RuntimeError as error:
            raise OutputError(f"{self.name} cannot publish: {first_line(error)}") from error

    def close(self) -> None:
        """Stop the node."""
        node, context, self._node, self._context = self._node, self._context, None, None
        self._publishers = {}
        if node is not None:
            with suppress(RuntimeError):
                node.destroy_node()
        if context is not None:
            with suppress(RuntimeError):
                context.try_shutdown()


def _class_of(kind: str) -> Any:
    package, _, name = kind.partition("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def _make(kind: str, **fields: Any) -> Any:
    return _class_of(kind)(**fields)


def _not_there(error: ImportError) -> OutputError:
    if (error.name or "").partition(".")[0] == "vision_msgs":
        return OutputError("ros2:// needs the ROS package vision_msgs", hint="apt install ros-$ROS_DISTRO-vision-msgs")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    reason = "there is none here" if error.name == "rclpy" else f"it does not load here ({first_line(error)})"
    return OutputError(
        f"ros2:// needs rclpy of ROS 2, and {reason}",
        hint=f"source /opt/ros/DISTRO/setup.bash of a ROS 2 for this Python, {version}, or record an .mcap",
    )
