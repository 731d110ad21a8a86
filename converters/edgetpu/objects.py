"""A TFLite flatbuffer as the schema's objects and back, without TensorFlow; what is changed is decided elsewhere."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from edgeloc.errors import MissingExtra
from edgeloc.flatbuffer import SCHEMAS

__all__ = ["pack", "schema", "unpack"]


def schema() -> ModuleType:
    """The generated reader and writer of the format; MissingExtra where no installed package brings it."""
    for name in SCHEMAS:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(module, "ModelT"):
            return module
    raise MissingExtra("tensorflow", "convert", "reading what a model's operators are set to")


def unpack(flatbuffer: bytes) -> Any:
    """The model as the schema's object tree (ModelT)."""
    return schema().ModelT.InitFromPackedBuf(flatbuffer, 0)


def pack(model: Any) -> bytes:
    """The object tree as a flatbuffer again."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
