"""COCO's average precision: against the definition written out, on crowded images and on draws of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from edgeloc.errors import MissingExtra
from edgeloc.evaluation.average_precision import AveragePrecision
from edgeloc.types import Box, Detection, LabelledBox

LABELS = ("bolt", "nut")
Truths = list[list[LabelledBox]]
Answers = list[list[Detection]]


def crowd(seed: int, images: int = 6) -> tuple[Truths, Answers]:
    """Overlapping objects of two classes; answers are moved, doubled, missing, of another class or made up."""
    rng = np.random.default_rng(seed)
    truths: Truths = []
    found: Answers = []
    for image in range(images):
        objects = [LabelledBox(_box(rng), LABELS[rng.integers(2)]) for _ in range(0 if image == 0 else 12)]
        answers = [
            Detection(_moved(item.box, rng), float(rng.uniform(0.02, 1)), item.label if rng.random() < 0.9 else "nut")
            for item in objects
            for _ in range(rng.integers(0, 3))
        ]
        answers += [Detection(_box(rng), float(rng.uniform(0.02, 0.6)), LABELS[rng.integers(2)]) for _ in range(4)]
        truths.append(objects)
        found.append(sorted(answers, key=lambda one: -one.score))
    return truths, found


def _box(rng: np.random.Generator) -> Box:
    x, y, width, height = rng.uniform((0, 0, 8, 8), (80, 80, 40, 40))
    return Box(x, y, x + width, y + height)


def _moved(box: Box, rng: np.random.Generator) -> Box:
    x, y = rng.normal(0, 2, 2)
    return Box(box.x1 + x, box.y1 + y, box.x2 + x, box.y2 + y)


def written_out(truths: Truths, found: Answers, label: str, least: float) -> float:
    """Answers by score, each given the free object of its image that it overlaps most; precision at 101 recalls."""
    objects = [[item.box for item in items if item.label == label] for items in truths]
    answers = [(one, image) for image, items in enumerate(found) for one in items if one.label == label]
    taken: set[tuple[int, int]] = set()
    hits = []
    for one, image in sorted(answers, key=lambda answer: -answer[0].score):
        assert one.box is not None
        free = [(one.box.iou(box), (image, i)) for i, box in enumerate(objects[image]) if (image, i) not in taken]
        iou, place = max(free, default=(0.0, (0, 0)))
        hits.append(iou >= least)
        taken |= {place} if iou >= least else set()
    right = np.cumsum(hits)
    recall, precision = right / sum(map(len, objects)), right / np.arange(1, len(hits) + 1)
    best = [precision[recall >= wanted].max(initial=0.0) for wanted in np.linspace(0, 1, 101)]
    return float(np.mean(best))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_definition(seed: int) -> None:
    pytest.importorskip("pycocotools")
    truths, found = crowd(seed)
    figures = AveragePrecision(truths, found).figures()
    levels = np.linspace(0.5, 0.95, 10)
    expected = {label: [written_out(truths, found, label, least) for least in levels] for label in LABELS}
    assert figures.by_class == pytest.approx({label: np.mean(values) for label, values in expected.items()}, abs=1e-9)
    assert figures.ap == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    assert figures.ap50 == pytest.approx(np.mean([values[0] for values in expected.values()]), abs=1e-9)
    assert figures.ap is not None and 0.05 < figures.ap < 0.6


def test_a_draw_of_images_counts_each_as_often_as_it_was_drawn() -> None:
    pytest.importorskip("pycocotools")
    truths, found = crowd(5)
    drawn = np.array([3, 0, 3, 1, 3, 5])
    measured = AveragePrecision(truths, found)
    again = AveragePrecision([truths[i] for i in drawn], [found[i] for i in drawn])
    assert measured.figures(drawn) == again.figures()
    assert measured.figures() == AveragePrecision(truths, found).figures()


def test_a_class_that_no_drawn_image_holds_is_no_zero() -> None:
    pytest.importorskip("pycocotools")
    truths = [[LabelledBox(Box(0, 0, 9, 9), "bolt")], [LabelledBox(Box(0, 0, 9, 9), "nut")]]
    found = [[Detection(Box(0, 0, 9, 9), 0.9, "bolt")], []]
    measured = AveragePrecision(truths, found)
    assert measured.figures().ap == pytest.approx(0.5)
    assert measured.figures(np.array([0, 0])).by_class == {"bolt": pytest.approx(1)}
    assert AveragePrecision([[]], [[]]).figures().ap is None


def test_at_most_a_hundred_answers_of_an_image_count() -> None:
    pytest.importorskip("pycocotools")
    truths = [[LabelledBox(Box(0, 0, 9, 9), "bolt")]]
    false = [Detection(Box(50 + i, 50, 60 + i, 60), 0.9, "bolt") for i in range(100)]
    late: Sequence[Detection] = [*false, Detection(Box(0, 0, 9, 9), 0.8, "bolt")]
    assert AveragePrecision(truths, [late]).figures().ap == 0
    assert AveragePrecision(truths, [late[1:]]).figures().ap == pytest.approx(0.01)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(MissingExtra, match=r"measuring average precision.*edgeloc\[bench\]"):
        AveragePrecision([[]], [[]])
