"""What importing the package loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edgeloc


def loaded_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_stays_light() -> None:
    modules = loaded_after("import edgeloc")
    assert not modules & {"numpy", "cv2", "tensorflow", "keras", "ai_edge_litert", "tflite_runtime", "matplotlib"}


def test_the_runtime_needs_neither_tensorflow_nor_plots() -> None:
    modules = loaded_after("from edgeloc import Localizer, open_camera, run")
    assert not modules & {"tensorflow", "keras", "matplotlib", "tqdm", "jinja2"}


def test_a_run_loads_no_library_of_a_sink_that_it_does_not_have() -> None:
    of_sinks = {"tornado", "paho", "pymavlink", "rosbags", "mcap", "av", "serial", "rclpy", "asyncio"}
    program = """
import sys, tempfile, edgeloc
from edgeloc.models import SHIPPED_INT8
with tempfile.TemporaryDirectory() as folder:
    edgeloc.run("synthetic://?seed=1&frames=5", edgeloc.Localizer(SHIPPED_INT8), folder + "/a.jsonl", folder + "/a.avi")
"""
    done = subprocess.run(
        [sys.executable, "-c", program + "print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & of_sinks


def test_a_first_result_loads_only_what_it_needs() -> None:
    program = """
import sys, numpy as np
from edgeloc import Localizer
from edgeloc.models import SHIPPED_INT8
Localizer(SHIPPED_INT8)(np.zeros((48, 64, 3), np.uint8))
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"logging", "tempfile", "multiprocessing", "importlib.metadata", "unicodedata"}
    assert {name for name in loaded if name.startswith("edgeloc.")} == {
        "edgeloc._support",
        "edgeloc._support.json",
        "edgeloc._support.lookup",
        "edgeloc._support.terminal",
        "edgeloc.decode",
        "edgeloc.decode.heads",
        "edgeloc.decode.numbers",
        "edgeloc.engines",
        "edgeloc.engines.base",
        "edgeloc.engines.tflite",
        "edgeloc.errors",
        "edgeloc.findings",
        "edgeloc.localizer",
        "edgeloc.model",
        "edgeloc.model.containers",
        "edgeloc.model.contract",
        "edgeloc.model.file",
        "edgeloc.model.fit",
        "edgeloc.model.trust",
        "edgeloc.models",
        "edgeloc.preprocess",
        "edgeloc.types",
    }


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = edgeloc.nonsense  # type: ignore[attr-defined]
