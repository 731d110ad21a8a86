"""INA sensors through the kernel's hwmon drivers (ina2xx, ina3221): which files, which units; Jetsons' are in `jetson`.

Units are those of the kernel's Documentation/hwmon/{ina2xx,ina3221}.rst: mV, mA, uW and uOhm. The
ina3221 driver has no power file, so its power is volts times amps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeloc.device.power.base import PowerMeter, PowerSample
from edgeloc.device.power.sysfs import optional_number, read_number, read_text
from edgeloc.device.power.uri import percent
from edgeloc.errors import DeviceError, UsageError
from edgeloc.uri import Uri

__all__ = ["DRIVERS", "HwmonMeter", "SysfsRail", "ina3221_rails", "not_connected", "read_rails"]

# Steps of the shunt's voltage in V, the driver's factor from current to power steps (data sheets); None: INA260's own.
_INA2XX = {"ina219": (10e-6, 20), "ina220": (10e-6, 20), "ina226": (2.5e-6, 25), "ina230": (2.5e-6, 25)}
_INA260_STEP_W = 10e-3
DRIVERS = (*_INA2XX, "ina260", "ina3221")
_INA3221_BUS_V, _INA3221_SHUNT_V = 8e-3, 40e-6
# Where no file tells the shunt: the value on NVIDIA's boards.
_SHUNT_OHM = 5e-3


@dataclass(frozen=True, slots=True)
class SysfsRail:
    """One rail as sysfs shows it: how to read its volts and amps, or its watts at once, and their steps."""

    name: str
    watts: Callable[[], float]
    step_w: Callable[[float], float]


class HwmonMeter(PowerMeter):
    """`hwmon://ina219`, by the driver's name, or `hwmon:///sys/class/hwmon/hwmon3`; `tolerance=` of the shunt in %.

    `root` is where sys is found: a folder that looks like it stands in for the machine's.
    """

    rate_hz = 25.0
    blind_to = "whatever does not flow through its shunt, such as a supply behind it"

    def __init__(self, which: str, *, root: Path = Path("/"), tolerance: float | None = None) -> None:
        self._which, self._root = which, root
        self._rails: tuple[SysfsRail, ...] = ()
        self.gain_error = tolerance

    @classmethod
    def from_uri(cls, uri: Uri, root: Path) -> HwmonMeter:
        """The meter of a hwmon:// URI."""
        return cls(uri.path, root=root, **uri.options({"tolerance": percent}))

    @property
    def name(self) -> str:
        """Its URI."""
        return f"hwmon://{self._which}"

    def _open(self) -> None:
        folder = self._folder()
        driver = read_text(folder / "name")
        if driver not in DRIVERS:
            raise DeviceError(f"power meter {self.name}: {driver} is no power sensor known here ({', '.join(DRIVERS)})")
        self._rails = ina3221_rails(folder) if driver == "ina3221" else (_ina2xx_rail(folder, driver),)
        self.rails = self.total = tuple(rail.name for rail in self._rails)
        self.resolution_w = 0.0
        self.source = f"{driver.upper()} through the kernel's hwmon driver, {folder.name}"
        self._read()

    def _folder(self) -> Path:
        if self._which.startswith("/"):
            folder = self._root / self._which.lstrip("/")
            if not (folder / "name").exists():
                raise UsageError(f"power meter {self.name}: {folder} is no folder of hwmon; see /sys/class/hwmon")
            return folder
        folders = sorted((self._root / "sys/class/hwmon").glob("hwmon*"))
        named = [folder for folder in folders if (folder / "name").exists() and _driver(folder) == self._which]
        if not named:
            there = ", ".join(sorted({_driver(folder) for folder in folders if (folder / "name").exists()})) or "none"
            raise DeviceError(
                f"power meter {self.name}: no such sensor in /sys/class/hwmon (there: {there}); a device-tree overlay "
                f"brings it, such as dtoverlay=i2c-sensor,{self._which or 'ina219'} in config.txt"
            )
        if len(named) > 1:
            paths = ", ".join(f"hwmon://{Path('/') / folder.relative_to(self._root)}" for folder in named)
            raise UsageError(f"power meter {self.name} could be any of {paths}: name one of them")
        return named[0]

    def _read(self) -> PowerSample:
        sample, step = read_rails(self._rails, self.total)
        self.resolution_w = max(self.resolution_w, step)
        return sample


def read_rails(rails: tuple[SysfsRail, ...], total: tuple[str, ...]) -> tuple[PowerSample, float]:
    """One reading of every rail, and the step of those in `total`, W."""
    before = time.monotonic()
    watts: Mapping[str, float] = {rail.name: rail.watts() for rail in rails}
    t = (before + time.monotonic()) / 2
    return PowerSample(t, watts), sum(rail.step_w(watts[rail.name]) for rail in rails if rail.name in total)


def _driver(folder: Path) -> str:
    return read_text(folder / "name")


def _ina2xx_rail(folder: Path, driver: str) -> SysfsRail:
    step = _INA260_STEP_W
    if driver in _INA2XX:
        shunt_v, factor = _INA2XX[driver]
        ohm = read_number(folder / "shunt_resistor") * 1e-6
        step = factor * shunt_v / ohm
    return SysfsRail("supply", lambda: read_number(folder / "power1_input") * 1e-6, lambda _: step)


def ina3221_rails(folder: Path, prefix: str = "") -> tuple[SysfsRail, ...]:
    """The connected rails of one INA3221; the sum that the driver adds (in7) is left out."""
    rails = []
    for channel in (1, 2, 3):
        if not (folder / f"curr{channel}_input").exists():
            continue
        label = folder / f"in{channel}_label"
        name = read_text(label) if label.exists() else f"channel {channel}"
        if not not_connected(name):
            rails.append(_ina3221_rail(folder, channel, prefix + name))
    if not rails:
        raise DeviceError(f"{folder} shows no connected rail: enable its channels in the device tree")
    return tuple(rails)


def not_connected(label: str) -> bool:
    """Whether a rail's label says that nothing is wired to it."""
    return "NC" in label.replace("_", " ").split()


def _ina3221_rail(folder: Path, channel: int, name: str) -> SysfsRail:
    volts, amps = folder / f"in{channel}_input", folder / f"curr{channel}_input"
    ohm = (optional_number(folder / f"shunt{channel}_resistor") or _SHUNT_OHM * 1e6) * 1e-6

    def watts() -> float:
        return read_number(volts) * read_number(amps) * 1e-6

    return SysfsRail(name, watts, lambda power: ina3221_step(power, read_number(volts) * 1e-3, ohm))


def ina3221_step(power: float, volts: float, ohm: float) -> float:
    """The step in W of an INA3221 at `power`: 8 mV of the bus and 40 uV of the shunt (data sheet SBOS576)."""
    amps = abs(power) / volts if volts else 0.0
    return amps * _INA3221_BUS_V + volts * _INA3221_SHUNT_V / ohm
