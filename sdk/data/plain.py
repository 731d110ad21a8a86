"""A folder of images about which nothing is known: enough to calibrate on, not to measure with."""

from __future__ import annotations

from pathlib import Path

from edgeloc.data.collecting import Collector
from edgeloc.data.images import IMAGE_SUFFIXES
from edgeloc.data.sample import Dataset
from edgeloc.errors import DataError

__all__ = ["find", "read"]


def find(root: Path) -> list[Path]:
    """`root` where it is an image or a folder with images in it, however deep."""
    return [root] if next(iter(_images(root)), None) else []


def read(root: Path, *, split: str | None = None, skip_bad: bool = False) -> Dataset:
    """The images by their names; DataError where a split is asked for, since a folder has none."""
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
