"""Where an image's channels stand in a network's input; moves nothing itself."""

from __future__ import annotations

from collections.abc import Sequence

from edgeloc.contract import InputSpec
from edgeloc.errors import ModelError

__all__ = ["channels_first", "image_shape"]


def image_shape(spec: InputSpec, *, first: bool = False) -> tuple[int, int, int, int]:
    """The shape of one image: (1, height, width, channels), or with `first` (1, channels, height, width)."""
    channels = 1 if spec.color == "gray" else 3
    return (1, channels, spec.height, spec.width) if first else (1, spec.height, spec.width, channels)


def channels_first(shape: Sequence[int | None], image: Sequence[int], name: str) -> bool:
    """Whether the input of `shape` (None where a size is open) takes its channels before height and width.

    `image` is one image as the contract has it, (1, height, width, channels). Raises ModelError
    when the input takes no single image of that size, in either order, and when it would take both.
    """
    last = tuple(image)
    first = (last[0], last[3], last[1], last[2])
    fits_first, fits_last = _fits(shape, first), _fits(shape, last)
    shown = f"({', '.join('?' if size is None else str(size) for size in shape)})"
    if not fits_first and not fits_last:
        raise ModelError(
            f"{name} takes {shown}, the contract's image is {last} or, channels first, {first}: "
            "correct the contract's size and colour, or export the network for one image of that size"
        )
    if fits_first and fits_last:
        raise ModelError(
            f"{name} takes {shown}, which does not tell channels from height and width: "
            "export it with these sizes fixed"
        )
    return fits_first


def _fits(shape: Sequence[int | None], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(have in (None, want) for have, want in zip(shape, wanted, strict=True))
