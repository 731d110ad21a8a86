"""How images are spread over groups, and where frames come from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeloc.benchmarks.latency import ImageSource, SceneSource, TwiceSource
from edgeloc.data import Sample
from edgeloc.data.sample import spread
from edgeloc.errors import DataError
from edgeloc.types import Pixels


def blank() -> Pixels:
    return np.zeros((8, 8, 3), np.uint8)


def broken() -> Pixels:
    raise DataError("this image is damaged")


def samples(*sizes: int) -> list[Sample]:
    places = [(group, index) for group, size in enumerate(sizes) for index in range(size)]
    return [Sample(f"{group}-{index}", (), f"clip{group}", read=blank) for group, index in places]


def test_spread_takes_alike_from_each_group_and_what_small_ones_lack_from_the_others() -> None:
    taken = spread(samples(100, 3, 50), 23)
    assert Counter(sample.group for sample in taken) == {"clip0": 10, "clip1": 3, "clip2": 10}


def test_spread_is_even_within_a_group_and_keeps_the_order() -> None:
    names = [sample.name for sample in spread(samples(100), 4)]
    assert names == ["0-12", "0-37", "0-62", "0-87"]


def test_fewer_than_groups() -> None:
    assert len({sample.group for sample in spread(samples(5, 5, 5, 5, 5), 3)}) == 3


@pytest.mark.parametrize("limit", [None, 9, 10])
def test_no_limit_takes_all(limit: int | None) -> None:
    assert len(spread(samples(4, 5), limit)) == 9


@pytest.mark.parametrize("limit", range(30))
def test_exactly_as_many_as_asked_for(limit: int) -> None:
    taken = spread(samples(1, 9, 4, 30), limit)
    assert len({sample.name for sample in taken}) == limit


def test_images_in_turn_without_end() -> None:
    source = ImageSource("data", samples(3))
    assert all(source.grab().shape == (8, 8, 3) for _ in range(7))


def test_a_damaged_image_stops_or_is_skipped() -> None:
    some = [*samples(3), Sample("bad", read=broken)]
    with pytest.raises(DataError, match="damaged"):
        ImageSource("data", some)
    assert ImageSource("data", some, skip_bad=True).skipped == ["bad"]
    with pytest.raises(DataError, match="no image"):
        ImageSource("data", some[-1:], skip_bad=True)


def test_scenes_are_frames_of_their_own() -> None:
    source = SceneSource((64, 48))
    frame = source.grab()
    assert frame.shape == (48, 64, 3)
    frame[:] = 0
    later = [source.grab() for _ in range(32)]
    assert later[-1].any()


def test_two_models_in_turn_see_each_frame_untouched() -> None:
    once = SceneSource((64, 48))
    expected = [once.grab() for _ in range(3)]
    source = TwiceSource(SceneSource((64, 48)))
    for frame in expected:
        for _ in range(2):
            grabbed = source.grab()
            assert (grabbed == frame).all()
            grabbed[:] = 0  # as drawing does
