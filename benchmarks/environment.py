"""The machine that a benchmark ran on, its software, and what it took of the memory and the processors."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgeloc._version import __version__
from edgeloc.device.board import Board, read_board
from edgeloc.device.sysfs import read_text
from edgeloc.device.thermal import ThermalReader
from edgeloc.findings import Finding

__all__ = ["Environment", "Memory", "OthersLoad", "peak_memory", "read_environment"]


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and its software; None is what the machine does not report.

    Parameters:
        board: its name in the device tree.
        cpu: the processor.
        cores: how many this process may use.
        machine: the architecture.
        os: the kernel, its version and the C library.
        python: its version.
        numpy: its version.
        opencv: its version.
        edgeloc: its version.
        governor: the frequency governor of the first core.
        load_1min: the load average when the measurement began.
        power_mode: of a Jetson.
        hardware: the board's particulars: clusters and their highest clocks, memory, system, kernel, packages.
        opencv_threads: how many threads OpenCV may use, for resizing and colours.
    """

    board: str | None
    cpu: str | None
    cores: int
    machine: str
    os: str
    governor: str | None
    load_1min: float | None
    python: str
    numpy: str
    opencv: str
    edgeloc: str
    power_mode: str | None = None
    hardware: Board | None = None
    opencv_threads: int | None = None

    def findings(self) -> tuple[Finding, ...]:
        """What may make the latencies worse than the machine's best: `cpu-governor`, `machine-busy`."""
        found = []
        if self.governor not in (None, "performance"):
            message = f"the CPU governor is {self.governor}, not performance: latencies may be longer and vary more"
            found.append(Finding("cpu-governor", "warning", message, "set the governor performance and measure again"))
        if self.load_1min is not None and self.load_1min > 0.5 * self.cores:
            load = f"load {self.load_1min:.1f} on {self.cores} cores"
            message = f"the machine was busy when the measurement began ({load})"
            found.append(Finding("machine-busy", "warning", message, "stop other work and measure again"))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB, of the whole process with Python and its libraries.

    Parameters:
        peak_mib: the most that it ever held; of a cold start the median of its processes.
        samples_mib: the peaks of a cold start's processes, in order; empty of the other scenarios.
    """

    peak_mib: float
    samples_mib: tuple[float, ...] = ()


def read_environment(root: str | Path = "/") -> Environment:
    """Read the environment; `root` is where proc and sys are found (another folder in tests)."""
    hardware, thermal = read_board(Path(root)), ThermalReader(Path(root)).read()
    return Environment(
        board=hardware.model,
        cpu=hardware.cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        machine=hardware.machine,
        os=platform.platform(),
        governor=thermal.governor,
        load_1min=_load(),
        python=hardware.python,
        numpy=np.__version__,
        opencv=cv2.__version__,
        edgeloc=__version__,
        power_mode=thermal.power_mode,
        hardware=hardware,
        opencv_threads=cv2.getNumThreads(),
    )


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def peak_memory(root: Path = Path("/")) -> Memory | None:
    """What this process held at most until now; None where the system does not say."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", read_text(root / "proc/self/status") or "", re.MULTILINE)
    return Memory(round(int(match[1]) / 1024, 2)) if match else None


class OthersLoad:
    """What other programs take of the processors' time, from when it is made; `root` is where proc is found."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._busy_s, self._own_s, self._at = self._read(), _own_s(), time.monotonic()

    @property
    def share(self) -> float | None:
        """The share of all processors' time so far, 0 to 1; None where the system does not say."""
        busy_s, seconds = self._read(), time.monotonic() - self._at
        if busy_s is None or self._busy_s is None or not seconds:
            return None
        others_s = busy_s - self._busy_s - (_own_s() - self._own_s)
        return round(min(1.0, max(0.0, others_s / (seconds * (os.cpu_count() or 1)))), 4)

    def _read(self) -> float | None:
        """Seconds that all processors worked since boot, or were taken from this machine by a hypervisor."""
        match = re.match(r"cpu +([\d ]+)", read_text(self._root / "proc/stat") or "")
        if not match:
            return None
        user, nice, system, _idle, _wait, irq, soft, stolen = (int(field) for field in match[1].split()[:8])
        return (user + nice + system + irq + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    """Processor time of this process and its ended children, s."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
