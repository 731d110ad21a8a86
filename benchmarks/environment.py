"""What a benchmark ran on: board, processor, load and versions; read from files and never guessed."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgeloc._version import __version__

__all__ = ["Environment", "read_environment"]


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and its software; None is what the machine does not tell.

    `load_1min` is the load average when the measurement began; `governor` the frequency governor
    of the first core.
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

    def warnings(self) -> tuple[str, ...]:
        """What may make the latencies worse than the machine's best, one sentence each."""
        found = []
        if self.governor not in (None, "performance"):
            found.append(f"the CPU governor is {self.governor}, not performance: latencies may be longer and vary more")
        if self.load_1min is not None and self.load_1min > 0.5 * self.cores:
            found.append(
                f"the machine was busy when the measurement began (load {self.load_1min:.1f} on {self.cores} cores)"
            )
        return tuple(found)


def read_environment(root: str | Path = "/") -> Environment:
    """Read the environment; `root` is where proc and sys are found (another folder in tests)."""
    root = Path(root)
    return Environment(
        board=_text(root / "proc/device-tree/model"),
        cpu=_cpu_model(root / "proc/cpuinfo") or platform.processor() or None,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        machine=platform.machine(),
        os=platform.platform(),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_1min=_load(),
        python=platform.python_version(),
        numpy=np.__version__,
        opencv=cv2.__version__,
        edgeloc=__version__,
    )


def _text(path: Path) -> str | None:
    """A file's text without the NUL that ends a device tree's strings, or None."""
    try:
        return path.read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def _cpu_model(cpuinfo: Path) -> str | None:
    for line in (_text(cpuinfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware"):
            return value.strip() or None
    return None


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
