"""Outputs into results: every box encoding, activation and kind of model, thresholds, clipping, and bad numbers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from edgeloc.decode import Decoder
from edgeloc.errors import ContractError, EngineError
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.model.detector import DetectorBox, DetectorSpec, Selection
from edgeloc.preprocess import Placement, frame_geometry
from edgeloc.types import Box, Result

SPEC = InputSpec("image", 100, 100, resize="stretch")
FRAME = (200, 400)
PLACEMENT: Placement = frame_geometry(SPEC, *FRAME).placement
# The box of every encoding below, in fractions of the input, and in pixels of the frame.
FRACTIONS = (0.1, 0.2, 0.5, 0.8)
EXPECTED = Box(20, 80, 100, 320)


def contract(*outputs: OutputSpec, **others: Any) -> Contract:
    return Contract(SPEC, outputs, **others)


def decode(what: Contract, outputs: dict[str, Any], placement: Placement = PLACEMENT) -> Result:
    arrays = {name: np.asarray(values, np.float32) for name, values in outputs.items()}
    return Decoder(what)(arrays, placement, FRAME)


def logit(probability: Any) -> Any:
    p = np.asarray(probability, np.float64)
    return np.log(p / (1 - p))


FORMS = {
    "xyxy": (0.1, 0.2, 0.5, 0.8),
    "yxyx": (0.2, 0.1, 0.8, 0.5),
    "xywh": (0.1, 0.2, 0.4, 0.6),
    "cxcywh": (0.3, 0.5, 0.4, 0.6),
    "cxcyhw": (0.3, 0.5, 0.6, 0.4),
}


@pytest.mark.parametrize("form", FORMS)
def test_four_numbers_in_fractions_in_pixels_and_as_logits(form: Any) -> None:
    four = np.array([FORMS[form]])
    for units, activation, values in (
        ("fraction", "none", four),
        ("pixels", "none", four * 100),
        ("fraction", "sigmoid", logit(four)),
    ):
        what = contract(OutputSpec("box", "box", activation), box=BoxEncoding(form, units))  # type: ignore[arg-type]
        result = decode(what, {"box": values})
        assert result.box == pytest.approx(EXPECTED, abs=1e-3)
        assert (result.presence, result.present, result.label) == (1.0, True, None)


def test_the_textbook_vector_with_height_before_width() -> None:
    slots = ("presence", "cx", "cy", "h", "w", "class:0", "class:1", "class:2")
    what = contract(
        OutputSpec("y", "vector", "sigmoid", slots, "softmax"), labels=("a", "b", "c"), thresholds=Thresholds(0.6)
    )
    values = [*logit([0.9, 0.3, 0.5, 0.6, 0.4]), *np.log([0.2, 0.7, 0.1])]
    result = decode(what, {"y": [values]})
    assert result.presence == pytest.approx(0.9)
    assert result.box == pytest.approx(EXPECTED, abs=1e-3)
    assert result.label == "b"
    assert result.class_scores == pytest.approx([0.2, 0.7, 0.1])


@pytest.mark.parametrize(
    ("slots", "values"),
    [
        (("y2", "x2", "presence", "y1", "x1"), (0.8, 0.5, 1.0, 0.2, 0.1)),
        (("w", "h", "unused", "x1", "y1"), (0.4, 0.6, 9.0, 0.1, 0.2)),
        (("class:1", "cx", "class:0", "cy", "w", "h"), (0.1, 0.3, 0.9, 0.5, 0.4, 0.6)),
    ],
)
def test_permutations_of_the_vector(slots: tuple[str, ...], values: tuple[float, ...]) -> None:
    labels = ("a", "b") if "class:0" in slots else ()
    result = decode(contract(OutputSpec("y", "vector", slots=slots), labels=labels), {"y": [values]})
    assert result.box == pytest.approx(EXPECTED, abs=1e-3)
    assert result.label == (labels[0] if labels else None)


def test_a_vector_may_leave_presence_to_an_output_of_its_own() -> None:
    what = contract(OutputSpec("p", "presence"), OutputSpec("y", "vector", slots=("x1", "y1", "x2", "y2")))
    result = decode(what, {"p": [[0.8]], "y": [FRACTIONS]})
    assert (result.presence, result.box) == (pytest.approx(0.8), pytest.approx(EXPECTED, abs=1e-3))


def test_a_distribution_is_the_expectation_over_bins() -> None:
    what = contract(OutputSpec("bins", "box-bins"), box=BoxEncoding("distribution"))
    logits = np.full((1, 4, 11), -60.0)
    for edge, fraction in enumerate(FRACTIONS):
        logits[0, edge, round(fraction * 10)] = 60
    assert decode(what, {"bins": logits}).box == pytest.approx(EXPECTED, abs=1e-3)
    flat = decode(what, {"bins": logits.reshape(1, 44)})
    assert flat.box == pytest.approx(EXPECTED, abs=1e-3)
    # An even spread over two bins lies between them.
    logits[0, 0, 0:3] = 60, -60, 60
    assert decode(what, {"bins": logits}).box == pytest.approx(EXPECTED, abs=1e-3)


def test_inverted_edges_are_put_in_order() -> None:
    what = contract(OutputSpec("bins", "box-bins"), box=BoxEncoding("distribution"))
    logits = np.full((1, 4, 11), -60.0)
    for edge, bin_ in enumerate((5, 8, 1, 2)):
        logits[0, edge, bin_] = 60
    assert decode(what, {"bins": logits}).box == pytest.approx(EXPECTED, abs=1e-3)


def test_a_grid_follows_its_formula() -> None:
    rng = np.random.default_rng(5)
    weights, distances = rng.normal(0, 2, (1, 3, 4, 1)), rng.normal(-1, 1, (1, 3, 4, 4))
    what = contract(OutputSpec("w", "grid-weights"), OutputSpec("d", "grid-distances"), box=BoxEncoding("grid"))
    share = np.exp(weights) / np.exp(weights).sum()
    expected = np.zeros(4)
    for y in range(3):
        for x in range(4):
            cx, cy = (x + 0.5) / 4, (y + 0.5) / 3
            left, top, right, bottom = np.log1p(np.exp(distances[0, y, x]))
            expected += share[0, y, x, 0] * np.array([cx - left, cy - top, cx + right, cy + bottom])
    size = np.array([*FRAME, *FRAME])
    for _ in range(2):
        box = decode(what, {"w": weights, "d": distances}).box
        assert box == pytest.approx(np.clip(expected * size, 0, size), abs=1e-3)


def test_a_grid_of_several_objects_holds_one_after_the_other() -> None:
    rng = np.random.default_rng(6)
    weights, distances = rng.normal(0, 2, (1, 3, 4, 2)), rng.normal(-2, 1, (1, 3, 4, 8))
    outputs = OutputSpec("w", "grid-weights"), OutputSpec("d", "grid-distances")
    both = decode(contract(*outputs, box=BoxEncoding("grid", objects=2)), {"w": weights, "d": distances})
    alone = contract(*outputs, box=BoxEncoding("grid"))
    first = decode(alone, {"w": weights[..., :1], "d": distances[..., :4]})
    second = decode(alone, {"w": weights[..., 1:], "d": distances[..., 4:]})
    assert [np.array(found.box) for found in both.objects] == [
        pytest.approx(np.array(result.box), abs=1e-3) for result in (first, second)
    ]


def test_extreme_logits_do_not_overflow() -> None:
    what = contract(
        OutputSpec("p", "presence", "sigmoid"),
        OutputSpec("w", "grid-weights"),
        OutputSpec("d", "grid-distances"),
        box=BoxEncoding("grid"),
    )
    weights = np.full((1, 2, 2, 1), -1e4)
    weights[0, 0, 0] = 1e4
    result = decode(what, {"p": [[1e4]], "w": weights, "d": np.full((1, 2, 2, 4), 1e4)})
    assert result.presence == 1.0
    assert result.box == Box(0, 0, *FRAME)
    assert decode(what, {"p": [[-1e4]], "w": weights, "d": weights.repeat(4, 3)}).presence == 0.0


def test_several_objects_come_best_first_and_absent_ones_are_left_out() -> None:
    what = contract(
        OutputSpec("p", "presence"),
        OutputSpec("c", "class"),
        OutputSpec("b", "box"),
        box=BoxEncoding("xyxy", objects=3),
        labels=("a", "b"),
    )
    boxes = [[(0, 0, 0.1, 0.1), FRACTIONS, (0.5, 0.5, 1, 1)]]
    result = decode(what, {"p": [[0.6, 0.9, 0.2]], "c": [[[1, 0], [0, 1], [1, 0]]], "b": boxes})
    assert (result.box, result.label) == (pytest.approx(EXPECTED, abs=1e-3), "b")
    assert [(one.score, one.label) for one in result.objects[1:]] == [(pytest.approx(0.6), "a")]


def test_a_vector_of_a_hundred_thousand_slots_is_read_at_once() -> None:
    labels = tuple(map(str, range(50_000)))
    slots = tuple(f"class:{number}" for number in range(50_000))
    what = contract(OutputSpec("v", "vector", slots=slots), labels=labels)
    began = time.monotonic()
    assert decode(what, {"v": np.arange(50_000)}).label == "49999"
    assert time.monotonic() - began < 5


SSD = (
    OutputSpec("boxes", "detections", parts=("box",)),
    OutputSpec("classes", "detections", parts=("class-number",)),
    OutputSpec("scores", "detections", parts=("score",)),
    OutputSpec("count", "detections", parts=("count",)),
)
POSTPROCESSED = DetectorSpec(box=DetectorBox("yxyx"), selection=Selection("none"))


def ssd_outputs(**changes: Any) -> dict[str, Any]:
    outputs = {
        "boxes": [[(0, 0, 1, 1), (0.2, 0.1, 0.8, 0.5), (0, 0, 0, 0)]],
        "classes": [[1, 2, 0]],
        "scores": [[0.4, 0.7, 0.99]],
        "count": [2],
    }
    return {**outputs, **changes}


def test_ssd_takes_the_best_of_those_counted() -> None:
    what = contract(*SSD, detector=POSTPROCESSED, labels=("a", "b", "c"))
    result = decode(what, ssd_outputs())
    assert (result.presence, result.label) == (pytest.approx(0.7), "c")
    assert result.box == pytest.approx(EXPECTED, abs=1e-3)
    assert result.class_scores == pytest.approx([0, 0, 0.7])


def test_ssd_with_nothing_found_is_nothing_present() -> None:
    result = decode(contract(*SSD, detector=POSTPROCESSED, labels=("a", "b", "c")), ssd_outputs(count=[0]))
    assert (result.presence, result.present, result.box, result.label) == (0.0, False, None, None)
    assert result.class_scores.tolist() == [0, 0, 0]


def test_ssd_with_a_class_beyond_the_labels_keeps_its_number_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    decoder = Decoder(contract(*SSD, detector=POSTPROCESSED, labels=("a", "b")))
    arrays = {name: np.asarray(values, np.float32) for name, values in ssd_outputs().items()}
    for _ in range(2):
        result = decoder(arrays, PLACEMENT, FRAME)
    assert (result.presence, result.label) == (pytest.approx(0.7), "2")
    assert result.objects[0].label_score is None and result.class_scores.tolist() == [0, 0]
    assert [record.finding.code for record in caplog.records] == ["class-beyond-labels"]
    assert "class 2, the contract has 2 labels" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"boxes": [1.0]}, {"classes": [[1]]}, {"count": []}, {"count": [np.nan]}, {"count": [np.inf]}],
)
def test_outputs_of_other_sizes_than_the_contracts_are_an_engine_error(changes: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="do not fit its contract"):
        decode(contract(*SSD, detector=POSTPROCESSED, labels=("a", "b", "c")), ssd_outputs(**changes))


@pytest.mark.parametrize("box", [[[0.1, 0.2]], [[]], [[0.1] * 8]])
def test_a_box_of_other_than_four_numbers_is_an_engine_error(box: Any) -> None:
    what = contract(OutputSpec("p", "presence"), OutputSpec("b", "box"), box=BoxEncoding("xyxy"))
    with pytest.raises(EngineError, match="do not fit its contract"):
        decode(what, {"p": [[0.9]], "b": box})


def test_thresholds_decide_presence_and_label() -> None:
    outputs = (OutputSpec("p", "presence"), OutputSpec("c", "class"), OutputSpec("b", "box"))
    values = {"p": [[0.5]], "c": [[0.6, 0.4]], "b": [FORMS["cxcywh"]]}

    def answer(presence: float, label: float) -> tuple[bool, Box | None, str | None]:
        what = contract(*outputs, labels=("a", "b"), thresholds=Thresholds(presence, label))
        result = decode(what, values)
        return result.present, result.box, result.label

    assert answer(0.5, 0.0) == (True, pytest.approx(EXPECTED, abs=1e-3), "a")
    assert answer(0.5, 0.7) == (True, pytest.approx(EXPECTED, abs=1e-3), None)
    assert answer(0.51, 0.0) == (False, None, None)


def test_the_box_is_mapped_out_of_the_letterbox_and_clipped() -> None:
    spec = InputSpec("image", 100, 100)
    placement = frame_geometry(spec, 200, 100).placement
    what = Contract(spec, (OutputSpec("b", "box"),), BoxEncoding("xyxy"))
    values = {"b": np.array([[0.25, 0.0, 2.0, 0.5]], np.float32)}
    assert Decoder(what)(values, placement, (200, 100)).box == Box(50, 0, 200, 50)


@pytest.mark.parametrize(("output", "words"), [("p", "presence"), ("c", "class scores"), ("b", "box")])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_an_engine_error(output: str, words: str, bad: float) -> None:
    what = contract(
        OutputSpec("p", "presence"), OutputSpec("c", "class", "softmax"), OutputSpec("b", "box"), labels=("a", "b")
    )
    values: dict[str, Any] = {"p": [[0.9]], "c": [[1.0, 2.0]], "b": [[0.5, 0.5, 0.5, 0.5]]}
    values[output][0][0] = bad
    with pytest.raises(EngineError, match=words):
        decode(what, values)


B = OutputSpec("b", "box")
V = OutputSpec("v", "vector", slots=("x1", "y1", "x2", "y2"))


@pytest.mark.parametrize(
    ("outputs", "others", "words"),
    [
        ((OutputSpec("w", "grid-weights"),), {}, "go together"),
        ((B, OutputSpec("bins", "box-bins")), {}, "the box is given twice"),
        ((B, V), {}, "hold the box"),
        ((OutputSpec("bins", "box-bins"),), {}, "must be .distribution. for the role box-bins"),
        ((B,), {"box": BoxEncoding("grid")}, "must be one of cxcywh"),
        ((OutputSpec("b", "box", "softmax"),), {}, "none or sigmoid"),
        ((OutputSpec("p", "presence", "softmax"), B), {}, "none or sigmoid"),
        ((B,), {"labels": ("a",)}, "no output has the role class"),
        ((OutputSpec("v", "vector", slots=("x1", "y1", "w")),), {}, "gives the box as"),
        ((OutputSpec("v", "vector", slots=("x1", "x1")),), {}, "more than once"),
        ((OutputSpec("v", "vector", slots=("left",)),), {}, "'left'"),
        ((OutputSpec("v", "vector", slots=("class:1",)),), {"labels": ("a",)}, "class:0 to class:K-1"),
        ((OutputSpec("v", "vector", slots=("presence",)), OutputSpec("p", "presence")), {}, "hold the presence"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused(
    outputs: tuple[OutputSpec, ...], others: dict[str, Any], words: str
) -> None:
    with pytest.raises(ContractError, match=words):
        Decoder(contract(*outputs, **others))
