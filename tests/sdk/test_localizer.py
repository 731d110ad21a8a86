"""The Localizer: finding the object, finding the contract, its stages and its self-test."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc import Contract, Frame, Golden, Localizer, ModelFile, read_model, write_model
from edgeloc.errors import ContractError, EngineError, ModelError, UsageError
from edgeloc.model.contract import BoxEncoding, InputSpec, OutputSpec
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations, Selection
from edgeloc.testing import FakeEngine
from edgeloc.types import Result


def scene(width: int = 128, height: int = 96, box: tuple[int, int, int, int] = (40, 30, 64, 54)) -> Any:
    frame = np.full((height, width, 3), 15, np.uint8)
    x1, y1, x2, y2 = box
    frame[y1:y2, x1:x2] = 250
    return frame


def test_it_finds_the_object_in_pixels_of_the_frame(grid_model: Path) -> None:
    localizer = Localizer(grid_model)
    for size, box in (((128, 96), (40, 30, 64, 54)), ((300, 300), (200, 20, 250, 70)), ((96, 128), (40, 80, 72, 112))):
        result = localizer(scene(*size, box))
        assert result.present
        assert result.box is not None
        x1, y1, x2, y2 = result.box
        middle = ((x1 + x2) / 2, (y1 + y2) / 2)
        expected = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        assert middle == pytest.approx(expected, abs=max(size) / 20)
        assert result.label == "bolt"
        assert result.class_scores.sum() == pytest.approx(1, abs=1e-5)
    dark = localizer(np.full((96, 128, 3), 15, np.uint8))
    assert (dark.present, dark.objects, dark.box, dark.label) == (False, (), None, None)
    assert dark.presence < 0.5 and dark.class_scores.sum() == pytest.approx(1, abs=1e-5)


def test_a_frame_gives_the_result_of_its_pixels_and_knows_its_age(grid_model: Path) -> None:
    localizer = Localizer(grid_model)
    frame = Frame(scene(), time.monotonic() - 1, 7)
    assert localizer(frame) == localizer(scene())
    assert 1000 <= frame.age_ms < 60_000


def test_the_stages_are_what_the_call_does(grid_model: Path) -> None:
    localizer = Localizer(grid_model)
    frame = scene()
    tensor, placement = localizer.preprocess(frame)
    result = localizer.decode(localizer.invoke(tensor), placement, (128, 96))
    assert result.box == localizer(frame).box


def test_results_do_not_change_with_later_frames(grid_model: Path) -> None:
    localizer = Localizer(grid_model)
    result = localizer(scene())
    scores = result.class_scores.copy()
    localizer(np.zeros((96, 128, 3), np.uint8))
    assert np.array_equal(result.class_scores, scores)


def test_what_is_no_frame_is_refused(grid_model: Path) -> None:
    localizer = Localizer(grid_model)
    with pytest.raises(UsageError, match="BGR"):
        localizer(np.zeros((96, 128), np.uint8))
    with pytest.raises(UsageError, match=r"not None: cv2\.imread"):
        localizer(None)  # type: ignore[arg-type]


class TestContractLookup:
    @pytest.fixture
    def plain(self, grid_flatbuffer: bytes, tmp_path: Path) -> Path:
        path = tmp_path / "plain.tflite"
        path.write_bytes(grid_flatbuffer)
        return path

    def test_none_anywhere_is_an_error_with_its_fix(self, plain: Path) -> None:
        with pytest.raises(ContractError, match=r"has no contract.*plain\.json beside it, give contract, or"):
            Localizer(plain)

    def test_beside_the_model(self, plain: Path, grid_contract: Contract) -> None:
        plain.with_suffix(".json").write_text(grid_contract.to_json())
        assert Localizer(plain)(scene()).present

    def test_given_as_a_value_or_a_file(self, plain: Path, grid_contract: Contract, tmp_path: Path) -> None:
        assert Localizer(plain, contract=grid_contract)(scene()).present
        (tmp_path / "other.json").write_text(grid_contract.to_json())
        assert Localizer(plain, contract=tmp_path / "other.json")(scene()).present

    def test_the_one_given_wins_over_the_one_inside(self, grid_model: Path, grid_contract: Contract) -> None:
        other = dataclasses.replace(grid_contract, labels=("x", "y", "z"))
        assert Localizer(grid_model, contract=other)(scene()).label == "x"

    def test_a_bad_file_is_named(self, plain: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.json").write_text("{")
        with pytest.raises(ContractError, match=r"bad\.json: the contract is no JSON"):
            Localizer(plain, contract=tmp_path / "bad.json")
        with pytest.raises(ContractError, match="no such file"):
            Localizer(plain, contract=tmp_path / "absent.json")


def test_an_output_that_is_not_there_is_named(grid_flatbuffer: bytes, grid_contract: Contract, tmp_path: Path) -> None:
    outputs = (*grid_contract.outputs[:3], OutputSpec("edges", "grid-distances"))
    path = tmp_path / "m.tflite"
    write_model(path, grid_flatbuffer, dataclasses.replace(grid_contract, outputs=outputs))
    with pytest.raises(ContractError, match=r"output 'edges' .* is not in the model, which has .*'distances'"):
        Localizer(path)


def test_labels_that_do_not_fit_the_class_output_are_refused(
    grid_flatbuffer: bytes, grid_contract: Contract, tmp_path: Path
) -> None:
    path = tmp_path / "m.tflite"
    write_model(path, grid_flatbuffer, dataclasses.replace(grid_contract, labels=("one", "two")))
    with pytest.raises(ContractError, match="each of 2 label"):
        Localizer(path)


def test_a_truncated_file_is_a_model_error(grid_model: Path, tmp_path: Path) -> None:
    data = grid_model.read_bytes()
    cut = tmp_path / "cut.tflite"
    for keep in (len(data) // 3, len(data) - 40):
        cut.write_bytes(data[:keep])
        with pytest.raises(ModelError):
            Localizer(cut)


class TestSelfTest:
    def test_it_passes_on_the_engine_it_was_made_with(self, grid_model: Path) -> None:
        Localizer(grid_model).self_test()

    def test_a_model_without_one_says_so(self, tmp_path: Path, grid_flatbuffer: bytes, grid_contract: Contract) -> None:
        write_model(tmp_path / "m.tflite", grid_flatbuffer, grid_contract)
        with pytest.raises(ModelError, match="has no self-test"):
            Localizer(tmp_path / "m.tflite").self_test()

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"presence": 0.5}, r"presence is 0\.\d+, expected 0\.500 ± 0\.1"),
            ({"box": None}, "expected None"),
            ({"box": (0, 0, 9, 9)}, "the box is off by"),
            ({"label": "nut"}, "label is 'bolt', expected 'nut'"),
        ],
    )
    def test_a_difference_is_an_engine_error_that_names_it(
        self, grid_model: Path, tmp_path: Path, changes: dict[str, Any], words: str
    ) -> None:
        model = read_model(grid_model)
        assert model.golden is not None
        assert model.contract is not None
        golden: Golden = dataclasses.replace(model.golden, **changes)
        write_model(tmp_path / "m.tflite", model.payload, model.contract, golden=golden)
        with pytest.raises(EngineError, match=words):
            Localizer(tmp_path / "m.tflite").self_test()


def test_an_engine_that_fails_once_raises_once(grid_model: Path) -> None:
    model = read_model(grid_model)
    assert model.contract is not None
    engine = FakeEngine(model.contract)
    localizer = Localizer(model, engine=engine)
    engine.fail()
    with pytest.raises(EngineError):
        localizer(scene())
    assert localizer(scene()).presence == 0.5


def test_integer_outputs_without_a_scale_are_read_as_they_are() -> None:
    contract = Contract(InputSpec("image", 8, 8), (OutputSpec("box", "box"),), BoxEncoding("xyxy", "pixels"))
    engine = FakeEngine(contract, [{"box": [[1, 2, 5, 6]]}])
    engine.outputs = {"box": engine.outputs["box"]._replace(dtype=np.dtype(np.int32))}
    assert Localizer(ModelFile(Path("m"), b"", "tflite", contract=contract), engine=engine)(
        np.zeros((8, 8, 3), np.uint8)
    ).box == (1, 2, 5, 6)


def several(scores: list[float], candidates_from: float | None) -> Result:
    """The answer of a model of three objects, whose boxes lie beside each other."""
    outputs = OutputSpec("box", "box"), OutputSpec("presence", "presence")
    contract = Contract(InputSpec("image", 8, 8), outputs, BoxEncoding("xyxy", "pixels", objects=3))
    answer = {"box": [[0, 0, 2, 2, 3, 3, 5, 5, 6, 6, 8, 8]], "presence": [scores]}
    model = ModelFile(Path("m"), b"", "tflite", contract=contract)
    localizer = Localizer(model, engine=FakeEngine(contract, [answer]), candidates_from=candidates_from)
    return localizer(np.zeros((8, 8, 3), np.uint8))


def test_what_is_below_the_threshold_is_a_candidate_for_who_asks() -> None:
    asked, not_asked = (several([0.3, 0.9, 0.05], candidates_from) for candidates_from in (0.1, None))
    assert asked.objects == not_asked.objects and not_asked.candidates == ()
    assert [(one.box, round(one.score, 2)) for one in asked.candidates] == [((0, 0, 2, 2), 0.3)]
    none_present, usual = (several([0.3, 0.4, 0.05], candidates_from) for candidates_from in (0.1, None))
    assert [round(one.score, 2) for one in none_present.candidates] == [0.4, 0.3]
    assert (none_present.objects, none_present.rejected) == (usual.objects, usual.rejected)
    assert not none_present.present and none_present.presence == usual.presence == pytest.approx(0.4)


@pytest.mark.parametrize(("nms", "scores"), [("by-class", [0.3]), ("merge", [])])
def test_a_detector_has_candidates_where_they_change_no_object(nms: Any, scores: list[float]) -> None:
    spec = DetectorSpec(Locations((4,)), DetectorBox("cell"), selection=Selection(nms))
    output = OutputSpec("cells", "detections", parts=("class",))
    contract = Contract(InputSpec("image", 8, 8), (output,), labels=("nut",), detector=spec)
    engine = FakeEngine(contract, [{"cells": [[[0.9], [0.3], [0.0], [0.0]]]}])
    localizer = Localizer(ModelFile(Path("m"), b"", "tflite", contract=contract), engine=engine, candidates_from=0.1)
    result = localizer(np.zeros((8, 8, 3), np.uint8))
    assert [one.box for one in result.objects] == [(0, 0, 4, 4)]
    assert [round(one.score, 2) for one in result.candidates] == scores


def test_a_localizer_of_one_object_has_no_candidates(grid_model: Path) -> None:
    dark = np.full((96, 128, 3), 15, np.uint8)
    assert Localizer(grid_model, candidates_from=0.0)(dark) == Localizer(grid_model)(dark)
    with pytest.raises(UsageError, match="candidates_from"):
        Localizer(grid_model, candidates_from=2)


def test_somebody_elses_classifier_runs_with_a_contract_beside_it(conformance: Path, tmp_path: Path) -> None:
    model = tmp_path / "mobilenet.tflite"
    shutil.copy(conformance / "coral" / "tf2_mobilenet_v2_1.0_224_ptq.tflite", model)
    labels = (conformance / "coral" / "imagenet_labels.txt").read_text().splitlines()
    contract = Contract(
        InputSpec("input", 224, 224, resize="stretch"), (OutputSpec("Identity", "class"),), labels=tuple(labels)
    )
    model.with_suffix(".json").write_text(contract.to_json())
    result = Localizer(model)(cv2.imread(str(conformance / "coral" / "cat.bmp")))
    assert result.label is not None
    assert "cat" in result.label
    assert (result.presence, result.box) == (1.0, None)
