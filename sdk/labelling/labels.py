"""The COCO file that labelling writes, an image at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgeloc._support.files import require_writable, write_durably
from edgeloc._support.json import parse_json
from edgeloc.data import coco
from edgeloc.errors import OutputError, UsageError
from edgeloc.types import Box, LabelledBox

__all__ = ["LabelFile", "Labelled"]

_DIGITS = 2  # of a pixel


class Labelled(NamedTuple):
    """A labelled image: its file, and the objects in it, boxes in pixels; none is an answer too."""

    path: Path
    objects: tuple[LabelledBox, ...]


class LabelFile:
    """A COCO file, read where it is there already; when `save` returns, the image's labels are on the disk.

    What it holds beside boxes (crowds, segments, licences) stays as it is; of an image that is saved again, its boxes
    are replaced.

    Parameters:
        path: the file, ending in .json.
        classes: the names of classes, added behind those that the file has.

    Attributes:
        images: what is labelled, by the image's name in the file, in the file's order.

    Raises UsageError for another ending, DataError where the file is there and is bad, or lacks an image, OutputError
    where it cannot be written.
    """

    def __init__(self, path: Path, classes: Iterable[str] = ()) -> None:
        if path.suffix != ".json":
            raise UsageError(f"the labels {path} would be a COCO file, whose name ends in .json", hint="give {out} so")
        require_writable(path)
        self.path = path
        self._content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        self.images: dict[str, Labelled] = {}
        if path.exists():
            self._content, self.images = _read(path)
        self._stamp = _stamp(path)
        self.add_classes(classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in their order."""
        return tuple(str(one["name"]) for one in self._content["categories"])

    def add_classes(self, names: Iterable[str]) -> None:
        """Add the names that are new; they are in the file with the next image."""
        for name in names:
            if name not in self.classes:
                self._content["categories"].append({"id": _next_id(self._content["categories"]), "name": name})

    def save(self, name: str, path: Path, size: tuple[int, int], objects: Sequence[LabelledBox]) -> None:
        """Write an image's labels in place of those that it had.

        Parameters:
            name: the image's path, relative to the file's folder.
            path: the image.
            size: its (width, height) in pixels.
            objects: what it holds, each of one of the classes.

        Raises OutputError where it cannot be written, or where another program has written the file meanwhile.
        """
        if _stamp(self.path) != self._stamp:
            raise OutputError(f"{self.path} was changed by another program meanwhile", hint="end one, and start again")
        images, annotations = list(self._content["images"]), self._content["annotations"]
        image = next((one for one in images if one["file_name"] == name), None)
        if image is None:
            image = {"id": _next_id(images), "file_name": name, "width": size[0], "height": size[1]}
            images.append(image)
        kept = [one for one in annotations if one["image_id"] != image["id"] or one.get("iscrowd")]
        kept += self._annotations(image["id"], _next_id(annotations), objects)
        content = {**self._content, "images": images, "annotations": kept}
        write_durably(self.path, (json.dumps(content) + "\n").encode())
        self._content, self._stamp = content, _stamp(self.path)
        self.images[name] = Labelled(path, tuple(objects))

    def _annotations(self, image: Any, first: int, objects: Sequence[LabelledBox]) -> list[dict[str, Any]]:
        categories = {str(one["name"]): one["id"] for one in self._content["categories"]}
        return [
            {
                "id": first + number,
                "image_id": image,
                "category_id": categories[str(label)],
                "bbox": _as_coco(box),
                "area": round(box.area, _DIGITS),
                "iscrowd": 0,
            }
            for number, (box, label) in enumerate(objects)
        ]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """The file's content, and what its images hold; the project's own reader checks it, image by image."""
    dataset = coco.read(path)
    content: dict[str, Any] = parse_json(path.read_bytes())
    crowds: dict[Any, bool] = {}
    for one in content["annotations"]:
        crowds[one["image_id"]] = crowds.get(one["image_id"], True) and bool(one.get("iscrowd"))
    # The reader leaves out an image of nothing but crowds.
    names = [one["file_name"] for one in content["images"] if not crowds.get(one["id"], False)]
    return content, {
        name: Labelled(sample.path, sample.objects)
        for name, sample in zip(names, dataset, strict=True)
        if sample.path is not None
    }


def _as_coco(box: Box) -> list[float]:
    return [round(edge, _DIGITS) for edge in (box.x1, box.y1, box.width, box.height)]


def _next_id(records: list[dict[str, Any]]) -> int:
    return max((one["id"] for one in records if isinstance(one.get("id"), int)), default=0) + 1


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when another program writes the file; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
