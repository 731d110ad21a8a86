"""The values that flow through the package: box, frame, detection, result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Box",
    "Detection",
    "Frame",
    "LabelledBox",
    "Pixels",
    "Result",
    "largest",
]

Pixels: TypeAlias = "NDArray[np.uint8]"

_NO_CLASSES: NDArray[np.float32] = np.zeros(0, np.float32)


class Box(NamedTuple):
    """An axis-aligned box by its corners, in pixels of the image it belongs to.

    The origin is the image's top-left corner, x grows to the right, y downwards; edges are real
    numbers, so a box that covers the whole of a 640x480 frame is (0, 0, 640, 480).
    """

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """Width in pixels; 0 where the corners are inverted."""
        return max(0.0, self.x2 - self.x1)

    @property
    def height(self) -> float:
        """Height in pixels; 0 where the corners are inverted."""
        return max(0.0, self.y2 - self.y1)

    @property
    def center(self) -> tuple[float, float]:
        """The middle, x and y in pixels."""
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height

    def scaled(self, factor: float) -> Box:
        """The same box in the image resized by this factor."""
        return Box(*(edge * factor for edge in self))

    def iou(self, other: Box) -> float:
        """Intersection over union with another box of the same image, 0 to 1 (0 if both are empty)."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        if width <= 0 or height <= 0:
            return 0.0
        overlap = width * height
        return overlap / (self.area + other.area - overlap)


class LabelledBox(NamedTuple):
    """One object as it was labelled: its box in pixels of the image, and its class, None where there is none."""

    box: Box
    label: str | None = None


def largest(objects: Iterable[LabelledBox]) -> LabelledBox | None:
    """The object with the largest box, the first among equals; None where there is none."""
    return max(objects, key=lambda found: found.box.area, default=None)


@dataclass(frozen=True, slots=True)
class Frame:
    """One image from a camera, and when its exposure began.

    Parameters:
        pixels: uint8 (height, width, 3) in BGR.
        captured_at: when its exposure began, seconds of `time.monotonic()`.
        sequence: the frame's number, from 0, dropped ones included.
        truth: the objects that the frame shows, boxes in pixels, where that is known (a generated or labelled frame):
            none in one that is empty. None where it is not known.
        file: the name of the image that it was read from, in a folder of images or a data set; None elsewhere.
    """

    pixels: Pixels
    captured_at: float
    sequence: int
    truth: tuple[LabelledBox, ...] | None = None
    file: str | None = None

    @property
    def age_ms(self) -> float:
        """Milliseconds from the frame's capture until now."""
        return (time.monotonic() - self.captured_at) * 1000


class _Deferring:
    """What a detection computes its class scores with, when they are first asked for."""

    __slots__ = ("_class_scores",)
    _class_scores: Callable[[], NDArray[np.float32]]


# Neither this nor Result is frozen: behind a network that has emptied the caches, making them would take twice as long.
@dataclass(slots=True)
class Detection(_Deferring):
    """One object in one frame. Sinks share it: treat it as a value.

    Parameters:
        box: in pixels of the full frame, clipped to it; None where the model gives no box.
        score: the probability, 0 to 1, that the object is there.
        label: the most probable class; None where the model has no classes, or where the class is less probable than
            the contract's label threshold. The number of a class that has no label in the contract ("17").
        class_scores: the probabilities of the classes, float32 (K,), in the order of the contract's labels.
    """

    box: Box | None
    score: float
    label: str | None = None
    class_scores: NDArray[np.float32] = field(default_factory=lambda: _NO_CLASSES, compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        """For another process, with the class scores computed."""
        return Detection, (self.box, self.score, self.label, self.class_scores)

    @classmethod
    def deferred(
        cls, box: Box | None, score: float, label: str | None, class_scores: Callable[[], NDArray[np.float32]]
    ) -> Detection:
        """A detection whose class scores are computed when they are first read: most frames need none."""
        made = object.__new__(cls)
        made.box, made.score, made.label = box, score, label
        made._class_scores = class_scores
        return made

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Of an attribute that is not there: the deferred class scores."""
            if name != "class_scores":
                raise AttributeError(f"a Detection has no {name!r}")
            self.class_scores = scores = self._class_scores()
            return scores

    @property
    def label_score(self) -> float | None:
        """The probability of `label`, 0 to 1; None without a label, and for a class that has none in the contract."""
        return float(self.class_scores.max()) or None if self.label is not None and self.class_scores.size else None


@dataclass(slots=True)
class Result:
    """What the model answered on one frame. Sinks share it: treat it as a value.

    The properties are those of the best object: `Result()` is a frame with nothing in it.

    Parameters:
        objects: the objects that are present, best first: those whose score reaches the contract's presence threshold.
        rejected: the best candidate of a frame in which none reaches it; its box is not decoded (None).
        candidates: what does not reach it, best first, where the localizer was asked for it (`candidates_from`): no
            answer by itself, but enough for a `Tracker` to find an object again that it follows.
    """

    objects: tuple[Detection, ...] = ()
    rejected: Detection | None = None
    candidates: tuple[Detection, ...] = ()

    @property
    def present(self) -> bool:
        """Whether the frame holds an object."""
        return bool(self.objects)

    @property
    def presence(self) -> float:
        """The probability, 0 to 1, that the frame holds an object: the score of its best candidate, present or not."""
        best = self._best
        return 0.0 if best is None else best.score

    @property
    def box(self) -> Box | None:
        """The best object's box in pixels of the full frame; None when nothing is present."""
        return self.objects[0].box if self.objects else None

    @property
    def label(self) -> str | None:
        """The best object's class; None when nothing is present or the class is not sure enough."""
        return self.objects[0].label if self.objects else None

    @property
    def class_scores(self) -> NDArray[np.float32]:
        """The class probabilities of the best candidate, present or not, float32 (K,)."""
        best = self._best
        return _NO_CLASSES if best is None else best.class_scores

    @property
    def _best(self) -> Detection | None:
        return self.objects[0] if self.objects else self.rejected
