"""What many tests share: real data where it lies beside the repository, tiny models of every precision, a browser."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeloc.evaluation.figures import Row, size_of
from edgeloc.types import Box

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

# What the tests let this package trust is for them alone; other programs' caches are costly to make anew.
_OLD_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_CACHE = tempfile.TemporaryDirectory(prefix="edgeloc-tests-")
for _entry in _OLD_CACHE.glob("*"):
    if _entry.name != "edgeloc":
        (Path(_CACHE.name) / _entry.name).symlink_to(_entry)
os.environ["XDG_CACHE_HOME"] = _CACHE.name

# A job started in the background ignores SIGINT, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; the test is skipped where it is not there."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real data is not beside the repository")
    return folder


def _subfolder(root: Path, name: str) -> Path:
    if not (root / name).is_dir():
        pytest.skip(f"the real data has no folder {name}")
    return root / name


@pytest.fixture(scope="session")
def fod_a(shared_data: Path) -> Path:
    """Photos with one boxed object each, and their manifest.jsonl."""
    return _subfolder(shared_data, "fod-a")


@pytest.fixture(scope="session")
def conformance(shared_data: Path) -> Path:
    """Models, images and reference outputs that others wrote."""
    return _subfolder(shared_data, "conformance")


@pytest.fixture(scope="session")
def videos(shared_data: Path) -> Path:
    """Video clips, some with a box for each frame."""
    return _subfolder(shared_data, "videos")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of tiny localizers (32x32 RGB in; `presence` and `box` out), one for each way to convert them.

    float32, float16, dynamic, int8 (uint8 in, int8 out), int8-float-io, int16, island (a sine
    that has no integer kernel, amid int8) and constant (`presence` ignores the image), each with
    the suffix .tflite; none carries a contract.
    """
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("tiny-models")
    plain = _save_network(folder / "saved-plain")
    for name, settings in _recipes().items():
        (folder / f"{name}.tflite").write_bytes(_convert(plain, settings))
    island = _save_network(folder / "saved-island", sine=True)
    (folder / "island.tflite").write_bytes(_convert(island, _int8))
    constant = _save_network(folder / "saved-constant", constant=True)
    (folder / "constant.tflite").write_bytes(_convert(constant, _int8))
    yield folder


def _save_network(folder: Path, *, sine: bool = False, constant: bool = False) -> str:
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(7)

    def weights(*shape: int) -> Any:
        fan_in = int(np.prod(shape[:-1]))
        return tf.constant(rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32))

    stem, depth, point = weights(3, 3, 3, 16), weights(3, 3, 16, 1), weights(1, 1, 16, 80)
    presence, box = weights(80, 1), weights(80, 4)

    def network(image: Any) -> dict[str, Any]:
        x = tf.nn.relu6(tf.nn.conv2d(image, stem, 2, "SAME"))
        x = tf.sin(x) if sine else x
        x = tf.nn.relu6(tf.nn.depthwise_conv2d(x, depth, [1, 1, 1, 1], "SAME"))
        x = tf.nn.relu6(tf.nn.conv2d(x, point, 1, "SAME"))
        x = tf.reduce_mean(x, [1, 2])
        logit = tf.constant([[0.25]]) if constant else tf.matmul(x, presence)
        return {"presence": logit, "box": tf.sigmoid(tf.matmul(x, box))}

    module = tf.Module()
    module.call = tf.function(network, input_signature=[tf.TensorSpec((1, 32, 32, 3), tf.float32, "image")])
    tf.saved_model.save(module, str(folder), signatures=module.call)
    return str(folder)


def _convert(saved: str, settings: Callable[[Any], None]) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved)
    settings(converter)
    data: bytes = converter.convert()
    return data


def _recipes() -> dict[str, Callable[[Any], None]]:
    return {
        "float32": lambda converter: None,
        "float16": _float16,
        "dynamic": _dynamic,
        "int8": _int8,
        "int8-float-io": _int8_float_io,
        "int16": _int16,
    }


def _dynamic(converter: Any) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def _float16(converter: Any) -> None:
    import tensorflow as tf

    _dynamic(converter)
    converter.target_spec.supported_types = [tf.float16]


def _int8_float_io(converter: Any) -> None:
    import numpy as np

    rng = np.random.default_rng(3)
    images = [rng.uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32) for _ in range(8)]
    _dynamic(converter)
    converter.representative_dataset = lambda: ([image] for image in images)


def _int8(converter: Any) -> None:
    import tensorflow as tf

    _int8_float_io(converter)
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.int8


def _int16(converter: Any) -> None:
    import tensorflow as tf

    _int8_float_io(converter)
    ops = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [ops]


def shifted(box: Box, by: float) -> Box:
    return Box(box.x1 + by, box.y1, box.x2 + by, box.y2)


def object_row(name: str, truth: Box, box_float: Box, box_quantized: Box, **changes: object) -> Row:
    values: dict[str, object] = {
        "name": name, "kind": "object", "width": 200, "height": 100, "group": None, "label": "bolt",
        "size": size_of(truth, 200, 100), "truth": truth, "box_float": box_float, "box_quantized": box_quantized,
        "iou_float": truth.iou(box_float), "iou_quantized": truth.iou(box_quantized),
        "iou_float_to_quantized": box_float.iou(box_quantized), "presence_float": 0.9, "presence_quantized": 0.8,
        "label_float": "bolt", "label_quantized": "bolt",
    }  # fmt: skip
    return Row(**{**values, **changes})  # type: ignore[arg-type]


def negative_row(name: str, presence_float: float, presence_quantized: float, kind: str = "background") -> Row:
    return Row(
        name, kind, 60, 60, None, None, None, None, None, None, None, None, None,
        presence_float, presence_quantized, None, None,
    )  # fmt: skip


@pytest.fixture
def rows() -> list[Row]:
    """Twelve objects of three clips, ever more harmed, and two background crops with one false alarm."""
    truth = Box(40, 20, 90, 70)
    objects = [
        object_row(f"images/{i:02}.jpg", truth, shifted(truth, 1), shifted(truth, i), group=f"clip{i // 4}")
        for i in range(12)
    ]
    return [*objects, negative_row("images/00.jpg", 0.1, 0.7), negative_row("images/01.jpg", 0.2, 0.3)]


@pytest.fixture
def make_row() -> Callable[..., Row]:
    return object_row


@pytest.fixture
def require_end() -> Callable[[int], None]:
    """Fails unless a process, by its number, has ended within 20 s; one that nobody has waited for yet has."""

    def wait(number: int) -> None:
        deadline = time.monotonic() + 20
        while _is_running(number):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    return wait


def _is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser of a phone's width, which logs what it loads and what goes wrong."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no Chromium with its driver here (apt: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update",
        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver, env=_without_proxy()))
    browser.set_page_load_timeout(20)
    # A window is never as narrow as a phone.
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    yield browser
    browser.quit()


def _without_proxy() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
