"""Geometry: known points of a synthetic scene are found again in the right direction and distance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc import Bearing, Box, CameraGeometry, DataError, UsageError

SIZE = (640, 480)
MATRIX = np.array([[500.0, 0, 322], [0, 505, 236], [0, 0, 1]])
LENS = np.array([-0.38, 0.19, 0.001, -0.0012, -0.05])
FISHEYE = np.array([0.05, -0.01, 0.002, -0.001])
LIMIT = math.radians(0.1) / 100


def write(path: Path, distortion: Any = LENS, **more: Any) -> Path:
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    values = {"image_width": SIZE[0], "image_height": SIZE[1], "camera_matrix": MATRIX, **more}
    if distortion is not None:
        values["distortion_coefficients"] = distortion
    for name, value in values.items():
        if value is not None:
            storage.write(name, value)
    storage.release()
    return path


def seen_at(point: tuple[float, float, float], distortion: Any = LENS, *, fisheye: bool = False) -> tuple[float, float]:
    """Where OpenCV projects a point (right, down, ahead of the camera), in the pixels of a box."""
    points = np.array([[point]], np.float64)
    project: Any = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    x, y = project(points, np.zeros(3), np.zeros(3), MATRIX, distortion)[0].ravel().tolist()
    return x + 0.5, y + 0.5


def angles(point: tuple[float, float, float]) -> tuple[float, float]:
    return math.atan2(point[0], point[2]), math.atan2(point[1], point[2])


POINTS = [(0.0, 0.0, 4.0), (1.0, -0.5, 5.0), (-2.8, -2.0, 5.0), (2.9, 2.2, 5.0), (-0.1, 1.9, 4.5)]


@pytest.mark.parametrize("point", POINTS)
def test_distortion_is_undone(point: tuple[float, float, float], tmp_path: Path) -> None:
    geometry = CameraGeometry.from_calibration(write(tmp_path / "camera.yml"))
    bearing = geometry.bearing(*seen_at(point))
    assert (bearing.angle_x, bearing.angle_y) == pytest.approx(angles(point), abs=LIMIT)


@pytest.mark.parametrize("point", POINTS)
def test_a_fisheye_lens_too(point: tuple[float, float, float], tmp_path: Path) -> None:
    geometry = CameraGeometry.from_calibration(write(tmp_path / "camera.yml", FISHEYE, fisheye_model=1))
    bearing = geometry.bearing(*seen_at(point, FISHEYE, fisheye=True))
    assert (bearing.angle_x, bearing.angle_y) == pytest.approx(angles(point), abs=LIMIT)


def test_a_field_of_view_reaches_from_edge_to_edge() -> None:
    geometry = CameraGeometry.from_hfov(60, SIZE)
    assert geometry.bearing(0, 240).angle_x == pytest.approx(math.radians(-30))
    assert geometry.bearing(640, 240).angle_x == pytest.approx(math.radians(30))
    assert geometry.bearing(320, 240) == Bearing(0.0, 0.0, (1.0, 0.0, 0.0))


def test_signs_of_a_camera_that_looks_forward() -> None:
    geometry = CameraGeometry.from_hfov(60, SIZE)
    right_and_low = geometry.bearing(480, 400)
    forward, right, down = right_and_low.direction
    assert forward > right > 0 and down > 0
    assert right_and_low.azimuth > 0 and right_and_low.elevation < 0
    assert geometry.bearing(640, 240).azimuth == pytest.approx(math.radians(30))
    assert geometry.bearing(320, 0).elevation == pytest.approx(-geometry.bearing(320, 480).elevation)


def test_signs_of_a_camera_that_looks_down() -> None:
    """As ArduPilot has them: right in the picture is right, down in the picture is back, los = (-tan y, tan x, 1)."""
    geometry = CameraGeometry.from_hfov(60, SIZE, mounting_deg=(0, -90, 0))
    assert geometry.bearing(320, 240).direction == pytest.approx((0, 0, 1), abs=1e-12)
    assert geometry.bearing(320, 0).direction[0] > 0.3, "the picture's top is forward"
    bearing = geometry.bearing(500, 390)
    assert bearing.landing_angles == pytest.approx((bearing.angle_x, bearing.angle_y))
    line = np.array([-math.tan(bearing.angle_y), math.tan(bearing.angle_x), 1])
    assert bearing.direction == pytest.approx(line / np.linalg.norm(line))


@pytest.mark.parametrize(
    ("mounting_deg", "axis"),
    [
        ((0, 0, 90), (0, 1, 0)),
        ((0, 0, 180), (-1, 0, 0)),
        ((0, -45, 0), (math.sqrt(0.5), 0, math.sqrt(0.5))),
        ((0, -45, 90), (0, math.sqrt(0.5), math.sqrt(0.5))),
        ((33, 0, 0), (1, 0, 0)),
    ],
)
def test_the_optical_axis_follows_the_mounting(mounting_deg: tuple[float, float, float], axis: Any) -> None:
    geometry = CameraGeometry.from_hfov(60, SIZE, mounting_deg=mounting_deg)
    assert geometry.bearing(320, 240).direction == pytest.approx(axis, abs=1e-12)


def test_a_camera_that_is_rolled_to_the_right_turns_the_picture_to_the_left() -> None:
    geometry = CameraGeometry.from_hfov(60, SIZE, mounting_deg=(90, 0, 0))
    assert geometry.bearing(640, 240).direction == pytest.approx((math.cos(math.pi / 6), 0, 0.5))


def test_beyond_the_edge_a_bearing_goes_on_smoothly(tmp_path: Path) -> None:
    geometry = CameraGeometry.from_calibration(write(tmp_path / "camera.yml"))
    xs = [geometry.bearing(x, 240).angle_x for x in (600, 639, 641, 700, 2000)]
    assert xs == sorted(xs) and xs[2] - xs[1] < 0.01 and xs[-1] < math.pi / 2


def test_the_distance_follows_from_a_known_size(tmp_path: Path) -> None:
    geometry = CameraGeometry.from_calibration(write(tmp_path / "camera.yml"))
    left, top, right, bottom = 0.8, -0.9, 1.2, -0.6
    (x1, _), (x2, _) = seen_at((left, -0.75, 5)), seen_at((right, -0.75, 5))
    (_, y1), (_, y2) = seen_at((1, top, 5)), seen_at((1, bottom, 5))
    box, true = Box(x1, y1, x2, y2), math.dist((0, 0, 0), (1, -0.75, 5))
    assert geometry.distance_m(box, width_m=0.4) == pytest.approx(true, rel=0.05)
    assert geometry.distance_m(box, height_m=0.3) == pytest.approx(true, rel=0.05)


def test_a_box_in_the_middle_gives_its_distance_exactly() -> None:
    geometry = CameraGeometry.from_hfov(90, SIZE)
    assert geometry.distance_m(Box(288, 230, 352, 250), width_m=1.0) == pytest.approx(5.0)


@pytest.mark.parametrize("box", [Box(0, 200, 50, 250), Box(600, 200, 640, 250), Box(-20, 0, 700, 480), Box(9, 9, 9, 9)])
def test_a_box_that_the_frame_cuts_has_no_distance(box: Box) -> None:
    assert CameraGeometry.from_hfov(60, SIZE).distance_m(box, width_m=1.0) is None


def test_smaller_frames_of_the_same_camera_see_the_same_directions(tmp_path: Path) -> None:
    geometry = CameraGeometry.from_calibration(write(tmp_path / "camera.yml"), mounting_deg=(1, 2, 3))
    half = geometry.for_size((320, 240))
    assert half.bearing(80, 200).direction == pytest.approx(geometry.bearing(160, 400).direction)
    with pytest.raises(UsageError, match="size is"):
        geometry.for_size((640, 360))


ROS = """image_width: 640
image_height: 480
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [500, 0, 322, 0, 505, 236, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.38, 0.19, 0.001, -0.0012, -0.05]}
"""


def test_the_calibration_of_ros_is_the_same(tmp_path: Path) -> None:
    ros = tmp_path / "front.yaml"
    ros.write_text(ROS)
    own = CameraGeometry.from_calibration(write(tmp_path / "camera.yml"))
    assert CameraGeometry.from_calibration(ros) == own
    ros.write_text(ROS.replace("plumb_bob", "equidistant").replace(", -0.05]", "]"))
    assert CameraGeometry.from_calibration(ros).fisheye


@pytest.mark.parametrize("suffix", [".yml", ".xml", ".json"])
def test_every_format_of_opencv_is_read(suffix: str, tmp_path: Path) -> None:
    geometry = CameraGeometry.from_calibration(write(tmp_path / f"kamera-ä{suffix}", None))
    assert (geometry.size, geometry.focal, geometry.center) == (SIZE, (500, 505), (322.5, 236.5))
    assert geometry.distortion == ()


@pytest.mark.parametrize(
    "text",
    [
        "", "not a calibration", "%YAML:1.0\n---\ncamera_matrix: [1,2", '{"a":', "\0\xff",
        "%YAML:1.0\n---\ncamera_matrix: !!opencv-matrix\n   rows: 3000000\n   cols: 300000\n   dt: d\n   data: [1]\n",
        "%YAML:1.0\n---\ncamera_matrix: 5\nimage_width: abc\n",
        "%YAML:1.0\n---\ncamera_matrix: {data: [a, b, c, d, e, f, g, h, i]}\nimage_width: 640\nimage_height: 480\n",
        ROS.replace("500", ".nan"), ROS.replace("500", "-500"), ROS.replace("640", "0"),
        ROS.replace("image_height", "height"), ROS.replace("[500, 0", "[500, 3"), ROS.replace("-0.38", "-9e9"),
    ],
)  # fmt: skip
def test_a_bad_calibration_names_its_file(text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "camera.yml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"camera\.yml"):
        CameraGeometry.from_calibration(path)
    assert capfd.readouterr().err == ""


def test_a_calibration_that_is_not_there_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        CameraGeometry.from_calibration(tmp_path / "camera.yml")
    (tmp_path / "large.yml").write_bytes(b"a" * (2**20 + 1))
    with pytest.raises(DataError, match="too large"):
        CameraGeometry.from_calibration(tmp_path / "large.yml")


def test_a_distortion_that_turns_back_in_the_corner_is_refused() -> None:
    with pytest.raises(DataError, match="corner"):
        CameraGeometry(SIZE, (300, 300), (320, 240), (-0.5, 0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"size": (0, 480)}, "size"),
        ({"focal": (500, math.nan)}, "focal"),
        ({"center": (1, math.inf)}, "center"),
        ({"distortion": (1.0,)}, "distortion"),
        ({"distortion": (0.1,) * 5, "fisheye": True}, "distortion"),
        ({"mounting_deg": (0, 0)}, "mounting_deg"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, Any], name: str) -> None:
    values: dict[str, Any] = {"size": SIZE, "focal": (500, 500), "center": (320, 240), **wrong}
    with pytest.raises(UsageError, match=name):
        CameraGeometry(**values)


def test_wrong_arguments_are_named() -> None:
    geometry = CameraGeometry.from_hfov(60, SIZE)
    box = Box(10, 10, 20, 20)
    for call in (
        lambda: CameraGeometry.from_hfov(180, SIZE),
        lambda: geometry.bearing(math.nan, 0),
        lambda: geometry.distance_m(box),
        lambda: geometry.distance_m(box, width_m=1, height_m=1),
        lambda: geometry.distance_m(box, height_m=0),
    ):
        with pytest.raises(UsageError):
            call()
