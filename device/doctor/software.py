"""The doctor's checks of software: Python, OpenCV, inference runtimes, and the self-test on each."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.device.board import Board
from edgeloc.device.doctor.facts import RUNTIMES, Facts
from edgeloc.findings import Finding, Severity
from edgeloc.model.sandbox import SelfTest

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


def python(facts: Facts) -> Iterator[Finding]:
    """Whether there are packages made for this Python."""
    board = facts.board
    libc, version = platform.libc_ver()
    about = (
        f"Python {board.python}, {board.python_bits}-bit, on {board.machine}, {libc or 'no glibc'} {version}".rstrip()
    )
    if board.python_bits == 32 and board.machine in ("aarch64", "arm64"):
        message = f"{about}: a 32-bit system on a 64-bit kernel, for which ai-edge-litert has no package"
        fix = f"install the 64-bit image of the system, or: {_runtime_line(board)}"
        yield Finding("python-32-bit", "warning", message, fix)
    else:
        yield Finding("python", "ok", about)


def opencv(facts: Facts) -> Iterator[Finding]:
    """Whether OpenCV loads, and whether it has GStreamer."""
    try:
        version, detail = run_child(_OPENCV)
    except ChildFailed as failure:
        version, detail = "", f"it {failure}"
    if not version:
        yield Finding("opencv-not-loaded", "problem", f"OpenCV does not load: {detail}", _opencv_fix(detail))
        return
    message = f"OpenCV {version} {'with' if detail == 'YES' else 'without'} GStreamer"
    if detail == "YES":
        yield Finding("opencv", "ok", message)
    elif importlib.util.find_spec("gi") is not None:
        yield Finding("opencv", "ok", f"{message}: csi:// and gst:// use PyGObject")
    elif facts.board.family == "jetson":
        fix = "sudo apt install python3-gi gstreamer1.0-plugins-base, in a venv made with --system-site-packages"
        yield Finding("gstreamer-missing", "warning", f"{message}: csi:// and gst:// cameras cannot be opened", fix)
    else:
        yield Finding("opencv", "ok", f"{message}: every camera but csi:// and gst://")


def runtimes(facts: Facts) -> Iterator[Finding]:
    """Which inference runtimes are installed, and a clash with NumPy predicted before it happens."""
    packages = facts.board.packages
    installed = [f"{name} {packages[name]}" for name in RUNTIMES if name in packages]
    numpy = packages.get("numpy")
    if not installed:
        message = "no inference runtime is installed"
        yield Finding("runtime-missing", "problem", message, _runtime_line(facts.board))
    elif numpy is None:
        yield Finding("numpy-missing", "problem", "NumPy is not installed", f"pip install {_numpy_for(packages)}")
    elif "tflite-runtime" in packages and _major(numpy) >= 2:
        alone = len(installed) == 1
        yield Finding(
            "runtime-needs-numpy-1",
            "problem" if alone else "warning",
            f"tflite-runtime {packages['tflite-runtime']} is made for NumPy 1, and this is NumPy {numpy}: "
            "it can be imported, and fails with the first model",
            "pip install 'numpy<2', or pip install ai-edge-litert instead" if alone else "pip uninstall tflite-runtime",
        )
    else:
        yield Finding("runtimes", "ok", f"{', '.join(installed)}; NumPy {numpy}")


def self_tests(facts: Facts) -> Iterator[Finding]:
    """How the shipped model's self-test ended on each engine."""
    if not facts.self_tests:
        message = "there is no engine to run the shipped model with"
        yield Finding("self-test-impossible", "problem", message, _runtime_line(facts.board))
    works = any(test.outcome == "passed" for test in facts.self_tests)
    for test in facts.self_tests:
        yield _self_test(test, works)


def _self_test(test: SelfTest, works: bool) -> Finding:
    about = f"the shipped model on engine {test.engine}"
    package = next((package for package, engine in RUNTIMES.items() if engine == test.engine), test.engine)
    if test.outcome == "passed":
        return Finding("self-test", "ok", f"{about} passes its self-test")
    if test.outcome == "not loaded":
        fix = f"pip uninstall {package}" if works else f"see above; else pip install --force-reinstall {package}"
        severity: Severity = "warning" if works else "problem"
        return Finding("engine-not-loaded", severity, f"{about} does not load: {test.detail}", fix)
    fix = f"pip install --upgrade --force-reinstall {package}, or another of {', '.join(RUNTIMES)}"
    if test.outcome == "crashed":
        return Finding("self-test-crashed", "problem", f"{about} {test.detail}", fix)
    return Finding("self-test-failed", "problem", f"{about} fails: {test.detail}", fix)


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


def _opencv_fix(detail: str) -> str:
    if "libGL" in detail or "libgthread" in detail:
        return "sudo apt install libgl1 libglib2.0-0, or pip install opencv-python-headless in its place"
    if "numpy" in detail.lower() or "ARRAY_API" in detail:
        return "pip install --upgrade --force-reinstall opencv-python, which fits this NumPy"
    return "pip install opencv-python, or sudo apt install python3-opencv and a venv made with --system-site-packages"
