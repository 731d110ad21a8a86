"""Opens a data set in whichever format it is; reads images without labels and generated scenes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

from edgeloc._support.numbers import whole
from edgeloc.data.collecting import Collector
from edgeloc.data.images import IMAGE_SUFFIXES
from edgeloc.data.sample import Dataset, Sample
from edgeloc.errors import DataError
from edgeloc.types import Pixels

if TYPE_CHECKING:
    from edgeloc.scenes import SceneGenerator

__all__ = ["is_synthetic", "open_dataset"]

_LARGEST = 4096
_SCENE_SPLITS = ("train", "val", "test")
# Each scene's truth is made when the data set is opened, which takes about 0.5 ms.
_SEED, _COUNT, _OBJECTS = whole(0), whole(1, 100_000), whole(1, 16)
_SCENE_OPTIONS = {"seed": "0", "count": "1000", "size": "300x300", "split": "", "objects": "1"}


class _Format(NamedTuple):
    name: str
    find: Callable[[Path], list[Path]]
    read: Callable[..., Dataset]
    sign: str  # how it is recognised, for the error


def open_dataset(uri: str | Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """Read a labelled data set in whichever format its files have: JSON lines, COCO, Pascal VOC, YOLO or CSV.

    Images are not decoded here: a damaged one raises DataError from `Sample.load()`. A folder of images alone gives
    samples that are not labelled.

    Parameters:
        uri: a folder, an annotation file, or `synthetic[?seed=0&count=1000&size=300x300&objects=1&split=val]`.
        split: the part to read, by the name that the format gives it; None for all.
        skip_bad: leave out the images of bad rows, and count them in `Dataset.findings`.

    Raises DataError where nothing is there to read, where several formats fit, for an unknown split, and for a bad
    row, by its file, line (or record) and field.
    """
    if is_synthetic(str(uri)):
        return _read_scenes(str(uri), split)
    root = Path(uri)
    if not root.exists():
        raise DataError(f"the data set {root} does not exist: give a folder, an annotation file, or synthetic")
    found = _found(root)
    if len(found) > 1:
        names = " or ".join(f"{entry.name} ({path})" for entry, path in found)
        raise DataError(f"{root} could be read as {names}: give the path of the one to read")
    entry, path = found[0]
    try:
        return entry.read(path, split=split, skip_bad=skip_bad)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _formats() -> tuple[_Format, ...]:
    """Those with labels; their modules are loaded when a data set is opened."""
    signs = {
        "JSON lines": ("jsonlines", "*.jsonl"),
        "COCO": ("coco", "annotations/*.json"),
        "Pascal VOC": ("voc", "Annotations/*.xml"),
        "YOLO": ("yolo", "labels/*.txt with classes.txt or data.yaml"),
        "CSV": ("table", "*.csv with the columns file,x1,y1,x2,y2,label"),
    }
    modules = {name: import_module(f"edgeloc.data.{module}") for name, (module, _) in signs.items()}
    return tuple(_Format(name, module.find, module.read, signs[name][1]) for name, module in modules.items())


def _found(root: Path) -> list[tuple[_Format, Path]]:
    """Each format that fits what is there, with what it reads; DataError where none does."""
    labelled, images = _formats(), _Format("images", _find_images, _read_images, "images alone")
    try:
        # Every labelled set has images in it: only where nothing else is found are they all there is.
        for formats in (labelled, (images,)):
            found = [(entry, path) for entry in formats for path in entry.find(root)]
            if found:
                return found
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror or error}") from error
    known = "; ".join(f"{entry.name}: {entry.sign}" for entry in (*labelled, images))
    raise DataError(f"{root} holds no data set of a known format, nor images; known are: {known}")


def _find_images(root: Path) -> list[Path]:
    """`root` where it is an image or a folder with images in it, however deep."""
    return [root] if _images(root) else []


def _read_images(root: Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """The images by their names; DataError where a split is given, since a folder has none."""
    if split is not None:
        raise DataError(f"{root} holds images alone, without labels: it has no split {split!r}")
    folder = root if root.is_dir() else root.parent
    collector = Collector(folder, skip_bad)
    for path in _images(root):
        collector.add_unlabelled(path)
    return collector.dataset(folder.resolve().name, ())


def _images(root: Path) -> list[Path]:
    paths = sorted(root.rglob("*")) if root.is_dir() else [root]
    return [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def is_synthetic(uri: str) -> bool:
    """Whether this names generated scenes; a folder of that name is `./synthetic`."""
    return uri.split("?")[0] in ("synthetic", "synthetic:", "synthetic://")


def _read_scenes(uri: str, split: str | None) -> Dataset:
    """The scenes of a seed; no two splits, nor two seeds, share one. Without a split they are those of train."""
    from edgeloc.scenes import SCENE_LABELS, SceneGenerator  # other data sets need none of it

    options = _scene_options(uri)
    split = split or options["split"] or None
    if split not in (None, *_SCENE_SPLITS):
        raise DataError(f"{uri}: there is no split {split!r}; found: {', '.join(_SCENE_SPLITS)}")
    seed, count = _option(uri, "seed", options["seed"], _SEED), _option(uri, "count", options["count"], _COUNT)
    number = seed * len(_SCENE_SPLITS) + _SCENE_SPLITS.index(split or "train")
    objects = _option(uri, "objects", options["objects"], _OBJECTS)
    generator = SceneGenerator(number, _size(uri, options["size"]), objects)
    samples = tuple(_scene(generator, index) for index in range(count))
    return Dataset("synthetic", uri, SCENE_LABELS, samples, (), _SCENE_SPLITS, split)


def _scene(generator: SceneGenerator, index: int) -> Sample:
    return Sample(f"scene-{index:06d}", generator.truth(index), read=partial(_pixels, generator, index))


def _pixels(generator: SceneGenerator, index: int) -> Pixels:
    return generator.scene(index).pixels


def _scene_options(uri: str) -> dict[str, str]:
    given = parse_qsl(uri.partition("?")[2], keep_blank_values=True)
    for name, _ in given:
        if name not in _SCENE_OPTIONS:
            raise DataError(f"{uri}: there is no option {name!r}; known are: {', '.join(_SCENE_OPTIONS)}")
    return _SCENE_OPTIONS | dict(given)


def _option(uri: str, name: str, text: str, parse: Callable[[str], int]) -> int:
    try:
        return parse(text)
    except ValueError as error:
        raise DataError(f"{uri}: {name}={text[:40]} must be {error}") from None


def _size(uri: str, text: str) -> tuple[int, int]:
    sides = [int(side) if side.isdecimal() and len(side) <= 4 else 0 for side in text.split("x")]
    if len(sides) != 2 or not all(32 <= side <= _LARGEST for side in sides):
        raise DataError(f"{uri}: size={text} must be a width and a height in pixels, 32 to {_LARGEST}, such as 300x300")
    return sides[0], sides[1]
