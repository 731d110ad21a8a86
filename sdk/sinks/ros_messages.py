"""An observation as ROS 2 messages, whoever makes them: the writer of a bag or ROS itself."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from edgeloc.loop.draw import QUANTIZED_COLOR, STALE_COLOR, Color, as_jpeg, boxes_of
from edgeloc.observation import Observation, Track
from edgeloc.sinks.record import as_line
from edgeloc.sinks.video import IMAGES_FPS
from edgeloc.types import Box, Detection

__all__ = ["DEFINITIONS", "FRAME_ID", "TYPES", "Messages", "WallClock", "definition"]

FRAME_ID = "camera"
# Of each topic, below the prefix.
TYPES = {
    "image/compressed": "sensor_msgs/CompressedImage",
    "detections": "vision_msgs/Detection2DArray",
    "track": "vision_msgs/Detection2DArray",
    "record": "std_msgs/String",
    "annotations": "foxglove_msgs/ImageAnnotations",
}
_JPEG_QUALITY = 90
_NS = 1_000_000_000
_LINE_LOOP = 2

# vision_msgs is version 4, of ROS 2 Humble and later.
DEFINITIONS = {
    "builtin_interfaces/Time": ["int32 sec", "uint32 nanosec"],
    "std_msgs/Header": ["builtin_interfaces/Time stamp", "string frame_id"],
    "std_msgs/String": ["string data"],
    "sensor_msgs/CompressedImage": ["std_msgs/Header header", "string format", "uint8[] data"],
    "geometry_msgs/Point": ["float64 x", "float64 y", "float64 z"],
    "geometry_msgs/Quaternion": ["float64 x 0", "float64 y 0", "float64 z 0", "float64 w 1"],
    "geometry_msgs/Pose": ["geometry_msgs/Point position", "geometry_msgs/Quaternion orientation"],
    "geometry_msgs/PoseWithCovariance": ["geometry_msgs/Pose pose", "float64[36] covariance"],
    "vision_msgs/Point2D": ["float64 x", "float64 y"],
    "vision_msgs/Pose2D": ["vision_msgs/Point2D position", "float64 theta"],
    "vision_msgs/BoundingBox2D": ["vision_msgs/Pose2D center", "float64 size_x", "float64 size_y"],
    "vision_msgs/ObjectHypothesis": ["string class_id", "float64 score"],
    "vision_msgs/ObjectHypothesisWithPose": [
        "vision_msgs/ObjectHypothesis hypothesis",
        "geometry_msgs/PoseWithCovariance pose",
    ],
    "vision_msgs/Detection2D": [
        "std_msgs/Header header",
        "vision_msgs/ObjectHypothesisWithPose[] results",
        "vision_msgs/BoundingBox2D bbox",
        "string id",
    ],
    "vision_msgs/Detection2DArray": ["std_msgs/Header header", "vision_msgs/Detection2D[] detections"],
    "foxglove_msgs/Color": ["float64 r", "float64 g", "float64 b", "float64 a"],
    "foxglove_msgs/Point2": ["float64 x", "float64 y"],
    "foxglove_msgs/CircleAnnotation": [
        "builtin_interfaces/Time timestamp",
        "foxglove_msgs/Point2 position",
        "float64 diameter",
        "float64 thickness",
        "foxglove_msgs/Color fill_color",
        "foxglove_msgs/Color outline_color",
    ],
    "foxglove_msgs/PointsAnnotation": [
        "builtin_interfaces/Time timestamp",
        "uint8 type",
        "foxglove_msgs/Point2[] points",
        "foxglove_msgs/Color outline_color",
        "foxglove_msgs/Color[] outline_colors",
        "foxglove_msgs/Color fill_color",
        "float64 thickness",
    ],
    "foxglove_msgs/TextAnnotation": [
        "builtin_interfaces/Time timestamp",
        "foxglove_msgs/Point2 position",
        "string text",
        "float64 font_size",
        "foxglove_msgs/Color text_color",
        "foxglove_msgs/Color background_color",
    ],
    "foxglove_msgs/ImageAnnotations": [
        "foxglove_msgs/CircleAnnotation[] circles",
        "foxglove_msgs/PointsAnnotation[] points",
        "foxglove_msgs/TextAnnotation[] texts",
    ],
}
"""The fields of each type of message that is written, as in its .msg file."""


def definition(kind: str) -> str:
    """A type's definition as a bag holds it: its fields, then those of every type that it is made of."""
    needed = [kind]
    for one in needed:
        parts = [field.partition("[")[0].partition(" ")[0] for field in DEFINITIONS[one]]
        needed += [part for part in dict.fromkeys(parts) if part in DEFINITIONS and part not in needed]
    texts = ["\n".join(DEFINITIONS[one]) + "\n" for one in needed]
    more = [f"{'=' * 80}\nMSG: {one}\n{text}" for one, text in zip(needed[1:], texts[1:], strict=True)]
    return "".join([texts[0], *more])


class WallClock:
    """When frames were captured, in nanoseconds since 1970.

    A file's frames were not captured now: its first counts as captured when this was made, and the others follow at
    the file's own rate.

    Parameters:
        fps: the camera's frame rate; None where it has none.
        live: whether the camera's frames come by themselves.
    """

    def __init__(self, fps: float | None, live: bool) -> None:
        self._fps, self._live = fps or IMAGES_FPS, live
        self._began_ns = time.time_ns()

    def __call__(self, observation: Observation) -> int:
        """The time of capture of the observation's frame."""
        if not self._live:
            return self._began_ns + round(observation.sequence / self._fps * _NS)
        # The wall clock may be set while the run lasts, as on a board that gets its time late from the network.
        return time.time_ns() - round((time.monotonic() - observation.captured_at) * _NS)


class Messages:
    """Makes the messages of one observation.

    Parameters:
        make: makes a message from its type's name, such as "std_msgs/String", and its fields.
        stamp_ns: when the frame was captured, in nanoseconds since 1970.
        frame_id: the coordinate frame of the camera's optical axis.
    """

    def __init__(self, make: Callable[..., Any], observation: Observation, stamp_ns: int, frame_id: str) -> None:
        self._make, self._seen = make, observation
        self._stamp_ns, self._frame_id = stamp_ns, frame_id
        self._makers: dict[str, Callable[[], Any]] = {
            "image/compressed": self._image,
            "detections": self._detections,
            "record": self._record,
            "annotations": self._annotations,
        }
        if observation.track is not None:
            track = observation.track
            self._makers["track"] = lambda: self._track(track)

    def of(self, topics: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Each of the topics for which this observation has a message, and that message."""
        for topic in topics:
            if topic in self._makers:
                yield topic, self._makers[topic]()

    def _image(self) -> Any:
        data = array("B", as_jpeg(self._seen.frame.pixels, _JPEG_QUALITY))
        return self._make("sensor_msgs/CompressedImage", header=self._header(), format="jpeg", data=data)

    def _detections(self) -> Any:
        found = [self._detection(one.box, one) for one in self._seen.result.objects if one.box is not None]
        return self._make("vision_msgs/Detection2DArray", header=self._header(), detections=found)

    def _track(self, track: Track) -> Any:
        later_ns = round((track.at - self._seen.captured_at) * _NS)
        header = self._header(later_ns)
        tracks = [self._tracked(one, one.box, later_ns) for one in (track, *track.others) if one.box is not None]
        return self._make("vision_msgs/Detection2DArray", header=header, detections=tracks)

    def _tracked(self, track: Track, box: Box, later_ns: int) -> Any:
        found = None if track.label is None else Detection(box, track.score, track.label)
        return self._detection(box, found, later_ns, str(track.id))

    def _record(self) -> Any:
        return self._make("std_msgs/String", data=as_line(self._seen).decode().rstrip("\n"))

    def _annotations(self) -> Any:
        color = STALE_COLOR if self._seen.stale else QUANTIZED_COLOR
        boxes = boxes_of(self._seen.result, self._seen.track, color)
        thickness = max(2.0, min(self._seen.frame.pixels.shape[:2]) / 240)
        points = [self._outline(box, ink, thickness) for box, _, ink in boxes]
        texts = [self._text(box, title, ink, thickness) for box, title, ink in boxes]
        return self._make("foxglove_msgs/ImageAnnotations", circles=[], points=points, texts=texts)

    def _time(self, later_ns: int = 0) -> Any:
        sec, nanosec = divmod(self._stamp_ns + later_ns, _NS)
        return self._make("builtin_interfaces/Time", sec=sec, nanosec=nanosec)

    def _header(self, later_ns: int = 0) -> Any:
        return self._make("std_msgs/Header", stamp=self._time(later_ns), frame_id=self._frame_id)

    def _detection(self, box: Box, found: Detection | None, later_ns: int = 0, number: str = "") -> Any:
        x, y = (float(value) for value in box.center)
        position = self._make("vision_msgs/Point2D", x=x, y=y)
        center = self._make("vision_msgs/Pose2D", position=position, theta=0.0)
        size = {"size_x": float(box.width), "size_y": float(box.height)}
        return self._make(
            "vision_msgs/Detection2D",
            header=self._header(later_ns),
            results=[] if found is None else [self._hypothesis(found)],
            bbox=self._make("vision_msgs/BoundingBox2D", center=center, **size),
            id=number,
        )

    def _hypothesis(self, found: Detection) -> Any:
        score = {"class_id": found.label or "object", "score": float(found.score)}
        hypothesis = self._make("vision_msgs/ObjectHypothesis", **score)
        return self._make("vision_msgs/ObjectHypothesisWithPose", hypothesis=hypothesis)

    def _outline(self, box: Box, color: Color, thickness: float) -> Any:
        corners = [(box.x1, box.y1), (box.x2, box.y1), (box.x2, box.y2), (box.x1, box.y2)]
        return self._make(
            "foxglove_msgs/PointsAnnotation",
            timestamp=self._time(),
            type=_LINE_LOOP,
            points=[self._point(*corner) for corner in corners],
            outline_color=self._color(color),
            thickness=thickness,
        )

    def _text(self, box: Box, title: str, color: Color, thickness: float) -> Any:
        return self._make(
            "foxglove_msgs/TextAnnotation",
            timestamp=self._time(),
            position=self._point(box.x1, box.y1),
            text=title,
            font_size=8 * thickness,
            text_color=self._color((0, 0, 0)),
            background_color=self._color(color),
        )

    def _point(self, x: float, y: float) -> Any:
        return self._make("foxglove_msgs/Point2", x=float(x), y=float(y))

    def _color(self, color: Color) -> Any:
        blue, green, red = (value / 255 for value in color)
        return self._make("foxglove_msgs/Color", r=red, g=green, b=blue, a=1.0)
