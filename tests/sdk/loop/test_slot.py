"""The newest-frame slot: the newest frame wins, drops are counted, and ends reach the one who waits."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgeloc.errors import CameraError
from edgeloc.loop.slot import NewestSlot
from edgeloc.types import Frame


def frame(sequence: int, captured_at: float = 0.0) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), captured_at, sequence)


def taken(slot: NewestSlot[Frame], after: float = float("-inf")) -> Frame:
    found = slot.take(0.0, after=after)
    assert found is not None
    return found


def test_the_newest_frame_is_taken_and_the_others_count_as_dropped() -> None:
    slot = NewestSlot[Frame]()
    for sequence in range(4):
        slot.put(frame(sequence))
    assert taken(slot).sequence == 3
    assert slot.dropped == 3


def test_an_empty_slot_times_out() -> None:
    with pytest.raises(TimeoutError, match="no frame"):
        NewestSlot().take(0.0)


def test_no_frame_is_taken_twice() -> None:
    slot = NewestSlot[Frame]()
    slot.put(frame(0))
    taken(slot)
    with pytest.raises(TimeoutError):
        slot.take(0.0)


def test_a_frame_captured_before_the_wanted_time_is_dropped() -> None:
    slot = NewestSlot[Frame]()
    slot.put(frame(0, captured_at=1.0))
    with pytest.raises(TimeoutError):
        slot.take(0.0, after=2.0)
    slot.put(frame(1, captured_at=2.0))
    assert taken(slot, after=2.0).sequence == 1
    assert slot.dropped == 1


def test_the_last_frame_comes_before_the_end() -> None:
    slot = NewestSlot[Frame]()
    slot.put(frame(7))
    slot.end()
    assert taken(slot).sequence == 7
    assert slot.take(0.0) is None


def test_the_last_frame_comes_before_the_failure_of_the_capturing_side() -> None:
    slot = NewestSlot[Frame]()
    slot.put(frame(7))
    slot.fail(CameraError("unplugged"))
    assert taken(slot).sequence == 7
    with pytest.raises(CameraError, match="unplugged"):
        slot.take(0.0)


def test_close_wakes_the_waiter_and_forgets_the_frame() -> None:
    slot = NewestSlot[Frame]()
    answers: list[Frame | None] = []
    waiter = threading.Thread(target=lambda: answers.append(slot.take(30.0)))
    waiter.start()
    slot.close()
    waiter.join(10.0)
    assert answers == [None]
    slot.put(frame(0))
    assert slot.take(0.0) is None


def test_a_frame_put_by_another_thread_wakes_the_waiter() -> None:
    slot = NewestSlot[Frame]()
    answers: list[Frame | None] = []
    waiter = threading.Thread(target=lambda: answers.append(slot.take(30.0)))
    waiter.start()
    slot.put(frame(5))
    waiter.join(10.0)
    assert [one.sequence for one in answers if one] == [5]
