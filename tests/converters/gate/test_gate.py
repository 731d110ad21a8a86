"""The gate: what it lets through, what it stops and how it says so, on a small network that really localizes."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.converters.gate import Gate, GateLimits, GateRefused, GateReport
from edgeloc.converters.gate.limits import check_figures
from edgeloc.converters.gate.report import report_lines, require_passed
from edgeloc.converters.quantization.quantize import quantize, recipe
from edgeloc.converters.sources.tensorflow import KerasSource
from edgeloc.data import Dataset, Sample
from edgeloc.errors import DataError, OutputError, UsageError
from edgeloc.evaluation.figures import (
    SIZES,
    ClassFigures,
    PresenceFigures,
    Regression,
    Row,
    SizeFigures,
    regression_figures,
)
from edgeloc.evaluation.pairing import Side
from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Box, LabelledBox, Pixels

CONTRACT = Contract(
    InputSpec("image", 32, 32, resize="stretch"),
    (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box")),
    BoxEncoding("xyxy"),
    measured={"training": {"box_iou": 0.6}},
)
COUNT = 64


def photo(index: int, *, empty: bool = False, **changes: Any) -> Sample:
    """A dark image of 96x64 with one bright rectangle, of one of four clips."""
    box = None if empty else place(index)
    values: dict[str, Any] = {"group": f"clip{index % 4}", "read": partial(pixels_of, index, box), **changes}
    read = values.pop("read")
    return Sample(f"clip/{index:04}.png", () if box is None else (LabelledBox(box),), read=read, **values)


def place(index: int) -> Box:
    rng = np.random.default_rng(index)
    w, h = int(rng.integers(16, 32)), int(rng.integers(10, 21))
    x, y = int(rng.integers(0, 96 - w)), int(rng.integers(0, 64 - h))
    return Box(x, y, x + w, y + h)


def pixels_of(index: int, box: Box | None) -> Pixels:
    pixels = np.random.default_rng(index).integers(0, 40, (64, 96, 3)).astype(np.uint8)
    if box is not None:
        pixels[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = 235
    return pixels


def dataset(samples: list[Sample]) -> Dataset:
    return Dataset("drawn", "drawn", (), tuple(samples), (), ("val",), "val")


def hand_made_network() -> Any:
    """A localizer without training: bright columns and rows, counted from either side, are the edges of the box."""
    import keras
    from keras import layers

    constant = keras.initializers.Constant
    image = keras.Input((32, 32, 3), name="image")
    bright = layers.Conv2D(1, 1, activation="relu", kernel_initializer=constant(1 / 3), bias_initializer=constant(0.3))
    lit, ends = bright(image), {}
    for axis, size in (("x", (32, 1)), ("y", (1, 32))):
        profile = layers.Flatten()(layers.AveragePooling2D(size)(lit))
        filled = layers.ReLU(6.0)(layers.Dense(32, name=f"gain_{axis}", kernel_initializer=constant(0))(profile))
        for side in ("up", "down"):
            ends[axis + side] = layers.ReLU(6.0)(layers.Dense(32, name=f"{axis}_{side}")(filled))
        ends[axis] = filled
    edges = layers.Concatenate()([ends[name] for name in ("xup", "yup", "xdown", "ydown")])
    box = layers.Dense(4, name="box")(edges)
    presence = layers.Dense(1, name="presence", kernel_initializer=constant(0.1), bias_initializer=constant(-2.0))
    network = keras.Model(image, {"presence": presence(ends["x"]), "box": box})
    set_counting_weights(network)
    return network


def set_counting_weights(network: Any) -> None:
    """What is lit is brought to 6; summed from one side it is 6 from the first lit cell on."""
    ones = np.ones((32, 32), np.float32)
    for axis in "xy":
        network.get_layer(f"gain_{axis}").set_weights([np.eye(32) * 40, np.zeros(32)])
        network.get_layer(f"{axis}_up").set_weights([np.triu(ones), np.zeros(32)])
        network.get_layer(f"{axis}_down").set_weights([np.tril(ones), np.zeros(32)])
    kernel = np.repeat(np.eye(4), 32, axis=0) / (6 * 32) * [-1, -1, 1, 1]
    network.get_layer("box").set_weights([kernel, np.array([1, 1, 0, 0])])


class Models:
    """Flatbuffers of one network: float, int8, int8 calibrated on raw pixels, and float with a shifted presence."""

    def __init__(self, folder: Path) -> None:
        preprocess = Preprocessor(CONTRACT.input, np.dtype(np.float32), None, None)
        images = np.stack([preprocess(photo(i, empty=i % 4 == 3).load())[0][0].copy() for i in range(1000, 1100)])
        network, path = hand_made_network(), folder / "hand-made.keras"
        network.save(path)
        self.float = KerasSource(path, network).to_tflite(CONTRACT.input)
        self.int8 = quantize(self.float, recipe("int8"), CONTRACT.input, images)
        self.raw = quantize(self.float, recipe("int8"), CONTRACT.input, images * 127.5 + 127.5)
        kernel, bias = network.get_layer("presence").get_weights()
        network.get_layer("presence").set_weights([kernel, bias - 3])
        self.shifted = KerasSource(path, network).to_tflite(CONTRACT.input)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("gate"))


@pytest.fixture
def photos() -> Dataset:
    return dataset([photo(index) for index in range(COUNT)])


def judged(models: Models, flatbuffer: bytes, photos: Dataset, **options: Any) -> GateReport:
    limits = {name: options.pop(name) for name in list(options) if name in GateLimits.__slots__}
    return Gate(models.float, CONTRACT, photos, limits=GateLimits(**limits), **options).judge(flatbuffer, CONTRACT)


def codes(report: GateReport) -> set[str]:
    return {finding.code for finding in report.findings}


def require(gate: Gate, report: GateReport, out: Path, *, head_repaired: bool = False) -> None:
    require_passed(report, gate.samples, out, head_repaired=head_repaired)


def test_a_faithful_model_passes(models: Models, photos: Dataset) -> None:
    report = judged(models, models.int8, photos, max_iou_drop=0.01)
    assert report.passed and report.failures == ()
    assert report.regression.mean_iou_float is not None and report.regression.mean_iou_float > 0.5
    assert report_lines(report)[-1].startswith("the gate is passed")


def test_a_model_against_itself_loses_nothing(models: Models, photos: Dataset) -> None:
    report = judged(models, models.float, photos, max_iou_drop=0.0)
    assert report.passed and report.findings == ()
    assert report.regression.mean_iou_drop == 0
    assert not report.fit.moved


def test_calibration_on_raw_pixels_fails_and_says_why(models: Models, photos: Dataset, tmp_path: Path) -> None:
    gate = Gate(models.float, CONTRACT, photos, limits=GateLimits(max_iou_drop=0.005))
    report = gate.judge(models.raw, CONTRACT)
    assert not report.passed
    with pytest.raises(GateRefused, match="m.tflite is not written, since the gate failed: mean IoU is 0") as failed:
        require(gate, report, tmp_path / "m.tflite")
    assert failed.value.exit_status == 1
    assert str(tmp_path / "m-worst") in str(failed.value)
    assert any("FAILED" in line for line in report_lines(report))


def test_the_worst_images_are_pictures_beside_the_output(models: Models, photos: Dataset, tmp_path: Path) -> None:
    gate = Gate(models.float, CONTRACT, photos)
    report = gate.judge(models.raw, CONTRACT)
    with pytest.raises(GateRefused):
        require(gate, report, tmp_path / "m.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["m-worst"]
    pictures = sorted((tmp_path / "m-worst").iterdir())
    assert len(pictures) == len(report.regression.worst)
    worst = report.regression.worst[0]
    assert pictures[0].name == f"01-{Path(worst.name).stem}.jpg"
    shown = cv2.imread(str(pictures[0]))
    plain = cv2.resize(next(s for s in photos if s.name == worst.name).load(), (shown.shape[1], shown.shape[0]))
    assert np.abs(shown.astype(int) - plain).max() > 100  # boxes are drawn


def test_pictures_of_an_earlier_failure_are_replaced(models: Models, photos: Dataset, tmp_path: Path) -> None:
    gate = Gate(models.float, CONTRACT, photos)
    report = gate.judge(models.raw, CONTRACT)
    old = tmp_path / "m-worst" / "77-old.jpg"
    old.parent.mkdir()
    old.write_bytes(b"")
    with pytest.raises(GateRefused):
        require(gate, report, tmp_path / "m.tflite")
    assert not old.exists() and any(old.parent.iterdir())
    require(gate, gate.judge(models.float, CONTRACT), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_in_it_is_left_alone(models: Models, photos: Dataset, tmp_path: Path) -> None:
    gate = Gate(models.float, CONTRACT, photos)
    report = gate.judge(models.raw, CONTRACT)
    mine = tmp_path / "m-worst" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(OutputError, match="m-worst"):
        require(gate, report, tmp_path / "m.tflite")
    assert [path.name for path in tmp_path.rglob("*")] == ["m-worst", "notes.txt"]


def test_nothing_is_written_for_a_model_that_passes(models: Models, photos: Dataset, tmp_path: Path) -> None:
    gate = Gate(models.float, CONTRACT, photos)
    require(gate, gate.judge(models.float, CONTRACT), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_pictures_leave_nothing(
    models: Models, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(models.float, CONTRACT, photos)
    report = gate.judge(models.raw, CONTRACT)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        require(gate, report, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_the_interval_says_what_was_resampled(models: Models, photos: Dataset) -> None:
    by_clip = judged(models, models.int8, photos)
    alone = dataset([dataclasses.replace(sample, group=None) for sample in photos])
    by_image = judged(models, models.int8, alone)
    assert (by_clip.regression.ci_by, by_clip.regression.ci_groups) == ("group", 4)
    assert (by_image.regression.ci_by, by_image.regression.ci_groups) == ("image", COUNT)
    assert any("4 groups resampled" in line for line in report_lines(by_clip))
    assert any(f"{COUNT} images resampled" in line for line in report_lines(by_image))
    assert "no-groups" in codes(by_image)


def test_data_that_cannot_tell_is_warned_of(models: Models, photos: Dataset) -> None:
    drop = judged(models, models.int8, photos).regression.mean_iou_drop
    assert drop is not None
    report = judged(models, models.int8, photos, max_iou_drop=max(drop, 0.0) + 1e-6)
    assert "gate-inconclusive" in codes(report)


def test_the_threshold_of_presence_follows_scores_that_moved(models: Models) -> None:
    samples = dataset([photo(index, empty=index % 2 == 1) for index in range(COUNT)])
    report = judged(models, models.shifted, samples)
    found, before = report.regression.presence, report.presence_before
    assert report.fit.before == 0.5 and 0 < report.fit.after < 0.3
    assert before.recall_quantized is not None and found.recall_quantized is not None
    assert found.recall_quantized > before.recall_quantized
    assert found.recall_quantized == found.recall_float
    assert found.false_alarms_quantized == found.false_alarms_float
    assert any("goes from 0.5 to" in line for line in report_lines(report))


def test_the_contract_carries_threshold_and_figures(models: Models) -> None:
    samples = dataset([photo(index, empty=index % 2 == 1) for index in range(COUNT)])
    contract = dataclasses.replace(CONTRACT, thresholds=Thresholds(0.5, 0.25))
    report = judged(models, models.shifted, samples, max_iou_drop=0.01)
    written = Contract.from_json(report.written_into(contract).to_json())
    assert written.thresholds == Thresholds(report.fit.after, 0.25)
    assert written.measured["training"] == {"box_iou": 0.6}
    figures = written.measured["quantization"]
    assert figures["data"] == "drawn" and figures["split"] == "val" and figures["images"] == COUNT // 2
    assert figures["limits"]["max_iou_drop"] == 0.01 and figures["passed"] is True
    assert len(json.dumps(figures)) < 3000  # figures, not rows


def test_a_model_that_finds_nothing_any_more_fails(models: Models, photos: Dataset) -> None:
    """Its boxes are as good as ever: mean IoU alone would let it through."""
    positives = dataset(
        [dataclasses.replace(s, objects=(LabelledBox(Box(0, 0, 96, 64)),), read=s.load) for s in photos]
    )
    report = judged(models, models.shifted, positives, max_iou_drop=0.01)
    assert report.fit.reason == "the data has no image without an object"
    assert [check.name for check in report.failures] == ["objects found"]


def test_the_float_model_is_asked_once_for_each_image(
    models: Models, photos: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    answer = Side.answer
    monkeypatch.setattr(Side, "answer", lambda side, pixels: asked.append(side) or answer(side, pixels))
    gate = Gate(models.float, CONTRACT, photos, max_images=8)
    first, second = gate.judge(models.int8, CONTRACT), gate.judge(models.int8, CONTRACT)
    assert first.regression == second.regression
    images = len(first.regression.rows)
    assert len(asked) == images * 3


def test_limit_takes_as_many_of_each_clip(models: Models, photos: Dataset) -> None:
    report = judged(models, models.float, photos, max_images=8)
    assert report.regression.images == 8
    assert report.regression.ci_groups == 4


def test_too_few_images_fail_nothing_but_the_mean(models: Models, photos: Dataset) -> None:
    report = judged(models, models.raw, photos, max_images=8)
    assert [check.name for check in report.failures] == ["mean IoU"]
    assert "gate-few-images" in codes(report)


def test_a_float_model_that_never_localized_is_named(models: Models, photos: Dataset) -> None:
    wrong = dataclasses.replace(CONTRACT, box=dataclasses.replace(CONTRACT.box, form="yxyx"))
    report = Gate(models.float, wrong, photos).judge(models.int8, wrong)
    assert "float-model-poor" in codes(report)


def test_a_damaged_image_stops_or_is_counted(models: Models, photos: Dataset) -> None:
    def damaged() -> Pixels:
        raise DataError("clip/x.png is damaged")

    samples = dataset([*photos, photo(999, read=damaged)])
    with pytest.raises(DataError, match="damaged"):
        judged(models, models.float, samples)
    report = judged(models, models.float, samples, skip_bad=True)
    assert report.skipped == ("clip/0999.png",)
    assert any("left out 1 image that" in line for line in report_lines(report))


def test_a_model_without_presence_is_judged_by_its_boxes(models: Models, photos: Dataset) -> None:
    contract = dataclasses.replace(CONTRACT, outputs=CONTRACT.outputs[1:])
    report = Gate(models.float, contract, photos).judge(models.float, contract)
    assert {row.kind for row in report.regression.rows} == {"object"}
    assert not [check for check in report.checks if check.name in ("objects found", "false alarms")]
    assert report.findings == ()


def test_data_without_a_box_is_refused(models: Models) -> None:
    with pytest.raises(DataError, match="labelled object"):
        Gate(models.float, CONTRACT, dataset([photo(i, empty=True) for i in range(4)]))
    with pytest.raises(DataError, match="labelled object"):
        Gate(models.float, CONTRACT, dataset([photo(i, labelled=False) for i in range(4)]))


@pytest.mark.parametrize("name", GateLimits.__slots__)
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_limit_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value:g}: it must be 0 to 1"):
        GateLimits(**{name: value})


def figures_of(**changes: Any) -> Regression:
    """A regression over enough images that keeps to every default limit, or is changed in one figure."""
    size = SizeFigures(100, 0.8, 0.8, 0.0, 0.95)
    presence = PresenceFigures(0.5, 0.5, 300, 300, 0, 0.95, 0.95, 0.05, 0.05, 1.0)
    classes = ClassFigures(300, 0, 0.9, 0.9, 0.99)
    rows = [Row("a", "object", 9, 9, "g", None, "small", None, None, None, 0.8, 0.8, 0.95, 0.9, 0.9, None, None)]
    values: dict[str, Any] = {
        "images": 300, "mean_iou_float": 0.8, "mean_iou_quantized": 0.8, "mean_iou_drop": 0.0,
        "mean_iou_float_to_quantized": 0.95, "by_size": dict.fromkeys(SIZES, size), "presence": presence,
        "classes": classes, "rows": rows,
    }  # fmt: skip
    base = regression_figures(rows, threshold_float=0.5, threshold_quantized=0.5)
    for name, change in changes.items():
        kept = values[name]
        if name == "by_size":
            values[name] = {**kept, "small": dataclasses.replace(size, **change)}
        else:
            values[name] = dataclasses.replace(kept, **change) if isinstance(change, dict) else change
    return dataclasses.replace(base, **values)


@pytest.mark.parametrize(
    ("change", "option", "name", "loose"),
    [
        ({"mean_iou_quantized": 0.78}, "max_iou_drop", "mean IoU", 0.03),
        ({"by_size": {"mean_iou_quantized": 0.78}}, "max_iou_drop_by_size", "mean IoU, small", 0.03),
        ({"mean_iou_float_to_quantized": 0.8}, "min_box_iou", "IoU between the two boxes", 0.7),
        (
            {"by_size": {"mean_iou_float_to_quantized": 0.7}},
            "min_box_iou_by_size",
            "IoU between the two boxes, small",
            0.6,
        ),
        ({"presence": {"recall_quantized": 0.9}}, "max_recall_drop", "objects found", 0.1),
        ({"presence": {"false_alarms_quantized": 0.1}}, "max_false_alarm_rise", "false alarms", 0.1),
        ({"classes": {"top1_quantized": 0.85}}, "max_accuracy_drop", "class right", 0.1),
        ({"classes": {"agreement": 0.8}}, "min_class_agreement", "class agreement", 0.7),
    ],
)
def test_each_limit_has_an_option_that_moves_it(
    change: dict[str, Any], option: str, name: str, loose: float, models: Models, photos: Dataset, tmp_path: Path
) -> None:
    assert not [check for check in check_figures(figures_of(), GateLimits()) if check.failed]
    regression = figures_of(**change)
    (failed,) = (check for check in check_figures(regression, GateLimits()) if check.failed)
    assert (failed.name, failed.option) == (name, option)
    assert not [check for check in check_figures(regression, GateLimits(**{option: loose})) if check.failed]
    report = dataclasses.replace(judged(models, models.float, photos), regression=regression, checks=(failed,))
    with pytest.raises(GateRefused) as refused:
        require_passed(report, [], tmp_path / "m.tflite", head_repaired=False)
    assert str(refused.value).endswith(f"try fix_head, or move the limit with {option}")
    with pytest.raises(GateRefused) as refused:
        require_passed(report, [], tmp_path / "m.tflite", head_repaired=True)
    assert "fix_head" not in str(refused.value)
