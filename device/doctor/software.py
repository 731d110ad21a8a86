"""The doctor's checks of software: Python, OpenCV, inference runtimes, and the self-test on each."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.device.board import Board
from edgeloc.device.doctor.findings import Case, Finding
from edgeloc.device.doctor.selftest import RUNTIMES, SelfTest

__all__ = ["opencv", "python", "runtimes", "self_tests"]

_OPENCV = """
import re
try:
    import cv2
    found = re.search(r"GStreamer:\\s*(YES|NO)", cv2.getBuildInformation())
    answer([cv2.__version__, found.group(1) if found else "NO"])
except Exception as error:
    answer(["", type(error).__name__ + ": " + str(error).strip().split("\\n")[0]])
"""


def python(case: Case) -> Iterator[Finding]:
    """Whether there are packages made for this Python."""
    board = case.board
    libc, version = platform.libc_ver()
    about = (
        f"Python {board.python}, {board.python_bits}-bit, on {board.machine}, {libc or 'no glibc'} {version}".rstrip()
    )
    if board.python_bits == 32 and board.machine in ("aarch64", "arm64"):
        yield Finding(
            "python",
            "warning",
            f"{about}: a 32-bit system on a 64-bit kernel, for which ai-edge-litert has no package",
            f"install the 64-bit image of the system, or: {_runtime_line(board)}",
        )
    else:
        yield Finding("python", "ok", about)


def opencv(case: Case) -> Iterator[Finding]:
    """Whether OpenCV loads, and whether it has GStreamer."""
    try:
        version, told = run_child(_OPENCV)
    except ChildFailed as failure:
        version, told = "", f"it {failure}"
    if not version:
        yield Finding("opencv", "problem", f"OpenCV does not load: {told}", _opencv_mend(told))
        return
    what = f"OpenCV {version} {'with' if told == 'YES' else 'without'} GStreamer"
    if told == "YES":
        yield Finding("opencv", "ok", what)
    elif importlib.util.find_spec("gi") is not None:
        yield Finding("opencv", "ok", f"{what}: csi:// and gst:// go through PyGObject")
    elif case.board.family == "jetson":
        mend = "sudo apt install python3-gi gstreamer1.0-plugins-base, in a venv made with --system-site-packages"
        yield Finding("opencv", "warning", f"{what}: csi:// and gst:// cameras cannot be opened", mend)
    else:
        yield Finding("opencv", "ok", f"{what}: every camera but csi:// and gst://")


def runtimes(case: Case) -> Iterator[Finding]:
    """Which inference runtimes are installed, and a clash with NumPy foretold before it strikes."""
    packages = case.board.packages
    installed = [f"{name} {packages[name]}" for name in RUNTIMES if name in packages]
    if not installed:
        yield Finding("runtimes", "problem", "no inference runtime is installed", _runtime_line(case.board))
        return
    numpy = packages.get("numpy")
    if numpy is None:
        yield Finding("runtimes", "problem", "NumPy is not installed", f"pip install {_numpy_for(packages)}")
        return
    if "tflite-runtime" in packages and _major(numpy) >= 2:
        alone = len(installed) == 1
        yield Finding(
            "runtimes",
            "problem" if alone else "warning",
            f"tflite-runtime {packages['tflite-runtime']} is made for NumPy 1, and here is NumPy {numpy}: "
            "it can be imported, and fails with the first model",
            "pip install 'numpy<2', or pip install ai-edge-litert instead" if alone else "pip uninstall tflite-runtime",
        )
    else:
        yield Finding("runtimes", "ok", f"{', '.join(installed)}; NumPy {numpy}")


def self_tests(case: Case) -> Iterator[Finding]:
    """What became of the shipped model on each engine."""
    if not case.self_tests:
        what = "no engine is there to run the shipped model with"
        yield Finding("self-test", "problem", what, _runtime_line(case.board))
    works = any(test.outcome == "passed" for test in case.self_tests)
    for test in case.self_tests:
        yield _self_test(test, works)


def _self_test(test: SelfTest, works: bool) -> Finding:
    about = f"the shipped model on engine {test.engine}"
    package = next((package for package, engine in RUNTIMES.items() if engine == test.engine), test.engine)
    if test.outcome == "passed":
        return Finding("self-test", "ok", f"{about} passes its self-test")
    if test.outcome == "not loaded":
        mend = f"pip uninstall {package}" if works else f"see above; else pip install --force-reinstall {package}"
        return Finding("self-test", "warning" if works else "problem", f"{about} does not load: {test.detail}", mend)
    mend = f"pip install --upgrade --force-reinstall {package}, or another of {', '.join(RUNTIMES)}"
    said = test.detail if test.outcome == "crashed" else f"fails: {test.detail}"
    return Finding("self-test", "problem", f"{about} {said}", mend)


def _major(version: str) -> int:
    head = version.split(".")[0]
    return int(head) if head.isdigit() else 0


def _numpy_for(packages: dict[str, str]) -> str:
    return "'numpy<2'" if "tflite-runtime" in packages and "ai-edge-litert" not in packages else "numpy"


def _runtime_line(board: Board) -> str:
    """What installs a runtime: ai-edge-litert has no package for 32 bits."""
    if board.python_bits == 32:
        return "pip install tflite-runtime 'numpy<2' (with Python 3.10 or 3.11)"
    return "pip install ai-edge-litert"


def _opencv_mend(said: str) -> str:
    if "libGL" in said or "libgthread" in said:
        return "sudo apt install libgl1 libglib2.0-0, or pip install opencv-python-headless in its place"
    if "numpy" in said.lower() or "ARRAY_API" in said:
        return "pip install --upgrade --force-reinstall opencv-python, which fits this NumPy"
    return "pip install opencv-python, or sudo apt install python3-opencv and a venv made with --system-site-packages"
