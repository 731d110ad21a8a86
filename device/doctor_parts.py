"""The doctor's checks of what hangs on the board: accelerators and their libraries, power meters, permissions."""

from __future__ import annotations

import grp
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from edgeloc.device.accelerators import Accelerator
from edgeloc.device.doctor_findings import Case, Finding
from edgeloc.device.engines.libedgetpu import INSTALL, LIBRARY, foretell_crash, installed_build
from edgeloc.device.selftest import RUNTIMES
from edgeloc.device.sysfs import natural
from edgeloc.device.trial import Crash, try_program

__all__ = ["accelerators", "permissions", "power"]

_LOAD = "import ctypes, json, sys; ctypes.CDLL(sys.argv[1]); print(json.dumps(['loaded']))"
# Meters compute with NumPy, which may be what is broken here.
_METERS = """
import json, sys
from edgeloc.device.power import find_meters
print(json.dumps([[meter.uri, meter.found, meter.detail] for meter in find_meters(sys.argv[1])]))
"""
_PMIC_BOARD = re.compile(r"Raspberry Pi (Compute Module )?5")
# What a meter says that this board does not have; what any other says is that it is here and does not read.
_ABSENT = ("is not installed", "has no power chip", "no INA3221", "no processor package")
# What a device's file is needed for; only files that are there are looked at.
_NODES = {
    "cameras": ("dev/video*", "dev/media*", "dev/dma_heap/*"),
    "power meters on I2C": ("dev/i2c-*",),
    "power meters on a serial line": ("dev/ttyUSB*", "dev/ttyACM*"),
    "under-voltage and the Pi's power": ("dev/vcio",),
}


def accelerators(case: Case) -> Iterator[Finding]:
    """Each accelerator, and whether what drives it is installed."""
    if not case.board.accelerators:
        yield Finding("accelerators", "ok", "none: models run on the CPU")
    for part in case.board.accelerators:
        about = f"{part.name}, {part.bus}" + (f" {part.device_id}" if part.device_id else "")
        if part.kind == "edge-tpu":
            yield from _edge_tpu(case, part, about)
        elif part.kind == "nvidia-gpu":
            yield from _gpu(case, part, about)
        else:
            yield Finding("accelerators", "ok", f"{about}: there, but no engine of edgeloc uses it")


def _edge_tpu(case: Case, part: Accelerator, about: str) -> Iterator[Finding]:
    if part.bus == "pci" and part.node and not (case.root / part.node.lstrip("/")).exists():
        mend = "install gasket-dkms, which makes it, and reboot"
        yield Finding("accelerators", "warning", f"{about}: its driver is missing, there is no {part.node}", mend)
        return
    if not _has_library(case):
        yield Finding("accelerators", "warning", f"{about}: {LIBRARY} is not installed", INSTALL)
        return
    packages, build = case.board.packages, installed_build(case.root)
    runtime = next((name for name in RUNTIMES if name in packages), None)
    clash = foretell_crash(build, runtime, packages[runtime]) if runtime else ""
    if clash:
        yield Finding("accelerators", "warning", f"{about}: {clash.partition(': ')[0]}", INSTALL)
    else:
        note = f"; {part.note}" if part.note else ""
        yield Finding("accelerators", "ok", f"{about}, {LIBRARY} {build or 'of unknown build'}{note}")


def _has_library(case: Case) -> bool:
    """Whether the loader finds it; in another root, whether its package is there."""
    if not case.is_here:
        return installed_build(case.root) is not None
    try:
        return try_program(_LOAD, LIBRARY) == ["loaded"]
    except Crash:
        return False


def _gpu(case: Case, part: Accelerator, about: str) -> Iterator[Finding]:
    if part.note:
        yield Finding("accelerators", "warning", f"{about}: {part.note}", "install NVIDIA's driver, and reboot")
    elif importlib.util.find_spec("tensorrt") is not None:
        yield Finding("accelerators", "ok", f"{about}, TensorRT {case.board.packages.get('tensorrt', '')}".rstrip())
    else:
        mend = (
            "sudo apt install python3-libnvinfer, and a venv made with --system-site-packages"
            if case.board.family == "jetson"
            else "pip install 'edgeloc[tensorrt]'"
        )
        what = f"{about}: this Python has no tensorrt, so models run on the CPU"
        yield Finding("accelerators", "warning", what, mend)


def power(case: Case) -> Iterator[Finding]:
    """The power meters that `--power auto` would take, and why not the others."""
    try:
        meters = try_program(_METERS, str(case.root))
    except Crash as crash:
        what = f"power meters cannot be looked for: that {crash}"
        yield Finding("power", "warning", what, "mend NumPy and OpenCV first, and look again")
        return
    there = [f"{uri} ({detail})" for uri, found, detail in meters if found]
    if there:
        yield Finding("power", "ok", ", ".join(there))
        return
    trouble = next((f"{uri}: {said}" for uri, _, said in meters if _ought_to_read(case, uri, said)), None)
    if trouble:
        what, _, mend = trouble.rpartition(": ")
        yield Finding("power", "warning", f"there is a power meter, but it cannot be read: {what}", mend)
    else:
        yield Finding("power", "ok", "no power meter: energy is not measured (an INA219 or a USB meter would do)")


def _ought_to_read(case: Case, uri: str, said: str) -> bool:
    """Whether the meter is on this board, by what it says of not being read."""
    if uri == "pmic://" and not _PMIC_BOARD.match(case.board.name):
        return False
    return not any(word in said for word in _ABSENT)


def permissions(case: Case) -> Iterator[Finding]:
    """Whether this user may use the devices that are here."""
    used, denied = [], False
    for purpose, files in _device_files(case).items():
        closed = [file for file in files if not case.may_use(file)]
        if closed:
            denied = True
            names = ", ".join(f"/{file.relative_to(case.root)}" for file in closed)
            yield Finding("permissions", "warning", f"no right to {names} ({purpose})", _group_mend(closed[0]))
        elif files:
            used.append(purpose)
    if not denied:
        what = f"may use {', '.join(used)}" if used else "no device here asks for one"
        yield Finding("permissions", "ok", what)


def _device_files(case: Case) -> dict[str, list[Path]]:
    files = {
        purpose: [file for pattern in patterns for file in sorted(case.root.glob(pattern), key=natural)]
        for purpose, patterns in _NODES.items()
    }
    for part in case.board.accelerators:
        node = case.root / part.node.lstrip("/") if part.node else None
        if node is not None and node.exists():
            files.setdefault(part.name, []).append(node)
    return files


def _group_mend(file: Path) -> str:
    """Which group the file belongs to, and how to join it; root's own files need a rule first."""
    try:
        group = grp.getgrgid(file.stat().st_gid).gr_name
    except (KeyError, OSError):
        group = "root"
    if group == "root":
        if "bus/usb" in file.as_posix():
            return (
                "sudo usermod -aG plugdev $USER, log in again, and plug it in again (libedgetpu1-std has the udev rule)"
            )
        return f"give {file.name} a group by a udev rule, and join that group"
    return f"sudo usermod -aG {group} $USER, and log in again"
