"""Region, flips and rotation of a live camera: what is seen, where the truth is, what the camera is asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeloc import Box, Frame, UsageError, open_camera
from edgeloc.cameras.view import View
from edgeloc.errors import CameraError
from edgeloc.types import LabelledBox

FAKE = "fake://?seed=4&size=64x48&fps=100&frames=3"


def frame_with(box: Box | None, width: int = 64, height: int = 48) -> Frame:
    """Black, with white where the box is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    if box is not None:
        x1, y1, x2, y2 = map(int, box)
        pixels[y1:y2, x1:x2] = 255
    return Frame(pixels, 1.0, 7, truth=() if box is None else (LabelledBox(box, "nut"),))


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("region", [None, (10, 5, 40, 30)])
def test_the_truth_stays_on_the_object(rotate: int, flips: tuple[bool, bool], region: tuple[int, ...] | None) -> None:
    view = View(region, *flips, rotate)  # type: ignore[arg-type]
    seen = view(frame_with(Box(12, 8, 20, 25)), "camera")
    assert seen.pixels.shape[1::-1] == view.size((64, 48), "camera")
    assert seen.truth is not None and seen.truth[0].label == "nut" and seen.sequence == 7
    x1, y1, x2, y2 = map(int, seen.truth[0].box)
    assert (seen.pixels[y1:y2, x1:x2] == 255).all()
    assert (seen.pixels == 255).all(axis=2).sum() == (x2 - x1) * (y2 - y1) == 8 * 17


def test_clockwise_is_clockwise() -> None:
    # At the top right, and after a quarter to the right at the bottom right.
    seen = View(rotate=90)(frame_with(Box(60, 0, 64, 4)), "camera")
    assert seen.truth == (LabelledBox(Box(44, 60, 48, 64), "nut"),)


def test_a_region_cuts_each_object_or_leaves_it_out() -> None:
    view = View((0, 0, 20, 20))
    cut, outside, whole = (
        LabelledBox(Box(*edges), None) for edges in ((10, 10, 40, 40), (30, 30, 40, 40), (1, 2, 3, 4))
    )
    frame = frame_with(None)
    seen = view(dataclasses.replace(frame, truth=(cut, outside, whole)), "camera")
    assert seen.truth == (LabelledBox(Box(10, 10, 20, 20), None), whole)
    assert view(dataclasses.replace(frame, truth=(outside,)), "camera").truth == ()
    assert view(dataclasses.replace(frame, truth=None), "camera").truth is None


def test_frames_own_their_memory() -> None:
    frame = frame_with(Box(1, 1, 5, 5))
    for view in (View((0, 0, 64, 48)), View(hflip=True), View(rotate=90)):
        seen = view(frame, "camera").pixels
        assert not np.shares_memory(seen, frame.pixels) and seen.flags["C_CONTIGUOUS"] and seen.flags["WRITEABLE"]


def test_a_live_camera_takes_the_options_of_its_uri() -> None:
    # However late the second camera is read: both show the same picture.
    still = FAKE.replace("frames=3", "freeze=0:60")
    with open_camera(still) as plain, open_camera(f"{still}&rotate=90&hflip=1") as turned:
        before, after = plain.read(), turned.read()
        assert before is not None and after is not None
        assert turned.size == (48, 64)
        assert (after.pixels == np.rot90(before.pixels[:, ::-1], -1)).all()
    with open_camera(f"{FAKE}&region=8,4,32,16&reconnect=0") as part:
        frame = part.read()
        assert frame is not None and frame.pixels.shape == (16, 32, 3) and part.size == (32, 16)


def test_the_camera_is_asked_for_what_the_model_takes_after_turning() -> None:
    assert View(rotate=90).wanted((320, 192)) == (192, 320)
    assert View(rotate=180).wanted((320, 192)) == (320, 192)
    assert View((0, 0, 10, 10)).wanted((320, 192)) is None
    assert View().wanted(None) is None


def test_a_region_beyond_the_frame_names_both() -> None:
    wrong = "gives 64x48: the region 40,0,32,16 is not within that; give region=X,Y"
    with pytest.raises(CameraError, match=wrong):
        open_camera(f"{FAKE}&region=40,0,32,16")
    with pytest.raises(CameraError, match=wrong):
        View((40, 0, 32, 16))(frame_with(None), "camera")


@pytest.mark.parametrize("option", ["rotate=45", "hflip=yes", "region=1,2,3", "region=0,0,0,5", "region=-1,0,5,5"])
def test_wrong_options_are_named(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        open_camera(f"{FAKE}&{option}")


def test_what_belongs_to_a_network_camera_stays_in_its_address() -> None:
    from edgeloc.cameras.base import parse_uri

    uri = parse_uri("http://host:80/stream?channel=1&rotate=90&token=a")
    assert uri.path == "host:80/stream?channel=1&token=a"
    assert dict(uri.query) == {"rotate": "90"}
