"""The processor's cores by cluster, and pinning a program to some of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgeloc.device.sysfs import read_int, read_text
from edgeloc.errors import DeviceError, UsageError

__all__ = ["Cluster", "big_cores", "choose_cores", "cpu_model", "read_clusters", "use_cores"]

# (implementer, part) as in the core's MIDR register, of the arm64 boards in the docs.
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
_CPUS = "sys/devices/system/cpu"
# Cores of one kind differ by a few per cent in their highest clock, little ones by a third and more.
_AS_FAST = 0.8


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cores of one kind.

    Parameters:
        cpus: their numbers.
        core: the name of their design, such as Cortex-A76.
        max_mhz: the highest clock.
    """

    cpus: tuple[int, ...]
    core: str | None
    max_mhz: int | None

    @property
    def numbers(self) -> str:
        """The cores' numbers as the kernel writes them, such as "0-3,6"."""
        return cpu_list(self.cpus)


def read_clusters(root: Path = Path("/")) -> tuple[Cluster, ...]:
    """The cores that are switched on, the fastest cluster first; empty where the kernel does not list them."""
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
    # An ARM core's part number is more specific than the "model name" and "Hardware" beside it.
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


def use_cores(text: str) -> tuple[int, ...]:
    """Pin this thread, and those it starts from now on, to the cores that `text` names; returns their numbers.

    Call it in the main thread before an engine is loaded, whose threads inherit it.

    Parameters:
        text: as for `choose_cores`.

    Raises UsageError for cores that are not there, DeviceError where the system does not allow it.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceError("this system cannot pin a program to cores", hint="leave {cores} out")
    cores = choose_cores(text, tuple(sorted(os.sched_getaffinity(0))))
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise DeviceError(f"the system does not allow the cores {_listed(cores)} ({error.strerror})") from error
    return cores


def choose_cores(text: str, allowed: tuple[int, ...], root: Path = Path("/")) -> tuple[int, ...]:
    """The cores that `text` names.

    Parameters:
        text: `all`, `big` (the fast ones), or numbers and ranges such as `0,4-7`.
        allowed: the cores that this program may use.
        root: where sys is found.

    Raises UsageError for any other text, and for cores that are not allowed.
    """
    if text == "all":
        return allowed
    if text == "big":
        return big_cores(allowed, root)
    if not re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text):
        raise UsageError(field="cores", value=text, allowed="big, all, or numbers and ranges such as 0,4-7")
    wanted: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        wanted.update(range(int(first), int(last or first) + 1))
    if not wanted or not wanted <= set(allowed):
        available = f"some of {_listed(allowed)}, the cores that this program may use"
        raise UsageError(field="cores", value=text, allowed=available)
    return tuple(sorted(wanted))


def big_cores(allowed: tuple[int, ...], root: Path = Path("/")) -> tuple[int, ...]:
    """The fast ones among the cores `allowed`; all of them where the processor has only one kind.

    A core is fast with at least 80 % of the largest capacity (ARM), else of the highest clock.
    """
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = {core: read_int(root / _CPUS / f"cpu{core}" / name) or 0 for core in allowed}
        if all(speeds.values()):
            fastest = max(speeds.values())
            return tuple(core for core in allowed if speeds[core] >= _AS_FAST * fastest)
    return allowed


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


def _listed(cores: tuple[int, ...]) -> str:
    return ",".join(map(str, cores))
