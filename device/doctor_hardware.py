"""The doctor's checks of hardware: board, memory, clocks, heat, cameras, accelerators, power meters, permissions."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgeloc.device.board import memory_mib
from edgeloc.device.doctor_findings import Case, Finding
from edgeloc.device.doctor_parts import accelerators, permissions, power
from edgeloc.device.sysfs import natural, read_text

__all__ = ["accelerators", "board", "cameras", "clocks", "disk", "heat", "memory", "permissions", "power"]

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


def _heat_mend(reasons: tuple[str, ...]) -> str:
    if "under-voltage" in reasons:
        return "use the board's own power supply (5 V 5 A for a Pi 5, 3 A for a Pi 4) and a short cable; then reboot"
    return "give it a heat sink or a fan, and air around it"


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


def _video_nodes(case: Case) -> list[tuple[str, str]]:
    """Nodes that may be cameras, and their drivers' names for them."""
    nodes = sorted((case.root / "sys/class/video4linux").glob("video*"), key=natural)
    named = [(f"/dev/{node.name}", read_text(node / "name") or "without a name") for node in nodes]
    named = [(node, name) for node, name in named if not any(mark in name for mark in _NO_CAMERAS)]
    if not case.is_here:
        return named
    from edgeloc.device.cameras.v4l2_probe import capture_devices

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
