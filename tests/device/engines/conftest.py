"""Accelerators that are not here: a fake delegate with models compiled for it, a fake CUDA driver and TensorRT."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from edgeloc.models import SHIPPED_INT8
from edgeloc.testing import FakeCudaDriver, FakeTensorRt, build_fake_delegate


@pytest.fixture(scope="session")
def delegate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake libedgetpu, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc) to build the fake delegate with")
    return build_fake_delegate(tmp_path_factory.mktemp("delegate"))


@pytest.fixture(scope="session")
def genuine(conformance: Path) -> Path:
    """A model that Google's own compiler wrote; the same model from before lies beside it without `_edgetpu`."""
    return conformance / "coral" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"


@pytest.fixture(scope="session")
def compiled_robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model after the fake compiler, with its contract."""
    pytest.importorskip("tensorflow")
    if not SHIPPED_INT8.is_file():
        pytest.skip("the package holds no trained model yet")
    from edgeloc.converters.targets.edgetpu import compile_edgetpu
    from edgeloc.testing import build_fake_compiler

    folder = tmp_path_factory.mktemp("compiled")
    out = folder / "robot_edgetpu.tflite"
    compile_edgetpu(SHIPPED_INT8, out, compiler=str(build_fake_compiler(folder, "compiles")))
    return out


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """The root of a machine with one Coral stick whose firmware is loaded, and nothing else."""
    stick = tmp_path / "root" / "sys/bus/usb/devices/2-1"
    stick.mkdir(parents=True)
    (stick / "idVendor").write_text("18d1\n")
    (stick / "idProduct").write_text("9302\n")
    return tmp_path / "root"


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
