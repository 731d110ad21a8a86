"""Which board this is, and what is on it: name, cores, system, runtimes, accelerators; nothing here is measured."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgeloc.device.accelerators import Accelerator, find_accelerators
from edgeloc.device.boards import Identity, identify
from edgeloc.device.cores import Cluster, cpu_model, read_clusters
from edgeloc.device.sysfs import read_text

__all__ = ["Board", "read_board"]

# Everything a localizer may run on or through; what else is installed does not matter here.
_PACKAGES = (
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "ai-edge-litert",
    "tflite-runtime",
    "tensorflow",
    "tensorrt",
    "picamera2",
    "PyGObject",
    "smbus2",
    "pyserial",
)


@dataclass(frozen=True, slots=True)
class Board:
    """A board and its software; None or empty is what it does not tell.

    `name` is the product's, such as "Raspberry Pi 5 Model B" or "Jetson Orin Nano"; `family` one
    of raspberry-pi, jetson, coral, pc and other. `model` and `compatible` are the device tree's
    own strings, `revision` the circuit board's. `python_bits` is 32 where a 32-bit Python runs on
    a 64-bit kernel. `l4t` is NVIDIA's board support package. `packages` maps the names of
    installed packages to their versions.
    """

    name: str
    family: str
    model: str | None
    compatible: tuple[str, ...]
    revision: str | None
    cpu: str | None
    machine: str
    clusters: tuple[Cluster, ...]
    memory_mib: int | None
    os: str | None
    kernel: str | None
    l4t: str | None
    python: str
    python_bits: int
    packages: dict[str, str] = field(default_factory=dict)
    accelerators: tuple[Accelerator, ...] = ()

    @property
    def cores(self) -> int:
        """How many processors are switched on."""
        return sum(len(cluster.cpus) for cluster in self.clusters)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values for JSON."""
        return asdict(self)


def read_board(root: Path = Path("/")) -> Board:
    """Read the board from the proc, sys and etc under `root`; Python and its packages are the running ones.

    Never fails: what cannot be read is None.
    """
    found: Identity = identify(root)
    return Board(
        name=found.name,
        family=found.family,
        model=found.model,
        compatible=found.compatible,
        revision=found.revision,
        cpu=cpu_model(root),
        machine=read_text(root / "proc/sys/kernel/arch") or platform.machine(),
        clusters=read_clusters(root),
        memory_mib=memory_mib(root, "MemTotal"),
        os=_os_name(root),
        kernel=read_text(root / "proc/sys/kernel/osrelease"),
        l4t=_l4t(root),
        python=platform.python_version(),
        python_bits=64 if sys.maxsize > 2**32 else 32,
        packages=_packages(),
        accelerators=find_accelerators(root, found.family),
    )


def memory_mib(root: Path, name: str) -> int | None:
    """A line of /proc/meminfo, such as MemTotal or MemAvailable, in MiB."""
    match = re.search(rf"^{name}:\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(match[1]) // 1024 if match else None


def _os_name(root: Path) -> str | None:
    text = read_text(root / "etc/os-release") or read_text(root / "usr/lib/os-release") or ""
    match = re.search(r"^PRETTY_NAME=(.*)$", text, re.MULTILINE)
    return match[1].strip("\"'") or None if match else None


def _l4t(root: Path) -> str | None:
    """`# R36 (release), REVISION: 4.3, GCID: ...` is L4T 36.4.3."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read_text(root / "etc/nv_tegra_release") or "")
    return f"{match[1]}.{match[2]}" if match else None


def _packages() -> dict[str, str]:
    """Versions by the packages' own notes; nothing is imported, since a broken one can end the process."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
