"""What of a localizer's work is done on the next frame while the network is busy with this one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray

from edgeloc.localizer import Localizer
from edgeloc.loop.slot import Captured, Prepare
from edgeloc.preprocess import Placement, Preprocessor
from edgeloc.types import Frame, Result

__all__ = ["prepared_ahead"]

Localize = Callable[[Frame], Result]


def prepared_ahead(localizer: Localize) -> Prepare:
    """Frames are preprocessed ahead, in the thread that calls this; what is left is the network and the decoding.

    Of a function of one's own, and of a `Follower`, whose view depends on the last answer, all is left.
    """
    if type(localizer) is Localizer:
        return _Preprocessing(localizer)
    return lambda frame: Captured(frame, partial(localizer, frame))


class _Preprocessing:
    """Preprocesses with memory of its own, since the localizer may be called for other images meanwhile."""

    def __init__(self, localizer: Localizer) -> None:
        self._localizer, spec = localizer, localizer.contract.input
        tensor = localizer.engine.inputs[spec.tensor]
        self._preprocessor = Preprocessor(spec, tensor.dtype, tensor.scale, tensor.zero_point)

    def __call__(self, frame: Frame) -> Captured:
        tensor, placement = self._preprocessor(frame.pixels)
        # The next frame's is made in the same memory while this one waits.
        return Captured(frame, partial(self._answer, tensor.copy(), placement, frame))

    def _answer(self, tensor: NDArray[Any], placement: Placement, frame: Frame) -> Result:
        height, width = frame.pixels.shape[:2]
        return self._localizer.decode(self._localizer.invoke(tensor), placement, (width, height))
