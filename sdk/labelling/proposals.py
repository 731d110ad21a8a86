"""What a model proposes for an image: found now, or read from the `.jsonl` of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edgeloc._support.json import parse_json
from edgeloc.data.collecting import number
from edgeloc.errors import DataError
from edgeloc.labelling.images import Image
from edgeloc.localizer import Localizer
from edgeloc.types import Box, LabelledBox, Pixels

__all__ = ["ModelProposals", "Proposal", "RunProposals"]

# Where nothing else is known of the threshold.
_USUAL_THRESHOLD = 0.5


class Proposal(NamedTuple):
    """What may be in an image.

    Attributes:
        objects: boxes in pixels, each with its class, None where that is not known.
        margin: how far the score nearest to the threshold of presence is from it, 0 to 1; small where it was close.
    """

    objects: tuple[LabelledBox, ...]
    margin: float


class ModelProposals:
    """What a model finds in an image's pixels, when it is asked; errors are those of `Localizer`.

    Attributes:
        classes: the names of the classes that it knows.
    """

    def __init__(self, model: str | Path) -> None:
        self._localizer = Localizer(model)
        self.classes = self._localizer.contract.labels

    def __call__(self, image: Image, pixels: Pixels) -> Proposal:
        """Run the model."""
        result = self._localizer(pixels)
        scores = [result.presence, *(found.score for found in result.objects)]
        objects = tuple(LabelledBox(found.box, found.label) for found in result.objects if found.box is not None)
        return Proposal(objects, _margin(scores, self._localizer.contract.thresholds.presence))


class RunProposals:
    """What a run has written, line by line: by the image's file name, or the number of a video's frame.

    An image that the run does not have comes last, without a proposal.

    Attributes:
        classes: the labels that are met in it, sorted.

    Raises DataError for a line that no run wrote, by its number.
    """

    def __init__(self, path: Path) -> None:
        lines = list(_lines(path))
        self._lines = {line.key: line for line in lines}
        self.classes = tuple(sorted({label for line in lines for _, label in line.objects if label is not None}))
        self._threshold = _threshold(lines)

    def __call__(self, image: Image, pixels: Pixels) -> Proposal:
        """Look it up."""
        line = self._lines.get(image.path.name) or self._lines.get(image.sequence)
        if line is None:
            return Proposal((), 1.0)
        return Proposal(line.objects, _margin(line.scores, self._threshold))


class _Line(NamedTuple):
    key: str | int  # the file's name, or the frame's number
    present: bool
    scores: list[float]  # of presence and of each object
    objects: tuple[LabelledBox, ...]


def _lines(path: Path) -> Iterator[_Line]:
    for count, text in enumerate(path.read_bytes().splitlines(), 1):
        where = f"{path}:{count}"
        try:
            yield _line(parse_json(text), where)
        except DataError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{where}: this is no line of a run", hint="give what --sink FILE.jsonl wrote") from None


def _line(record: dict[str, Any], where: str) -> _Line:
    objects, scores = [], [number(record["presence"], where, "presence")]
    for one in record["objects"]:
        scores.append(number(one["score"], where, "score"))
        if one["box"] is not None:
            x1, y1, x2, y2 = (number(edge, where, "box") for edge in one["box"])
            objects.append(LabelledBox(Box(x1, y1, x2, y2), one["label"]))
    file = record.get("file")
    return _Line(int(record["sequence"]) if file is None else Path(file).name, bool(scores[1:]), scores, tuple(objects))


def _threshold(lines: list[_Line]) -> float:
    """Between the lowest score that the run took for an object, and the highest that it did not."""
    nearest = [min((min(line.scores) for line in lines if line.present), default=None)]
    nearest += [max((max(line.scores) for line in lines if not line.present), default=None)]
    known = [score for score in nearest if score is not None]
    return sum(known) / len(known) if known else _USUAL_THRESHOLD


def _margin(scores: list[float], threshold: float) -> float:
    return min(abs(score - threshold) for score in scores)
