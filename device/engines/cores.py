"""Keeps a program on chosen cores, such as the fast ones of a big.LITTLE processor; it starts no threads."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgeloc.device.sysfs import read_int
from edgeloc.errors import DeviceError, UsageError

__all__ = ["big_cores", "choose_cores", "use_cores"]

_CPUS = "sys/devices/system/cpu"
# Cores of one kind differ by a few per cent in their highest clock, little ones by a third and more.
_AS_FAST = 0.8


def use_cores(text: str) -> tuple[int, ...]:
    """Keep this thread, and those it starts from now on, on the cores that `text` means; their numbers.

    Call it in the main thread before an engine is loaded, whose threads then inherit it. `text` is
    what `choose_cores` reads. Raises UsageError for cores that are not there, DeviceError where
    the system does not allow it.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceError("this system cannot keep a program on chosen cores: leave --cores out")
    cores = choose_cores(text, tuple(sorted(os.sched_getaffinity(0))))
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise DeviceError(f"the system does not allow the cores {_listed(cores)} ({error.strerror})") from error
    return cores


def choose_cores(text: str, allowed: tuple[int, ...], root: Path = Path("/")) -> tuple[int, ...]:
    """The cores that `text` means: `all`, `big` (the fast ones), or numbers and ranges such as `0,4-7`.

    `allowed` are those that this program may use; `root` is where sys is found. Raises UsageError
    for a text that is none of these and for cores that are not allowed.
    """
    if text == "all":
        return allowed
    if text == "big":
        return big_cores(allowed, root)
    if not re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text):
        raise UsageError(f"cores is {text!r}: it must be big, all, or numbers and ranges such as 0,4-7")
    wanted: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        wanted.update(range(int(first), int(last or first) + 1))
    if not wanted or not wanted <= set(allowed):
        raise UsageError(
            f"cores is {text!r}: it must be some of {_listed(allowed)}, which are what this program may use"
        )
    return tuple(sorted(wanted))


def big_cores(allowed: tuple[int, ...], root: Path = Path("/")) -> tuple[int, ...]:
    """The fast ones among the cores `allowed`; all of them where the processor has one kind, or does not tell.

    Fast is what the kernel gives at least 80 % of the largest capacity (ARM), else of the highest clock.
    """
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = {core: read_int(root / _CPUS / f"cpu{core}" / name) or 0 for core in allowed}
        if all(speeds.values()):
            fastest = max(speeds.values())
            return tuple(core for core in allowed if speeds[core] >= _AS_FAST * fastest)
    return allowed


def _listed(cores: tuple[int, ...]) -> str:
    return ",".join(map(str, cores))
