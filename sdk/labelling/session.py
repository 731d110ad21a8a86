"""A session of labelling: what is to be labelled, in which order, and what the page asks for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from edgeloc._support.numbers import finite
from edgeloc.errors import DataError, UsageError
from edgeloc.findings import Finding, report
from edgeloc.labelling.images import Image
from edgeloc.labelling.labels import LabelFile
from edgeloc.labelling.proposals import Proposal
from edgeloc.loop.draw import as_jpeg
from edgeloc.types import Box, LabelledBox, Pixels

__all__ = ["LabelSession"]

logger = logging.getLogger(__name__)

_WITHOUT_NAMES = "object"
# What the page shows is no larger; boxes are in the pixels of the file.
_LONGEST_SIDE = 2048
_QUALITY = 90
_MOST_OBJECTS = 300
_LEAST_SIDE = 1.0  # pixels
_REPORT_EVERY = 100


class LabelSession:
    """The images that are labelled, then the others, with the least certain proposal first.

    Parameters:
        labels: the file, with what was labelled before. Where it has no classes, it gets those of the model.
        images: what is to be labelled.
        propose: what a model finds in one of them; it is asked now, about those that are not labelled.
        known: the names of the model's classes.

    Raises DataError where no image can be read; one that cannot is left out, with a finding.
    """

    def __init__(
        self,
        labels: LabelFile,
        images: list[Image],
        propose: Callable[[Image, Pixels], Proposal],
        known: tuple[str, ...],
    ) -> None:
        self.labels = labels
        if not labels.classes:
            labels.add_classes(known or (_WITHOUT_NAMES,))
        done = {os.path.realpath(one.path) for one in labels.images.values()}
        self._proposals = _propose([one for one in images if os.path.realpath(one.path) not in done], propose)
        self._images = {name: Image(name, one.path) for name, one in labels.images.items()}
        ordered = sorted(self._proposals, key=lambda one: self._proposals[one].margin)
        self._images |= {image.name: image for image in ordered}
        if not self._images:
            raise DataError("none of the images can be read")

    @property
    def counts(self) -> tuple[int, int]:
        """How many images are labelled, and how many there are."""
        return len(self.labels.images), len(self._images)

    def state(self) -> dict[str, Any]:
        """The classes, and the images in their order, each with whether it is labelled."""
        images = [{"name": name, "saved": name in self.labels.images} for name in self._images]
        return {"classes": self.labels.classes, "file": str(self.labels.path), "images": images}

    def image(self, name: str) -> dict[str, Any] | None:
        """An image's size, and what it holds as far as is known; None where there is none of that name.

        DataError where its file is gone or damaged.
        """
        image = self._images.get(name)
        if image is None:
            return None
        width, height = _size(image.pixels())
        labelled = self.labels.images.get(name)
        objects = self._proposals[image].objects if labelled is None else labelled.objects
        boxes = [
            {"box": [round(float(edge), 2) for edge in box], "label": self._class(label)} for box, label in objects
        ]
        return {"name": name, "width": width, "height": height, "saved": labelled is not None, "objects": boxes}

    def _class(self, label: str | None) -> str:
        """One of the classes, whatever its case: a model may know others."""
        known = {name.lower(): name for name in self.labels.classes}
        return known.get((label or "").lower(), self.labels.classes[0])

    def picture(self, name: str) -> bytes | None:
        """An image as JPEG, for the page; None where there is none of that name. DataError as for `image`."""
        image = self._images.get(name)
        if image is None:
            return None
        pixels = image.pixels()
        scale = _LONGEST_SIDE / max(pixels.shape[:2])
        if scale < 1:
            smaller = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            pixels = np.asarray(smaller, np.uint8)
        return as_jpeg(pixels, _QUALITY)

    def save(self, name: str, objects: Any) -> tuple[int, int] | None:
        """Put what a user has confirmed on the disk; the counts after it, None where there is no image of that name.

        `objects` is a list, each with `box`, four numbers in pixels, and `label`, one of the classes.

        UsageError where it is not, OutputError where it cannot be written.
        """
        image = self._images.get(name)
        if image is None:
            return None
        size = _size(image.pixels())
        boxes = self._checked(objects, size)
        image.keep()
        self.labels.save(name, image.path, size, boxes)
        return self.counts

    def _checked(self, objects: Any, size: tuple[int, int]) -> list[LabelledBox]:
        if not isinstance(objects, list) or len(objects) > _MOST_OBJECTS:
            raise UsageError(f"the objects are no list of at most {_MOST_OBJECTS}")
        return [self._object(one, size) for one in objects]

    def _object(self, given: Any, size: tuple[int, int]) -> LabelledBox:
        try:
            label, (x1, y1, x2, y2) = given["label"], map(finite, given["box"])
        except (KeyError, TypeError, ValueError):
            raise UsageError("an object is no box of four numbers with a label") from None
        if label not in self.labels.classes:
            raise UsageError(f"{label!r} is none of the classes: {', '.join(self.labels.classes)}")
        box = _within(Box(x1, y1, x2, y2), size)
        if min(box.width, box.height) < _LEAST_SIDE:
            raise UsageError("a box has less than a pixel within the image")
        return LabelledBox(box, label)


def _propose(images: list[Image], propose: Callable[[Image, Pixels], Proposal]) -> dict[Image, Proposal]:
    proposals, bad = {}, list[str]()
    for count, image in enumerate(images, 1):
        try:
            pixels = image.pixels()
            found = propose(image, pixels)
            proposals[image] = found._replace(objects=_savable(found.objects, _size(pixels)))
        except DataError:
            bad.append(image.name)
        if count % _REPORT_EVERY == 0 and count < len(images):
            logger.info("looked at %d of %d images", count, len(images))
    if bad:
        message = f"{len(bad)} of the images cannot be read and were left out, the first: {bad[0]}"
        report(logger, Finding("images-skipped", "warning", message, "replace or remove them"))
    return proposals


def _savable(objects: Sequence[LabelledBox], size: tuple[int, int]) -> tuple[LabelledBox, ...]:
    """The boxes of a proposal that can be accepted as they are: what is proposed and not seen could not be removed."""
    within = [found._replace(box=_within(found.box, size)) for found in objects]
    return tuple(one for one in within if min(one.box.width, one.box.height) >= _LEAST_SIDE)[:_MOST_OBJECTS]


def _within(box: Box, size: tuple[int, int]) -> Box:
    return Box(max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, float(size[0])), min(box.y2, float(size[1])))


def _size(pixels: Pixels) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]
