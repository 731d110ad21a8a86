"""Detectors' raw outputs into objects: each way of making boxes and scores, thresholds on integers, selection."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgeloc.decode import Decoder
from edgeloc.decode.numbers import Quantization
from edgeloc.engines.base import TensorInfo
from edgeloc.errors import ContractError, EngineError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations, Scores, Selection
from edgeloc.model.fit import check_contract
from edgeloc.preprocess import frame_geometry
from edgeloc.types import Result

WIDTH, HEIGHT = 64, 32
SPEC = InputSpec("image", WIDTH, HEIGHT, resize="stretch")
PLACEMENT = frame_geometry(SPEC, WIDTH, HEIGHT).placement
LABELS = ("a", "b", "c")
GRID = Locations((8, 16), 0.5)
CELLS = 4 * 8 + 2 * 4


def contract(
    *outputs: OutputSpec, labels: tuple[str, ...] = LABELS, threshold: float = 0.5, **detector: Any
) -> Contract:
    return Contract(SPEC, outputs, labels=labels, thresholds=Thresholds(threshold), detector=DetectorSpec(**detector))


def detections(*parts: str, tensor: str = "out", **others: Any) -> OutputSpec:
    return OutputSpec(tensor, "detections", parts=parts, **others)


def decode(what: Contract, outputs: dict[str, Any], quantizations: dict[str, Quantization] | None = None) -> Result:
    return Decoder(what, quantizations)(outputs, PLACEMENT, (WIDTH, HEIGHT))


def boxes(result: Result) -> list[tuple[float, ...]]:
    return [tuple(round(edge, 3) for edge in one.box) for one in result.objects if one.box is not None]


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


# Of each way: locations, the box's description, the numbers, at the cell in row 1 and column 2 of the grid of 8 pixels,
# whose centre is (20, 12). The box is always 14, 8, 24, 20.
WAYS: dict[str, tuple[Locations, DetectorBox, tuple[float, ...]]] = {
    "YOLOX": (
        Locations((8, 16), 0.0), DetectorBox("cxcywh", "stride", size="exp"),
        (19 / 8 - 2, 14 / 8 - 1, np.log(10 / 8), np.log(12 / 8)),
    ),
    "FCOS": (GRID, DetectorBox("distances", "stride"), (6 / 8, 4 / 8, 4 / 8, 8 / 8)),
    "FCOS in pixels, by exp": (GRID, DetectorBox("distances", "pixels", size="exp"), tuple(np.log([6, 4, 4, 8]))),
    "SSD": (
        Locations((8, 16), 0.5, (((16, 8),), ((16, 16),))),
        DetectorBox("cxcywh", "anchor", size="exp", variances=(0.1, 0.2)),
        (-1 / 16 / 0.1, 2 / 8 / 0.1, np.log(10 / 16) / 0.2, np.log(12 / 8) / 0.2),
    ),
    "SSD, height first": (
        Locations((8, 16), 0.5, (((16, 8),), ((16, 16),))),
        DetectorBox("cycxhw", "anchor", size="exp", variances=(0.1, 0.2)),
        (2 / 8 / 0.1, -1 / 16 / 0.1, np.log(12 / 8) / 0.2, np.log(10 / 16) / 0.2),
    ),
    "BlazeFace": (GRID, DetectorBox("cxcywh", "pixels"), (-1, 2, 10, 12)),
    "YOLOv3": (
        Locations((8, 16), 0.0, (((20, 6),), ((16, 16),))), DetectorBox("cxcywh", "stride", "anchor", "sigmoid", "exp"),
        (logit(19 / 8 - 2), logit(14 / 8 - 1), np.log(0.5), np.log(2)),
    ),
    "YOLOv5": (
        Locations((8, 16), 0.0, (((20, 6),), ((16, 16),))),
        DetectorBox("cxcywh", "stride", "anchor", "wide-sigmoid", "squared-sigmoid"),
        (logit((19 / 8 - 1.5) / 2), logit((14 / 8 - 0.5) / 2), logit(np.sqrt(0.5) / 2), logit(np.sqrt(2) / 2)),
    ),
    "FastestDet": (
        Locations((8, 16), 0.0), DetectorBox("cxcywh", "stride", "fraction", "tanh", "sigmoid"),
        (np.arctanh(19 / 8 - 2), np.arctanh(14 / 8 - 1), logit(10 / 64), logit(12 / 32)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_numbers_become_a_box_as_the_family_has_it(way: str) -> None:
    locations, box, numbers = WAYS[way]
    what = contract(detections("box", "class"), locations=locations, box=box)
    rows = np.zeros((1, CELLS, 7), np.float32)
    rows[0, 10] = (*numbers, 0.1, 0.2, 0.9)
    result = decode(what, {"out": rows})
    assert boxes(result) == [pytest.approx((14, 8, 24, 20), abs=0.01)]
    assert (result.label, result.presence) == ("c", pytest.approx(0.9))


def test_a_distribution_is_its_expectation() -> None:
    what = contract(detections("class", "box"), locations=GRID, box=DetectorBox("distances", "stride", bins=4))
    rows = np.full((1, CELLS, 19), -20, np.float32)
    rows[0, 10, :3] = (0.1, 0.8, 0)
    rows[0, 10, 3:].reshape(4, 4)[range(4), (1, 0, 2, 1)] = 20
    assert boxes(decode(what, {"out": rows})) == [(12, 12, 36, 20)]


@pytest.mark.parametrize(("form", "units", "numbers"), [
    ("cxcywh", "fraction", (19 / 64, 14 / 32, 10 / 64, 12 / 32)), ("xyxy", "pixels", (14, 8, 24, 20)),
    ("yxyx", "fraction", (8 / 32, 14 / 64, 20 / 32, 24 / 64)), ("xywh", "pixels", (14, 8, 10, 12)),
])  # fmt: skip
def test_rows_that_are_boxes_by_themselves(form: Any, units: Any, numbers: Any) -> None:
    what = contract(
        detections("box", "score", "class-number"), box=DetectorBox(form, units), scores=Scores(first_class=1)
    )
    rows = np.array([[(*numbers, 0.7, 2), (0, 0, 0, 0, 0.1, 1)]], np.float32)
    result = decode(what, {"out": rows})
    assert boxes(result) == [pytest.approx((14, 8, 24, 20), abs=1e-3)]
    assert (result.label, result.objects[0].label_score) == ("b", pytest.approx(0.7))


def test_levels_parts_and_layouts_may_be_apart_or_joined() -> None:
    """The same numbers, joined and as four outputs of two layouts, give the same objects."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 1, (CELLS, 7)).astype(np.float32)
    box = DetectorBox("distances", "stride")
    joined = decode(contract(detections("box", "class"), locations=GRID, box=box), {"out": rows[np.newaxis]})
    turned = contract(detections("box", "class", layout="channels-first"), locations=GRID, box=box)
    assert decode(turned, {"out": rows.T[np.newaxis]}) == joined
    apart = contract(
        detections("box", tensor="far box", level=1), detections("class", tensor="near", level=0),
        detections("class", tensor="far", level=1, layout="channels-first"),
        detections("box", tensor="near box", level=0),
        locations=GRID, box=box,
    )  # fmt: skip
    outputs = {
        "near": rows[:32, 4:].reshape(1, 4, 8, 3), "near box": rows[:32, :4].reshape(1, 4, 8, 4),
        "far": rows[32:, 4:].T.reshape(1, 3, 2, 4), "far box": rows[32:, :4].reshape(1, 2, 4, 4),
    }  # fmt: skip
    assert decode(apart, outputs) == joined
    assert len(joined.objects) > 3


def test_anchors_of_a_cell_follow_each_other_or_all_cells_of_an_anchor_do() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (32, 2, 6)).astype(np.float32)
    box = DetectorBox("cxcywh", "anchor", size="exp")
    spoken: dict[str, Any] = {"labels": ("a", "b"), "box": box, "scores": Scores("sigmoid")}
    anchors = (((8.0, 8.0), (16.0, 8.0)),)
    inner = contract(detections("box", "class"), locations=Locations((8,), 0.5, anchors), **spoken)
    outer = contract(detections("box", "class"), locations=Locations((8,), 0.5, anchors, "anchors-first"), **spoken)
    grid = contract(
        detections("box", "class", layout="channels-first"), locations=Locations((8,), 0.5, anchors), **spoken
    )
    first = decode(inner, {"out": rows.reshape(1, 4, 8, 12)})
    assert decode(outer, {"out": rows.transpose(1, 0, 2).reshape(1, 2, 32, 6)}) == first
    assert decode(grid, {"out": rows.reshape(32, 12).T.reshape(1, 12, 4, 8)}) == first


def test_a_table_of_anchors() -> None:
    table = ((0.25, 0.5, 0.25, 0.5), (0.75, 0.5, 0.25, 0.5))
    what = contract(
        detections("box", "class"), locations=Locations(table=table), box=DetectorBox("cxcywh", "anchor", size="exp")
    )
    rows = np.array([[(0, 0, 0, 0, 0.9, 0, 0), (0.5, 0, 0, 0, 0, 0.8, 0)]], np.float32)
    assert boxes(decode(what, {"out": rows})) == [(8, 8, 24, 24), (48, 8, 64, 24)]


@pytest.mark.parametrize(
    ("scores", "parts", "numbers", "expected"),
    [
        (Scores(), ("class",), (0.2, 0.7, 0.1), (0.7, "b")),
        (Scores("sigmoid"), ("class",), (logit(0.2), logit(0.7), -9), (0.7, "b")),
        (Scores("softmax", background="first"), ("class",), (0, 2.0, 5.0, 1.0), (0.9304, "b")),
        (Scores("softmax", background="last"), ("class",), (2.0, 5.0, 1.0, 0), (0.9304, "b")),
        (Scores("softmax"), ("class",), (2.0, 5.0, 1.0), (0.9362, "b")),
        (Scores(), ("objectness", "class"), (0.8, 0.1, 0.9, 0.2), (0.72, "b")),
        (Scores("none", "sigmoid"), ("objectness", "class"), (logit(0.8), 0.1, 0.9, 0.2), (0.72, "b")),
        (Scores(powers=(0.6, 0.4)), ("objectness", "class"), (0.8, 0.1, 0.9, 0.2), (0.8**0.6 * 0.9**0.4, "b")),
        (Scores(scale=100), ("class",), (20, 70, 10), (0.7, "b")),
    ],
)
def test_numbers_become_a_score(scores: Scores, parts: Any, numbers: Any, expected: tuple[float, str]) -> None:
    what = contract(
        detections("box", *parts), locations=GRID, box=DetectorBox("distances", "stride"), scores=scores, threshold=0.6
    )
    rows = np.full((1, CELLS, 4 + len(numbers)), -9.0 if scores.activation != "none" else 0.0, np.float32)
    rows[..., 4] = -9 if scores.objectness == "sigmoid" else 9 if scores.background == "first" else rows[..., 4]
    if scores.background == "last":
        rows[..., -1] = 9
    if scores.activation == "softmax" and scores.background == "none":
        rows[..., 4:] = 0
    rows[0, 10] = (0.5, 0.5, 0.5, 0.5, *numbers)
    result = decode(what, {"out": rows})
    assert [(pytest.approx(one.score, abs=1e-4), one.label) for one in result.objects] == [expected]


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("objectness", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_thresholds_on_raw_integers_lose_and_add_nothing(activation: Any, objectness: bool, dtype: Any) -> None:
    """Against the same numbers dequantized first, at many thresholds."""
    rng = np.random.default_rng(1)
    limits, columns = np.iinfo(dtype), 4 + objectness + 3 + (activation == "softmax")
    raw = rng.integers(limits.min, limits.max + 1, (1, CELLS, columns)).astype(dtype)
    scale = 1.0 if activation == "none" else 12.0
    quantization = Quantization(scale / (limits.max - limits.min), limits.min if activation == "none" else 0)
    real = (raw.astype(np.float64) - quantization.zero_point) * np.float32(quantization.scale)
    parts = ("box", "objectness", "class") if objectness else ("box", "class")
    background: Any = "first" if activation == "softmax" else "none"
    scores = Scores(activation, "sigmoid" if objectness and activation != "none" else "none", background)
    for threshold in (0.0, 0.01, 0.2, 0.5, 0.77, 0.99, 1.0):
        what = contract(
            detections(*parts), locations=GRID, box=DetectorBox("distances", "stride"), scores=scores,
            selection=Selection("none"), threshold=threshold,
        )  # fmt: skip
        fast = decode(what, {"out": raw}, {"out": quantization})
        slow = decode(what, {"out": real.astype(np.float32)})
        assert [one.score for one in fast.objects] == pytest.approx([one.score for one in slow.objects], abs=1e-5)
        assert fast.presence == pytest.approx(slow.presence, abs=1e-5)


def overlapping(nms: Any, **others: Any) -> list[tuple[str | None, float]]:
    what = contract(
        detections("box", "score", "class-number"), box=DetectorBox("xyxy", "pixels"),
        selection=Selection(nms, 0.5, **others), threshold=0.3,
    )  # fmt: skip
    rows = [(0, 0, 20, 20, 0.6, 0), (1, 0, 21, 20, 0.9, 0), (2, 0, 22, 20, 0.7, 1), (40, 0, 60, 20, 0.5, 2)]
    result = decode(what, {"out": np.array([rows], np.float32)})
    return [(one.label, round(one.score, 3)) for one in result.objects]


def test_boxes_that_overlap_are_reduced_to_the_best() -> None:
    assert overlapping("none") == [("a", 0.9), ("b", 0.7), ("a", 0.6), ("c", 0.5)]
    assert overlapping("by-class") == [("a", 0.9), ("b", 0.7), ("c", 0.5)]
    assert overlapping("over-all") == [("a", 0.9), ("c", 0.5)]
    assert overlapping("by-class", objects=1) == [("a", 0.9)]
    assert overlapping("none", candidates=2) == [("a", 0.9), ("b", 0.7)]


def corners_kept(nms: Any, *rows: tuple[float, ...]) -> list[tuple[str | None, float]]:
    """Labels and scores of what is left of such rows: x1, y1, x2, y2 in pixels, score and class."""
    what = contract(
        detections("box", "score", "class-number"), box=DetectorBox("xyxy", "pixels"),
        selection=Selection(nms, 0.5), threshold=0.3,
    )  # fmt: skip
    result = decode(what, {"out": np.array([rows], np.float32)})
    return [(one.label, round(one.score, 3)) for one in result.objects]


def test_boxes_without_an_area_or_the_wrong_way_round_suppress_nothing_elsewhere() -> None:
    thin = [(5, 5, 5, 9, 0.9, 0), (40, 20, 40, 24, 0.8, 0), (5, 5, 5, 9, 0.7, 0)]
    assert corners_kept("over-all", *thin) == [("a", 0.9), ("a", 0.8)]
    turned = [(20, 20, 10, 10, 0.9, 0), (40, 20, 50, 30, 0.8, 0), (20, 20, 10, 10, 0.7, 0)]
    assert corners_kept("over-all", *turned) == [("a", 0.9), ("a", 0.8)]


def test_boxes_beyond_the_edges_suppress_none_of_another_class() -> None:
    rows = [(20, 22, 63, 63, 0.9, 0), (-43, -41, 8, 12, 0.8, 1)]
    assert corners_kept("by-class", *rows) == [("a", 0.9), ("b", 0.8)]


def test_cells_that_touch_are_one_object() -> None:
    what = contract(
        detections("class"), labels=("a", "b"), locations=Locations((8,)), box=DetectorBox("cell"),
        scores=Scores(background="first"), selection=Selection("merge"),
    )  # fmt: skip
    cells = np.zeros((1, 4, 8, 3), np.float32)
    cells[0, 1, 1:3, 1] = cells[0, 2, 3, 1] = 0.8
    cells[0, 0, 7, 1] = 0.9
    cells[0, 1, 4, 2] = 0.6
    result = decode(what, {"out": cells})
    assert [(one.label, one.box) for one in result.objects] == [
        ("a", (56, 0, 64, 8)), ("a", (8, 8, 32, 24)), ("b", (32, 8, 40, 16)),
    ]  # fmt: skip


def test_a_frame_with_nothing_has_its_best_candidate_without_a_box() -> None:
    what = contract(detections("box", "class"), locations=GRID, box=DetectorBox("distances", "stride"))
    rows = np.zeros((1, CELLS, 7), np.float32)
    rows[0, 3, 5] = 0.4
    result = decode(what, {"out": rows})
    assert not result.present and result.rejected is not None
    assert (result.presence, result.box) == (pytest.approx(0.4), None)
    assert result.rejected.class_scores.tolist() == pytest.approx([0, 0.4, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_and_boxes_must_be_numbers(bad: float) -> None:
    what = contract(detections("box", "class"), locations=GRID, box=DetectorBox("distances", "stride"))
    for column in (0, 4):
        rows = np.zeros((1, CELLS, 7), np.float32)
        rows[0, 5, 5] = 0.9
        rows[0, 5, column] = bad
        with pytest.raises(EngineError, match="not .*finite number"):
            decode(what, {"out": rows})


@pytest.mark.parametrize(
    ("row", "words"),
    [((0, 0, 9, 9, 17, 0), "a score of 17"), ((0, 0, 9, 9, 0.8, 0.73), "a class number of 0.73")],
)
def test_exchanged_outputs_do_not_run_silently(row: Any, words: str) -> None:
    what = contract(detections("box", "score", "class-number"), box=DetectorBox("xyxy", "pixels"))
    with pytest.raises(EngineError, match=f"{words}: the contract may have exchanged its outputs"):
        decode(what, {"out": np.array([[row]], np.float32)})


def test_boxes_are_in_order_and_within_the_frame() -> None:
    what = contract(detections("box", "class"), locations=GRID, box=DetectorBox("distances", "pixels"))
    rows = np.zeros((1, CELLS, 7), np.float32)
    rows[0, 0] = (99, -2, 10, 1, 0.9, 0, 0)
    assert boxes(decode(what, {"out": rows})) == [(0, 5, 14, 6)]


@pytest.mark.parametrize(
    ("outputs", "detector", "words"),
    [
        ((detections("class"),), {"locations": GRID}, "the part box is missing"),
        ((detections("box"),), {"locations": GRID}, "class, score or objectness is missing"),
        ((detections("box", "score"),), {"locations": GRID}, "there are 3 labels, but no part class or class-number"),
        ((detections("box", "class", "class"),), {"locations": GRID}, "class is given twice"),
        ((detections("box", "class", "score"),), {"locations": GRID}, "score does not go with class"),
        ((detections("box", "class", level=0),), {"locations": GRID}, "the locations have 2"),
        (
            (detections("box", "class"), detections("box", "class", tensor="more", level=0)), {"locations": GRID},
            "some have a level",
        ),
        ((detections("box", "class"),), {"box": DetectorBox("distances")}, "needs strides, or a table"),
        ((detections("box", "class"),), {"box": DetectorBox("cxcywh", "stride")}, "'stride'.* without strides"),
        ((detections("box", "class"),), {"locations": GRID, "box": DetectorBox("xyxy")}, "edges do not start from"),
        ((detections("box", "class"),), {"selection": Selection("merge")}, "'merge' is for the cells"),
    ],
)  # fmt: skip
def test_a_description_that_contradicts_itself_is_refused(outputs: Any, detector: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        Decoder(contract(*outputs, **detector))


def test_a_contract_of_the_first_schema_is_read_as_one_of_today() -> None:
    """There, SSDs and YOLOs were roles of their own."""
    ssd = """{"schema_version": 1, "input": {"tensor": "image", "width": 64, "height": 32}, "labels": ["a", "b", "c"],
        "outputs": [{"tensor": "b", "role": "ssd-boxes"}, {"tensor": "c", "role": "ssd-classes"},
                    {"tensor": "s", "role": "ssd-scores"}, {"tensor": "n", "role": "ssd-count"}],
        "box": {"form": "yxyx", "objects": 1}}"""
    what = Contract.from_json(ssd)
    outputs = {
        "b": [[(0, 0, 1, 0.5), (0, 0, 1, 1), (0, 0, 0.5, 1)]],
        "c": [[2, 0, 1]],
        "s": [[0.9, 0.8, 0.7]],
        "n": [3],
    }
    result = decode(what, {name: np.array(values, np.float32) for name, values in outputs.items()})
    assert [one.label for one in result.objects] == ["c", "a", "b"] and boxes(result)[0] == (0, 0, 32, 32)
    yolo = """{"schema_version": 1, "input": {"tensor": "image", "width": 64, "height": 32}, "labels": ["a", "b"],
        "outputs": [{"tensor": "y", "role": "yolo", "activation": "sigmoid"}],
        "box": {"form": "cxcywh", "units": "pixels"}}"""
    what = Contract.from_json(yolo)
    rows = np.array([[(20, 10), (9, 16), (10, 4), (12, 4), (-9, 2), (-9, -9)]], np.float32)
    result = decode(what, {"y": rows})
    assert boxes(result) == [(8, 14, 12, 18)] and result.label == "a"
    assert Contract.from_json(what.to_json()) == what


def test_a_contract_goes_through_json() -> None:
    locations, box, _ = WAYS["YOLOv5"]
    what = contract(detections("box", "objectness", "class"), locations=locations, box=box, scores=Scores("sigmoid"))
    assert Contract.from_json(what.to_json()) == what
    table = dataclasses.replace(what, detector=DetectorSpec(Locations(table=((0.1, 0.2, 0.3, 0.4),))))
    assert Contract.from_json(table.to_json()) == table


def test_outputs_whose_shapes_are_open_or_absent_are_taken_on_trust() -> None:
    """As those of TFLite_Detection_PostProcess are in the file."""
    what = contract(
        detections("box", tensor="b"), detections("score", tensor="s"), detections("class-number", tensor="c"),
        detections("count", tensor="n"), box=DetectorBox("yxyx"),
    )  # fmt: skip
    image = {"image": TensorInfo("image", (1, HEIGHT, WIDTH, 3), np.dtype(np.uint8))}
    for shape in ((), (1, -1, 4)):
        info = {name: TensorInfo(name, shape, np.dtype(np.float32)) for name in "bscn"}
        check_contract(what, image, info)
