"""The package's face: what importing it loads, and that every public name is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

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


def test_the_public_names_are_sorted_and_there() -> None:
    assert edgeloc.__all__ == sorted(edgeloc.__all__)
    for name in edgeloc.__all__:
        assert getattr(edgeloc, name) is not None
    assert set(edgeloc.__all__) <= set(dir(edgeloc))


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(edgeloc.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "__future__"]
    seen = {alias.name: node.module for node in imports for alias in node.names if alias.name != "TYPE_CHECKING"}
    assert seen == edgeloc._HOME


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = edgeloc.nonsense  # type: ignore[attr-defined]
