"""The doctor's checks of hardware: board, memory, clocks, thermal, cameras, accelerators, power meters, permissions."""

from __future__ import annotations

import grp
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgeloc._support.children import ChildFailed, run_child
from edgeloc.device.board import Accelerator, memory_mib
from edgeloc.device.doctor.findings import Case, Finding
from edgeloc.device.doctor.selftest import RUNTIMES
from edgeloc.device.engines.edgetpu.library import INSTALL, LIBRARY, foretell_crash, installed_build
from edgeloc.device.sysfs import natural, read_text

__all__ = ["accelerators", "board", "cameras", "clocks", "disk", "heat", "memory", "permissions", "power"]

_LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); answer(['loaded'])"
# Meters compute with NumPy, which may be what is broken here.
_METERS = """
import sys
from edgeloc.device.power import find_meters
answer([[meter.uri, meter.found, meter.detail] for meter in find_meters(sys.argv[1])])
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
# The interpreter, OpenCV and a model of a few MB take about 150 MiB.
_LITTLE_MEMORY_MIB = 200
_LITTLE_DISK_MIB = 500
# A Raspberry Pi starts to slow down at 80 °C, the others not far above.
_HOT_C = 80.0
_SLOW_GOVERNORS = ("powersave", "conservative", "userspace")
# Nodes that capture nothing: codecs and the image processors behind a Raspberry Pi's camera.
_NO_CAMERAS = ("codec", "isp", "pispbe", "hevc", "rpivid", "-stat", "-meta")
_PI_SENSORS = ("unicam", "rp1-cfe")
_DEBIAN_PACKAGES = "usr/lib/python3/dist-packages"


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


def power(case: Case) -> Iterator[Finding]:
    """The power meters that `--power auto` would take, and why not the others."""
    try:
        meters = run_child(_METERS, str(case.root))
    except ChildFailed as failure:
        what = f"power meters cannot be looked for: that {failure}"
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


def board(case: Case) -> Iterator[Finding]:
    """Name, cores and system, in one line."""
    found = case.board
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


def memory(case: Case) -> Iterator[Finding]:
    """Whether a localizer fits into what is free."""
    total, free = case.board.memory_mib, memory_mib(case.root, "MemAvailable")
    if free is None:
        yield Finding("memory", "ok", "the kernel does not tell how much is free")
    elif free < _LITTLE_MEMORY_MIB:
        what = f"{free} MiB of {total} MiB are free: a localizer needs about {_LITTLE_MEMORY_MIB}"
        yield Finding("memory", "warning", what, "end other programs (the desktop first), or add swap")
    else:
        yield Finding("memory", "ok", f"{free} MiB of {total} MiB free")


def disk(case: Case) -> Iterator[Finding]:
    """Whether there is room for packages and recordings."""
    try:
        folder = Path.cwd() if case.is_here else case.root
    except FileNotFoundError:  # the current folder was removed
        folder = Path("/")
    free = shutil.disk_usage(folder).free // 2**20
    if free < _LITTLE_DISK_MIB:
        yield Finding("disk", "warning", f"{free} MiB free", "remove what is not needed: sudo apt clean is a beginning")
    else:
        yield Finding("disk", "ok", f"{free / 1024:.1f} GiB free")


def clocks(case: Case) -> Iterator[Finding]:
    """Governor, frequencies and power mode: whether latencies will be the board's best."""
    heat, driver = case.heat, read_text(case.root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver")
    if not heat.clocks:
        yield Finding("clocks", "ok", "the kernel sets no frequencies here (a virtual machine, or fixed ones)")
        return
    each = [
        f"cores {clock.cpus}: {clock.current_mhz} of {clock.max_mhz} MHz, {clock.governor}" for clock in heat.clocks
    ]
    what = "; ".join([*each, *([f"power mode {heat.power_mode}"] if heat.power_mode else [])])
    # intel_pstate's "powersave" goes to full speed under load.
    slow = [clock.governor for clock in heat.clocks if clock.governor in _SLOW_GOVERNORS and driver != "intel_pstate"]
    if slow:
        mend = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Finding("clocks", "warning", f"{what}: {slow[0]} keeps the cores slow", mend)
    else:
        yield Finding("clocks", "ok", what)


def heat(case: Case) -> Iterator[Finding]:
    """Temperature, and what slows the board down or did since it was started."""
    seen = case.heat
    told = f"{seen.hottest[1]:.0f} °C at {seen.hottest[0]}" if seen.hottest else "no temperature is told"
    now, before = seen.throttled_now or (), seen.throttled_since_boot or ()
    if now:
        yield Finding("heat", "warning", f"{told}; slowed down now: {', '.join(now)}", _heat_mend(now))
    elif before:
        yield Finding("heat", "warning", f"{told}; slowed down since boot: {', '.join(before)}", _heat_mend(before))
    elif seen.hottest and seen.hottest[1] >= _HOT_C:
        yield Finding("heat", "warning", f"{told}: it will slow down", _heat_mend(()))
    # What was since boot is told by the firmware alone; what is now, by the kernel's cooling devices too.
    elif case.board.family == "raspberry-pi" and seen.throttled_since_boot is None:
        mend = "sudo apt install raspi-utils, and sudo usermod -aG video $USER with a new login"
        yield Finding("heat", "warning", f"{told}; vcgencmd does not tell of throttling or under-voltage", mend)
    else:
        quiet = "" if seen.throttled_now is None else ", not slowed down"
        yield Finding("heat", "ok", f"{told}{quiet}")


def cameras(case: Case) -> Iterator[Finding]:
    """The V4L2 cameras, and on a Raspberry Pi whether picamera2 can be had."""
    nodes = _video_nodes(case)
    # What a Pi's ribbon cable ends in sends raw data, which v4l2:// cannot use.
    found = [(node, name) for node, name in nodes if not _is_pi_sensor(case, name)]
    if len(found) < len(nodes):
        yield from _picamera(case)
    if found:
        yield Finding("cameras", "ok", ", ".join(f"{node} ({name})" for node, name in found))
    elif not nodes:
        mend = "plug one in (`v4l2-ctl --list-devices`); until then --camera synthetic:// or a video file works"
        yield Finding("cameras", "warning", "no V4L2 camera is visible", mend)


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
        return bool(run_child(_LOAD, LIBRARY) == ["loaded"])
    except ChildFailed:
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


def _ought_to_read(case: Case, uri: str, said: str) -> bool:
    """Whether the meter is on this board, by what it says of not being read."""
    if uri == "pmic://" and not _PMIC_BOARD.match(case.board.name):
        return False
    return not any(word in said for word in _ABSENT)


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


def _heat_mend(reasons: tuple[str, ...]) -> str:
    if "under-voltage" in reasons:
        return "use the board's own power supply (5 V 5 A for a Pi 5, 3 A for a Pi 4) and a short cable; then reboot"
    return "give it a heat sink or a fan, and air around it"


def _video_nodes(case: Case) -> list[tuple[str, str]]:
    """Nodes that may be cameras, and their drivers' names for them."""
    nodes = sorted((case.root / "sys/class/video4linux").glob("video*"), key=natural)
    named = [(f"/dev/{node.name}", read_text(node / "name") or "without a name") for node in nodes]
    named = [(node, name) for node, name in named if not any(mark in name for mark in _NO_CAMERAS)]
    if not case.is_here:
        return named
    from edgeloc.device.cameras.probe import capture_devices

    capturing, names = capture_devices(), dict(named)
    # A node that may not be opened cannot be asked: the permissions tell of it.
    asked = [node for node in names if case.may_use(Path(node))]
    kept = [node for node in names if node in capturing or node not in asked]
    return [(node, names[node]) for node in kept]


def _is_pi_sensor(case: Case, name: str) -> bool:
    return case.board.family == "raspberry-pi" and any(mark in name for mark in _PI_SENSORS)


def _picamera(case: Case) -> Iterator[Finding]:
    missing = [name for name in ("picamera2", "libcamera") if importlib.util.find_spec(name) is None]
    if not missing:
        yield Finding("cameras", "ok", "picamera2 is there: --camera picamera://0")
        return
    installed = all((case.root / _DEBIAN_PACKAGES / name).exists() for name in missing)
    venv = "make the venv anew with python3 -m venv --system-site-packages"
    mend = venv if installed else f"sudo apt install python3-picamera2 (Raspberry Pi OS, or Debian 13), and {venv}"
    yield Finding("cameras", "warning", f"picamera:// cannot be used: this Python has no {missing[0]}", mend)
