"""What a board draws: power meters by URI behind one contract, and energy from their samples."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeloc._support.lookup import Registry
from edgeloc.device.power.base import PowerMeter, PowerSample, parse_uri
from edgeloc.device.power.hwmon import DRIVERS
from edgeloc.device.power.trace import EnergyEstimate, PowerSampler, PowerTrace, net_energy
from edgeloc.errors import DeviceError, EdgelocError

__all__ = [
    "METERS",
    "EnergyEstimate",
    "MeterFinding",
    "PowerMeter",
    "PowerSample",
    "PowerSampler",
    "PowerTrace",
    "find_meters",
    "net_energy",
    "open_meter",
]

METERS: Registry[type[PowerMeter]] = Registry(
    "power meter",
    "edgeloc.meters",
    {
        "jetson": "edgeloc.device.power.hwmon:JetsonMeter",
        "pmic": "edgeloc.device.power.builtin:PmicMeter",
        "hwmon": "edgeloc.device.power.hwmon:HwmonMeter",
        "rapl": "edgeloc.device.power.builtin:RaplMeter",
        "ina219": "edgeloc.device.power.ina:InaMeter",
        "ina226": "edgeloc.device.power.ina:InaMeter",
        "ina260": "edgeloc.device.power.ina:InaMeter",
        "serial": "edgeloc.device.power.recording:SerialMeter",
        "csv": "edgeloc.device.power.recording:RecordedMeter",
    },
)
_EXAMPLES = (
    "pmic://, jetson://, ina219://1/0x40?shunt=0.1, hwmon://ina219, rapl://, serial:///dev/ttyACM0, csv://power.csv"
)


@dataclass(frozen=True, slots=True)
class MeterFinding:
    """One meter that was looked for: whether it reads, and what it sees, or why it does not."""

    uri: str
    found: bool
    detail: str


def open_meter(uri: str, *, root: str | Path = "/") -> PowerMeter:
    """Open the power meter that `uri` names; the caller closes it, best by a `with`.

    `auto` takes the first that reads: the board's own sensors (jetson://, pmic://), a sensor with a
    kernel driver (hwmon://), the processor's counters (rapl://). Meters on an I2C bus or a serial
    port are never searched for, since asking may disturb what else is there. `root` is where sys
    is found.

    Raises UsageError for an unknown scheme or option, DeviceError where the meter is not there or
    may not be read, MissingExtra without the package it needs.
    """
    if uri == "auto":
        return _first_found(Path(root))
    meter = _meter(uri, Path(root))
    meter.open()
    return meter


def find_meters(root: str | Path = "/") -> tuple[MeterFinding, ...]:
    """Every meter that `auto` tries, in its order, opened once and closed again."""
    findings = []
    for uri in _candidates(Path(root)):
        try:
            with _meter(uri, Path(root)) as meter:
                findings.append(MeterFinding(uri, True, meter.source))
        except EdgelocError as error:
            findings.append(MeterFinding(uri, False, str(error)))
    return tuple(findings)


def _meter(uri: str, root: Path) -> PowerMeter:
    parts = parse_uri(uri)
    return METERS.find(parts.scheme, uri, _EXAMPLES).from_uri(parts, root)


def _candidates(root: Path) -> list[str]:
    chips = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = folder / "name"
        if name.exists() and name.read_text(errors="replace").strip() in DRIVERS:
            chips.append(f"hwmon:///{folder.relative_to(root).as_posix()}")
    return ["jetson://", "pmic://", *chips, "rapl://"]


def _first_found(root: Path) -> PowerMeter:
    for uri in _candidates(root):
        with suppress(EdgelocError):
            return open_meter(uri, root=root)
    raise DeviceError(
        "no power meter was found (tried jetson, pmic, hwmon and rapl)",
        hint="name one, such as {power} ina219://1/0x40?shunt=0.1; `edgeloc doctor` reports why one that is there "
        "cannot be read",
    )
