"""What several kinds of source share: refusals in the same words, and outputs gathered image by image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloc.errors import UsageError

__all__ = ["answer_each", "refuse_weights"]


def refuse_weights(path: str, weights: str | None) -> None:
    """Raise UsageError when a file that holds its own weights was given others."""
    if weights is not None:
        raise UsageError(f"{path} holds its own weights: leave --weights out")


def answer_each(
    images: NDArray[np.float32], call: Callable[[NDArray[np.float32]], Mapping[str, Any]]
) -> dict[str, NDArray[np.float32]]:
    """The outputs of `call` on each image, as a batch of one, put together by name: float32 (n, ...)."""
    answers = [call(np.ascontiguousarray(image[np.newaxis])) for image in images]
    return {name: np.concatenate([np.asarray(answer[name], np.float32) for answer in answers]) for name in answers[0]}
