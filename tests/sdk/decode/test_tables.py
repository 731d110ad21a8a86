"""Integers read from tables: every head and quantization against its formula in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeloc.decode import Decoder
from edgeloc.decode.numbers import Lookup, Quantization, powers
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.preprocess import frame_geometry
from edgeloc.types import Result

SPEC = InputSpec("image", 224, 224)
FRAME = (640, 480)
PLACEMENT = frame_geometry(SPEC, *FRAME).placement
LABELS = ("a", "b", "c", "d")
SIDES = (7, 5)
PRESENCE = OutputSpec("presence", "presence", "sigmoid")
CLASS = OutputSpec("class", "class", "softmax")
SLOTS = ("presence", "x1", "y1", "x2", "y2", "class:0", "unused", "class:1", "class:2", "class:3")
# The last has steps of 8 and more, which no table of exponentials can hold.
WIDEST = (0.05, 1.0, 20.0, 2000.0)


def sigmoid(values: Any) -> Any:
    return 0.5 + 0.5 * np.tanh(0.5 * values)


def softmax(values: Any) -> Any:
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def grid_corners(real: dict[str, Any], objects: int) -> Any:
    height, width = SIDES
    y, x = np.mgrid[:height, :width]
    centers = np.stack([(x.ravel() + 0.5) / width, (y.ravel() + 0.5) / height] * 2, axis=1)
    shares = softmax(real["weights"].reshape(-1, objects).T)
    edges = np.logaddexp(real["distances"].reshape(-1, objects, 4), 0) * [-1, -1, 1, 1]
    return np.stack([shares[i] @ (centers + edges[:, i]) for i in range(objects)])


def bins_corners(real: dict[str, Any], objects: int) -> Any:
    bins = softmax(real["bins"].reshape(objects, 4, -1))
    return bins @ np.linspace(0, 1, bins.shape[-1])


HEADS: dict[str, Any] = {
    "grid": (
        (PRESENCE, CLASS, OutputSpec("weights", "grid-weights"), OutputSpec("distances", "grid-distances")),
        lambda n: {"weights": (1, *SIDES, n), "distances": (1, *SIDES, 4 * n)},
        grid_corners,
    ),
    "distribution": (
        (PRESENCE, CLASS, OutputSpec("bins", "box-bins")),
        lambda n: {"bins": (1, 4 * n, 17)},
        bins_corners,
    ),
    "xyxy": (
        (PRESENCE, CLASS, OutputSpec("box", "box", "sigmoid")),
        lambda n: {"box": (1, n, 4)},
        lambda real, n: sigmoid(real["box"].reshape(n, 4)),
    ),
    "vector": (
        (OutputSpec("vector", "vector", "sigmoid", SLOTS, "softmax"),),
        lambda n: {"vector": (1, n * len(SLOTS))},
        lambda real, n: sigmoid(real["vector"].reshape(n, -1)[:, 1:5]),
    ),
}
FORMS = {"grid": "grid", "distribution": "distribution", "xyxy": "xyxy", "vector": "xyxy"}


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, width: float) -> tuple[Any, Quantization]:
    """Random levels of a tensor whose numbers span `width`, and what they stand for."""
    limits = np.iinfo(dtype)
    raw = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    scale = float(np.float32(width / (limits.max - limits.min)))
    return raw, Quantization(scale, int(rng.integers(limits.min, limits.max, endpoint=True)))


def expected(head: str, real: dict[str, Any], objects: int) -> tuple[Any, Any, Any]:
    """Presence, class scores and corners in pixels of the frame, clipped."""
    if head == "vector":
        rows = real["vector"].reshape(objects, -1)
        presence, classes = sigmoid(rows[:, 0]), softmax(rows[:, [5, 7, 8, 9]])
    else:
        presence, classes = sigmoid(real["presence"].ravel()), softmax(real["class"].reshape(objects, -1))
    corners = HEADS[head][2](real, objects) * 224
    pixels = corners * np.array([PLACEMENT.scale_x, PLACEMENT.scale_y] * 2) + np.array(
        [PLACEMENT.offset_x, PLACEMENT.offset_y] * 2
    )
    low, high = np.minimum(pixels[:, :2], pixels[:, 2:]), np.maximum(pixels[:, :2], pixels[:, 2:])
    return presence, classes, np.concatenate([np.clip(low, 0, FRAME), np.clip(high, 0, FRAME)], axis=1)


def require(result: Result, presence: Any, classes: Any, boxes: Any, slack: float) -> None:
    """The result holds these objects, best first; `slack` is of probabilities, and of boxes in frames."""
    order = np.argsort(-presence, kind="stable")
    assert [one.score for one in result.objects] == pytest.approx(presence[order], abs=slack)
    for one, number in zip(result.objects, order, strict=True):
        assert one.class_scores == pytest.approx(classes[number], abs=slack)
        assert one.class_scores.dtype == np.float32
        assert one.label is not None and classes[number][LABELS.index(one.label)] == classes[number].max()
        assert one.box == pytest.approx(boxes[number], abs=slack * FRAME[0])


@pytest.mark.parametrize("width", WIDEST)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
@pytest.mark.parametrize("head", HEADS)
def test_random_integers_are_what_the_formula_says(head: str, dtype: Any, width: float) -> None:
    rng = np.random.default_rng(7)
    outputs, shapes, _ = HEADS[head]
    for objects in (1, 3):
        form: Any = FORMS[head]
        contract = Contract(SPEC, outputs, BoxEncoding(form, objects=objects), LABELS, Thresholds(0.0))
        sizes = shapes(objects)
        if head != "vector":
            sizes = {**sizes, "presence": (1, objects), "class": (1, objects, len(LABELS))}
        for _ in range(5):
            tensors = {name: integers(rng, shape, dtype, width) for name, shape in sizes.items()}
            raw = {name: values for name, (values, _) in tensors.items()}
            quantizations = {name: quantization for name, (_, quantization) in tensors.items()}
            real = {
                name: (values.astype(float) - quantizations[name].zero_point) * quantizations[name].scale
                for name, values in raw.items()
            }
            result = Decoder(contract, quantizations)(raw, PLACEMENT, FRAME)
            # Real numbers are float32, whose steps grow with them.
            require(result, *expected(head, real, objects), slack=1e-6 * max(1.0, width / 20))


def test_an_absent_objects_classes_are_there_and_its_box_is_not_decoded() -> None:
    contract = Contract(SPEC, HEADS["xyxy"][0], BoxEncoding("xyxy"), LABELS, Thresholds(0.5))
    quantizations = {name: Quantization(0.1, 0) for name in ("presence", "class", "box")}
    raw = {"presence": np.array([[-5]], np.int8), "class": np.array([[1, 9, -3, 0]], np.int8)}
    result = Decoder(contract, quantizations)(raw, PLACEMENT, FRAME)  # there is no box to decode
    assert (result.present, result.label) == (False, None)
    assert result.presence == pytest.approx(sigmoid(-0.5))
    assert result.class_scores == pytest.approx(softmax(np.array([0.1, 0.9, -0.3, 0])))


def test_a_label_threshold_holds_for_integers_too() -> None:
    outputs = (PRESENCE, CLASS)
    raw = {"presence": np.array([[50]], np.int8), "class": np.array([[10, 0, 0, 0]], np.int8)}
    quantizations = {name: Quantization(0.1, 0) for name in raw}
    labels = [
        Decoder(Contract(SPEC, outputs, labels=LABELS, thresholds=Thresholds(0.5, least)), quantizations)(
            raw, PLACEMENT, FRAME
        ).label
        for least in (0.0, 0.4, 0.6)
    ]
    assert labels == ["a", "a", None]  # its probability is 0.475


def test_an_engine_may_answer_another_type_than_before() -> None:
    lookup = Lookup(powers, Quantization(0.5, 0))
    for dtype in (np.int8, np.uint8, np.int16, np.float32, np.int8):
        raw = np.array([1, 3, 2], dtype)
        shares = lookup(raw) / lookup(raw).sum()
        assert shares == pytest.approx(softmax(np.array([0.5, 1.5, 1.0])), abs=1e-6)
