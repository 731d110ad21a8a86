"""The energy counters of x86 processors (RAPL) in /sys/class/powercap; counters wrap, their difference is `trace`'s."""

from __future__ import annotations

import time
from pathlib import Path

from edgeloc.device.power.base import PowerMeter, PowerSample
from edgeloc.device.power.sysfs import read_number, read_text
from edgeloc.errors import DeviceError
from edgeloc.uri import Uri

__all__ = ["RaplMeter"]


class RaplMeter(PowerMeter):
    """`rapl://`: counters of all processor packages; other zones (psys, dram) are read, but not added.

    `root` is where sys is found.
    """

    rate_hz = 50.0
    # The unit is 2^-14 J on most processors (Intel SDM volume 3, 16.10.1), told nowhere in sysfs.
    resolution_j = 61e-6
    source = "RAPL, energy counters of the processor packages"
    blind_to = "everything but the processor: memory, disks, graphics cards, screen and the power supply's losses"

    def __init__(self, *, root: Path = Path("/")) -> None:
        self._root = root
        self._files: dict[str, Path] = {}

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> RaplMeter:
        """The meter of a rapl:// URI, which has no options."""
        uri.require_no_path()
        uri.options({})
        return cls(root=root)

    @property
    def name(self) -> str:
        """Its URI."""
        return "rapl://"

    def _open(self) -> None:
        zones = sorted((self._root / "sys/class/powercap").glob("intel-rapl:*"))
        tops = [zone for zone in zones if zone.name.count(":") == 1 and (zone / "energy_uj").exists()]
        self._files = {read_text(zone / "name"): zone / "energy_uj" for zone in tops}
        self.rails = tuple(self._files)
        self.total = tuple(name for name in self.rails if name.startswith("package"))
        if not self.total:
            raise DeviceError(
                "power meter rapl://: /sys/class/powercap shows no processor package: "
                "`sudo modprobe intel_rapl_msr`; virtual machines and ARM boards have no RAPL"
            )
        self.counter_range_j = {
            name: read_number(file.parent / "max_energy_range_uj") * 1e-6 for name, file in self._files.items()
        }
        self._read()

    def _read(self) -> PowerSample:
        before = time.monotonic()
        joules = {name: read_number(file) * 1e-6 for name, file in self._files.items()}
        return PowerSample((before + time.monotonic()) / 2, joules=joules)
