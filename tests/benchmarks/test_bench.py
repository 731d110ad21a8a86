"""`edgeloc bench` and `edgeloc report` from the command line, on tiny models and images with known boxes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeloc.benchmarks.latency import SceneSource
from edgeloc.benchmarks.measurement import BenchOptions
from edgeloc.benchmarks.result import LOCALIZE, STAGES, read_result
from edgeloc.cli import main
from edgeloc.data import Sample
from edgeloc.errors import UsageError
from edgeloc.evaluation.figures import regression_figures
from edgeloc.evaluation.pairing import RegressionRecorder
from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model
from edgeloc.models import SHIPPED_DETECTOR_INT8, SHIPPED_DETECTOR_KERAS
from edgeloc.scenes import SceneGenerator
from edgeloc.testing import FakeCudaDriver, FakeTensorRt, fake_onnx

IMAGES, CLIPS = 12, 3


@pytest.fixture(scope="module")
def contract() -> Contract:
    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    return Contract(InputSpec("image", 32, 32, resize="stretch"), outputs)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path, contract: Contract) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("int8", "float32"):
        write_model(folder / f"{name}.tflite", (tiny_models / f"{name}.tflite").read_bytes(), contract)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three clips of four scenes, one of them without an object where the generator has such."""
    scenes = SceneGenerator(5, (120, 90))
    rows = []
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(IMAGES):
        scene = scenes.scene(index)
        cv2.imwrite(str(folder / f"{index:02}.jpg"), scene.pixels)
        box = list(scene.box) if scene.box else None
        rows.append(
            {"file": f"{index:02}.jpg", "box_xyxy": box, "cls": scene.label, "clip": index // 4, "split": "val"}
        )
    two = [{"box": [10, 10, 40, 40], "label": "thing"}, {"box": [50, 50, 60, 60], "label": "thing"}]
    rows[0] = {"file": "00.jpg", "objects": two, "clip": 0, "split": "val"}
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def bench(*words: object, frames: int = 5) -> int:
    return main(["bench", *map(str, words), "--frames", str(frames), "--warmup", "2"])


def compare(models: Path, data: Path, out: Path, *words: object) -> int:
    against = models / "float32.tflite"
    return bench(
        models / "int8.tflite",
        "--against",
        against,
        "--validation",
        data,
        "--validation-split",
        "val",
        "--out",
        out,
        *words,
    )


def test_two_models_end_to_end(models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "result.json"
    assert compare(models, data, out) == 0
    result = read_result(out)
    assert result.complete
    assert result.model.precision.startswith("int8")
    assert result.against is not None and result.against.precision == "float32"
    assert result.size_ratio == pytest.approx(result.against.bytes / result.model.bytes, abs=1e-3)
    regression = result.regression
    assert regression is not None and regression.mean_iou_float_to_quantized is not None
    objects = [row for row in regression.rows if row.kind == "object"]
    assert len(objects) == regression.images
    assert regression.images + regression.presence.empty_images == IMAGES
    assert regression.presence.background_crops > 0
    assert (regression.ci_by, regression.ci_groups) == ("group", CLIPS)
    assert regression.mean_iou_float_to_quantized > 0.5
    assert regression.mean_iou_float == pytest.approx(
        np.mean([row.truth.iou(row.box_float) for row in objects if row.truth and row.box_float]), abs=1e-3
    )
    assert all(image.preview for image in regression.worst)
    assert set(result.latency) == {*STAGES, LOCALIZE}
    assert result.latency["invoke"].count == 5
    both = (result.latency_against, result.latency_beside)
    assert [part["localize"].count for part in both] == [5, 5] and all(
        set(part) == {*STAGES, LOCALIZE} for part in both
    )
    assert result.model.operators["CONV_2D"] == 2 and result.model.recipe == ""
    assert len(result.latency["invoke"].warmup_ms) == 2
    assert result.energy.status == "not measured"
    assert result.data is not None
    assert result.data.notes == ("data: 1 image holds several objects, of which a localizer takes the largest",)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("IoU drop", "latency", "size", str(out)))


def test_stages_add_up_to_no_more_than_the_total(models: Path, tmp_path: Path) -> None:
    assert bench(models / "int8.tflite", "--out", tmp_path / "r.json") == 0
    latency = read_result(tmp_path / "r.json").latency
    for number, total in enumerate(latency["total"].samples_ms):
        assert sum(latency[stage].samples_ms[number] for stage in STAGES[:-1]) == pytest.approx(total, abs=0.002)
    parts = zip(*(latency[stage].samples_ms for stage in ("preprocess", "invoke", "decode")), strict=True)
    assert latency[LOCALIZE].samples_ms == pytest.approx([sum(part) for part in parts], abs=0.001)


def test_latency_alone_on_made_scenes(models: Path, tmp_path: Path) -> None:
    assert bench(models / "int8.tflite", "--out", tmp_path / "r.json") == 0
    result = read_result(tmp_path / "r.json")
    assert result.regression is None and result.data is None and result.against is None
    assert result.latency_run is not None and result.latency_run.frame_sizes == ((640, 480),)


def test_frames_from_a_finite_camera_start_again_at_its_end(models: Path, data: Path, tmp_path: Path) -> None:
    assert bench(models / "int8.tflite", "--camera", data, "--out", tmp_path / "r.json", frames=30) == 0
    run = read_result(tmp_path / "r.json").latency_run
    assert run is not None and run.frames == 30 and run.source == str(data)


def test_raw_boxes_count_under_the_threshold(models: Path, data: Path, tmp_path: Path, contract: Contract) -> None:
    strict = json.loads(contract.to_json())
    strict["thresholds"]["presence"] = 1.0
    (tmp_path / "strict.json").write_text(json.dumps(strict))
    assert compare(models, data, tmp_path / "a.json") == 0
    assert compare(models, data, tmp_path / "b.json", "--contract", tmp_path / "strict.json") == 0
    usual, hidden = read_result(tmp_path / "a.json").regression, read_result(tmp_path / "b.json").regression
    assert usual is not None and hidden is not None
    assert hidden.mean_iou_quantized == usual.mean_iou_quantized
    assert hidden.presence.recall_quantized == 0
    assert hidden.presence.threshold_float == 0.5


def test_a_keras_model_as_the_float_side(models: Path, data: Path, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    image = keras.Input((32, 32, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, strides=4)(image))
    outputs = {
        "presence": keras.layers.Dense(1)(x),
        "box": keras.layers.Dense(4, activation="sigmoid")(x),
    }
    keras.Model(image, outputs).save(tmp_path / "float.keras")
    out = tmp_path / "r.json"
    assert bench(models / "int8.tflite", "--against", tmp_path / "float.keras", "--validation", data, "--out", out) == 0
    result = read_result(out)
    assert result.against is not None and result.against.engine == "keras"
    assert result.regression is not None and result.regression.images


def test_max_images_takes_from_every_clip(models: Path, data: Path, tmp_path: Path) -> None:
    assert compare(models, data, tmp_path / "r.json", "--max-images", 6, "--no-negatives") == 0
    result = read_result(tmp_path / "r.json")
    assert result.regression is not None and result.data is not None
    assert [row.group for row in result.regression.rows] == ["0", "0", "1", "1", "2", "2"]
    assert result.regression.presence.background_crops == 0
    assert (result.data.images, result.data.used) == (IMAGES, 6)


def test_a_corrupt_image_stops_and_leaves_no_result(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "06.jpg").write_bytes(b"\xff\xd8 no picture")
    assert compare(models, data, tmp_path / "r.json") == 2
    assert "06.jpg" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_a_corrupt_image_is_skipped_and_counted(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "06.jpg").write_bytes(b"\xff\xd8 no picture")
    assert compare(models, data, tmp_path / "r.json", "--skip-bad") == 0
    info = read_result(tmp_path / "r.json").data
    assert info is not None
    assert (info.skipped, info.skipped_names, info.used) == (1, ("06.jpg",), IMAGES - 1)
    assert "06.jpg" in capsys.readouterr().out


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the comparison end in Ctrl-C after so many images."""

    def after(images: int) -> None:
        record = RegressionRecorder.record

        def interrupted(self: RegressionRecorder, samples: Any) -> None:
            def until() -> Any:
                for number, sample in enumerate(samples):
                    if number == images:
                        raise KeyboardInterrupt
                    yield sample

            record(self, until())

        monkeypatch.setattr(RegressionRecorder, "record", interrupted)

    return after


def test_ctrl_c_saves_what_was_measured(
    models: Path, data: Path, tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    interrupt(5)
    assert compare(models, data, tmp_path / "r.json", "--no-negatives") == 130
    result = read_result(tmp_path / "r.json")
    assert not result.complete
    assert result.regression is not None and len(result.regression.rows) == 5
    assert result.data is not None and result.data.used == 5
    assert result.latency["total"].count == 5


def test_an_image_that_turns_out_damaged_later_costs_nothing_measured(
    models: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeloc.benchmarks.latency._IMAGES", 2)
    (data / "11.jpg").write_bytes((data / "11.jpg").read_bytes()[:-40])
    assert compare(models, data, tmp_path / "r.json", "--no-negatives") == 2
    shown = capsys.readouterr()
    assert "11.jpg" in shown.err and f"measured until then is in {tmp_path / 'r.json'}" in shown.err
    result = read_result(tmp_path / "r.json")
    assert not result.complete
    assert result.regression is not None and len(result.regression.rows) == 11


def test_data_without_any_object_gives_presence_alone(models: Path, data: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    (data / "manifest.jsonl").write_text(
        "".join(json.dumps({**row, "box_xyxy": None, "objects": None}) + "\n" for row in rows)
    )
    assert compare(models, data, tmp_path / "r.json") == 0
    result = read_result(tmp_path / "r.json")
    assert result.regression is not None and result.regression.mean_iou_drop is None
    assert any(finding.code == "no-objects" for finding in result.findings)


def test_models_with_other_labels_are_reported(models: Path, data: Path, tmp_path: Path, contract: Contract) -> None:
    other = dataclasses.replace(
        contract, outputs=(OutputSpec("presence", "class"), contract.outputs[1]), labels=("nut",)
    )
    write_model(tmp_path / "float.tflite", (models / "float32.tflite").read_bytes(), other)
    out = tmp_path / "r.json"
    against = ["--against", tmp_path / "float.tflite", "--validation", data, "--out", out]
    assert bench(models / "int8.tflite", *against) == 0
    assert any(finding.code == "labels-differ" for finding in read_result(out).findings)


def test_data_of_other_labels_is_reported(models: Path, data: Path, tmp_path: Path, contract: Contract) -> None:
    outputs = (OutputSpec("presence", "class"), contract.outputs[1])
    other = dataclasses.replace(contract, outputs=outputs, labels=("platelet",))
    write_model(tmp_path / "m.tflite", (models / "int8.tflite").read_bytes(), other)
    assert bench(tmp_path / "m.tflite", "--validation", data, "--out", tmp_path / "r.json") == 0
    (finding,) = (one for one in read_result(tmp_path / "r.json").findings if one.code == "labels-differ")
    assert finding.message.startswith("none of the data's labels (")
    assert finding.message.endswith("is among the model's (platelet)")


def test_another_kind_of_network_is_not_compared_with(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for against in (SHIPPED_DETECTOR_INT8, SHIPPED_DETECTOR_KERAS):
        more = ["--against", against, "--validation", data, "--out", tmp_path / "r.json"]
        assert bench(models / "int8.tflite", *more) == 2
        assert "answers with several and the model with one object" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_a_result_is_not_written_over_what_is_read(models: Path, data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes((models / "int8.tflite").read_bytes())
    assert bench(model, "--out", model) == 2
    assert model.read_bytes() == (models / "int8.tflite").read_bytes()
    result = tmp_path / "r.json"
    assert bench(model, "--out", result) == 0
    before = result.read_text()
    assert main(["report", str(result), "--out", str(result)]) == 2
    assert result.read_text() == before


def test_ctrl_c_before_the_first_image(
    models: Path, data: Path, tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    interrupt(0)
    assert compare(models, data, tmp_path / "r.json") == 130
    assert main(["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html")]) == 0
    assert "interrupted" in (tmp_path / "r.html").read_text()


def test_unwritable_output_is_found_before_measuring(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: Sample) -> Any:
        raise AssertionError("measured before trying the output")

    monkeypatch.setattr(Sample, "load", load)
    (tmp_path / "file").write_text("")
    assert compare(models, data, tmp_path / "file" / "r.json") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--against", "f.tflite"], "give --validation"),
        (["--validation", "nowhere"], "nowhere"),
        (["--camera", "nowhere.mp4"], "nowhere.mp4"),
        (["--engine", "abacus"], "abacus"),
        (["--against", "model.onnx", "--validation", "DATA"], "model.onnx"),
        (["--against", "none.tflite", "--validation", "DATA"], "none.tflite"),
        (["--against", "none.keras", "--validation", "DATA"], "none.keras"),
    ],
)
def test_bad_input_is_one_sentence(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    words = [str(data) if word == "DATA" else word for word in words]
    assert bench(models / "int8.tflite", "--out", tmp_path / "r.json", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("edgeloc: error: ") and error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "r.json").exists()


def test_one_model_is_measured_against_the_labels(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, paired = tmp_path / "alone.json", tmp_path / "paired.json"
    assert bench(models / "int8.tflite", "--validation", data, "--out", alone) == 0
    printed = capsys.readouterr().out
    assert all(line in printed for line in ("mean IoU", "objects found", "false alarms"))
    accuracy = read_result(alone).accuracy
    assert compare(models, data, paired) == 0
    regression = read_result(paired).regression
    assert accuracy is not None and regression is not None and read_result(alone).regression is None
    assert (accuracy.images, accuracy.mean_iou) == (regression.images, regression.mean_iou_quantized)
    assert (accuracy.iou50, accuracy.iou75) == (regression.iou50_quantized, regression.iou75_quantized)
    presence = regression.presence
    assert (accuracy.recall, accuracy.false_alarms) == (presence.recall_quantized, presence.false_alarms_quantized)
    assert {name: size.mean_iou_quantized for name, size in regression.by_size.items()} == accuracy.mean_iou_by_size
    assert (accuracy.ci_by, accuracy.ci_groups) == ("group", CLIPS)


def test_the_accuracy_of_one_model_is_in_its_report(models: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    assert bench(models / "int8.tflite", "--validation", data, "--out", tmp_path / "r.json") == 0
    assert main(["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "<h2>Accuracy</h2>" in page and "What quantization cost" not in page
    accuracy = read_result(tmp_path / "r.json").accuracy
    assert accuracy is not None and f">{accuracy.mean_iou:.3f}</span></td>" in page


@pytest.mark.parametrize(
    ("images", "capture"), [("synthetic?count=4&size=48x48", "drawing a synthetic scene"), ("files", "image file")]
)
def test_the_source_of_frames_is_described_as_it_is(
    models: Path, data: Path, tmp_path: Path, images: str, capture: str
) -> None:
    images = str(data) if images == "files" else images
    assert bench(models / "int8.tflite", "--validation", images, "--out", tmp_path / "r.json") == 0
    run = read_result(tmp_path / "r.json").latency_run
    assert run is not None and capture in run.capture


@pytest.mark.parametrize("step", ["with_previews", "regression_figures", "_data_findings"])
def test_what_was_measured_stays_when_its_figures_fail(
    models: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*given: Any, **named: Any) -> Any:
        if step == "regression_figures" and not given[0]:
            return regression_figures(*given, **named)
        raise RuntimeError("a fault in the figures")

    monkeypatch.setattr(f"edgeloc.benchmarks.measurement.{step}", fail)
    assert compare(models, data, tmp_path / "r.json") == 3
    result = read_result(tmp_path / "r.json")
    assert not result.complete
    assert len(result.latency["total"].samples_ms) == 5
    assert result.regression is not None and sum(row.kind != "background" for row in result.regression.rows) == IMAGES


def test_what_was_measured_stays_when_printing_fails(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> str:
        raise RuntimeError("a fault in the table")

    monkeypatch.setattr("edgeloc.benchmarks.commands.bench.closing_table", fail)
    assert bench(models / "int8.tflite", "--out", tmp_path / "r.json") == 3
    assert read_result(tmp_path / "r.json").complete


def test_a_fault_of_a_camera_costs_nothing_measured(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grab = SceneSource.grab

    def faulty(self: SceneSource) -> Any:
        if self._next == 5:
            raise ZeroDivisionError("a driver's own fault")
        return grab(self)

    monkeypatch.setattr(SceneSource, "grab", faulty)
    assert bench(models / "int8.tflite", "--out", tmp_path / "r.json") == 3
    result = read_result(tmp_path / "r.json")
    assert not result.complete and result.latency["total"].count == 3


def test_json_gives_the_figures_and_leaves_the_long_lists_in_the_file(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    assert compare(models, data, out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    result = read_result(out)
    assert printed["result"] == str(out)
    assert result.regression is not None
    assert printed["regression"]["mean_iou_drop"] == pytest.approx(result.regression.mean_iou_drop)
    assert printed["latency"]["total"]["p50_ms"] == pytest.approx(result.latency["total"].p50_ms)
    assert not {"rows", "worst"} & set(printed["regression"])
    assert "samples_ms" not in printed["latency"]["total"]
    assert [finding["code"] for finding in printed["findings"]] == [finding.code for finding in result.findings]


@pytest.fixture
def onnx_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `.onnx` file with its contract, and a fake of TensorRT and of the GPU's driver to run it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shapes = {"image": (1, 4, 4, 3)}, {"presence": (1, 1), "box": (1, 4)}

    def compute(model: bytes, inputs: Any) -> Any:
        image = inputs["image"]
        return {"presence": image.mean(keepdims=True).reshape(1, 1), "box": image[:, 0, 0, :1] * [1, 2, 3, 4]}

    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRt(compute=compute))
    monkeypatch.setattr("edgeloc.device.engines.tensorrt._open_library", FakeCudaDriver)
    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    path = tmp_path / "model.onnx"
    write_model(path, fake_onnx(*shapes), Contract(InputSpec("image", 4, 4), outputs))
    return path


def test_an_onnx_model_is_measured_on_tensorrt(onnx_model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert bench(onnx_model, "--engine", "tensorrt", "--validation", data, "--out", out) == 0
    result = read_result(out)
    assert result.complete and result.latency["total"].count == 5
    assert (result.model.engine, result.model.bytes) == ("tensorrt", onnx_model.stat().st_size)
    assert result.accuracy is not None and result.accuracy.images


def test_an_onnx_model_is_measured_on_a_cpu(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "one"], ["presence"]),
        helper.make_node("Mul", ["four", "mean"], ["box"]),
    ]
    constants = {"one": np.array([1, 1], np.int64), "four": np.array([[0.5, 0.5, 0.2, 0.2]], np.float32)}
    stored = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    shapes = {"image": (1, 4, 4, 3), "presence": (1, 1), "box": (1, 4)}
    image, *outputs = (helper.make_tensor_value_info(name, float32, shape) for name, shape in shapes.items())
    graph = helper.make_graph(nodes, "g", [image], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    roles = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    path, out = tmp_path / "model.onnx", tmp_path / "r.json"
    write_model(path, model.SerializeToString(), Contract(InputSpec("image", 4, 4), roles))
    assert bench(path, "--engine", "onnxruntime", "--validation", data, "--out", out) == 0
    result = read_result(out)
    assert result.complete and result.model.engine == "onnxruntime"
    assert result.accuracy is not None and result.accuracy.images
    assert "mean IoU" in capsys.readouterr().out
    against = ["--against", models / "float32.tflite", "--validation", data, "--out", out]
    assert bench(path, "--engine", "onnxruntime", *against) == 0
    result = read_result(out)
    assert result.regression is not None and result.regression.images
    assert result.against is not None and result.against.engine != "onnxruntime"


def test_an_onnx_model_keeps_its_figures_when_the_report_step_raises(
    onnx_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("a fault in the report")

    monkeypatch.setattr("edgeloc.benchmarks.measurement._data_findings", fail)
    assert bench(onnx_model, "--engine", "tensorrt", "--out", tmp_path / "r.json") == 3
    result = read_result(tmp_path / "r.json")
    assert result.latency["invoke"].count == 5 and result.model.engine == "tensorrt"


def test_a_report_of_the_whole(models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    assert compare(models, data, tmp_path / "r.json") == 0
    assert main(["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") >= 7  # one more where the board reports temperatures
    assert "data:image/jpeg" in page
    assert "r.html" in capsys.readouterr().out


def test_a_report_of_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.json").write_text("{}")
    assert main(["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.html")]) == 2
    assert "no result" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_real_photos(models: Path, fod_a: Path, tmp_path: Path) -> None:
    assert compare(models, fod_a, tmp_path / "r.json", "--max-images", 32) == 0
    regression = read_result(tmp_path / "r.json").regression
    assert regression is not None
    assert regression.images == 32
    assert regression.presence.background_crops > 24
    assert regression.ci_by == "group"


@pytest.mark.parametrize(("name", "value"), [("validation_split", "val"), ("max_images", 3)])
def test_what_chooses_images_needs_images(name: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"give validation, or leave {name} out"):
        BenchOptions("model.tflite", tmp_path / "result.json", **{name: value})  # type: ignore[arg-type]
