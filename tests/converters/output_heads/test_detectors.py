"""Detectors whose boxes and scores are joined in one tensor: what int8 makes of them, and the same taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloc.converters import ConvertOptions, convert
from edgeloc.converters.output_heads.diagnosis import diagnose
from edgeloc.converters.output_heads.repair import repair_head
from edgeloc.converters.sources.tensorflow import save_network
from edgeloc.data import Dataset, Sample
from edgeloc.decode.detector import DetectorReader
from edgeloc.engines import open_engine
from edgeloc.localizer import Localizer
from edgeloc.model.contract import Contract, InputSpec, OutputSpec, Thresholds
from edgeloc.model.detector import DetectorBox, DetectorSpec, Locations, Scores, Selection
from edgeloc.model.fit import check_contract
from edgeloc.types import Detection, Pixels

LABELS = ("blue", "green", "red")
STRIDES = (8, 16)


def cells(side: int, stride: int) -> np.ndarray:
    """The corners of the cells of a level, in cells, row by row."""
    y, x = np.mgrid[: side // stride, : side // stride]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def rows_of(x: Any, channels: int) -> Any:
    from keras import layers

    return layers.Reshape((-1, channels))(x)


def joined(tensors: list[Any], axis: int) -> Any:
    from keras import layers

    return tensors[0] if len(tensors) == 1 else layers.Concatenate(axis=axis)(tensors)


def activated(x: Any, kind: str) -> Any:
    from keras import layers

    return layers.Activation(kind)(x)


def random_conv(channels: int, x: Any, scale: float = 2.0) -> Any:
    from keras import initializers, layers

    weights = initializers.VarianceScaling(scale**2, "fan_avg", "uniform")
    return layers.Conv2D(channels, 1, kernel_initializer=weights, bias_initializer=initializers.RandomNormal(stddev=1))(
        x
    )


def features(image: Any) -> list[Any]:
    """A feature map for each stride."""
    from keras import layers

    x = layers.Conv2D(8, 3, 4, "same", activation="relu")(image)
    first = layers.Conv2D(16, 3, 2, "same", activation="relu")(x)
    return [first, layers.Conv2D(16, 3, 2, "same", activation="relu")(first)]


def yolov8(image: Any, side: int) -> Any:
    """Boxes in pixels and sigmoid scores, [1, 4 + K, N], by way of two points."""
    distances = joined([rows_of(random_conv(4, x), 4) for x in features(image)], 1)
    return beside_scores(distances, image, side)


def yolov8_exp(image: Any, side: int) -> Any:
    """The same with distances that are exponentials, level by level."""
    distances = joined([rows_of(activated(random_conv(4, x), "exponential"), 4) for x in features(image)], 1)
    return beside_scores(distances, image, side)


def yolov8_exp_of_all(image: Any, side: int) -> Any:
    """The same with the exponential of all levels at once."""
    distances = activated(joined([rows_of(random_conv(4, x), 4) for x in features(image)], 1), "exponential")
    return beside_scores(distances, image, side)


def yolov8_bins(image: Any, side: int) -> Any:
    """The same with each distance as the expectation over 8 bins."""
    from keras import initializers, layers

    bins = layers.Reshape((-1, 4, 8))(joined([rows_of(random_conv(32, x), 32) for x in features(image)], 1))
    weights = initializers.Constant(np.arange(8, dtype=np.float32)[:, np.newaxis])
    distances = rows_of(layers.Dense(1, use_bias=False, kernel_initializer=weights)(layers.Softmax()(bins)), 4)
    return beside_scores(distances, image, side)


def beside_scores(distances: Any, image: Any, side: int) -> Any:
    """The boxes of these distances, in pixels, in one tensor with sigmoid scores of a layer of their own."""
    from keras import layers

    scores = joined([rows_of(random_conv(len(LABELS), x), len(LABELS)) for x in features(image)], 1)
    return layers.Permute((2, 1))(joined([in_pixels(distances, side), activated(scores, "sigmoid")], 2))


def in_pixels(distances: Any, side: int) -> Any:
    """Centre, width and height out of distances in cells, as YOLOv8 has it in its graph."""
    import keras

    centers = np.concatenate([cells(side, stride) + 0.5 for stride in STRIDES])
    strides = np.concatenate([np.full(((side // stride) ** 2, 1), stride, np.float32) for stride in STRIDES])
    first, second = keras.ops.subtract(centers, distances[..., :2]), distances[..., 2:] + centers
    return joined([(first + second) * 0.5, second - first], 2) * strides


def yolox(image: Any, side: int) -> Any:
    """Raw boxes, objectness and classes, [1, N, 5 + K], sigmoids in the graph."""
    levels = []
    for x in features(image):
        scores = [activated(random_conv(count, x), "sigmoid") for count in (1, len(LABELS))]
        levels.append(rows_of(joined([random_conv(4, x, 0.5), *scores], 3), 5 + len(LABELS)))
    return joined(levels, 1)


def fastestdet(image: Any, side: int) -> Any:
    """One map of objectness, box with its activations and a softmax of classes."""
    x = features(image)[0]
    box = [activated(random_conv(2, x), "tanh"), activated(random_conv(2, x), "sigmoid")]
    return joined([activated(random_conv(1, x), "sigmoid"), *box, activated(random_conv(3, x), "softmax")], 3)


def anchors_first(image: Any, side: int) -> Any:
    """Two anchors, all cells of the first and then all of the second, of one layer with a sigmoid over all."""
    from keras import layers

    levels = []
    for x in features(image):
        numbers = activated(random_conv(2 * (5 + len(LABELS)), x), "sigmoid")
        count = int(np.prod(x.shape[1:3]))
        by_anchor = layers.Permute((2, 1, 3))(layers.Reshape((count, 2, 5 + len(LABELS)))(numbers))
        levels.append(rows_of(by_anchor, 5 + len(LABELS)))
    return joined(levels, 1)


ANCHORS = (((10.0, 14.0), (20.0, 12.0)), ((40.0, 30.0), (30.0, 50.0)))
BY_CLASS = Selection("by-class", 0.5)
OF_YOLOV8 = (
    OutputSpec("out", "detections", parts=("box", "class"), layout="channels-first"),
    DetectorSpec(box=DetectorBox("cxcywh", "pixels"), selection=BY_CLASS),
)
NETWORKS: dict[str, tuple[Callable[[Any, int], Any], OutputSpec, DetectorSpec]] = {
    "yolov8": (yolov8, *OF_YOLOV8),
    "yolov8_bins": (yolov8_bins, *OF_YOLOV8),
    "yolov8_exp": (yolov8_exp, *OF_YOLOV8),
    "yolov8_exp_of_all": (yolov8_exp_of_all, *OF_YOLOV8),
    "yolox": (
        yolox,
        OutputSpec("out", "detections", parts=("box", "objectness", "class")),
        DetectorSpec(Locations(STRIDES, 0.0), DetectorBox("cxcywh", "stride", size="exp"), selection=BY_CLASS),
    ),
    "fastestdet": (
        fastestdet,
        OutputSpec("out", "detections", parts=("objectness", "box", "class")),
        DetectorSpec(
            Locations((8,), 0.0), DetectorBox("cxcywh", "stride", "fraction"), Scores(powers=(0.6, 0.4)), BY_CLASS
        ),
    ),
    "anchors_first": (
        anchors_first,
        OutputSpec("out", "detections", parts=("box", "objectness", "class")),
        DetectorSpec(
            Locations(STRIDES, 0.0, ANCHORS, "anchors-first"), DetectorBox("cxcywh", "anchor"), selection=BY_CLASS
        ),
    ),
}  # fmt: skip
MOVED = {
    "yolov8": {"box": "none none", "class": "sigmoid none"},
    "yolov8_bins": {"box": "none none", "class": "sigmoid none"},
    "yolov8_exp": {"box": "none exp", "class": "sigmoid none"},
    "yolov8_exp_of_all": {"box": "none exp", "class": "sigmoid none"},
    "yolox": {"box": "none exp", "class": "sigmoid sigmoid"},
    "fastestdet": {"box": "tanh sigmoid", "class": "softmax sigmoid"},
    "anchors_first": {"box": "sigmoid sigmoid", "class": "sigmoid sigmoid"},
}


@pytest.fixture(scope="module")
def make_detector(to_float: Callable[..., bytes]) -> Callable[[str], tuple[bytes, Contract]]:
    def make(name: str, side: int = 64) -> tuple[bytes, Contract]:
        import keras

        build, output, spec = NETWORKS[name]
        keras.utils.set_random_seed(3)
        image = keras.Input((side, side, 3), name="image")
        flatbuffer = to_float(keras.Model(image, {"out": build(image, side)}), side)
        return flatbuffer, Contract(InputSpec("image", side, side), (output,), labels=LABELS, detector=spec)

    return make


@pytest.fixture
def noise() -> np.ndarray:
    patches = np.random.default_rng(0).uniform(-1, 1, (12, 8, 8, 3)).astype(np.float32)
    return patches.repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_parts_leave_alone_and_say_the_same_of_every_location(
    make_detector: Callable[..., tuple[bytes, Contract]], noise: np.ndarray, name: str
) -> None:
    flatbuffer, contract = make_detector(name)
    repaired, described, done = repair_head(flatbuffer, contract, noise)
    wanted = set(contract.outputs[0].parts)
    assert {output.parts for output in described.outputs} == {(part,) for part in wanted}
    assert len(done) == len(wanted) and all("split off out" in sentence for sentence in done)
    engine, before = open_engine("auto", repaired), open_engine("auto", flatbuffer)
    check_contract(described, engine.inputs, engine.outputs)
    first, second = DetectorReader(contract, {}), DetectorReader(described, {})
    for image in noise:
        one = first.everything(before.invoke(image[np.newaxis]))
        other = second.everything(engine.invoke(image[np.newaxis]))
        for old, new in zip(one, other, strict=True):
            assert new == pytest.approx(old, rel=1e-4, abs=1e-4)
    assert described.detector is not None
    box, scores = described.detector.box, described.detector.scores
    if "yolov8" in name:
        assert (box.form, box.units, described.detector.locations) == ("distances", "stride", Locations(STRIDES))
        assert box.bins == (8 if name == "yolov8_bins" else 0)
    assert MOVED[name] == {"box": f"{box.center} {box.size}", "class": f"{scores.activation} {scores.objectness}"}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_nothing_is_left_to_repair(
    make_detector: Callable[..., tuple[bytes, Contract]], noise: np.ndarray, name: str
) -> None:
    repaired, described, _ = repair_head(*make_detector(name), noise)
    assert repair_head(repaired, described, noise) == (repaired, described, ())
    assert "head-shares-scale" not in [one.finding.code for one in diagnose(repaired, described, noise)]


SIDE, SQUARE = 640, 64


def squares(index: int) -> Pixels:
    """A dark picture with four squares in pure colours, each centred on a cell."""
    rng = np.random.default_rng(index)
    pixels = rng.integers(0, 20, (SIDE, SIDE, 3)).astype(np.uint8)
    for left, top in np.array([(0, 0), (320, 0), (0, 320), (320, 320)]) + rng.integers(0, 30, (4, 2)) * 8 + 4:
        pixels[top : top + SQUARE, left : left + SQUARE] = 255 * np.eye(3)[rng.integers(3)]
    return pixels


def fixed_conv(x: Any, weights: Any, bias: Any) -> Any:
    from keras import initializers, layers

    kernel = initializers.Constant(np.array(weights, np.float32)[np.newaxis, np.newaxis])
    return layers.Conv2D(len(bias), 1, kernel_initializer=kernel, bias_initializer=initializers.Constant(bias))(x)


def colors(image: Any) -> list[Any]:
    """The mean colour around each cell of two levels."""
    from keras import initializers, layers

    mean = layers.DepthwiseConv2D(9, padding="same", depthwise_initializer=initializers.Constant(1 / 81))
    first = mean(layers.AveragePooling2D(8)(image))
    return [first, layers.AveragePooling2D(2)(first)]


# A square's own colour speaks for it, the others against it; what is found at the second level is nothing.
OWN = 40 * (2 * np.eye(3) - 1)
BIASES = (-28.0, -80.0)


def find_by_yolov8(image: Any) -> Any:
    from keras import layers

    levels = colors(image)
    distances = joined([rows_of(fixed_conv(x, np.full((3, 4), 0.2), [3.8] * 4), 4) for x in levels], 1)
    scores = [
        rows_of(fixed_conv(x, OWN, [bias] * 3), 3) for x, bias in zip(levels, BIASES, strict=True)
    ]  # fmt: skip
    boxes = in_pixels(distances, SIDE)
    return layers.Permute((2, 1))(joined([boxes, activated(joined(scores, 1), "sigmoid")], 2))


def find_by_yolox(image: Any) -> Any:
    levels = []
    for x, bias in zip(colors(image), BIASES, strict=True):
        box = fixed_conv(x, [[0, 0, 0.05, 0.05]] * 3, [0.5, 0.5, 2.0, 2.0])
        objectness = activated(fixed_conv(x, [[40.0]] * 3, [bias]), "sigmoid")
        levels.append(rows_of(joined([box, objectness, activated(fixed_conv(x, OWN, [0.0] * 3), "sigmoid")], 3), 8))
    return joined(levels, 1)


@pytest.fixture
def save_finder(tmp_path: Path) -> Callable[[str], Path]:
    """A network that finds coloured squares, with its contract."""

    def save(name: str) -> Path:
        import keras

        _, output, spec = NETWORKS[name]
        image = keras.Input((SIDE, SIDE, 3), name="image")
        outputs = {"yolov8": find_by_yolov8, "yolox": find_by_yolox}[name](image)
        input = InputSpec("image", SIDE, SIDE, "bgr", (0.0,), (255.0,), "stretch")
        contract = Contract(input, (output,), labels=LABELS, thresholds=Thresholds(0.4), detector=spec)
        save_network(tmp_path / f"{name}.keras", keras.Model(image, {"out": outputs}), contract)
        return tmp_path / f"{name}.keras"

    return save


@pytest.fixture
def pictures() -> Dataset:
    samples = tuple(Sample(f"picture-{i}", read=lambda i=i: squares(i), labelled=False) for i in range(8))
    return Dataset("squares", "squares", LABELS, samples, (), ("train",), "train")


def objects(path: Path) -> list[tuple[Detection, ...]]:
    localizer = Localizer(path)
    localizer.self_test()
    return [localizer(squares(index)).objects for index in range(100, 104)]


def overlaps(first: list[tuple[Detection, ...]], second: list[tuple[Detection, ...]]) -> Iterator[float]:
    for one, other in zip(first, second, strict=True):
        for wanted in one:
            assert wanted.box is not None
            boxes = [found.box for found in other if found.label == wanted.label and found.box is not None]
            yield max((wanted.box.iou(box) for box in boxes), default=0.0)


def test_a_yolov8_that_int8_blinds_finds_with_a_repaired_head_what_float_finds(
    save_finder: Callable[[str], Path], pictures: Dataset, tmp_path: Path
) -> None:
    saved = save_finder("yolov8")
    truth = objects(convert(saved, tmp_path / "float.tflite", ConvertOptions("float32")).path)
    assert [len(found) for found in truth] == [4] * len(truth)

    joined = convert(saved, tmp_path / "joined.tflite", calibration=pictures)
    assert not any(objects(joined.path))
    finding = next(finding for finding in joined.findings if finding.code == "head-shares-scale")
    assert "the output out has parts of unlike ranges" in finding.message
    assert "rounding it to int8 loses 32 of 32 objects; split, it loses 0 of 32 objects, with a" in finding.message

    fixed = convert(saved, tmp_path / "fixed.tflite", ConvertOptions(fix_head=True), calibration=pictures)
    found = objects(fixed.path)
    assert [len(here) for here in found] == [4] * len(truth)
    assert min(overlaps(truth, found)) > 0.95


def test_a_yolox_keeps_its_objects_with_a_repaired_head(
    save_finder: Callable[[str], Path], pictures: Dataset, tmp_path: Path
) -> None:
    saved = save_finder("yolox")
    truth = objects(convert(saved, tmp_path / "float.tflite", ConvertOptions("float32")).path)
    assert [len(found) for found in truth] == [4] * len(truth)
    fixed = convert(saved, tmp_path / "fixed.tflite", ConvertOptions(fix_head=True), calibration=pictures)
    found = objects(fixed.path)
    assert [len(here) for here in found] == [4] * len(truth)
    assert np.mean(list(overlaps(truth, found))) > 0.95
    localizer = Localizer(fixed.path)
    assert [output.parts for output in localizer.contract.outputs] == [("box",), ("objectness",), ("class",)]
