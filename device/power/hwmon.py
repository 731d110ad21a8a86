"""INA power sensors through the kernel's drivers (ina2xx, ina3221), a Jetson's own among them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeloc._support.backend import Uri
from edgeloc.device.power.base import CONNECT, AbsentMeterError, PowerMeter, PowerSample, percent
from edgeloc.device.sysfs import require_number, require_text
from edgeloc.errors import DeviceError, UsageError

__all__ = [
    "DRIVERS",
    "MODULE_INPUTS",
    "HwmonMeter",
    "JetsonMeter",
    "SysfsRail",
    "ina3221_rails",
    "not_connected",
    "read_rails",
]

# Steps of the shunt's voltage in V, the driver's factor from current to power steps (data sheets); None: INA260's own.
_INA2XX = {"ina219": (10e-6, 20), "ina220": (10e-6, 20), "ina226": (2.5e-6, 25), "ina230": (2.5e-6, 25)}
_INA260_STEP_W = 10e-3
DRIVERS = (*_INA2XX, "ina260", "ina3221")
_INA3221_BUS_V, _INA3221_SHUNT_V = 8e-3, 40e-6
# Where no file holds the shunt: the value on NVIDIA's boards.
_SHUNT_OHM = 5e-3
# Rails at the module's input: where there is one, all the others are behind it.
MODULE_INPUTS = ("VDD_IN", "POM_5V_IN")
# The other rails' names on Xavier and Orin modules; an INA3221 without any of these is no Jetson's own.
_MODULE_RAILS = re.compile(r"(VDD|POM|VIN_SYS)_?\w+|GPU|CPU|SOC|CV|SYS5V")


@dataclass(frozen=True, slots=True)
class SysfsRail:
    """One rail as sysfs shows it.

    `name`: its label.
    `watts`: reads its power, W.
    `step_w`: the step of a reading, W, from its power.
    """

    name: str
    watts: Callable[[], float]
    step_w: Callable[[float], float]


class HwmonMeter(PowerMeter):
    """`hwmon://ina219`, by the driver's name, or `hwmon:///sys/class/hwmon/hwmon3`; `tolerance=` of the shunt in %.

    `which`: the driver's name, or the folder's path.
    `root`: where sys is found.
    `tolerance`: the shunt's, as a fraction; None: not stated.
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
        driver = require_text(folder / "name")
        if driver not in DRIVERS:
            raise DeviceError(f"power meter {self.name}: {driver} is no known power sensor ({', '.join(DRIVERS)})")
        self._rails = ina3221_rails(folder) if driver == "ina3221" else (_ina2xx_rail(folder, driver),)
        self.rails = self.total = tuple(rail.name for rail in self._rails)
        self.resolution_w = 0.0
        device = folder / "device"
        # The number of a hwmon changes from boot to boot, the address on the bus does not.
        where = device.resolve().name if device.exists() else folder.name
        self.source = f"{driver.upper()} through the kernel's hwmon driver, {where}"
        self._read()

    def _folder(self) -> Path:
        if self._which.startswith("/"):
            folder = self._root / self._which.lstrip("/")
            if not (folder / "name").exists():
                raise UsageError(
                    f"power meter {self.name}: {folder} is no folder of hwmon", hint="see /sys/class/hwmon"
                )
            return folder
        folders = sorted((self._root / "sys/class/hwmon").glob("hwmon*"))
        named = [folder for folder in folders if (folder / "name").exists() and _driver(folder) == self._which]
        if not named:
            there = ", ".join(sorted({_driver(folder) for folder in folders if (folder / "name").exists()})) or "none"
            overlay = f"dtoverlay=i2c-sensor,{self._which or 'ina219'}"
            raise DeviceError(
                f"power meter {self.name}: no such sensor in /sys/class/hwmon (there: {there})",
                hint=f"add its device-tree overlay to config.txt, such as {overlay}",
            )
        if len(named) > 1:
            paths = ", ".join(f"hwmon://{Path('/') / folder.relative_to(self._root)}" for folder in named)
            raise UsageError(f"power meter {self.name} could be any of {paths}", hint="name one of them")
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


def ina3221_rails(folder: Path, prefix: str = "") -> tuple[SysfsRail, ...]:
    """The connected rails of one INA3221, without the sum that the driver adds (in7)."""
    rails = []
    for channel in (1, 2, 3):
        # Of a channel that the device tree disables only the label is missing, and readings fail.
        enabled = folder / f"in{channel}_enable"
        if not (folder / f"curr{channel}_input").exists() or (enabled.exists() and require_text(enabled) == "0"):
            continue
        label = folder / f"in{channel}_label"
        name = require_text(label) if label.exists() else f"channel {channel}"
        if not not_connected(name):
            rails.append(_ina3221_rail(folder, channel, prefix + name))
    if not rails:
        raise DeviceError(f"{folder} shows no connected rail", hint="enable its channels in the device tree")
    return tuple(rails)


def not_connected(label: str) -> bool:
    """Whether a rail's label marks it as not wired."""
    return "NC" in label.replace("_", " ").split()


def ina3221_step(power: float, volts: float, ohm: float) -> float:
    """The step in W of an INA3221 at `power`: 8 mV of the bus and 40 uV of the shunt (data sheet SBOS576)."""
    amps = abs(power) / volts if volts else 0.0
    return amps * _INA3221_BUS_V + volts * _INA3221_SHUNT_V / ohm


class JetsonMeter(PowerMeter):
    """`jetson://`: the module's input where it has a sensor (VDD_IN, POM_5V_IN), else the sum of all rails.

    `root`: where sys is found.
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
            raise AbsentMeterError(
                "power meter jetson://: no INA3221 with a Jetson's rails under /sys/bus/i2c (the Nano 2GB has none)",
                hint=CONNECT,
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


def _driver(folder: Path) -> str:
    return require_text(folder / "name")


def _ina2xx_rail(folder: Path, driver: str) -> SysfsRail:
    step = _INA260_STEP_W
    if driver in _INA2XX:
        shunt_v, factor = _INA2XX[driver]
        ohm = require_number(folder / "shunt_resistor") * 1e-6
        step = factor * shunt_v / ohm
    return SysfsRail("supply", lambda: require_number(folder / "power1_input") * 1e-6, lambda _: step)


def _ina3221_rail(folder: Path, channel: int, name: str) -> SysfsRail:
    volts, amps = folder / f"in{channel}_input", folder / f"curr{channel}_input"
    shunt = folder / f"shunt{channel}_resistor"
    ohm = (require_number(shunt) if shunt.exists() else 0.0) * 1e-6 or _SHUNT_OHM

    def watts() -> float:
        return require_number(volts) * require_number(amps) * 1e-6

    return SysfsRail(name, watts, lambda power: ina3221_step(power, require_number(volts) * 1e-3, ohm))


def _jetpack4_rails(root: Path) -> tuple[SysfsRail, ...]:
    """Files rail_name_N and in_powerN_input (mW) of NVIDIA's own driver."""
    rails = []
    for file in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/rail_name*")):
        number = re.sub(r"\D", "", file.name)
        name = require_text(file)
        if number and not not_connected(name):
            rails.append(_jetpack4_rail(file.parent, number, name))
    return tuple(rails)


def _jetpack4_rail(folder: Path, number: str, name: str) -> SysfsRail:
    def watts() -> float:
        return require_number(folder / f"in_power{number}_input") * 1e-3

    def step(power: float) -> float:
        return ina3221_step(power, require_number(folder / f"in_voltage{number}_input") * 1e-3, _SHUNT_OHM)

    return SysfsRail(name, watts, step)


def _hwmon_rails(root: Path) -> tuple[SysfsRail, ...]:
    folders = sorted((root / "sys/bus/i2c/devices").glob("*/hwmon/hwmon*"))
    chips = [folder for folder in folders if (folder / "name").exists() and require_text(folder / "name") == "ina3221"]
    rails = tuple(rail for folder in chips for rail in ina3221_rails(folder))
    return rails if any(_MODULE_RAILS.fullmatch(rail.name) for rail in rails) else ()
