"""Whether a converted network still answers as the original: both on the same images, output by output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeloc.contract import InputSpec
from edgeloc.converters.sources.base import Source
from edgeloc.converters.sources.common import answer_each
from edgeloc.engines import open_engine
from edgeloc.errors import ModelError
from edgeloc.modelfile import ModelFile

__all__ = ["check_same", "flatbuffer_answer"]

# Of an output's spread over the images, and of its largest number: two float32 networks that do
# the same sums in another order stay a hundred times below; a wrong layout is far above.
_OF_SPREAD = 1e-3
_OF_LARGEST = 1e-4


def check_same(source: Source, flatbuffer: bytes, spec: InputSpec, images: NDArray[np.float32]) -> float:
    """Raise ModelError when the float32 flatbuffer and its source disagree; the largest difference, as a share.

    `images` is float32 (n, height, width, channels), normalized as `spec` says; a few real scenes
    do, blank or equal images show no layout. An output may differ by a thousandth of its spread
    over the images and a ten-thousandth of its largest number. The result is the largest difference
    of any output in units of what is allowed.
    """
    original = source.answer(images)
    converted = flatbuffer_answer(flatbuffer, source.name, spec, images)
    worst = 0.0
    for name, expected in original.items():
        if name not in converted:
            raise ModelError(
                f"{source.name}: the converted network lost the output {name}; it has {', '.join(converted)}"
            )
        worst = max(worst, _compare(source.name, name, expected, converted[name]))
    return worst


def flatbuffer_answer(
    flatbuffer: bytes, name: str, spec: InputSpec, images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """What a float32 flatbuffer says of each image, as (n, ...) by output; `name` is for errors."""
    engine = open_engine("auto", ModelFile(Path(name), flatbuffer, verified=True))
    if list(engine.inputs) != [spec.tensor]:
        raise ModelError(f"{name}: the converted network's input is {', '.join(engine.inputs)}, not {spec.tensor}")
    return answer_each(images, engine.invoke)


def _compare(model: str, output: str, expected: NDArray[np.float32], got: NDArray[np.float32]) -> float:
    if expected.shape != got.shape:
        raise ModelError(
            f"{model}: the output {output} is {expected.shape[1:]} in the original and {got.shape[1:]} after conversion"
        )
    if not np.isfinite(expected).all() or not np.isfinite(got).all():
        where = "original" if not np.isfinite(expected).all() else "converted network"
        raise ModelError(f"{model}: the {where} answers {output} with numbers that are not finite")
    difference = float(np.abs(expected - got).max())
    largest = float(np.abs(expected).max())
    allowed = _OF_SPREAD * float(np.ptp(expected, axis=0).max()) + _OF_LARGEST * max(largest, 1e-6)
    if difference > allowed:
        raise ModelError(
            f"{model}: after conversion the output {output} differs by up to {difference:.3g} (allowed {allowed:.2g}, "
            f"its largest number is {largest:.3g}): the conversion is wrong, most often in the image's layout"
        )
    return difference / allowed
