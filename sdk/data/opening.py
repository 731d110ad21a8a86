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
    wants: str  # how it is recognised, for the error


_FORMATS = (_Format("JSON lines", "edgeloc.data.jsonlines", "manifest.jsonl"),)


def open_dataset(uri: str | Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """Read a labelled data set; which format it is in is found from its files.

    `uri` is a folder, an annotation file, or `synthetic[?seed=1&count=1000&size=300x300]`. `split`
    takes one part of it, by the name the format gives it. A bad row raises DataError naming file,
    line and field; with `skip_bad` it is left out, counted and told in `Dataset.notes`. Images
    are not decoded here: a damaged one raises DataError from `Sample.load()`.
    """
    root = Path(uri)
    if not root.exists():
        raise DataError(f"the data set {root} does not exist: give a folder, an annotation file or synthetic")
    found = _candidates(root)
    if len(found) > 1:
        names = " or ".join(f"{entry.name} ({path})" for entry, path, _ in found)
        raise DataError(f"{root} could be read as {names}: give the path of the one to read")
    if not found:
        known = ", ".join(f"{entry.name} ({entry.wants})" for entry in _FORMATS)
        raise DataError(f"{root} holds no data set of a known format; known are: {known}")
    _, path, module = found[0]
    dataset: Dataset = module.read(path, split=split, skip_bad=skip_bad)
    return dataset


def _candidates(root: Path) -> list[tuple[_Format, Path, Any]]:
    found = []
    for entry in _FORMATS:
        module = import_module(entry.module)
        path = module.find(root)
        if path is not None:
            found.append((entry, path, module))
    return found
