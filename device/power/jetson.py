"""A Jetson's own INA3221 sensors, as JetPack 4 and as JetPack 5 and later show them; a loose INA3221 is hwmon's."""

from __future__ import annotations

import re
from pathlib import Path

from edgeloc.device.power.base import PowerMeter, PowerSample
from edgeloc.device.power.hwmon import SysfsRail, ina3221_rails, ina3221_step, not_connected, read_rails
from edgeloc.device.power.sysfs import read_number, read_text
from edgeloc.errors import DeviceError
from edgeloc.uri import Uri

__all__ = ["MODULE_INPUTS", "JetsonMeter"]

# Rails at the module's input: where there is one, all the others are behind it.
MODULE_INPUTS = ("VDD_IN", "POM_5V_IN")
# The other rails' names on Xavier and Orin modules; an INA3221 without any of these is no Jetson's own.
_MODULE_RAILS = re.compile(r"(VDD|POM|VIN_SYS)_?\w+|GPU|CPU|SOC|CV|SYS5V")
_SHUNT_OHM = 5e-3


class JetsonMeter(PowerMeter):
    """`jetson://`: the module's input where a sensor is there (VDD_IN, POM_5V_IN), else the sum of all rails.

    `root` is where sys is found.
    """

    rate_hz = 25.0

    def __init__(self, *, root: Path = Path("/")) -> None:
        self._root = root
        self._rails: tuple[SysfsRail, ...] = ()

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> JetsonMeter:
        """The meter of a jetson:// URI, which has no options."""
        uri.require_no_path()
        uri.options({})
        return cls(root=root)

    @property
    def name(self) -> str:
        """Its URI."""
        return "jetson://"

    def _open(self) -> None:
        self._rails = _jetpack4_rails(self._root) or _hwmon_rails(self._root)
        if not self._rails:
            raise DeviceError(
                "power meter jetson://: no INA3221 with a Jetson's rails under /sys/bus/i2c (the Nano 2GB has none): "
                "connect an INA219, INA226 or INA260 (ina219://1/0x40?shunt=0.1) or a USB meter (csv://, serial://)"
            )
        self.rails = tuple(rail.name for rail in self._rails)
        self.total = next(((name,) for name in MODULE_INPUTS if name in self.rails), self.rails)
        self.resolution_w = 0.0
        if self.total == self.rails and len(self.rails) > 1:
            self.source = f"Jetson INA3221, sum of {', '.join(self.rails)}"
            self.blind_to = "every rail without a sensor, and the carrier board: the module draws more than this sum"
        else:
            self.source = f"Jetson INA3221, {self.total[0]} at the module's input"
            self.blind_to = "the carrier board: its USB devices, its fan and what its converters lose"
        self._read()

    def _read(self) -> PowerSample:
        sample, step = read_rails(self._rails, self.total)
        self.resolution_w = max(self.resolution_w, step)
        return sample


def _jetpack4_rails(root: Path) -> tuple[SysfsRail, ...]:
    """Files rail_name_N and in_powerN_input (mW) of NVIDIA's own driver."""
    rails = []
    for file in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/rail_name*")):
        number = re.sub(r"\D", "", file.name)
        name = read_text(file)
        if number and not not_connected(name):
            rails.append(_jetpack4_rail(file.parent, number, name))
    return tuple(rails)


def _jetpack4_rail(folder: Path, number: str, name: str) -> SysfsRail:
    def watts() -> float:
        return read_number(folder / f"in_power{number}_input") * 1e-3

    def step(power: float) -> float:
        return ina3221_step(power, read_number(folder / f"in_voltage{number}_input") * 1e-3, _SHUNT_OHM)

    return SysfsRail(name, watts, step)


def _hwmon_rails(root: Path) -> tuple[SysfsRail, ...]:
    folders = sorted((root / "sys/bus/i2c/devices").glob("*/hwmon/hwmon*"))
    chips = [folder for folder in folders if (folder / "name").exists() and read_text(folder / "name") == "ina3221"]
    rails = tuple(rail for folder in chips for rail in ina3221_rails(folder))
    return rails if any(_MODULE_RAILS.fullmatch(rail.name) for rail in rails) else ()
