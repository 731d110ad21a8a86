"""A tiny model with its contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeloc.model.contract import Contract, InputSpec, OutputSpec
from edgeloc.model.file import write_model


@pytest.fixture
def model(tmp_path: Path, tiny_models: Path) -> Path:
    outputs = (OutputSpec("presence", "presence", "sigmoid"), OutputSpec("box", "box"))
    path = tmp_path / "model.tflite"
    contract = Contract(InputSpec("image", 32, 32, resize="stretch"), outputs)
    write_model(path, (tiny_models / "int8.tflite").read_bytes(), contract)
    return path
