"""What a user trained, from each framework, on its way to a float `.tflite`: finds the kind that reads a model."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from edgeloc.converters.sources.base import Source
from edgeloc.errors import ModelError, UsageError

__all__ = ["ACCEPTED", "Source", "open_source"]

ACCEPTED = (
    "a Keras file (.keras, .h5), a SavedModel folder, a float .tflite, an .onnx file, "
    "a torch.export file (.pt2) or a PyTorch network as package.module:factory"
)

_HERE = "edgeloc.converters.sources."
# By the end of the name; looked up when asked for, so that none needs the libraries of another.
_FILES = {
    ".keras": "tensorflow:KerasSource",
    ".h5": "tensorflow:KerasSource",
    ".tflite": "tflite:FloatTfliteSource",
    ".onnx": "onnx:OnnxSource",
    ".pt2": "pytorch:ExportSource",
}
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_WEIGHTS = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")


def open_source(model: str, *, weights: str | None = None) -> Source:
    """Read the trained network `model` with its own framework; its kind is told by its name alone.

    `weights` is the file of a PyTorch factory's weights; every other kind holds its own. Raises
    UsageError when the name is of no kind that is accepted, ModelError when the file is missing or
    bad, and MissingExtra when the framework is not installed.
    """
    kind = _kind(model)
    module, _, name = kind.partition(":")
    found: Any = getattr(importlib.import_module(_HERE + module), name)
    source: Source = found.open(model, weights)
    return source


def _kind(model: str) -> str:
    path = Path(model)
    suffix = path.suffix.lower()
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise UsageError(f"{model} is a folder without a saved_model.pb; give {ACCEPTED}")
        return "tensorflow:SavedModelSource"
    if suffix in _FILES:
        if not path.exists():
            raise ModelError(f"{model}: no such file; give {ACCEPTED}")
        return _FILES[suffix]
    if _FACTORY.fullmatch(model):
        return "pytorch:PytorchSource"
    if suffix in _WEIGHTS:
        raise UsageError(
            f"{model} holds weights without their network: name what builds it, package.module:factory, "
            f"and give this file with --weights"
        )
    raise UsageError(f"{model} is of no kind that can be converted; give {ACCEPTED}")
