"""Search and follow: a localizer that, once the tracker has the object, looks closer at where it will be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from edgeloc.errors import UsageError
from edgeloc.loop.tracking import Tracker
from edgeloc.model.contract import Contract
from edgeloc.types import Box, Detection, Frame, Result

__all__ = ["Follower"]

# Both are measured in docs/measurements/tracking.md. From closer the centre is found no better, and boxes fit worse.
_SIDES = 12
_VIEWS = 10


class Follower:
    """Looks for the object in the whole frame and, once the tracker has it, around where it will be.

        tracker = Tracker(localizer.contract)
        follower = Follower(localizer, tracker)
        track = tracker(frame, follower(frame))

    The view around the object has the shape of the model's input and at least its size in pixels, so that nothing is
    enlarged; the object fills at most a twelfth of its width and height. The whole frame is looked at while the object
    is lost or too large for such a view, after a view that does not show it, and after ten views in a row, which ends a
    track of something else. A frame costs one inference, as without.

    Parameters:
        localizer: a Localizer, or a function from a Frame to a Result that has a `contract` as well.
        tracker: the one that is given each frame and its result afterwards.

    Not for use from two threads at once. Raises UsageError for a localizer without a contract.
    """

    def __init__(self, localizer: Callable[[Frame], Result], tracker: Tracker) -> None:
        contract: Contract | None = getattr(localizer, "contract", None)
        if contract is None:
            what = "following needs the size of the localizer's input, and this localizer has no contract"
            raise UsageError(what, hint="give it a `contract`, as a Localizer has")
        self.contract, self.engine = contract, getattr(localizer, "engine", None)
        self._localizer, self._tracker = localizer, tracker
        self._views, self._missed = 0, False

    def __call__(self, frame: Frame) -> Result:
        """The object in the frame, its box in pixels of the whole of it; errors are those of the localizer."""
        view = self._view(frame)
        if view is None:
            self._views, self._missed = 0, False
            return self._localizer(frame)
        x, y, width, height = view
        pixels = frame.pixels[y : y + height, x : x + width]
        result = self._localizer(dataclasses.replace(frame, pixels=pixels, truth=None))
        self._views, self._missed = self._views + 1, not result.present
        objects, candidates = (
            tuple(_moved(found, x, y) for found in several) for several in (result.objects, result.candidates)
        )
        return dataclasses.replace(result, objects=objects, candidates=candidates)

    def _view(self, frame: Frame) -> tuple[int, int, int, int] | None:
        """The part of the frame to look at: x, y, width and height in pixels; None for the whole."""
        box = self._tracker.next_box
        if box is None or self._missed or self._views >= _VIEWS:
            return None
        wanted = self.contract.input
        scale = max(1.0, _SIDES * box.width / wanted.width, _SIDES * box.height / wanted.height)
        width, height = round(scale * wanted.width), round(scale * wanted.height)
        frame_height, frame_width = frame.pixels.shape[:2]
        if width >= frame_width or height >= frame_height:
            return None
        x, y = box.center
        return _start(x, width, frame_width), _start(y, height, frame_height), width, height


def _start(center: float, length: int, whole: int) -> int:
    """Where a span around `center` begins, inside of [0, whole]."""
    return round(min(max(center - length / 2, 0), whole - length))


def _moved(found: Detection, x: int, y: int) -> Detection:
    """What was found in a view, in pixels of the frame that the view begins at (x, y) of."""
    if found.box is None:
        return found
    x1, y1, x2, y2 = found.box
    return dataclasses.replace(found, box=Box(x1 + x, y1 + y, x2 + x, y2 + y))
