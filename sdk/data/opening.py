"""Which format a data set is in, found from what lies there; how each format is read is its own module's."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from edgeloc.data.sample import Dataset
from edgeloc.errors import DataError

__all__ = ["open_dataset"]


class _Format(NamedTuple):
    name: str
    module: str
    sign: str  # how it is recognised, for the error


_FORMATS = (
    _Format("JSON lines", "edgeloc.data.jsonlines", "*.jsonl"),
    _Format("COCO", "edgeloc.data.coco", "annotations/*.json"),
    _Format("Pascal VOC", "edgeloc.data.voc", "Annotations/*.xml"),
    _Format("YOLO", "edgeloc.data.yolo", "labels/*.txt with classes.txt or data.yaml"),
    _Format("CSV", "edgeloc.data.table", "*.csv with the columns file,x1,y1,x2,y2,label"),
)
# Every labelled set has images in it: only where nothing else is found are they all there is.
_LAST = _Format("images", "edgeloc.data.plain", "images alone")


def open_dataset(uri: str | Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """Read a labelled data set; which format it is in is found from its files.

    `uri` is a folder, an annotation file, or `synthetic[?seed=0&count=1000&size=300x300&split=val]`.
    `split` takes one part of it, by the name the format gives it. A bad row raises DataError naming
    file, line (or record) and field; with `skip_bad` its image is left out, counted and told in
    `Dataset.notes`. A folder of images alone gives samples that are not labelled. Images are not
    decoded here: a damaged one raises DataError from `Sample.load()`.
    """
    synthetic = import_module("edgeloc.data.synthetic")
    if synthetic.is_synthetic(str(uri)):
        made: Dataset = synthetic.read(str(uri), split=split)
        return made
    root = Path(uri)
    if not root.exists():
        raise DataError(f"the data set {root} does not exist: give a folder, an annotation file, or synthetic")
    found = [pair for entry in _FORMATS for pair in _candidates(entry, root)] or list(_candidates(_LAST, root))
    if not found:
        known = "; ".join(f"{entry.name}: {entry.sign}" for entry in (*_FORMATS, _LAST))
        raise DataError(f"{root} holds no data set of a known format, nor images; known are: {known}")
    if len(found) > 1:
        names = " or ".join(f"{entry.name} ({path})" for entry, path in found)
        raise DataError(f"{root} could be read as {names}: give the path of the one to read")
    entry, path = found[0]
    try:
        dataset: Dataset = _module(entry).read(path, split=split, skip_bad=skip_bad)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return dataset


def _candidates(entry: _Format, root: Path) -> list[tuple[_Format, Path]]:
    try:
        return [(entry, path) for path in _module(entry).find(root)]
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror or error}") from error


def _module(entry: _Format) -> Any:
    return import_module(entry.module)
