"""What a benchmark ran on: board, processor, load and versions; heat beside a run is a record of its own."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgeloc._version import __version__
from edgeloc.device.board import Board, read_board
from edgeloc.device.heat import HeatReader

__all__ = ["Environment", "read_environment"]


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and its software; None is what the machine does not tell.

    `board` is the device tree's own words for it; `load_1min` is the load average when the
    measurement began; `governor` the frequency governor of the first core; `power_mode` a
    Jetson's. `hardware` has the board's particulars.
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
    hardware, heat = read_board(Path(root)), HeatReader(Path(root)).read()
    return Environment(
        board=hardware.model,
        cpu=hardware.cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        machine=hardware.machine,
        os=platform.platform(),
        governor=heat.governor,
        load_1min=_load(),
        python=hardware.python,
        numpy=np.__version__,
        opencv=cv2.__version__,
        edgeloc=__version__,
        power_mode=heat.power_mode,
        hardware=hardware,
    )


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
