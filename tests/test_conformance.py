"""Models that others wrote: read rightly, run rightly on their own images, and harmless when they are damaged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloc import Contract, InputSpec, Localizer, OutputSpec
from edgeloc.cli import main
from edgeloc.engines import AUTO, Engine, engine_class, open_engine
from edgeloc.errors import EngineError, ModelError
from edgeloc.evaluation.layers.comparison import LayerReport, compare_layers
from edgeloc.evaluation.layers.graph import TensorRunner
from edgeloc.model.file import ModelFile, read_model
from edgeloc.model.inspection import inspect_model
from edgeloc.preprocess import Preprocessor
from edgeloc.types import Pixels

PORTS = {
    # precision, dtype of the input, of the output
    "coral/deeplabv3_mnv2_dm05_pascal_quant.tflite": ("uint8 (legacy)", "uint8", "int64"),
    "coral/mobilenet_v1_0.25_128_quant.tflite": ("uint8 (legacy)", "uint8", "uint8"),
    "coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite": ("uint8 (legacy)", "uint8", "uint8"),
    "coral/mobilenet_v1_0.5_160_quant.tflite": ("uint8 (legacy)", "uint8", "uint8"),
    "coral/mobilenet_v1_0.75_192_quant.tflite": ("uint8 (legacy)", "uint8", "uint8"),
    "coral/mobilenet_v2_1.0_224_quant.tflite": ("uint8 (legacy)", "uint8", "uint8"),
    "coral/movenet_single_pose_lightning_ptq.tflite": ("mixed: float island", "uint8", "float32"),
    "coral/tf2_mobilenet_v2_1.0_224_ptq.tflite": ("int8 (full integer)", "uint8", "uint8"),
    "mlperf_tiny/pretrainedResnet.tflite": ("float32", "float32", "float32"),
    "mlperf_tiny/pretrainedResnet_quant.tflite": ("int8 (full integer)", "int8", "int8"),
    "mlperf_tiny/vww_96_float.tflite": ("float32", "float32", "float32"),
    "mlperf_tiny/vww_96_int8.tflite": ("int8 (full integer)", "int8", "int8"),
    "teachable/model_unquant.tflite": ("float32", "float32", "float32"),
}
EDGE_TPU = "coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite"
PHOTOS = ("cat.bmp", "bird.bmp", "sunflower.bmp", "hot_dog.jpg", "parrot.jpg", "owl.jpg", "face.jpg", "squat.bmp")

Photo = Callable[[str], Pixels]


@pytest.fixture
def photo(conformance: Path) -> Photo:
    """Reads one of the coral images, BGR."""

    def read(name: str) -> Pixels:
        pixels = cv2.imread(str(conformance / "coral" / name))
        assert pixels is not None, name
        return pixels.astype(np.uint8, copy=False)

    return read


class Runner:
    """A model of one input and one output, run on BGR images; `mean` and `std` are those it was trained with."""

    def __init__(self, path: Path, mean: float, std: float) -> None:
        self.engine: Engine = open_engine("auto", path)
        (name, info), (_, self._output) = *self.engine.inputs.items(), *self.engine.outputs.items()
        _, height, width, _ = info.shape
        spec = InputSpec(name, width, height, mean=(mean,), std=(std,), resize="stretch")
        self._preprocess = Preprocessor(spec, info.dtype, info.scale, info.zero_point)

    def __call__(self, pixels: Pixels) -> NDArray[Any]:
        """The output's real values for one image."""
        raw = self.engine.invoke(self._preprocess(pixels)[0])[self._output.name][0]
        if self._output.scale is None:
            return raw
        return (raw.astype(np.float32) - (self._output.zero_point or 0)) * self._output.scale


def test_every_model_there_is_has_its_row(conformance: Path) -> None:
    assert {path.relative_to(conformance).as_posix() for path in conformance.rglob("*.tflite")} == set(PORTS)


@pytest.mark.parametrize("file", PORTS)
def test_inspect_reads_each_model_rightly(conformance: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = inspect_model(conformance / file)
    found = (report.precision, report.inputs[0].dtype, report.outputs[0].dtype)
    assert found == PORTS[file]
    assert report.is_full_integer == (file in _full_integer())
    assert report.constant_outputs == ()
    assert (report.contract, report.calibration, report.has_golden) == (None, None, False)
    assert main(["inspect", str(conformance / file)]) == 0
    assert PORTS[file][0] in capsys.readouterr().out


def _full_integer() -> set[str]:
    return {file for file, (word, _, _) in PORTS.items() if word in ("uint8 (legacy)", "int8 (full integer)")}


def test_inspect_knows_the_edge_tpus_operator(conformance: Path) -> None:
    assert inspect_model(conformance / EDGE_TPU).custom_operators == ("edgetpu-custom-op",)


@pytest.mark.parametrize("file", ["mobilenet_v1_0.5_160_quant", "mobilenet_v1_0.75_192_quant",
                                  "mobilenet_v2_1.0_224_quant", "tf2_mobilenet_v2_1.0_224_ptq"])  # fmt: skip
def test_classifiers_name_what_is_on_the_photo(conformance: Path, photo: Photo, file: str) -> None:
    # The older models were trained for scale 1/128, the TF 2 one for 1/127.5.
    middle = 127.5 if file.startswith("tf2") else 128.0
    run = Runner(conformance / "coral" / f"{file}.tflite", middle, middle)
    labels = (conformance / "coral" / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
    wanted = {
        "cat.bmp": "cat",
        "bird.bmp": "chickadee",
        "sunflower.bmp": "daisy",
        "hot_dog.jpg": "hotdog",
        "parrot.jpg": "macaw",
    }
    for name, word in wanted.items():
        assert word in labels[int(np.argmax(run(photo(name))))], name


def test_the_smallest_classifier_knows_the_plainest_photos(conformance: Path, photo: Photo) -> None:
    run = Runner(conformance / "coral" / "mobilenet_v1_0.25_128_quant.tflite", 128, 128)
    labels = (conformance / "coral" / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
    for name, word in {"cat.bmp": "cat", "bird.bmp": "chickadee", "parrot.jpg": "macaw"}.items():
        assert word in labels[int(np.argmax(run(photo(name))))], name


def test_segmentation_finds_the_cat(conformance: Path, photo: Photo) -> None:
    classes = Runner(conformance / "coral" / "deeplabv3_mnv2_dm05_pascal_quant.tflite", 128, 128)(photo("cat.bmp"))
    found, counts = np.unique(classes, return_counts=True)
    assert set(found) == {0, 8}  # Pascal VOC: background and cat
    assert counts[1] > 0.2 * classes.size


def test_movenet_sees_the_reference_pose(conformance: Path, photo: Photo) -> None:
    points = Runner(conformance / "coral" / "movenet_single_pose_lightning_ptq.tflite", 0, 1)(photo("squat.bmp"))
    rows = np.genfromtxt(
        conformance / "coral" / "movenet_single_pose_lightning_ptq_reference.csv", delimiter=",", names=True
    )
    points = points.reshape(17, 3)
    # The reference was computed on an Edge TPU from a differently resized photo: six pixels of 192.
    assert np.abs(points[:, 1] - rows["keypoint_x"]).max() < 0.032
    assert np.abs(points[:, 0] - rows["keypoint_y"]).max() < 0.032


def test_the_edge_tpu_model_is_refused_by_name(conformance: Path) -> None:
    runtime = next(name for name in AUTO if engine_class(name).available())
    with pytest.raises(ModelError, match="compiled for the Edge TPU"):
        open_engine(runtime, conformance / EDGE_TPU)


def test_the_teachable_machine_model_gives_probabilities(conformance: Path, photo: Photo) -> None:
    scores = Runner(conformance / "teachable" / "model_unquant.tflite", 127.5, 127.5)(photo("cat.bmp"))
    assert scores.shape == (2,)
    assert scores.sum() == pytest.approx(1, abs=1e-5)


def vww_samples(conformance: Path) -> Iterator[Pixels]:
    """The benchmark's own sample inputs, 96x96 gray from -1 to 1 written as C arrays; the first shows a person."""
    text = (conformance / "mlperf_tiny" / "vww_inputs.cc").read_text(encoding="utf-8")
    for row in re.findall(r"\{([^{}]*)\}", text[text.index("= {") + 3 :]):
        values = np.array([float(number) for number in re.findall(r"[-+.\deE]+", row)]).reshape(96, 96)
        yield cv2.cvtColor(np.rint((values + 1) * 127.5).astype(np.uint8), cv2.COLOR_GRAY2BGR).astype(np.uint8)


PAIRS = {
    # float, int8, what pixels are divided by
    "vww": ("vww_96_float", "vww_96_int8", 255.0),
    "resnet": ("pretrainedResnet", "pretrainedResnet_quant", 1.0),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_float_and_int8_of_mlperf_tiny_agree(conformance: Path, photo: Photo, pair: str) -> None:
    *files, std = PAIRS[pair]
    before, after = (Runner(conformance / "mlperf_tiny" / f"{file}.tflite", 0, std) for file in files)
    samples = list(vww_samples(conformance)) if pair == "vww" else []
    assert len(samples) == (2 if pair == "vww" else 0)
    for pixels in [*samples, *map(photo, PHOTOS)]:
        expected, found = before(pixels), after(pixels)
        assert np.argmax(found) == np.argmax(expected)
        assert np.abs(found - expected).max() < 0.06


@pytest.mark.parametrize("file", ["vww_96_float", "vww_96_int8"])
def test_visual_wake_words_sees_the_person(conformance: Path, file: str) -> None:
    run = Runner(conformance / "mlperf_tiny" / f"{file}.tflite", 0, 255)
    person, nobody = (run(pixels)[1] for pixels in vww_samples(conformance))
    assert person > 0.8
    assert nobody < 0.1


def layers(conformance: Path, pair: str, photo: Photo, quantized: ModelFile | None = None) -> LayerReport:
    before, after, std = PAIRS[pair]
    path = conformance / "mlperf_tiny"
    side = {"vww": 96, "resnet": 32}[pair]
    spec = InputSpec("input_1", side, side, mean=(0.0,), std=(std,), resize="stretch")
    contract = Contract(spec, (OutputSpec("Identity", "class"),))
    photos = [photo(name) for name in PHOTOS[:4]]
    file = quantized or read_model(path / f"{after}.tflite")
    return compare_layers(read_model(path / f"{before}.tflite"), file, photos, contract)


@pytest.mark.parametrize(("pair", "operators"), [("vww", 31), ("resnet", 16)])
def test_layer_by_layer_on_pairs_that_others_quantized(
    conformance: Path, photo: Photo, pair: str, operators: int
) -> None:
    report = layers(conformance, pair, photo)
    assert len(report.layers) == operators
    assert report.float_alone == report.quantized_alone == ()
    # Their quantizer named only the outputs otherwise.
    assert [layer.tensor for layer in report.layers if layer.paired_by == "order"] == ["Identity"]
    assert [layer.output for layer in report.outputs] == ["Identity"]
    assert all(layer.snr_db > 10 and layer.cosine > 0.97 for layer in report.layers)
    assert all(layer.own_snr_db is not None and layer.own_snr_db > 20 for layer in report.layers)
    assert all(layer.own_snr_db is not None and layer.own_snr_db >= layer.snr_db - 3 for layer in report.layers)


def test_pairs_that_do_not_belong_together_are_refused(conformance: Path, photo: Photo) -> None:
    other = read_model(conformance / "mlperf_tiny" / "vww_96_int8.tflite")
    with pytest.raises(ModelError, match="it takes 96x96x3, the other 32x32x3"):
        layers(conformance, "resnet", photo, other)


def damaged(path: Path, target: Path, seed: int, start: float) -> Path:
    """A copy in which three bytes behind the share `start` of the file are others."""
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    rng = np.random.default_rng(seed)
    places = rng.integers(int(start * data.size), data.size, 3)
    data[places] ^= rng.integers(1, 256, 3).astype(np.uint8)
    target.write_bytes(data.tobytes())
    return target


# Where the bytes fall decides what they hit: among weights nothing is noticed, in the structure almost all is.
@pytest.mark.parametrize("start", [0.0, 0.85])
@pytest.mark.parametrize("seed", range(6))
def test_bytes_flipped_give_an_answer_or_one_error(conformance: Path, tmp_path: Path, seed: int, start: float) -> None:
    path = damaged(conformance / "mlperf_tiny" / "pretrainedResnet_quant.tflite", tmp_path / "d.tflite", seed, start)
    contract = Contract(InputSpec("input_1_int8", 32, 32), (OutputSpec("Identity_int8", "box"),))
    for use in (inspect_model, lambda path: open_engine("auto", path), lambda path: Localizer(path, contract=contract)):
        try:
            use(path)
        except (ModelError, EngineError) as error:
            assert str(path) in str(error)
    assert main(["inspect", str(path)]) in (0, 2)


def aborting(conformance: Path, target: Path) -> Path:
    """The quantized ResNet with one scale so small that TFLite's ADD ends the process over it."""
    editing = pytest.importorskip("edgeloc.model.flatbuffer")
    pytest.importorskip("tensorflow")
    model = editing.unpack((conformance / "mlperf_tiny" / "pretrainedResnet_quant.tflite").read_bytes())
    graph = model.subgraphs[0]
    add = next(operator for operator in graph.operators if editing.operator_name(model, operator) == "ADD")
    graph.tensors[add.outputs[0]].quantization.scale = np.array([1e-12], np.float32)
    target.write_bytes(editing.pack(model))
    return target


def test_a_file_that_aborts_the_interpreter_takes_only_its_trial_down(
    conformance: Path, photo: Photo, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = aborting(conformance, tmp_path / "aborting.tflite")
    contract = Contract(InputSpec("input_1_int8", 32, 32), (OutputSpec("Identity_int8", "box"),))
    uses: list[Callable[[], object]] = [
        lambda: open_engine("litert", path),
        lambda: Localizer(path, contract=contract),
        lambda: TensorRunner.open(read_model(path)),
        lambda: layers(conformance, "resnet", photo, read_model(path)),
    ]
    for use in uses:
        with pytest.raises(ModelError, match=r"aborting\.tflite makes .* crash \(SIGABRT\)"):
            use()
    assert main(["inspect", str(path)]) == 0, "reading runs nothing"
    assert "int8 (full integer)" in capfd.readouterr().out
