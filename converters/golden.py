"""Makes the self-test that a model file carries: a generated picture and what the model answers on it."""

from __future__ import annotations

import numpy as np

from edgeloc.errors import ModelError
from edgeloc.localizer import Localizer
from edgeloc.modelfile import Golden
from edgeloc.scenes import SceneGenerator

__all__ = ["make_golden"]

_CANDIDATES = 16
_SIZE = (160, 120)


def make_golden(localizer: Localizer) -> Golden:
    """Of a few generated scenes the one that the model is surest about; ModelError where it answers no numbers."""
    scenes = SceneGenerator(seed=0, size=_SIZE)
    pictures = [scenes.scene(index).pixels for index in range(_CANDIDATES)]
    result, pixels = max(((localizer(pixels), pixels) for pixels in pictures), key=lambda answer: answer[0].presence)
    if not np.isfinite(result.presence):
        raise ModelError("the converted model answers with numbers that are not finite")
    return Golden(pixels, result.presence, result.box, result.label)
