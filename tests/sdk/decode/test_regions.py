"""What the host does between the networks of two-stage detectors: proposals, pooled regions, refined boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeloc.decode.numbers import REAL
from edgeloc.decode.regions import (
    RegionStages,
    crop_regions,
    encode_boxes,
    pool_regions,
    propose_by_contrast,
    refine_boxes,
)
from edgeloc.errors import ContractError, EngineError
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations, Scores, Selection, Stages
from edgeloc.scenes import SceneGenerator

VARIANCES = (0.1, 0.2)
REGIONS = np.array([[0, 0, 40, 24], [3.3, 5.1, 9.7, 20.2], [30, 10, 40, 24], [11, 7, 12.5, 9]], np.float32)


def contract(stages: Stages) -> Contract:
    outputs = tuple(OutputSpec(part, "detections", parts=(part,)) for part in ("class", "box"))
    spec = InputSpec("image", 40, 24, mean=(0.0,), std=(255.0,))
    box, scores = DetectorBox("xyxy", units="pixels"), Scores("softmax", background="first")
    return Contract(spec, outputs, labels=("a", "b"), detector=DetectorSpec(box=box, scores=scores), stages=stages)


def network_proposals() -> DetectorSpec:
    return DetectorSpec(
        Locations((8,), anchors=(((10, 10),),)),
        DetectorBox("cxcywh", units="anchor", size="exp"),
        Scores("softmax", background="first"),
        Selection("over-all", 0.7, objects=4),
    )


def slowly_pooled(features: np.ndarray, region: np.ndarray, stride: int, side: int) -> np.ndarray:
    """RoIAlign as its paper describes it, point by point."""
    height, width, channels = features.shape
    pooled = np.zeros((side, side, channels))
    x1, y1, x2, y2 = region / stride
    for row, column in np.ndindex(side, side):
        for i, j in np.ndindex(2, 2):
            y = np.clip(y1 + (y2 - y1) * (row + (i + 0.5) / 2) / side - 0.5, 0, height - 1)
            x = np.clip(x1 + (x2 - x1) * (column + (j + 0.5) / 2) / side - 0.5, 0, width - 1)
            top, left = int(y), int(x)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = features[top, left] * (1 - x + left) + features[top, right] * (x - left)
            lower = features[below, left] * (1 - x + left) + features[below, right] * (x - left)
            pooled[row, column] += (upper * (1 - y + top) + lower * (y - top)) / 4
    return pooled


def test_regions_are_pooled_as_roi_align_describes_it() -> None:
    features = np.random.default_rng(0).normal(size=(6, 10, 3)).astype(np.float32)
    pooled = pool_regions(features, REGIONS, 4, 5)
    assert pooled.shape == (4, 5, 5, 3)
    for found, region in zip(pooled, REGIONS, strict=True):
        np.testing.assert_allclose(found, slowly_pooled(features, region, 4, 5), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float32])
def test_a_crop_of_the_whole_image_is_the_image(dtype: Any) -> None:
    image = np.random.default_rng(0).integers(-128 if dtype == np.int8 else 0, 127, (24, 24, 3)).astype(dtype)
    crop = crop_regions(image, np.array([[0, 0, 24, 24]], np.float32), 24)
    assert crop.dtype == dtype
    np.testing.assert_array_equal(crop[0], image)


def test_a_crop_is_warped_to_the_square() -> None:
    image = np.zeros((24, 40, 3), np.uint8)
    image[8:16, 20:30] = 200
    crops = crop_regions(image, np.array([[20, 8, 30, 16], [10, 0, 40, 24]], np.float32), 12)
    assert (crops[0][1:-1, 1:-1] > 160).all()
    assert (crops[1][5:7, 5:7] > 190).all() and not crops[1][0].any() and not crops[1][:, 0].any()


def test_boxes_are_what_they_were_encoded_from() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 20, (50, 2))
    boxes = np.concatenate([low, low + rng.uniform(2, 20, (50, 2))], axis=1).astype(np.float32)
    regions = boxes + rng.uniform(-0.9, 0.9, boxes.shape).astype(np.float32)
    numbers = encode_boxes(boxes, regions, VARIANCES)
    np.testing.assert_allclose(refine_boxes(numbers, regions, VARIANCES), boxes, atol=1e-4)
    np.testing.assert_allclose(refine_boxes(np.zeros((50, 4), np.float32), regions, VARIANCES), regions, atol=1e-4)


def test_contrast_proposes_the_objects_of_synthetic_scenes() -> None:
    scenes = [SceneGenerator(0, (224, 168)).scene(index) for index in range(30)]
    objects = [scene for scene in scenes if scene.box is not None]
    found = 0
    for scene in objects:
        regions = propose_by_contrast(scene.pixels, 100)
        assert 1 <= len(regions) <= 100
        assert scene.box is not None
        found += max(scene.box.iou(type(scene.box)(*region)) for region in regions.tolist()) >= 0.5
    assert found / len(objects) >= 0.75


def test_an_image_of_one_colour_is_one_region() -> None:
    for channels in (1, 3):
        regions = propose_by_contrast(np.full((24, 40, channels), 90, np.uint8), 10)
        assert regions.tolist() == [[0, 0, 40, 24]]


def test_a_network_proposes_regions_within_the_input() -> None:
    steps = RegionStages(contract(Stages("faster-rcnn", 4, proposals=network_proposals())), REAL, {})
    logits = np.tile(np.array([5, -5], np.float32), (1, 3, 5, 1))
    logits[0, 0, 0] = logits[0, 2, 4] = (-5, 5)
    boxes = np.zeros((1, 3, 5, 4), np.float32)
    outputs = {"proposal_class": logits, "proposal_box": boxes}
    regions = steps.propose(np.zeros((1, 24, 40, 3), np.float32), outputs)
    assert sorted(regions.tolist()) == [[0, 0, 9, 9], [31, 15, 40, 24]]
    nothing = {"proposal_class": np.full_like(logits, [9, -9]), "proposal_box": boxes}
    assert steps.propose(np.zeros((1, 24, 40, 3), np.float32), nothing).tolist() == [[0, 0, 40, 24]]
    boxes[0, 0, 0] = np.nan
    with pytest.raises(EngineError, match="not a finite number"):
        steps.propose(np.zeros((1, 24, 40, 3), np.float32), outputs)


def test_outputs_hold_the_background_behind_the_last_region() -> None:
    steps = RegionStages(contract(Stages("fast-rcnn", regions=3)), REAL, {})
    joined = steps.join(REGIONS[:2], np.eye(3, dtype=np.float32)[:2], np.zeros((2, 4), np.float32))
    assert joined["box"].shape == (1, 3, 4) and joined["class"].shape == (1, 3, 3)
    np.testing.assert_allclose(joined["box"][0, :2], REGIONS[:2], atol=1e-5)
    assert joined["class"][0, 2].argmax() == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "rcnn-2"}, "stages.method"),
        ({"method": "rcnn"}, "stages.stride"),
        ({"method": "faster-rcnn"}, "stages.proposals"),
        ({"method": "fast-rcnn", "regions": 0}, "stages.regions"),
        ({"method": "fast-rcnn", "variances": (0.0, 1.0)}, "stages.variances"),
    ],
)
def test_stages_that_contradict_each_other_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Stages(**wrong)


def test_a_contract_with_stages_is_read_as_it_was_written() -> None:
    written = contract(Stages("faster-rcnn", 4, proposals=network_proposals()))
    assert Contract.from_json(written.to_json()) == written
