"""Trained networks by their kind: which framework reads a model, found by its name."""

from __future__ import annotations

import re
from pathlib import Path

from edgeloc._support.lookup import OWN_CODE, Registry
from edgeloc.converters.sources.base import Source
from edgeloc.errors import ModelError, UsageError

__all__ = ["ACCEPTED", "SOURCES", "Source", "open_source", "require_source"]

ACCEPTED = (
    "a Keras file (.keras, .h5), a SavedModel folder, a float .tflite, an .onnx file, "
    "a torch.export file (.pt2) or a PyTorch network as package.module:factory or FILE.py:factory"
)

# By suffix; a folder and a factory, which have none, by a word.
SOURCES: Registry[type[Source]] = Registry(
    "source",
    "edgeloc.sources",
    {
        ".keras": "edgeloc.converters.sources.tensorflow:KerasSource",
        ".h5": "edgeloc.converters.sources.tensorflow:KerasSource",
        ".tflite": "edgeloc.converters.sources.tflite:FloatTfliteSource",
        ".onnx": "edgeloc.converters.sources.onnx:OnnxSource",
        ".pt2": "edgeloc.converters.sources.pytorch:ExportSource",
        "saved-model": "edgeloc.converters.sources.tensorflow:SavedModelSource",
        "pytorch": "edgeloc.converters.sources.pytorch:PytorchSource",
    },
    maker="open",
    failure=ModelError,
)
_WEIGHTS = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")


def open_source(model: str, *, weights: str | None = None) -> Source:
    """Read the trained network `model` with its own framework; its kind is read from its name alone.

    `weights` is the file of a PyTorch factory's weights; every other kind holds its own. Raises
    UsageError when the name is of no kind that is accepted, ModelError when the file is missing or
    bad, and MissingExtra when the framework is not installed.
    """
    return SOURCES.find(_name(model), model, ACCEPTED).open(model, weights)


def require_source(model: str) -> None:
    """Raise UsageError when the name is of no kind that is accepted, ModelError when the file is missing."""
    _name(model)


def _name(model: str) -> str:
    """The name in SOURCES of what reads `model`."""
    path = Path(model)
    suffix = path.suffix.lower()
    if (path / "saved_model.pb").is_file():
        return "saved-model"
    if re.fullmatch(OWN_CODE, model):
        return "pytorch"
    if suffix in _WEIGHTS:
        raise UsageError(
            f"{model} holds weights without their network",
            field="model",
            value=model,
            hint="name what builds it, package.module:factory, and give this file as {weights}",
        )
    if suffix.startswith(".") and suffix in SOURCES:
        if not path.exists():
            raise ModelError(f"{model}: no such file; give {ACCEPTED}")
        return suffix
    if path.is_dir():
        raise UsageError(f"{model} is a folder without a saved_model.pb; give {ACCEPTED}")
    raise UsageError(f"{model} is of no kind that can be converted; give {ACCEPTED}")
