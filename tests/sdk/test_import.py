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


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = edgeloc.nonsense  # type: ignore[attr-defined]
