"""Made scenes as a data set, `synthetic[?seed=0&count=1000&size=300x300&split=val]`; they are drawn elsewhere."""

from __future__ import annotations

from functools import partial
from urllib.parse import parse_qsl

from edgeloc.data.sample import Dataset, Sample
from edgeloc.errors import DataError
from edgeloc.scenes import SCENE_LABELS, SceneGenerator
from edgeloc.types import Pixels

__all__ = ["is_synthetic", "read"]

_LARGEST = 4096
_SPLITS = ("train", "val", "test")
_OPTIONS = {"seed": "0", "count": "1000", "size": "300x300", "split": ""}


def is_synthetic(uri: str) -> bool:
    """Whether this names made scenes; a folder of that name is `./synthetic`."""
    return uri.split("?")[0] in ("synthetic", "synthetic:", "synthetic://")


def read(uri: str, *, split: str | None = None) -> Dataset:
    """The scenes of a seed; no two splits, nor two seeds, share one. Without a split they are those of train."""
    options = _options(uri)
    split = split or options["split"] or None
    if split not in (None, *_SPLITS):
        raise DataError(f"{uri}: there is no split {split!r}; found: {', '.join(_SPLITS)}")
    seed, count = _whole(uri, "seed", options["seed"], 0), _whole(uri, "count", options["count"], 1)
    generator = SceneGenerator(seed * len(_SPLITS) + _SPLITS.index(split or "train"), _size(uri, options["size"]))
    samples = tuple(_sample(generator, index) for index in range(count))
    return Dataset("synthetic", uri, SCENE_LABELS, samples, (), _SPLITS, split)


def _sample(generator: SceneGenerator, index: int) -> Sample:
    box, label = generator.truth(index)
    return Sample(f"scene-{index:06d}", box, label, read=partial(_pixels, generator, index))


def _pixels(generator: SceneGenerator, index: int) -> Pixels:
    return generator.scene(index).pixels


def _options(uri: str) -> dict[str, str]:
    given = parse_qsl(uri.partition("?")[2], keep_blank_values=True)
    for name, _ in given:
        if name not in _OPTIONS:
            raise DataError(f"{uri}: there is no option {name!r}; known are: {', '.join(_OPTIONS)}")
    return _OPTIONS | dict(given)


def _whole(uri: str, name: str, text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise DataError(f"{uri}: {name}={text} must be a whole number of {least} or more")
    return int(text)


def _size(uri: str, text: str) -> tuple[int, int]:
    sides = [int(side) if side.isdecimal() and len(side) <= 4 else 0 for side in text.split("x")]
    if len(sides) != 2 or not all(32 <= side <= _LARGEST for side in sides):
        raise DataError(f"{uri}: size={text} must be a width and a height in pixels, 32 to {_LARGEST}, such as 300x300")
    return sides[0], sides[1]
