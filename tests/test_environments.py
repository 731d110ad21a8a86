"""The built package in environments of its own: NumPy 1 with tflite-runtime, and NumPy 2 with ai-edge-litert."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

_SOURCES = ("sdk", "converters", "benchmarks", "device", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
_PROGRAM = """
import sys
from importlib.resources import files
import numpy
from edgeloc import Localizer
model = files("edgeloc.models") / "localizer-int8.tflite"
localizer = Localizer(str(model), engine=sys.argv[1])
localizer.self_test()
result = localizer(numpy.zeros((480, 640, 3), numpy.uint8))
assert 0 <= result.presence <= 1
print(numpy.__version__, localizer.engine.name, localizer.engine.version)
"""


class Setup(NamedTuple):
    """What is installed beside edgeloc, and what must then be found."""

    engine: str
    pins: tuple[str, ...]
    numpy: str
    newest_python: tuple[int, int]


NUMPY_1 = Setup(
    "tflite-runtime", ("numpy==1.26.4", "tflite-runtime==2.14.0", "opencv-python-headless<4.12"), "1.26", (3, 11)
)
NUMPY_2 = Setup("litert", ("numpy>=2", "ai-edge-litert>=2", "opencv-python-headless>=4.12"), "2.", (3, 99))


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it would be published, built from a copy so that no build folder stays behind."""
    if not (repository / "sdk" / "models" / "localizer-int8.tflite").is_file():
        pytest.skip("the package holds no trained model yet")
    folder = tmp_path_factory.mktemp("wheel")
    for name in _SOURCES:
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, folder / name)
    pip(Path(sys.executable), "wheel", "--no-deps", "--wheel-dir", str(folder / "dist"), str(folder))
    return next((folder / "dist").glob("edgeloc-*.whl"))


def pip(python: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", *arguments], capture_output=True, text=True
    )
    if done.returncode and any(words in done.stderr for words in ("NewConnectionError", "Name or service not known")):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr


def python_for(newest: tuple[int, int]) -> str:
    """An interpreter no newer than `newest`: this one, else one that is installed beside it."""
    if sys.version_info[:2] <= newest:
        return sys.executable
    for name in ("python3.11", "python3.10"):
        found = shutil.which(name)
        # A version manager's placeholder is found, but does not run.
        if found and subprocess.run([found, "-c", "import ensurepip"], capture_output=True).returncode == 0:
            return found
    pytest.skip("tflite-runtime needs Python 3.10 or 3.11, and neither is installed")


@pytest.mark.parametrize("setup", [NUMPY_1, NUMPY_2], ids=["numpy1-tflite-runtime", "numpy2-litert"])
def test_the_shipped_model_passes_its_self_test(setup: Setup, wheel: Path, tmp_path: Path) -> None:
    interpreter = python_for(setup.newest_python)
    if interpreter == sys.executable:
        venv.create(tmp_path / "venv", with_pip=True)
    else:
        subprocess.run([interpreter, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip(python, "install", "--quiet", *setup.pins)
    pip(python, "install", "--quiet", "--no-deps", str(wheel))
    done = subprocess.run(
        [str(python), "-W", "error", "-c", _PROGRAM, setup.engine], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    numpy_version, engine, _ = done.stdout.split()
    assert numpy_version.startswith(setup.numpy)
    assert engine == setup.engine


def test_no_module_of_the_sdk_asks_for_more_than_the_runtime_brings(wheel: Path, tmp_path: Path) -> None:
    """Everything that runs on the board imports with NumPy, OpenCV and a runtime.

    The contract suites want pytest, and the page's server, which is imported when a page is opened, is tornado's.
    """
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip(python, "install", "--quiet", *NUMPY_2.pins)
    pip(python, "install", "--quiet", "--no-deps", str(wheel))
    program = (
        "import importlib, pkgutil, edgeloc\n"
        "for part in pkgutil.walk_packages(edgeloc.__path__, 'edgeloc.'):\n"
        "    others = 'converters.', 'benchmarks.', 'testing.suites'\n"
        "    others += 'sinks.web.server', 'sinks.web.live', 'labelling.site'\n"
        "    if part.name.removeprefix('edgeloc.').startswith(others):\n"
        "        continue\n"
        "    importlib.import_module(part.name)\n"
    )
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
