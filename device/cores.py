"""The processor's cores by cluster: which are big, which are little, how fast they may go; clocks of now are heat's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeloc.device.sysfs import read_int, read_text

__all__ = ["Cluster", "cpu_model", "read_clusters"]

# (implementer, part) as in the core's MIDR register; arm64 boards this package has pages for.
_CORES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x4e", "0x003"): "Denver 2",
    ("0x4e", "0x004"): "Carmel",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cores of one kind: their numbers, their design's name, and the highest clock in MHz that they may take."""

    cpus: tuple[int, ...]
    core: str | None
    max_mhz: int | None

    @property
    def numbers(self) -> str:
        """The cores' numbers as the kernel writes them, such as "0-3,6"."""
        return cpu_list(self.cpus)


def read_clusters(root: Path = Path("/")) -> tuple[Cluster, ...]:
    """The cores that are switched on, the fastest cluster first; empty where the kernel does not tell."""
    groups: dict[tuple[str | None, int | None], list[int]] = {}
    for block in _processors(root):
        number = int(block["processor"])
        core = _core_name(block)
        # PC cores differ in their highest clock one by one, without being of another kind.
        clock = _max_mhz(root, number) if "CPU part" in block else None
        groups.setdefault((core, clock), []).append(number)
    clusters = []
    for (core, clock), cpus in groups.items():
        best = clock or max((mhz for cpu in cpus if (mhz := _max_mhz(root, cpu))), default=None)
        clusters.append(Cluster(tuple(cpus), core, best))
    return tuple(sorted(clusters, key=lambda cluster: (-(cluster.max_mhz or 0), cluster.cpus)))


def cpu_model(root: Path = Path("/")) -> str | None:
    """The designs of an ARM processor's cores, or the name that another processor gives itself."""
    # An ARM core's part number says more than the "model name" and "Hardware" beside it.
    names = dict.fromkeys(name for block in _processors(root) if (name := _core_name(block)))
    match = re.search(r"^model name\s*:\s*(.+)$", read_text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return " + ".join(names) or (match[1].strip() if match else None)


def cpu_list(cpus: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) as "0-2,5"."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _processors(root: Path) -> list[dict[str, str]]:
    """cpuinfo's blocks that describe a core each."""
    blocks = []
    for text in (read_text(root / "proc/cpuinfo") or "").split("\n\n"):
        pairs = (line.partition(":") for line in text.splitlines())
        block = {key.strip(): value.strip() for key, _, value in pairs}
        if block.get("processor", "").isdigit():
            blocks.append(block)
    return blocks


def _core_name(block: dict[str, str]) -> str | None:
    part = block.get("CPU part")
    if part is None:
        return None
    implementer = block.get("CPU implementer", "")
    return _CORES.get((implementer, part), f"ARM part {implementer}:{part}")


def _max_mhz(root: Path, cpu: int) -> int | None:
    khz = read_int(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq")
    return khz // 1000 if khz else None
