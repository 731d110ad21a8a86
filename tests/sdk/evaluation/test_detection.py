"""What quantization costs a detector: average precision, matched boxes, recall and false ones on hand-made answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgeloc.evaluation.detection import DetectionRegression, DetectionRow, Found, detection_figures, match
from edgeloc.types import Box, LabelledBox

pytest.importorskip("pycocotools")

TRUTH = (LabelledBox(Box(10, 10, 50, 50), "nut"), LabelledBox(Box(60, 10, 90, 40), "bolt"))
Answers = Sequence[tuple[tuple[float, float, float, float], float, str | None]]
PERFECT: Answers = [((10, 10, 50, 50), 0.9, "nut"), ((60, 10, 90, 40), 0.8, "bolt")]


def objects(found: Answers) -> tuple[Found, ...]:
    return tuple(Found(Box(*box), score, label) for box, score, label in found)


def row(
    after: Answers,
    before: Answers = PERFECT,
    truth: tuple[LabelledBox, ...] = TRUTH,
    name: str = "a",
    group: str | None = None,
) -> DetectionRow:
    return DetectionRow(name, group, 100, 100, truth, objects(before), objects(after))


def figures(*rows: DetectionRow) -> DetectionRegression:
    return detection_figures(rows, 0.5, 0.5)


def test_the_same_answers_cost_nothing() -> None:
    found = figures(row(PERFECT), row(PERFECT, name="b"))
    assert (found.precision_float.ap, found.precision_quantized.ap, found.drop) == (1, 1, 0)
    assert (found.all.recall_quantized, found.all.box_iou, found.false_quantized, found.agreement) == (1, 1, 0, 1)
    assert found.precision_quantized.by_class == {"bolt": 1, "nut": 1}
    assert found.drop_ci95 == (0, 0)


@pytest.mark.parametrize(
    ("after", "ap", "ap50", "recall", "false", "iou"),
    [
        # One of two classes is missed.
        (PERFECT[:1], 0.5, 0.5, 0.5, 0, 1),
        # An IoU of 32 / 40 = 0.8 passes seven of the ten thresholds (0.50 to 0.80).
        ([((18, 10, 50, 50), 0.9, "nut"), PERFECT[1]], 0.85, 1, 1, 0, 0.9),
        # A second box of the same object, less sure, is a false one behind all true ones.
        ([*PERFECT, ((10, 10, 50, 49), 0.7, "nut")], 1, 1, 1, 1 / 3, 1),
        # A false alarm that is surer than the object halves the precision of its class.
        ([((0, 60, 20, 90), 0.95, "nut"), *PERFECT], 0.75, 0.75, 1, 1 / 3, 1),
        # Another class is no hit, and there is nothing of that class to be found twice.
        ([((10, 10, 50, 50), 0.9, "bolt"), PERFECT[1]], 0.25, 0.25, 0.5, 0.5, 1),
        # Below the threshold it counts for average precision alone.
        ([PERFECT[0], ((60, 10, 90, 40), 0.3, "bolt")], 1, 1, 0.5, 0, 1),
        ([], 0, 0, 0, None, None),
    ],
)  # fmt: skip
def test_each_mistake_costs_what_it_should(
    after: Answers, ap: float, ap50: float, recall: float, false: float | None, iou: float | None
) -> None:
    found = figures(row(after))
    assert (found.precision_quantized.ap, found.precision_quantized.ap50) == pytest.approx((ap, ap50), abs=0.006)
    assert (found.all.recall_float, found.all.recall_quantized) == (1, recall)
    assert (found.false_quantized, found.all.box_iou) == (pytest.approx(false), pytest.approx(iou))


def test_a_class_that_changes_shows_in_the_agreement() -> None:
    found = figures(row([((10, 10, 50, 50), 0.9, "bolt"), PERFECT[1]]))
    assert found.agreement == 0.5


def test_an_image_without_an_object_makes_what_is_found_there_false() -> None:
    found = figures(row(PERFECT), row([PERFECT[0]], before=[], truth=(), name="empty"))
    assert found.false_float == 0 and found.false_quantized == pytest.approx(1 / 3)
    assert (found.precision_float.by_class["nut"], found.precision_quantized.by_class["nut"]) == pytest.approx((1, 1))


def test_without_labels_the_float_model_is_the_truth() -> None:
    unsure = ((0, 60, 20, 90), 0.2, "nut")
    found = figures(row(PERFECT[:1], before=[*PERFECT, unsure], truth=()))
    assert not found.labelled and found.all.objects == 2
    assert found.precision_float.ap == pytest.approx(1) and found.all.recall_quantized == 0.5


def test_objects_are_told_apart_by_size_and_class() -> None:
    small = LabelledBox(Box(2, 2, 8, 8), "nut")
    found = figures(row(PERFECT, before=[*PERFECT, ((2, 2, 8, 8), 0.9, "nut")], truth=(*TRUTH, small)))
    assert (found.by_size["small"].objects, found.by_size["small"].recall_quantized) == (1, 0)
    assert (found.by_size["medium"].objects, found.by_size["medium"].recall_quantized) == (1, 1)
    assert (found.by_class["nut"].recall_quantized, found.by_class["bolt"].recall_quantized) == (0.5, 1)


def test_the_image_that_lost_most_comes_first() -> None:
    moved = [((18, 10, 50, 50), 0.9, "nut"), PERFECT[1]]
    found = figures(row(PERFECT, name="fine"), row(moved, name="moved"), row(PERFECT[1:], name="lost"))
    assert [image.name for image in found.worst] == ["lost", "moved", "fine"]
    assert (found.worst[0].lost, found.worst[0].found, found.worst[1].box_iou) == (1, 2, pytest.approx(0.9))


def test_frames_of_one_clip_make_the_interval_wider() -> None:
    """Whole clips are drawn: one of four lost everything, in all its frames."""
    rows = [
        row([] if clip == 0 else PERFECT, name=f"{clip}-{i}", group=f"clip{clip}")
        for clip in range(4)
        for i in range(10)
    ]
    alone = [row([] if clip == 0 else PERFECT, name=f"{clip}-{i}") for clip in range(4) for i in range(10)]
    by_clip, by_image = figures(*rows), figures(*alone)
    assert (by_clip.ci_by, by_clip.ci_groups, by_image.ci_by) == ("group", 4, "image")
    assert by_clip.drop_ci95 is not None and by_image.drop_ci95 is not None
    assert by_clip.drop_ci95[1] - by_clip.drop_ci95[0] > 1.5 * (by_image.drop_ci95[1] - by_image.drop_ci95[0])


def test_of_one_clip_at_most_three_images_are_shown() -> None:
    lost = [row(PERFECT[1:], name=f"lost-{i}", group="clip") for i in range(5)]
    found = figures(*lost, row(PERFECT, name="fine", group="other"))
    assert [image.name for image in found.worst] == ["lost-0", "lost-1", "lost-2", "fine"]


def test_without_classes_in_the_data_any_box_finds_an_object() -> None:
    bare = tuple(item._replace(label=None) for item in TRUTH)
    found = figures(row(PERFECT, truth=bare))
    assert (found.precision_quantized.ap, found.all.recall_quantized, found.false_quantized) == (1, 1, 0)
    assert found.rows[0].after[0].label == "nut" and found.by_class == {}


def test_a_model_without_classes_finds_objects_of_any() -> None:
    bare = [(box, score, None) for box, score, _ in PERFECT]
    found = figures(row(bare, before=bare), row([], before=bare, name="b"))
    assert (found.precision_float.ap, found.all.recall_float, found.all.recall_quantized) == (1, 1, 0.5)


def test_a_box_that_is_no_number_is_no_row() -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        row([((0, 0, float("nan"), 9), 0.9, "nut")])


def test_nobody_is_matched_twice() -> None:
    box, near, far = Box(0, 0, 10, 10), Box(0, 0, 10, 9), Box(50, 50, 60, 60)
    assert match([box, near], [near, far]) == [(0, pytest.approx(0.9)), None]
    assert match([box, near], [near, box]) == [(1, 1.0), (0, 1.0)]
    assert match([box], [box, box]) == [(0, 1.0)]
    assert match([], [box]) == [] and match([box], []) == [None]


def test_no_images_are_no_figures() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        detection_figures([], 0.5, 0.5)
