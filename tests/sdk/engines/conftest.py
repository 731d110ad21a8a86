"""A model compiled for the Edge TPU by the fake compiler, and the fake libedgetpu that runs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeloc.testing import build_fake_compiler, build_fake_delegate


@pytest.fixture(scope="session")
def compiled_for_edge_tpu(grid_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The grid model after the fake compiler, and the fake libedgetpu that runs it."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc) to build the fake libedgetpu with")
    from edgeloc.converters.targets.edgetpu import compile_edgetpu

    folder = tmp_path_factory.mktemp("edge-tpu")
    out = folder / "grid_edgetpu.tflite"
    compile_edgetpu(grid_model, out, compiler=str(build_fake_compiler(folder, "compiles")), min_mapped=0)
    return out, build_fake_delegate(folder)
