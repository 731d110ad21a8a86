"""From a pixel to a direction: the lens, its distortion, and how the camera is mounted."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloc._support.files import utf8_path
from edgeloc._support.terminal import quiet_opencv
from edgeloc.errors import DataError, UsageError
from edgeloc.observation import Bearing
from edgeloc.types import Box

__all__ = ["CameraGeometry"]

_MOST_BYTES = 2**20
_MOST_NUMBERS = 16
_MOST_PIXELS = 2**16
# Of width to height; the sizes of frames are rounded.
_SAME_SHAPE = 0.01
_FISHEYE = ("equidistant", "fisheye")
# Undistortion is repeated until a pixel is found again this closely, and given up after so many rounds.
_CLOSE_PX, _CLOSE_ENOUGH_PX, _ROUNDS = 1e-4, 0.5, 100


@dataclass(frozen=True)
class CameraGeometry:
    """What is needed to turn a pixel into a direction, for frames of one size.

        geometry = CameraGeometry.from_hfov(62.2, (640, 480), mounting_deg=(0, -90, 0))
        bearing = geometry.bearing(*box.center)

    Pixels are those of `Box`: the frame covers (0, 0) to (width, height), x to the right, y down.

    Parameters:
        size: width and height of the frames in pixels.
        focal: focal lengths in x and y, in pixels.
        center: where the optical axis meets the picture, in pixels.
        distortion: OpenCV's coefficients: none, 4, 5, 8, 12 or 14 (k1, k2, p1, p2, k3 ...), or 4 of a fisheye lens.
        fisheye: whether they are those of OpenCV's fisheye model.
        mounting_deg: how the camera sits in the body, in degrees: roll (right side down), pitch (up), yaw (to the
            right), turned in the order yaw, pitch, roll. At (0, 0, 0) it looks forward with the picture upright; at
            (0, -90, 0) it looks down, and the picture's top is forward.

    Raises UsageError for a value out of range, DataError where the distortion cannot be undone in the whole frame.
    """

    size: tuple[int, int]
    focal: tuple[float, float]
    center: tuple[float, float]
    distortion: tuple[float, ...] = ()
    fisheye: bool = False
    mounting_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    _rotation: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, values in (("size", self.size), ("focal", self.focal)):
            if len(values) != 2 or not all(0 < value < math.inf for value in values):
                raise UsageError(field=name, value=values, allowed="two numbers above 0")
        for name, count in (("center", 2), ("mounting_deg", 3)):
            values = getattr(self, name)
            if len(values) != count or not all(map(math.isfinite, values)):
                raise UsageError(field=name, value=values, allowed=f"{count} numbers")
        counts = (4,) if self.fisheye else (0, 4, 5, 8, 12, 14)
        if len(self.distortion) not in counts or not all(map(math.isfinite, self.distortion)):
            raise UsageError(field="distortion", value=self.distortion, allowed=f"{_or(counts)} numbers")
        object.__setattr__(self, "_rotation", _mounting(*map(math.radians, self.mounting_deg)))
        self._check_corners()

    @classmethod
    def from_hfov(
        cls, hfov_deg: float, size: tuple[int, int], *, mounting_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> CameraGeometry:
        """Of a lens without distortion and its horizontal field of view in degrees, from the left edge to the right."""
        if not 0 < hfov_deg < 180:
            raise UsageError(field="hfov_deg", value=hfov_deg, allowed="above 0, below 180")
        focal = size[0] / 2 / math.tan(math.radians(hfov_deg) / 2)
        return cls(size, (focal, focal), (size[0] / 2, size[1] / 2), mounting_deg=mounting_deg)

    @classmethod
    def from_calibration(
        cls, path: str | os.PathLike[str], *, mounting_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> CameraGeometry:
        """Of a calibration file: OpenCV's YAML, XML or JSON, or the YAML of ROS's camera_calibration.

        Raises DataError where it cannot be read or lacks a part.
        """
        found = _read_calibration(Path(path))
        (fx, skew, cx, _, fy, cy, *_) = found["camera_matrix"]
        if skew:
            raise DataError(f"{path}: a camera matrix with skew is not supported")
        # OpenCV counts from the middle of the first pixel, boxes from its corner.
        size, center = (found["image_width"], found["image_height"]), (cx + 0.5, cy + 0.5)
        try:
            unmounted = cls(size, (fx, fy), center, found["distortion_coefficients"], found["fisheye"])
        except (UsageError, DataError) as error:
            raise DataError(f"{path}: {error.message or error}", hint=error.hint) from error
        return replace(unmounted, mounting_deg=mounting_deg)

    def for_size(self, size: tuple[int, int]) -> CameraGeometry:
        """The same camera with frames of another size; UsageError for another shape, which would be cropped."""
        across, down = size[0] / self.size[0], size[1] / self.size[1]
        if not abs(across / down - 1) < _SAME_SHAPE:
            raise UsageError(field="size", value=size, allowed=f"of the shape of {self.size}")
        focal, center = (self.focal[0] * across, self.focal[1] * down), (self.center[0] * across, self.center[1] * down)
        return replace(self, size=size, focal=focal, center=center)

    def bearing(self, x: float, y: float) -> Bearing:
        """The direction of a pixel of the frame; beyond the frame's edge the lens counts as free of distortion."""
        right, down = self._tangents(x, y)
        forward_right_down = self._rotation @ np.array([1.0, right, down])
        unit = forward_right_down / np.linalg.norm(forward_right_down)
        return Bearing(math.atan(right), math.atan(down), (float(unit[0]), float(unit[1]), float(unit[2])))

    def distance_m(self, box: Box, *, width_m: float | None = None, height_m: float | None = None) -> float | None:
        """How far away an object is, from its true width or height (one of them), facing the camera.

        None where the box reaches the edge of the frame, which may have cut it, or has no size. A box that is 10 % too
        wide makes 10 % too short a distance.
        """
        if (width_m is None) == (height_m is None):
            raise UsageError("a distance needs the object's width or its height", hint="give {width_m} or {height_m}")
        middle_x, middle_y = box.center
        if width_m is not None:
            length, low, high, limit = width_m, box.x1, box.x2, self.size[0]
            ends = (low, middle_y), (high, middle_y)
        else:
            assert height_m is not None
            length, low, high, limit = height_m, box.y1, box.y2, self.size[1]
            ends = (middle_x, low), (middle_x, high)
        if not 0 < length < math.inf:
            raise UsageError(field="width_m" if height_m is None else "height_m", value=length, allowed="above 0")
        if not (low < high and low >= 1 and high <= limit - 1):
            return None
        one, other = (np.array([1.0, *self._tangents(x, y)]) for x, y in ends)
        angle = math.atan2(float(np.linalg.norm(np.cross(one, other))), float(one @ other))
        return length / 2 / math.tan(angle / 2)

    def _tangents(self, x: float, y: float) -> tuple[float, float]:
        """The tangents of the angles from the optical axis to the right and down."""
        if not (math.isfinite(x) and math.isfinite(y)):
            raise UsageError(field="pixel", value=(x, y), allowed="finite numbers")
        if not self.distortion:
            return (x - self.center[0]) / self.focal[0], (y - self.center[1]) / self.focal[1]
        inside = min(max(x, 0.0), self.size[0]), min(max(y, 0.0), self.size[1])
        right, down, _ = self._undistort(*inside)
        return right + (x - inside[0]) / self.focal[0], down + (y - inside[1]) / self.focal[1]

    def _undistort(self, x: float, y: float) -> tuple[float, float, float]:
        """The tangents of a pixel without distortion, and by how many pixels they miss it when distorted again."""
        matrix = np.array([[self.focal[0], 0, self.center[0]], [0, self.focal[1], self.center[1]], [0, 0, 1.0]])
        coefficients = np.array(self.distortion)
        pixel = np.array([[[x, y]]], np.float64)
        undistort: Any = cv2.fisheye.undistortPoints if self.fisheye else cv2.undistortPoints
        tangents = np.asarray(undistort(pixel, matrix, coefficients), np.float64)
        # OpenCV 4 stops after five rounds, which leaves a pixel of error in the corners of a wide lens.
        for _ in range(_ROUNDS):
            miss = pixel - self._distort(tangents, matrix, coefficients)
            if not np.abs(miss).max() > _CLOSE_PX:
                break
            tangents = tangents + miss / self.focal
        right, down = tangents.ravel().tolist()
        return right, down, float(np.abs(miss).max())

    def _distort(
        self, tangents: NDArray[np.float64], matrix: NDArray[np.float64], coefficients: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if self.fisheye:
            return np.asarray(cv2.fisheye.distortPoints(tangents, matrix, coefficients), np.float64)
        rays = np.append(tangents, [[[1.0]]], axis=2)
        pixels, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix, coefficients)
        return np.asarray(pixels, np.float64)

    def _check_corners(self) -> None:
        """The corners are where a polynomial that was fitted to the middle turns back on itself."""
        if not self.distortion:
            return
        for corner in ((x, y) for x in (0.0, self.size[0]) for y in (0.0, self.size[1])):
            *tangents, miss = self._undistort(*corner)
            if not (miss < _CLOSE_ENOUGH_PX and all(map(math.isfinite, tangents))):
                raise DataError(
                    f"the distortion {self.distortion} cannot be undone at the corner {corner} of the frame",
                    hint="calibrate again, with the pattern in the corners too",
                )


def _mounting(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    """The rotation from the camera's forward, right, down to the body's; angles in radians."""
    about = [_rotation(0, roll), _rotation(1, pitch), _rotation(2, yaw)]
    return np.asarray(about[2] @ about[1] @ about[0])


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    vector = np.zeros(3)
    vector[axis] = angle
    return np.asarray(cv2.Rodrigues(vector)[0], np.float64)


def _read_calibration(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is too large for a calibration")
        with quiet_opencv():
            storage = _storage(path)
            matrix = _numbers(storage, "camera_matrix")
            distortion = _numbers(storage, "distortion_coefficients")
            width, height = (storage.getNode(name).real() for name in ("image_width", "image_height"))
            model = storage.getNode("distortion_model")
            fisheye = storage.getNode("fisheye_model").real() == 1 or (model.isString() and model.string() in _FISHEYE)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (cv2.error, SystemError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no calibration that OpenCV can read") from error
    for name, complete in (
        ("camera_matrix", len(matrix) == 9),
        ("image_width", 0 < width < _MOST_PIXELS),
        ("image_height", 0 < height < _MOST_PIXELS),
    ):
        if not complete:
            raise DataError(f"{path} has no {name}", hint="write it with OpenCV's or ROS's calibration")
    return {
        "camera_matrix": matrix,
        "distortion_coefficients": distortion if fisheye or any(distortion) else (),
        "image_width": round(width),
        "image_height": round(height),
        "fisheye": fisheye,
    }


def _storage(path: Path) -> cv2.FileStorage:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix in (".yaml", ".yml") and not text.startswith("%YAML"):
        # OpenCV 4 wants the head that ROS leaves out.
        return cv2.FileStorage(f"%YAML:1.0\n---\n{text}", cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    return cv2.FileStorage(utf8_path(path), cv2.FILE_STORAGE_READ)


def _numbers(storage: cv2.FileStorage, name: str) -> tuple[float, ...]:
    """The numbers of a matrix, OpenCV's or ROS's; none where it is missing."""
    node = storage.getNode(name)
    data = node.getNode("data") if node.isMap() else node
    if not data.isSeq() or data.size() > _MOST_NUMBERS:
        return ()
    return tuple(data.at(place).real() for place in range(data.size()))


def _or(counts: Sequence[int]) -> str:
    return " or ".join(map(str, counts))
