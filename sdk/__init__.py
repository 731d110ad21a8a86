"""Runs trained localization CNNs on camera boards; the public names, each loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeloc._version import __version__
    from edgeloc.cameras import Camera, open_camera
    from edgeloc.data import Dataset, Sample, open_dataset
    from edgeloc.engines import Engine, open_engine
    from edgeloc.errors import (
        CameraError,
        CameraTimeout,
        ContractError,
        DataError,
        DeviceError,
        EdgelocError,
        EngineError,
        GateFailed,
        MissingExtra,
        ModelError,
        OutputError,
        UsageError,
    )
    from edgeloc.localizer import Localizer
    from edgeloc.loop.run import RunSummary, run
    from edgeloc.model.contract import BoxEncoding, Contract, InputSpec, OutputSpec, Thresholds
    from edgeloc.model.file import Golden, ModelFile, read_model, write_model
    from edgeloc.model.inspection import ModelReport, inspect_model
    from edgeloc.scenes import SceneGenerator
    from edgeloc.sinks import Sink, open_sink
    from edgeloc.testing.engines import StandinEngine
    from edgeloc.types import Box, Frame, Pixels, Result

__all__ = [
    "Box",
    "BoxEncoding",
    "Camera",
    "CameraError",
    "CameraTimeout",
    "Contract",
    "ContractError",
    "DataError",
    "Dataset",
    "DeviceError",
    "EdgelocError",
    "Engine",
    "EngineError",
    "Frame",
    "GateFailed",
    "Golden",
    "InputSpec",
    "Localizer",
    "MissingExtra",
    "ModelError",
    "ModelFile",
    "ModelReport",
    "OutputError",
    "OutputSpec",
    "Pixels",
    "Result",
    "RunSummary",
    "Sample",
    "SceneGenerator",
    "Sink",
    "StandinEngine",
    "Thresholds",
    "UsageError",
    "__version__",
    "inspect_model",
    "open_camera",
    "open_dataset",
    "open_engine",
    "open_sink",
    "read_model",
    "run",
    "write_model",
]

# Where each name lives; nothing is imported before it is asked for, so that `import edgeloc` stays light.
_HOMES = {
    "edgeloc._version": ("__version__",),
    "edgeloc.cameras": ("Camera", "open_camera"),
    "edgeloc.model.contract": ("BoxEncoding", "Contract", "InputSpec", "OutputSpec", "Thresholds"),
    "edgeloc.data": ("Dataset", "Sample", "open_dataset"),
    "edgeloc.engines": ("Engine", "open_engine"),
    "edgeloc.testing.engines": ("StandinEngine",),
    "edgeloc.errors": (
        "CameraError",
        "CameraTimeout",
        "ContractError",
        "DataError",
        "DeviceError",
        "EdgelocError",
        "EngineError",
        "GateFailed",
        "MissingExtra",
        "ModelError",
        "OutputError",
        "UsageError",
    ),
    "edgeloc.model.inspection": ("ModelReport", "inspect_model"),
    "edgeloc.localizer": ("Localizer",),
    "edgeloc.loop.run": ("RunSummary", "run"),
    "edgeloc.model.file": ("Golden", "ModelFile", "read_model", "write_model"),
    "edgeloc.scenes": ("SceneGenerator",),
    "edgeloc.sinks": ("Sink", "open_sink"),
    "edgeloc.types": ("Box", "Frame", "Pixels", "Result"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'edgeloc' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
