"""The doctor's checks of hardware: the board, its clocks and temperature, what is connected to it, permissions."""

from __future__ import annotations

import grp
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.device.board import Accelerator, memory_mib
from edgeloc.device.cameras.probe import capture_devices
from edgeloc.device.doctor.facts import RUNTIMES, Facts
from edgeloc.device.engines.edgetpu.library import INSTALL, LIBRARY, installed_build, predict_crash
from edgeloc.device.sysfs import natural, read_text
from edgeloc.findings import Finding

__all__ = ["accelerators", "board", "cameras", "clocks", "disk", "memory", "permissions", "power", "thermal"]

# The interpreter, OpenCV and a model of a few MB take about 150 MiB.
_LITTLE_MEMORY_MIB = 200
_LITTLE_DISK_MIB = 500
# A Raspberry Pi starts to slow down at 80 °C, the others not far above.
_HOT_C = 80.0
_COOL = "give it a heat sink or a fan, and air around it"
_SLOW_GOVERNORS = ("powersave", "conservative", "userspace")
# Nodes that capture nothing: codecs and the image processors behind a Raspberry Pi's camera.
_NO_CAMERAS = ("codec", "isp", "pispbe", "hevc", "rpivid", "-stat", "-meta")
_PI_SENSORS = ("unicam", "rp1-cfe")
_DEBIAN_PACKAGES = "usr/lib/python3/dist-packages"
_LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); answer(['loaded'])"
# Meters compute with NumPy, which may be what is broken here.
_METERS = """
import sys
from edgeloc.device.power import find_meters
answer([[uri, found.to_dict()] for uri, found in find_meters(sys.argv[1]).items()])
"""
_PMIC_BOARD = re.compile(r"Raspberry Pi (Compute Module )?5")
# The device files that each purpose needs; only those that exist are checked.
_NODES = {
    "cameras": ("dev/video*", "dev/media*", "dev/dma_heap/*"),
    "power meters on I2C": ("dev/i2c-*",),
    "power meters on a serial line": ("dev/ttyUSB*", "dev/ttyACM*"),
    "under-voltage and the Pi's power": ("dev/vcio",),
}


def board(facts: Facts) -> Iterator[Finding]:
    """Name, cores and system, in one line."""
    found = facts.board
    cores = " + ".join(
        f"{len(cluster.cpus)} x {cluster.core or found.cpu or 'core'}"
        + (f" at up to {cluster.max_mhz / 1000:.1f} GHz" if cluster.max_mhz else "")
        for cluster in found.clusters
    )
    system = ", ".join(
        part
        for part in (found.os, f"L4T {found.l4t}" if found.l4t else None, f"kernel {found.kernel}" * bool(found.kernel))
        if part
    )
    revision = f" (revision {found.revision})" if found.revision else ""
    yield Finding("board", "ok", "; ".join(part for part in (f"{found.name}{revision}", cores, system) if part))


def memory(facts: Facts) -> Iterator[Finding]:
    """Whether a localizer fits into what is free."""
    total, free = facts.board.memory_mib, memory_mib(facts.root, "MemAvailable")
    if free is None:
        yield Finding("memory", "ok", "the kernel does not report how much is free")
    elif free < _LITTLE_MEMORY_MIB:
        message = f"{free} MiB of {total} MiB are free: a localizer needs about {_LITTLE_MEMORY_MIB}"
        yield Finding("memory-low", "warning", message, "end other programs (the desktop first), or add swap")
    else:
        yield Finding("memory", "ok", f"{free} MiB of {total} MiB free")


def disk(facts: Facts) -> Iterator[Finding]:
    """Whether there is room for packages and recordings."""
    try:
        folder = Path.cwd() if facts.is_here else facts.root
    except FileNotFoundError:  # the current folder was removed
        folder = Path("/")
    free = shutil.disk_usage(folder).free // 2**20
    if free < _LITTLE_DISK_MIB:
        yield Finding("disk-low", "warning", f"{free} MiB free", "remove what is not needed: start with sudo apt clean")
    else:
        yield Finding("disk", "ok", f"{free / 1024:.1f} GiB free")


def clocks(facts: Facts) -> Iterator[Finding]:
    """Governor, frequencies and power mode: whether latencies will be the board's best."""
    thermal, driver = facts.thermal, read_text(facts.root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver")
    if not thermal.clocks:
        yield Finding("clocks", "ok", "the kernel sets no frequencies here (a virtual machine, or fixed ones)")
        return
    each = [
        f"cores {clock.cpus}: {clock.current_mhz} of {clock.max_mhz} MHz, {clock.governor}" for clock in thermal.clocks
    ]
    message = "; ".join([*each, *([f"power mode {thermal.power_mode}"] if thermal.power_mode else [])])
    # intel_pstate's "powersave" goes to full speed under load.
    slow = [
        clock.governor for clock in thermal.clocks if clock.governor in _SLOW_GOVERNORS and driver != "intel_pstate"
    ]
    if slow:
        fix = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Finding("clocks-slow-governor", "warning", f"{message}: {slow[0]} keeps the cores slow", fix)
    else:
        yield Finding("clocks", "ok", message)


def thermal(facts: Facts) -> Iterator[Finding]:
    """Temperature, and what throttles the board now or did since boot."""
    seen = facts.thermal
    hottest = f"{seen.hottest[1]:.0f} °C at {seen.hottest[0]}" if seen.hottest else "no temperature is reported"
    now, before = seen.throttled_now or (), seen.throttled_since_boot or ()
    if now:
        yield _throttled(f"{hottest}; throttled now: {', '.join(now)}", now)
    elif before:
        yield _throttled(f"{hottest}; throttled since boot: {', '.join(before)}", before)
    elif seen.hottest and seen.hottest[1] >= _HOT_C:
        yield Finding("temperature-high", "warning", f"{hottest}: it will be throttled", _COOL)
    # Only the firmware reports throttling since boot; the kernel's cooling devices report the present too.
    elif facts.board.family == "raspberry-pi" and seen.throttled_since_boot is None:
        message = f"{hottest}; vcgencmd does not report throttling or under-voltage"
        fix = "sudo apt install raspi-utils, and sudo usermod -aG video $USER with a new login"
        yield Finding("throttling-unknown", "warning", message, fix)
    else:
        quiet = "" if seen.throttled_now is None else ", not throttled"
        yield Finding("thermal", "ok", f"{hottest}{quiet}")


def cameras(facts: Facts) -> Iterator[Finding]:
    """The V4L2 cameras, and on a Raspberry Pi whether picamera2 is available."""
    nodes = _video_nodes(facts)
    # A Pi's ribbon cable ends in nodes with raw data, which v4l2:// cannot use.
    found = [(node, name) for node, name in nodes if not _is_pi_sensor(facts, name)]
    if len(found) < len(nodes):
        yield _picamera(facts)
    if found:
        yield Finding("cameras", "ok", ", ".join(f"{node} ({name})" for node, name in found))
    elif not nodes:
        fix = "connect one (`v4l2-ctl --list-devices`); until then synthetic:// or a video file works as the camera"
        yield Finding("camera-missing", "warning", "no V4L2 camera is visible", fix)


def accelerators(facts: Facts) -> Iterator[Finding]:
    """Each accelerator, and whether its driver and library are installed."""
    if not facts.board.accelerators:
        yield Finding("accelerators", "ok", "none: models run on the CPU")
    for part in facts.board.accelerators:
        about = f"{part.name}, {part.bus}" + (f" {part.device_id}" if part.device_id else "")
        if part.kind == "edge-tpu":
            yield _edge_tpu(facts, part, about)
        elif part.kind == "nvidia-gpu":
            yield _gpu(facts, part, about)
        else:
            yield Finding("accelerator-unused", "note", f"{about}: no engine of edgeloc uses it")


def power(facts: Facts) -> Iterator[Finding]:
    """The power meters that "auto" would find, else why one that the board has cannot be read."""
    try:
        answers = run_child(_METERS, str(facts.root))
    except ChildFailed as failure:
        message = f"the search for power meters failed: it {failure}"
        yield Finding("meter-search-failed", "warning", message, "fix NumPy and OpenCV first, and look again")
        return
    meters = {uri: Finding(**found) for uri, found in answers}
    readable = [f"{uri} ({found.message})" for uri, found in meters.items() if found.severity == "ok"]
    # Whatever vcgencmd answers on other boards, only the Raspberry Pi 5 has a power chip.
    has_pmic = bool(_PMIC_BOARD.match(facts.board.name))
    unreadable = [
        (uri, found) for uri, found in meters.items() if found.severity == "warning" and (uri != "pmic://" or has_pmic)
    ]
    if readable:
        yield Finding("power", "ok", ", ".join(readable))
    elif unreadable:
        uri, found = unreadable[0]
        message = f"there is a power meter, but it cannot be read: {uri}: {found.message}"
        yield Finding("meter-unreadable", "warning", message, found.fix)
    else:
        fix = "connect an INA219 or a USB meter to measure it"
        yield Finding("meter-missing", "note", "no power meter, so energy is not measured", fix)


def permissions(facts: Facts) -> Iterator[Finding]:
    """Whether this user may use the devices that are here."""
    used, denied = [], False
    for purpose, files in _device_files(facts).items():
        closed = [file for file in files if not facts.may_use(file)]
        if closed:
            denied = True
            names = ", ".join(f"/{file.relative_to(facts.root)}" for file in closed)
            yield Finding(
                "permission-missing", "warning", f"no permission for {names} ({purpose})", _group_fix(closed[0])
            )
        elif files:
            used.append(purpose)
    if not denied:
        message = f"may use {', '.join(used)}" if used else "no device here needs one"
        yield Finding("permissions", "ok", message)


def _throttled(message: str, reasons: tuple[str, ...]) -> Finding:
    if "under-voltage" not in reasons:
        return Finding("throttled", "warning", message, _COOL)
    fix = "use the board's own power supply (5 V 5 A for a Pi 5, 3 A for a Pi 4) and a short cable; then reboot"
    return Finding("under-voltage", "warning", message, fix)


def _video_nodes(facts: Facts) -> list[tuple[str, str]]:
    """Nodes that may be cameras, and their drivers' names for them."""
    nodes = sorted((facts.root / "sys/class/video4linux").glob("video*"), key=natural)
    named = [(f"/dev/{node.name}", read_text(node / "name") or "without a name") for node in nodes]
    named = [(node, name) for node, name in named if not any(mark in name for mark in _NO_CAMERAS)]
    if not facts.is_here:
        return named
    capturing, names = capture_devices(), dict(named)
    # A node that may not be opened cannot be asked; the check of permissions reports it.
    asked = [node for node in names if facts.may_use(Path(node))]
    kept = [node for node in names if node in capturing or node not in asked]
    return [(node, names[node]) for node in kept]


def _is_pi_sensor(facts: Facts, name: str) -> bool:
    return facts.board.family == "raspberry-pi" and any(mark in name for mark in _PI_SENSORS)


def _picamera(facts: Facts) -> Finding:
    missing = [name for name in ("picamera2", "libcamera") if importlib.util.find_spec(name) is None]
    if not missing:
        return Finding("cameras", "ok", "picamera2 is installed: picamera://0 can be used")
    installed = all((facts.root / _DEBIAN_PACKAGES / name).exists() for name in missing)
    venv = "make the venv again with python3 -m venv --system-site-packages"
    fix = venv if installed else f"sudo apt install python3-picamera2 (Raspberry Pi OS, or Debian 13), and {venv}"
    message = f"picamera:// cannot be used: this Python has no {missing[0]}"
    return Finding("picamera-missing", "warning", message, fix)


def _edge_tpu(facts: Facts, part: Accelerator, about: str) -> Finding:
    if part.bus == "pci" and part.node and not (facts.root / part.node.lstrip("/")).exists():
        fix = "install gasket-dkms, which makes it, and reboot"
        message = f"{about}: its driver is missing, there is no {part.node}"
        return Finding("edgetpu-driver-missing", "warning", message, fix)
    if not _has_library(facts):
        return Finding("edgetpu-library-missing", "warning", f"{about}: {LIBRARY} is not installed", INSTALL)
    packages, build = facts.board.packages, installed_build(facts.root)
    runtime = next((name for name in RUNTIMES if name in packages), None)
    crash = predict_crash(build, runtime, packages[runtime]) if runtime else None
    if crash is not None:
        return Finding(crash.code, crash.severity, f"{about}: {crash.message}", crash.fix)
    note = f"; {part.note}" if part.note else ""
    return Finding("accelerators", "ok", f"{about}, {LIBRARY} {build or 'of unknown build'}{note}")


def _has_library(facts: Facts) -> bool:
    """Whether the loader finds it; in another root, whether its package is there."""
    if not facts.is_here:
        return installed_build(facts.root) is not None
    try:
        return bool(run_child(_LOAD, LIBRARY) == ["loaded"])
    except ChildFailed:
        return False


def _gpu(facts: Facts, part: Accelerator, about: str) -> Finding:
    if part.note:
        fix = "install NVIDIA's driver, and reboot"
        return Finding("nvidia-driver-missing", "warning", f"{about}: {part.note}", fix)
    if importlib.util.find_spec("tensorrt") is not None:
        version = facts.board.packages.get("tensorrt", "")
        return Finding("accelerators", "ok", f"{about}, TensorRT {version}".rstrip())
    fix = (
        "sudo apt install python3-libnvinfer, and a venv made with --system-site-packages"
        if facts.board.family == "jetson"
        else "pip install 'edgeloc[tensorrt]'"
    )
    message = f"{about}: this Python has no tensorrt, so models run on the CPU"
    return Finding("tensorrt-missing", "warning", message, fix)


def _device_files(facts: Facts) -> dict[str, list[Path]]:
    files = {
        purpose: [file for pattern in patterns for file in sorted(facts.root.glob(pattern), key=natural)]
        for purpose, patterns in _NODES.items()
    }
    for part in facts.board.accelerators:
        node = facts.root / part.node.lstrip("/") if part.node else None
        if node is not None and node.exists():
            files.setdefault(part.name, []).append(node)
    return files


def _group_fix(file: Path) -> str:
    """Which group the file belongs to, and how to join it; root's own files need a rule first."""
    try:
        group = grp.getgrgid(file.stat().st_gid).gr_name
    except (KeyError, OSError):
        group = "root"
    if group != "root":
        return f"sudo usermod -aG {group} $USER, and log in again"
    if "bus/usb" in file.as_posix():
        return "sudo usermod -aG plugdev $USER, log in again, and plug it in again (libedgetpu1-std has the udev rule)"
    return f"give {file.name} a group by a udev rule, and join that group"
