"""Fakes of an NVIDIA GPU's two libraries and of an Edge TPU's, in the place of the real ones."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from edgeloc.testing import FakeCudaDriver, FakeTensorRt, build_fake_compiler, build_fake_delegate


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeCudaDriver:
    """The GPU's driver, in the place of the real one."""
    found = FakeCudaDriver()
    monkeypatch.setattr("edgeloc.device.engines.tensorrt._open_library", lambda: found)
    return found


@pytest.fixture(params=["8.6.2", "10.3.0"])
def tensorrt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """TensorRT as JetPack 6 brings it: 8.6 in its first releases, 10.3 later."""

    def mean(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        image = inputs["image"]
        return {"presence": image.mean(keepdims=True).reshape(1, 1), "box": image[:, 0, 0, :1] * [1, 2, 3, 4]}

    fake = FakeTensorRt(request.param, compute=mean)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.fixture(scope="session")
def compiled_for_edge_tpu(grid_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The grid model after the fake compiler, and the fake libedgetpu that runs it."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc) to build the fake libedgetpu with")
    from edgeloc.converters.targets.edgetpu.compiler import compile_edgetpu

    folder = tmp_path_factory.mktemp("edge-tpu")
    out = folder / "grid_edgetpu.tflite"
    compile_edgetpu(grid_model, out, compiler=str(build_fake_compiler(folder, "compiles")), min_mapped=0)
    return out, build_fake_delegate(folder)
