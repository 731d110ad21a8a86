"""Diagnosing a head: each fault is found, priced and said in a sentence; a head without fault gives none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeloc.converters.output_heads.diagnosis import Diagnosis, diagnose
from edgeloc.converters.output_heads.repair import repair_head
from edgeloc.errors import ContractError
from edgeloc.model.contract import BoxEncoding, Contract, OutputSpec, Thresholds

Head = Callable[[str], tuple[bytes, Contract]]
Made = tuple[bytes, Contract]


def kinds(findings: tuple[Diagnosis, ...]) -> list[str]:
    return [diagnosis.finding.code for diagnosis in findings]


@pytest.fixture
def make_outputs(
    to_float: Callable[..., bytes], build_network: Callable[..., Any], contract: Contract
) -> Callable[..., Made]:
    """A model of three outputs whose box layer has the given weights' size and biases; `sigmoid` in the graph."""

    def make(
        biases: tuple[float, ...] = (0, 0, -1, -1), size: float = 0.5, presence: float = 2.0, sigmoid: bool = True
    ) -> Made:
        from keras import initializers, layers

        network = build_network(
            lambda pooled, hidden: {
                "presence": layers.Dense(1, bias_initializer=initializers.Constant(presence))(pooled),
                "class": layers.Dense(3)(pooled),
                "box": layers.Activation("sigmoid" if sigmoid else "linear")(layers.Dense(4, name="four")(hidden)),
            }
        )
        kernel = np.random.default_rng(1).normal(0, size, (24, 4))
        network.get_layer("four").set_weights([kernel, np.array(biases)])
        outputs = (*contract.outputs[:2], OutputSpec("box", "box", "none" if sigmoid else "sigmoid"))
        return to_float(network), dataclasses.replace(contract, outputs=outputs)

    return make


def test_parts_that_share_a_scale_are_named_with_ranges_and_cost(make_head: Head, images: np.ndarray) -> None:
    finding = diagnose(*make_head("of_three_layers"), images)[0]
    assert (finding.finding.code, finding.output, finding.parts) == (
        "head-shares-scale",
        "vector",
        ("presence", "class", "box"),
    )
    assert finding.cost is not None and finding.repaired is not None
    assert finding.cost.iou > 3 * finding.repaired.iou > 0
    assert f"costs {finding.cost.iou:.3f} IoU" in str(finding.finding)
    assert "fix_head" in str(finding.finding) and "\n" not in str(finding.finding)


@pytest.mark.parametrize("head", ["of_three_layers", "activated_layers"])
def test_a_repaired_head_shares_no_scale(make_head: Head, images: np.ndarray, head: str) -> None:
    flatbuffer, contract = make_head(head)
    assert "head-shares-scale" in kinds(diagnose(flatbuffer, contract, images))
    repaired, described, _ = repair_head(flatbuffer, contract, images)
    assert "head-shares-scale" not in kinds(diagnose(repaired, described, images))


def test_parts_of_like_ranges_are_no_finding(make_head: Head, images: np.ndarray) -> None:
    assert diagnose(*make_head("joined_as_logits"), images) == ()


def test_the_predicted_cost_is_that_of_the_rounding(make_head: Head, images: np.ndarray) -> None:
    """Rounded by hand, on the 256 steps from the lowest to the highest number of the output."""
    from edgeloc.converters.output_heads.diagnosis import box_iou
    from edgeloc.converters.output_heads.repair import answers
    from edgeloc.decode.heads import head_reader

    flatbuffer, contract = make_head("of_three_layers")
    contract = dataclasses.replace(contract, thresholds=Thresholds(presence=0.0))
    read, vectors = head_reader(contract), answers(flatbuffer, images)["vector"]
    step = float(np.ptp(vectors)) / 255
    ious = []
    for vector in vectors:
        exact, rounded = (read({"vector": values[np.newaxis]}) for values in (vector, np.round(vector / step) * step))
        ious.append(float(box_iou(exact.corners, rounded.corners)[0]))
    predicted = diagnose(flatbuffer, contract, images)[0].cost
    assert predicted is not None
    assert predicted.iou == pytest.approx(1 - np.mean(ious), rel=0.15)


def test_a_small_box_through_a_sigmoid_is_coarse(make_outputs: Callable[..., Made], images: np.ndarray) -> None:
    small, large = ((0.0, 0.0, bias, bias) for bias in (-2.5, 0.0))
    (finding,) = diagnose(*make_outputs(small), images)
    assert (finding.finding.code, finding.output) == ("head-coarse-box", "box")
    assert "1/256" in str(finding.finding) and "small ones" in str(finding.finding)
    assert finding.cost is not None and finding.repaired is not None and finding.repaired.iou < finding.cost.iou
    assert kinds(diagnose(*make_outputs(large), images)) == []
    assert kinds(diagnose(*make_outputs(small, sigmoid=False), images)) == []


def test_coordinates_that_stick_at_an_end_are_named(make_outputs: Callable[..., Made], images: np.ndarray) -> None:
    findings = diagnose(*make_outputs((0.0, 12.0, 0.0, -12.0), sigmoid=False), images)
    assert [(finding.finding.code, finding.parts) for finding in findings] == [
        ("head-saturated", ("number 1", "number 3"))
    ]
    assert "100%" in str(findings[0].finding)


def test_dead_units_are_counted(make_outputs: Callable[..., Made], images: np.ndarray) -> None:
    (finding,) = diagnose(*make_outputs(size=0.0, sigmoid=False), images)
    assert (finding.finding.code, finding.output, finding.parts) == ("head-constant", "box", ("0", "1", "2", "3"))
    assert finding.cost is None and "the output box is the same on all 16 images" in str(finding.finding)


def test_presence_that_never_reaches_its_threshold(make_outputs: Callable[..., Made], images: np.ndarray) -> None:
    flatbuffer, contract = make_outputs(presence=-8.0, sigmoid=False)
    (finding,) = diagnose(flatbuffer, contract, images)
    assert finding.finding.code == "presence-never-reached" and "threshold 0.5 on 16 images" in str(finding.finding)
    low = dataclasses.replace(contract, thresholds=Thresholds(presence=0.0))
    assert diagnose(flatbuffer, low, images) == ()


def test_a_head_that_cannot_be_split_is_priced_all_the_same(
    to_float: Callable[..., bytes], build_network: Callable[..., Any], make_contract: Callable[..., Contract],
    make_dense: Callable[..., Any], images: np.ndarray,
) -> None:  # fmt: skip
    from keras import layers

    network = build_network(
        lambda pooled, hidden: {
            "vector": layers.Concatenate()([make_dense(4)(hidden) * 300, layers.Softmax()(make_dense(4, 8)(pooled))])
        }
    )
    given = make_contract("none", "none", ("cx", "cy", "w", "h", "class:0", "class:1", "class:2", "unused"))
    given = dataclasses.replace(given, box=BoxEncoding(units="pixels"))
    (finding,) = diagnose(to_float(network), given, images)
    assert finding.finding.code == "head-shares-scale" and finding.repaired is None
    assert finding.cost is not None and finding.cost.label > 0.1
    assert "changes the class on" in str(finding.finding) and "SOFTMAX, which cannot be split" in str(finding.finding)


def test_a_contract_of_another_model_is_refused(make_head: Head, contract: Contract, images: np.ndarray) -> None:
    with pytest.raises(ContractError, match="which the model does not have"):
        diagnose(make_head("joined_as_logits")[0], contract, images)
