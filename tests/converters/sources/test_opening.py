"""Which reader a name gets, and what a user is told about a name that gets none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeloc.converters.sources import open_source
from edgeloc.errors import ModelError, UsageError


def test_a_keras_file_is_read_with_its_contract(save_keras: Callable[..., Path], make_network: Any) -> None:
    source = open_source(str(save_keras(make_network())))
    assert source.contract is not None
    assert source.contract.output("box") is not None


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.tflite", "model.onnx", "model.pt2"])
def test_a_missing_file_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"{name}: no such file"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize("name", ["model.mlmodel", "model", "a b:c", "package.module:"])
def test_what_is_of_no_kind_is_answered_with_what_is(name: str) -> None:
    with pytest.raises(UsageError, match=r"can be converted; give a Keras file .*\.onnx.*package\.module:factory"):
        open_source(name)


def test_a_folder_that_is_no_saved_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder without a saved_model\.pb"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["weights.pt", "best.pth", "model.safetensors"])
def test_weights_alone_ask_for_their_network(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} holds weights without their network: .* weights"):
        open_source(name)


def test_opening_needs_no_framework_but_the_models_own() -> None:
    program = (
        "import sys, edgeloc.converters.sources as s\n"
        "try: s.open_source('nothing.xyz')\n"
        "except ValueError: pass\n"
        "print(sorted({'tensorflow', 'torch', 'onnxruntime', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
