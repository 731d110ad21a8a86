"""Losses against numbers worked out by hand, and the training graph's decoding against the runtime's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.training.losses import (
    BOX_LOSSES,
    TrainableLocalizer,
    assign_slots,
    box_loss,
    cell_loss,
    decode_boxes,
    iou,
    parse_box_loss,
    read_roles,
)
from edgeloc.decode import Decoder
from edgeloc.errors import UsageError
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.preprocess import frame_geometry

SPEC = InputSpec("image", 64, 64)
HEADS: dict[str, tuple[tuple[OutputSpec, ...], BoxEncoding, dict[str, tuple[int, ...]]]] = {
    "grid": (
        (OutputSpec("weights", "grid-weights"), OutputSpec("distances", "grid-distances")),
        BoxEncoding("grid"),
        {"weights": (6, 4, 1), "distances": (6, 4, 4)},
    ),
    "distribution": ((OutputSpec("bins", "box-bins"),), BoxEncoding("distribution"), {"bins": (4, 32)}),
    "vector": ((OutputSpec("box", "box", "sigmoid"),), BoxEncoding("cxcywh"), {"box": (4,)}),
}


@pytest.mark.parametrize("head", HEADS)
def test_training_decodes_as_the_runtime_does(head: str) -> None:
    outputs, encoding, shapes = HEADS[head]
    rng = np.random.default_rng(1)
    logits = {name: rng.normal(0, 2, (8, *shape)).astype(np.float32) for name, shape in shapes.items()}
    contract = Contract(SPEC, outputs, encoding, thresholds=Thresholds(presence=0.0))
    trained = np.asarray(decode_boxes(read_roles(logits, contract)))
    decoder = Decoder(contract)
    placement = frame_geometry(SPEC, 64, 64).placement
    for i in range(8):
        box = decoder({name: values[i : i + 1] for name, values in logits.items()}, placement, (64, 64)).box
        x1, y1, x2, y2 = np.clip(trained[i] * 64, 0, 64)
        expected = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        assert box == pytest.approx(expected, abs=1e-3)


def boxes(*rows: tuple[float, float, float, float]) -> Any:
    import keras

    return keras.ops.convert_to_tensor(np.array(rows, np.float32))


# A box of 0.4 x 0.2 and one shifted by half its width: overlap 0.04, union 0.12, hull 0.6 x 0.2.
FIRST, SHIFTED = (0.1, 0.1, 0.5, 0.3), (0.3, 0.1, 0.7, 0.3)
APART = (0.6, 0.6, 0.9, 0.9)


def test_overlap_by_hand() -> None:
    values = np.asarray(iou(boxes(FIRST, FIRST, FIRST), boxes(FIRST, SHIFTED, APART)))
    assert values == pytest.approx([1, 1 / 3, 0], abs=1e-5)


def test_generalized_overlap_by_hand() -> None:
    loss = np.asarray(box_loss(boxes(FIRST, FIRST, FIRST), boxes(FIRST, SHIFTED, APART), ("giou",)))
    # Apart: areas 0.08 and 0.09 in a hull of 0.8 x 0.8.
    assert loss == pytest.approx([0, 2 * (1 - 1 / 3), 2 * (1 + (0.64 - 0.17) / 0.64)], abs=1e-4)


def test_complete_overlap_by_hand() -> None:
    turned = (0.2, 0.0, 0.4, 0.4)  # the same centre, sides swapped: overlap 0.04, union 0.12
    loss = np.asarray(box_loss(boxes(FIRST, FIRST, FIRST), boxes(FIRST, SHIFTED, turned), ("ciou",)))
    shifted = 1 - 1 / 3 + 0.04 / (0.36 + 0.04)
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    other = 1 - 1 / 3 + v * v / (1 - 1 / 3 + v)
    assert loss == pytest.approx([0, 2 * shifted, 2 * other], abs=1e-3)


def test_coordinate_losses_by_hand() -> None:
    truth, guess = boxes((0, 0, 1, 1)), boxes((0.2, 0, 1, 1))
    assert float(box_loss(truth, guess, ("l1",))[0]) == pytest.approx(5 * 0.2 / 4)
    assert float(box_loss(truth, guess, ("l2",))[0]) == pytest.approx(5 * 0.04 / 4)
    assert float(box_loss(truth, guess, ("huber",))[0]) == pytest.approx(5 * (0.2 - 0.025) / 4)
    near = boxes((0.02, 0, 1, 1))
    assert float(box_loss(truth, near, ("huber",))[0]) == pytest.approx(5 * 0.5 * 0.02**2 / 0.05 / 4, rel=1e-4)


def test_losses_add_up() -> None:
    truth, guess = boxes(FIRST, FIRST), boxes(SHIFTED, APART)
    parts = [np.asarray(box_loss(truth, guess, (part,))) for part in ("l1", "giou")]
    assert np.asarray(box_loss(truth, guess, ("l1", "giou"))) == pytest.approx(parts[0] + parts[1])


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_every_loss_has_a_finite_gradient_even_for_an_inverted_box(name: str) -> None:
    import tensorflow as tf

    guess = tf.Variable([[0.7, 0.5, 0.3, 0.5], [0.1, 0.1, 0.5, 0.3]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(box_loss(boxes(FIRST, FIRST), guess, (name,)))
    assert np.isfinite(tape.gradient(loss, guess)).all()


def test_names_of_losses() -> None:
    assert parse_box_loss("huber+giou") == ("huber", "giou")
    assert parse_box_loss("l1") == ("l1",)
    for wrong in ("huber+iou", "", "l1+"):
        with pytest.raises(
            UsageError, match=r"box_loss is '.*': it must be some of l1, l2, huber, giou, ciou, joined with \+"
        ):
            parse_box_loss(wrong)


def test_the_grid_is_led_to_the_object_s_cell() -> None:
    weights = np.zeros((2, 4, 4, 1), np.float32)
    weights[0, 2, 1] = 9  # the centre of the box below: x 0.3, y 0.6
    truth = boxes((0.2, 0.5, 0.4, 0.7), (0.2, 0.5, 0.4, 0.7))
    right, undecided = np.asarray(cell_loss(truth, {"weights": weights, "distances": np.zeros((2, 4, 4, 4))}))
    assert right < 0.01
    assert undecided == pytest.approx(math.log(16), abs=1e-4)


def test_bins_are_led_to_the_edges_and_a_vector_nowhere() -> None:
    bins = np.zeros((1, 4, 11), np.float32)
    for edge, position in enumerate((2, 5, 4, 7)):
        bins[0, edge, position] = 12
    assert float(cell_loss(boxes((0.2, 0.5, 0.4, 0.7)), {"bins": bins})[0]) < 0.01
    assert float(cell_loss(boxes(FIRST), {"corners": np.zeros((1, 4), np.float32)})[0]) == 0


def test_targets_go_to_the_outputs_that_fit_them_best() -> None:
    """Two images of three objects; in the second there is only one."""
    left, right, below = (0.0, 0.0, 0.3, 0.3), (0.6, 0.0, 0.9, 0.3), (0.0, 0.6, 0.3, 0.9)
    y = {
        "box": np.array([[left, right, below], [below, (0, 0, 1, 1), (0, 0, 1, 1)]], np.float32),
        "present": np.array([[1, 1, 1], [1, 0, 0]], np.float32),
        "label": np.array([[0, 0, 1], [1, -1, -1]], np.int32),
    }
    found = boxes(below, left, right, left, below, right)
    assigned = {name: np.asarray(values) for name, values in assign_slots(y, found, None).items()}
    assert assigned["box"][0].tolist() == np.array([below, left, right], np.float32).tolist()
    assert assigned["label"].tolist() == [[1, 0, 0], [-1, 1, -1]]
    assert assigned["present"].tolist() == [[1, 1, 1], [0, 1, 0]]
    # Where boxes are alike the class decides.
    alike = boxes(left, left, left, below, below, below)
    logits = np.array([[9, 0], [0, 9], [9, 0], [9, 0], [9, 0], [0, 9]], np.float32)
    labels = np.asarray(assign_slots(y, alike, logits)["label"])
    assert labels.tolist() == [[0, 1, 0], [-1, -1, 1]]


@pytest.mark.parametrize("by_label", [True, False])
def test_a_network_learns_several_objects(by_label: bool) -> None:
    """Each object of a fixed image is found; without slots by label two of one label too."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    encoding = BoxEncoding("cxcywh", objects=2)
    heads = (
        OutputSpec("p", "presence", "sigmoid"),
        OutputSpec("c", "class", "softmax"),
        OutputSpec("b", "box", "sigmoid"),
    )
    contract = Contract(SPEC, heads, encoding, ("bolt", "nut"))
    image = keras.Input((64, 64, 3))
    x = layers.Dense(32, activation="relu")(layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, 4)(image)))
    network = keras.Model(image, {"p": layers.Dense(2)(x), "c": layers.Dense(4)(x), "b": layers.Dense(8)(x)})
    model = TrainableLocalizer(network, ("p", "c", "b"), contract, ("l1",), by_label=by_label)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=False)
    truth = [(0.1, 0.1, 0.3, 0.4), (0.5, 0.6, 0.9, 0.8)]
    y = {
        "box": np.array([truth], np.float32),
        "present": np.ones((1, 2), np.float32),
        "label": np.array([[0, 1 if by_label else 0]], np.int32),
    }
    x = np.random.default_rng(0).normal(0, 1, (1, 64, 64, 3)).astype(np.float32)
    for _ in range(150):
        model.train_on_batch(x, y)
    metrics = model.evaluate(x, y, return_dict=True, verbose=0)
    assert metrics["box_iou"] > 0.8
    assert metrics["presence_accuracy"] == metrics["label_accuracy"] == 1.0
